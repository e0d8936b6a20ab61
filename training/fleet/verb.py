"""What every verb of `cis490-jobs` works with: the terminal, the receiver, and how an answer is printed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TextIO

from training.fleet import naming
from training.fleet.client import FleetClient, Refused
from training.fleet.exits import OK
from training.fleet.render import View
from training.fleet.tables import Row, text_of


class Terminal(NamedTuple):
    """The outside world, passed in so that tests can pass their own."""

    env: Mapping[str, str]
    out: TextIO
    err: TextIO
    wall_s: Callable[[], float]
    """UTC, seconds since the epoch: relative times count from here."""
    now_s: Callable[[], float]
    """A clock for durations."""
    columns: int
    sleep: Callable[[float], None] = time.sleep
    height: int = 24
    """Lines of the terminal."""
    answers: TextIO | None = None
    """Where a person types; None: nobody is there to be asked."""


def own_terminal() -> Terminal:
    """This process's own."""
    columns, height = shutil.get_terminal_size()
    person = sys.stdin if sys.stdin is not None and sys.stdin.isatty() else None
    return Terminal(
        os.environ, sys.stdout, sys.stderr, time.time, time.monotonic, columns, height=height, answers=person
    )


def view_of(terminal: Terminal) -> View:
    """For whom screens are made: a person at a terminal, or a program at the other end of a pipe."""
    is_terminal = terminal.out.isatty()
    return View(
        terminal.wall_s(),
        terminal.columns if is_terminal else None,
        terminal.height,
        is_terminal and wants_color(terminal.env, os.name),
        is_terminal and "utf" in str(getattr(terminal.out, "encoding", "")).lower(),
    )


def wants_color(env: Mapping[str, str], system: str) -> bool:
    """May a terminal be sent colours? Not with NO_COLOR or TERM=dumb, and not in a console of Windows that may
    not know escape sequences."""
    if env.get("NO_COLOR") or env.get("TERM") == "dumb":
        return False
    return system != "nt" or bool(env.get("WT_SESSION") or env.get("TERM"))


class Call(NamedTuple):
    """One command being carried out."""

    args: argparse.Namespace
    client: FleetClient
    terminal: Terminal
    view: View

    def say(self, answer: object, lines: Callable[[], Sequence[str]]) -> int:
        """Print the answer as JSON with `--json`, else as the screen that `lines` makes."""
        if getattr(self.args, "json", False):
            print(json.dumps(answer, indent=2), file=self.terminal.out)
            return OK
        for line in lines():
            for part in folded(line, self.view.width):
                print(part, file=self.terminal.out)
        return OK


def folded(line: str, width: int | None) -> list[str]:
    """A sentence that is too long for the terminal, in several lines. One with a command in it stays whole, so that
    it can be copied; so does a row of a table, and one with colours."""
    is_row = "  " in line.strip()
    if width is None or len(line) <= width or is_row or "cis490-jobs" in line or not line.isprintable():
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line, width, subsequent_indent=indent + "  ", break_on_hyphens=False, break_long_words=False,
        drop_whitespace=True, initial_indent="",
    )  # fmt: skip


def named(call: Call, word: str | None = None) -> Row:
    """The job, or else the verification run, that `word` (default: JOB of the command line) names: its `job_id`,
    `name`, `kind`, `status`, `held` and `artifact_id`. Raises NotNamed."""
    return _resolved(call, "job", call.args.job if word is None else word, "cis490-jobs list")


def host_named(call: Call, word: str | None = None) -> str:
    """The host that `word` (default: HOST of the command line) names. Raises NotNamed."""
    found = _resolved(call, "host", call.args.host if word is None else word, "cis490-jobs status")
    return text_of(found, "host")


def _resolved(call: Call, kind: Literal["job", "host"], word: str, command: str) -> Row:
    try:
        return call.client.resolve(kind, word)
    except Refused as refusal:
        if refusal.status not in (400, 404) or "no such endpoint" in str(refusal):
            raise
        raise naming.not_resolved(kind, word, refusal.body, command) from refusal


def said(refusal: Refused) -> str:
    """The receiver's whole sentence (or all its lines); `reason` is the short form where there are both."""
    return str(refusal.body.get("error") or refusal.reason)
