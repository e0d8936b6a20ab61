"""The command line's parser: argparse with "did you mean". Imports argparse alone; difflib once there is a fault."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` is most likely a slip of the pen for."""
    from difflib import get_close_matches

    names = list(known)
    begins = [name for name in names if word and name.startswith(word)]
    return (
        begins[0] if len(begins) == 1 else next(iter(get_close_matches(word, names, n=1, cutoff=0.6)), None)
    )


class Parser(argparse.ArgumentParser):
    """An argparse parser whose faults name the nearest word and the command that helps."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but words that are left over are judged by the verb that was given."""
        found, extra = self.parse_known_args(args, namespace)
        if extra:
            verbs = verbs_of(self)
            (verbs.get(getattr(found, "verb", None) or "") or self)._left_over(extra)
        return found

    def _left_over(self, extra: list[str]) -> NoReturn:
        first = extra[0]
        if not first.startswith("-"):
            self.error(f'"{first}" is one word too many')
        guess = nearest(first.split("=")[0], self._option_string_actions)
        self.error(f"there is no option {first}" + (f"; did you mean {guess}?" if guess else ""))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        guess = nearest(str(value), map(str, action.choices))
        meant = f"; did you mean {guess}?" if guess else ""
        if isinstance(action, argparse._SubParsersAction):
            raise _Fault(f'no verb is called "{value}"{meant}')
        expected = ", ".join(map(str, action.choices))
        name = action.metavar if isinstance(action.metavar, str) else action.dest
        where = "/".join(action.option_strings) or name
        raise _Fault(f'{where}: "{value}" is none of {expected}{meant}')

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and what helps, on standard error; exit code 2."""
        verb = self.prog.split()[1:]
        next_one = f"cis490-jobs {' '.join([*verb, '--help'])}"
        self.exit(2, f"{self.format_usage()}{self.prog}: {message}\n  next: {next_one}\n")


class _Fault(argparse.ArgumentError):
    """A fault whose sentence is whole: argparse puts nothing before it."""

    def __init__(self, message: str) -> None:
        super().__init__(None, message)


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """Verb -> its own parser; empty for a parser without verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
