"""What every verb of `cis490-jobs` works with: the terminal, the receiver, and how an answer is printed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from training.fleet import naming
from training.fleet.client import FleetClient, Refused
from training.fleet.exits import OK
from training.fleet.render import View
from training.fleet.tables import Row


@dataclass(frozen=True, slots=True)
class Terminal:
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


def own_terminal() -> Terminal:
    """This process's own."""
    columns = shutil.get_terminal_size().columns
    return Terminal(os.environ, sys.stdout, sys.stderr, time.time, time.monotonic, columns)


@dataclass(frozen=True, slots=True)
class Call:
    """One command being carried out."""

    args: argparse.Namespace
    client: FleetClient
    terminal: Terminal
    view: View

    def say(self, answer: object, lines: Callable[[], Sequence[str]]) -> int:
        """Print the answer as JSON with `--json`, else as the screen that `lines` makes."""
        shown = [json.dumps(answer, indent=2)] if getattr(self.args, "json", False) else lines()
        for line in shown:
            print(line, file=self.terminal.out)
        return OK


def named(call: Call) -> Row:
    """The job, or else the verification run, that the word on the command line names."""
    try:
        return naming.find_job(call.client.jobs(), call.args.job)
    except naming.NotNamed as unknown:
        if unknown.candidates:
            raise
        try:
            return naming.find_job(call.client.shadows(), call.args.job)
        except naming.NotNamed:
            raise unknown from None


def said(refusal: Refused) -> str:
    """The receiver's whole sentence (or all its lines); `reason` is the short form where there are both."""
    return str(refusal.body.get("error") or refusal.reason)
