"""A trainer's output made harmless and readable. Pure. static/log.js does the same with what comes later."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # titles, links; one without an end takes its line only
    r"|[ -/]*[0-~])?"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Without the sequences that tell a terminal what to do; a line that was written over shows its last state; other
    control characters, those that turn the direction of text among them, are shown as �."""
    lines = _SEQUENCE.sub("", text.replace("\r\n", "\n")).split("\n")
    return "\n".join(_CONTROL.sub("\ufffd", _last_state(line)) for line in lines)


def _last_state(line: str) -> str:
    """What stands after the last carriage return that something follows."""
    return line.rstrip("\r").rpartition("\r")[2]
