"""`explain`: what a code or a word of the fleet means. Asks no receiver."""

from __future__ import annotations

import textwrap
from dataclasses import asdict

from training.fleet.code_words import Entry
from training.fleet.codes import CODES, SECTIONS, find
from training.fleet.exits import USAGE, Stop
from training.fleet.parsing import nearest
from training.fleet.render import View
from training.fleet.tables import safe, tsv
from training.fleet.verb import Call


def explain(call: Call) -> int:
    """Print one entry, or without a CODE list them all."""
    word = call.args.code
    if word is None:
        every = {"codes": [asdict(entry) for entry in CODES.values()]}
        return call.say(every, lambda: listed(call.view))
    entry = find(word)
    if entry is None:
        guess = _as_digits(word) or nearest(word.upper(), CODES) or nearest(word.lower(), CODES)
        meant = f"; did you mean {guess}?" if guess else ""
        raise Stop(
            USAGE, f'explain: no code or word is called "{safe(word)}"{meant}', "  next: cis490-jobs explain",
            error_code="E011",
        )  # fmt: skip
    return call.say(asdict(entry), lambda: explained(call.view, entry))


def _as_digits(word: str) -> str | None:
    """The code that a person read off with letters for digits: E1O4."""
    code = word[:1].upper() + word[1:].upper().translate(str.maketrans("OIL", "011"))
    return code if code in CODES else None


def listed(view: View) -> list[str]:
    """All of them, by section."""
    if view.width is None:
        return tsv(["CODE", "TITLE"], [[entry.code, entry.title] for entry in CODES.values()])
    width = max(len(code) for code in CODES)
    out: list[str] = []
    for section in SECTIONS:
        out += ["", section.title] if out else [section.title]
        out += [f"  {entry.code.ljust(width)}  {entry.title}" for entry in section.entries]
    return [*out, "", "  more: cis490-jobs explain CODE"]


def explained(view: View, entry: Entry) -> list[str]:
    """One of them in full."""
    if view.width is None:
        return tsv(
            ["CODE", "TITLE", "MEANING", "ACTION", "EXAMPLE"],
            [[entry.code, entry.title, entry.meaning, entry.action, entry.example]],
        )
    out = [
        f"{entry.code}: {entry.title}",
        *_paragraph(view, "", entry.meaning),
        *_paragraph(view, "do: ", entry.action),
    ]
    return [*out, f"  for example: {entry.example}"] if entry.example else out


def _paragraph(view: View, head: str, text: str) -> list[str]:
    plain = text.replace("`", "")
    return textwrap.wrap(
        head + plain, max(view.columns - 2, 40), initial_indent="  ", subsequent_indent=" " * (2 + len(head)),
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
