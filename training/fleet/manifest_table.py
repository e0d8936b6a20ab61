"""Reads one table of the manifest key by key. Pure.

Each reader gives the value, or the default when the key is absent or wrong. What is wrong goes to the list of
faults, so that one pass finds everything: look at `sound` before the values are used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from cis490.files import is_safe_name
from training.fleet.manifest_faults import Faults, described, one_of, shown, suggestion
from training.fleet.toml_lines import Path

Values = Mapping[str, object]
Default = TypeVar("Default")
Choice = TypeVar("Choice", bound=str)

INT_MAX = 2**63 - 1
NAME_RULE = "1 to 64 letters, digits, dots, dashes or underscores, the first no dot"


class Table:
    """One table of a manifest. `where` names it in messages, `label` stands before its keys there."""

    def __init__(self, faults: Faults, path: Path, where: str, values: Values, label: str = "") -> None:
        self.path = path
        self.values = values
        self._faults = faults
        self._where = where
        self._label = label
        self._faults_before = len(faults)

    @property
    def sound(self) -> bool:
        """Has nothing been found wrong since reading began? Faults of other tables count if read meanwhile."""
        return len(self._faults) == self._faults_before

    def line_of(self, *keys: str | int) -> int:
        """Where a key of this table stands; without a key, the table's header."""
        return self._faults.lines.line((*self.path, *keys))

    def add(self, key: str | int, what: str, expected: str = "", hint: str = "") -> None:
        """A fault in the line of the key; `what` goes on after the key's name, as in `is -1`."""
        self._faults.add(
            (*self.path, key), self._where, f"{self._label}{shown(str(key))} {what}", expected, hint
        )

    def add_item(self, key: str, position: int, what: str, expected: str, hint: str = "") -> None:
        """A fault in one item of a list."""
        path = (*self.path, key, position)
        self._faults.add(path, self._where, f"{self._label}{key}[{position}] {what}", expected, hint)

    def add_whole(self, found: str, expected: str, hint: str = "") -> None:
        """A fault of the table as a whole, in the line of its header."""
        self._faults.add(self.path, self._where, found, expected, hint)

    def reject_unknown(self, known: Sequence[str], hints: Mapping[str, str] | None = None) -> None:
        """Every key must be a known one. `hints` say better than a guess what was meant."""
        for key in self.values:
            if key not in known:
                hint = (hints or {}).get(key) or suggestion(key, known)
                self.add(key, "is not a known key", one_of(known), hint)

    def truth(self, key: str, default: Default) -> bool | Default:
        value = self.values.get(key)
        if isinstance(value, bool):
            return value
        self.refuse(key, "true or false")
        return default

    def text(
        self, key: str, default: Default, rule: str = "a text that is not empty", *, required: bool = False
    ) -> str | Default:
        """A text that is not empty; `rule` is what a fault calls it."""
        value = self.values.get(key)
        if isinstance(value, str) and value.strip() and "\0" not in value:
            return value
        self.refuse(key, rule, required=required)
        return default

    def whole(
        self, key: str, default: Default, low: int, high: int = INT_MAX, *, hint: str = ""
    ) -> int | Default:
        value = self.values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.refuse(key, f"a whole number {_span(low, high)}", hint)
        return default

    def number(self, key: str, default: Default, low: float, *, above: bool = False) -> float | Default:
        """A finite number of at least `low`, or greater than `low` with `above`."""
        value = self.values.get(key)
        if (
            isinstance(value, int | float)
            and _is_finite(value)
            and (value > low or (value == low and not above))
        ):
            return float(value)
        endless = isinstance(value, float) and not math.isfinite(value)
        kind = "a finite number" if endless else "a number"
        self.refuse(key, f"{kind} {'above' if above else 'of at least'} {low:g}")
        return default

    def choice(
        self, key: str, choices: Sequence[Choice], default: Choice, *, required: bool = False
    ) -> Choice:
        """One of the texts in `choices`."""
        value = self.values.get(key)
        for choice in choices:
            if choice == value:
                return choice
        self.refuse(key, one_of(choices), suggestion(value, choices), required=required)
        return default

    def name(self, key: str, default: str, *, required: bool = False) -> str:
        """A host's or job's name."""
        value = self.values.get(key)
        if isinstance(value, str) and is_safe_name(value):
            return value
        self.refuse(key, NAME_RULE, required=required)
        return default

    def names(self, key: str, choices: Sequence[str] | None = None) -> tuple[str, ...]:
        """A list of names, sorted, each once; with `choices`, each must be one of them."""
        good: set[str] = set()
        for position, value in enumerate(self._items(key, "a list of names")):
            allowed = is_safe_name(value) if choices is None else value in choices
            if isinstance(value, str) and allowed:
                good.add(value)
            else:
                expected = NAME_RULE if choices is None else one_of(choices)
                hint = suggestion(value, choices or ())
                self.add_item(key, position, f"is {described(value)}", expected, hint)
        return tuple(sorted(good))

    def table(self, key: str) -> Table | None:
        """A table inside this one; None when it is absent or no table."""
        value = self.values.get(key)
        if isinstance(value, dict):
            return Table(self._faults, (*self.path, key), self._where, value, f"{self._label}{key}.")
        self.refuse(key, f"a table, as in {f'{key} = {{ ... }}' if self.path else f'[{key}]'}")
        return None

    def tables(self, key: str) -> Iterator[Table]:
        """The tables of a list inside this one."""
        for position, value in enumerate(self._items(key, "a list of tables")):
            if isinstance(value, dict):
                label = f"{self._label}{key}[{position}]."
                yield Table(self._faults, (*self.path, key, position), self._where, value, label)
            else:
                self.add_item(key, position, f"is {described(value)}", "a table")

    def _items(self, key: str, expected: str) -> list[object]:
        value = self.values.get(key)
        if isinstance(value, list):
            return value
        hint = f'write {key} = ["{value}"]' if isinstance(value, str) and is_safe_name(value) else ""
        self.refuse(key, expected, hint)
        return []

    def refuse(self, key: str, expected: str, hint: str = "", *, required: bool = False) -> None:
        """The key's value is not as expected; an absent key is fine unless required."""
        if key in self.values:
            self.add(key, f"is {described(self.values[key])}", expected, hint)
        elif required:
            self._faults.add(self.path, self._where, f"{self._label}{key} is missing", expected)


def _is_finite(value: object) -> bool:
    """No nan and no inf, both of which TOML knows, no whole number beyond its 64 bits, no truth value."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= INT_MAX
    return isinstance(value, float) and math.isfinite(value)


def _span(low: int, high: int) -> str:
    if high < INT_MAX:
        return f"from {low} to {high}"
    return f"of at least {low}" if low > -INT_MAX else "that fits 64 bits"
