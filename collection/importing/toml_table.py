"""Reads one table of a description key by key. Pure.

Each reader gives the value, or a default when the key is absent or wrong. What is wrong is noted, so that one
pass finds everything.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from collection.importing.errors import BadDescription

MAX_TEXT_CHARS: Final = 200
"""What a text of an episode may have; a column's name needs no more."""


@dataclass
class KeyFaults:
    """The faults of one description; `source` is its file."""

    source: str
    found: list[str] = field(default_factory=list)

    def add(self, key: str, found: str, expected: str, hint: str = "") -> None:
        """Note what is wrong with a key."""
        text = f"{self.source}: {key}: found {found}, expected {expected}"
        self.found.append(text + (f"; {hint}" if hint else ""))

    def raise_if_any(self) -> None:
        """Raises BadDescription with all of them."""
        if self.found:
            raise BadDescription("\n".join(self.found))


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`did you mean X?`, or nothing when no choice is close."""
    known = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"did you mean {known[close[0]]!r}?" if close else ""


def described(value: object) -> str:
    """A value of TOML in words."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "a table" if isinstance(value, dict) else str(value)[:60]


class Table:
    """One table. `where` stands before its keys in messages, as in `time.`."""

    def __init__(self, faults: KeyFaults, where: str, values: object, keys: Sequence[str]) -> None:
        self.faults, self.where = faults, where
        self.values: Mapping[str, object] = {}
        if not isinstance(values, dict):
            faults.add(where.rstrip("."), described(values), "a table")
            return
        self.values = values
        for key in values:
            if key not in keys:
                hint = did_you_mean(key, keys)
                faults.add(f"{where}{key}", "a key that is not known", f"one of {', '.join(keys)}", hint)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def fault(self, key: str, expected: str, hint: str = "") -> None:
        """The key's value, or its absence, is wrong."""
        found = described(self.values[key]) if key in self.values else "nothing"
        self.faults.add(f"{self.where}{key}", found, expected, hint)

    def text(self, key: str, expected: str, default: str | None = None) -> str:
        """A text of 1 to 200 printable characters. Without a default the key is required."""
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        if isinstance(value, str) and 1 <= len(value) <= MAX_TEXT_CHARS and value.isprintable():
            return value
        self.fault(key, expected)
        return default or ""

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """One of some words."""
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        if isinstance(value, str) and value in choices:
            return value
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        self.fault(key, f"one of {', '.join(map(repr, choices))}", hint)
        return default or choices[0]

    def number(
        self, key: str, low: float, high: float, default: float | None, unit: str = ""
    ) -> float | None:
        """A number from `low` to `high`; `default` when the key is absent."""
        if key not in self.values:
            return default
        value = self.values[key]
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        self.fault(key, f"a number from {low:g} to {high:g}" + (f" ({unit})" if unit else ""))
        return default

    def integer(self, key: str, low: int, high: int, default: int) -> int:
        """A whole number from `low` to `high`."""
        value = self.values.get(key, default)
        if type(value) is int and low <= value <= high:
            return value
        self.fault(key, f"a whole number from {low} to {high}")
        return default

    def boolean(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        self.fault(key, "true or false")
        return default

    def words(self, key: str, default: Sequence[str], *, many: bool = True) -> tuple[str, ...]:
        """A list of texts; whole numbers count as their digits, and one text alone as a list of one."""
        value = self.values.get(key, list(default))
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) or type(item) is int for item in items) and (items or not many):
            return tuple(str(item) for item in items)
        self.fault(key, "a text or a list of texts")
        return tuple(default)
