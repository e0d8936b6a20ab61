"""`completion SHELL`, and `__complete`, which the shells' scripts call at each Tab."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from training.fleet.client import FleetError
from training.fleet.completion import EMPTY, SCRIPTS, candidates
from training.fleet.exits import OK, Stop
from training.fleet.place import Place, client_of, place_of
from training.fleet.verb import Call

PATIENCE_S = 0.7
"""A Tab that takes longer is worse than no names."""


def completion(call: Call) -> int:
    """Print the script; nothing is asked of the receiver."""
    shell = call.args.shell
    return call.say({"shell": shell, "script": SCRIPTS[shell]}, SCRIPTS[shell].splitlines)


def complete(
    parser: argparse.ArgumentParser, words: Sequence[str], env: Mapping[str, str], out: TextIO | None = None
) -> int:
    """Print what may stand in place of the last word, one a line. Whatever goes wrong, it is silent."""
    words = ["" if word == EMPTY else word for word in words]

    def ask(kind: str) -> Iterable[str]:
        try:
            place = place_of(_option(words, "--url"), _option(words, "--credentials"), env)
            return _known(kind, place)
        except (FleetError, Stop, ValueError, TypeError, LookupError, OSError, ImportError):
            return []  # a shell that is asked to complete a word has nowhere to show an error

    for line in candidates(parser, words, ask):
        print(line, file=out or sys.stdout)
    return OK


def _option(words: Sequence[str], name: str) -> str | None:
    for at, word in enumerate(words):
        if word == name and at + 1 < len(words):
            return words[at + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def _known(kind: str, place: Place) -> list[str]:
    """The names of that kind, as far as they are printable: what a host calls itself must not reach a shell raw."""
    if kind == "states":
        from training.fleet.types import STATUSES

        return list(STATUSES)
    if kind == "codes":
        from training.fleet.codes import CODES

        return list(CODES)
    client = client_of(place, None, PATIENCE_S)
    try:
        if kind == "hosts":
            found = [str(row.get("host")) for row in client.overview()["hosts"]]
        else:
            key = "name" if kind == "jobs" else "artifact_id"
            found = [str(row.get(key))[:64] for row in client.jobs() if row.get(key)]
    finally:
        client.close()
    return [
        name for name in found if name.isprintable() and not set(name) & set(" \t'\"`$\\;&|<>(){}*?[]!#~")
    ]
