"""Runs `cis490-jobs` in this process, with streams that are terminals or not as the test likes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.factories.fake_api import FakeApi
from training.fleet import cli, exits, verbs

NOW_S = 1.7e9
"""The wall time of every command."""


class Screen(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@dataclass
class Result:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(
    api: FakeApi | str,
    *argv: str,
    terminal: bool = True,
    token: str = "secret",
    env: Mapping[str, str] | None = None,
    sleep: Callable[[float], None] = lambda seconds: None,
    typed: str | None = None,
) -> Result:
    """`sleep` is called where the command waits: a test lets happen there what it waits for. `typed` is what a
    person answers; None: nobody is there."""
    out, err = Screen(terminal), Screen(False)
    url = api if isinstance(api, str) else api.url
    given = {exits.URL_VARIABLE: url, exits.TOKEN_VARIABLE: token, "NO_COLOR": "1"} if env is None else env
    answers = None if typed is None else io.StringIO(typed)
    terminal_of_test = verbs.Terminal(given, out, err, lambda: NOW_S, lambda: 0.0, 80, sleep, answers=answers)
    code = cli.run(argv, terminal_of_test)
    return Result(code, out.getvalue(), err.getvalue())
