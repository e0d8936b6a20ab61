"""Reads one table of the manifest key by key. Pure.

Each reader gives the value, or the default when the key is absent or wrong. What is wrong goes to the list of
faults, so that one pass finds everything: look at `sound` before the values are used.
"""

from __future__ import annotations

import math
import re
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

    def add(
        self, key: str | int, what: str, expected: str = "", hint: str = "", *, code: str = "E112"
    ) -> None:
        """A fault in the line of the key; `what` goes on after the key's name, as in `is -1`."""
        name = f"{self._label}{shown(str(key))}"
        self._faults.add(
            (*self.path, key), self._where, f"{name} {what}", expected, hint or _OPTIONAL, key=name, code=code
        )

    def add_item(
        self, key: str, position: int, what: str, expected: str, hint: str = "", *, code: str = "E112"
    ) -> None:
        """A fault in one item of a list."""
        path, name = (*self.path, key, position), f"{self._label}{key}[{position}]"
        hint = hint or "correct this item, or remove it from the list"
        self._faults.add(path, self._where, f"{name} {what}", expected, hint, key=name, code=code)

    def add_whole(
        self, found: str, expected: str, hint: str = "", *, key: str = "", code: str = "E120"
    ) -> None:
        """A fault of the table as a whole, in the line of its header; `key` is the one to write or to change."""
        name = f"{self._label}{key}".rstrip(".")
        self._faults.add(self.path, self._where, found, expected, hint or _OPTIONAL, key=name, code=code)

    def reject_unknown(self, known: Sequence[str], hints: Mapping[str, str] | None = None) -> None:
        """Every key must be a known one. `hints` say better than a guess what was meant."""
        for key in self.values:
            if key not in known:
                hint = (hints or {}).get(key) or suggestion(key, known) or "remove it, or put a # before it"
                self.add(key, "is not a known key", one_of(known), hint, code="E110")

    def truth(self, key: str, default: Default) -> bool | Default:
        value = self.values.get(key)
        if isinstance(value, bool):
            return value
        is_no = value == 0 or (isinstance(value, str) and value.lower() in ("0", "false", "no", "off"))
        meant = "false" if is_no else "true"
        self.refuse(key, "true or false", f"write {key} = {meant}")
        return default

    def text(
        self, key: str, default: Default, rule: str = "a text that is not empty", *, required: bool = False
    ) -> str | Default:
        """A text that is not empty; `rule` is what a fault calls it."""
        value = self.values.get(key)
        if isinstance(value, str) and value.strip() and "\0" not in value:
            return value
        is_number = isinstance(value, int | float) and _is_finite(value)
        self.refuse(key, rule, f'write {key} = "{value if is_number else "..."}"', required=required)
        return default

    def whole(
        self, key: str, default: Default, low: int, high: int = INT_MAX, *, hint: str = ""
    ) -> int | Default:
        value = self.values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        meant = round(max(low, min(high, _meant(value, max(low, 0)))))
        self.refuse(key, f"a whole number {_span(low, high)}", hint or f"write {key} = {meant}")
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
        least = low + 1 if above else low
        expected = f"{kind} {'above' if above else 'of at least'} {low:g}"
        self.refuse(key, expected, f"write {key} = {max(least, _meant(value, least)):g}")
        return default

    def choice(
        self, key: str, choices: Sequence[Choice], default: Choice, *, required: bool = False
    ) -> Choice:
        """One of the texts in `choices`."""
        value = self.values.get(key)
        for choice in choices:
            if choice == value:
                return choice
        hint = suggestion(value, choices) or f'write {key} = "{choices[0]}"'
        self.refuse(key, one_of(choices), hint, required=required, code="E113")
        return default

    def name(self, key: str, default: str, *, required: bool = False) -> str:
        """A host's or job's name."""
        value = self.values.get(key)
        if isinstance(value, str) and is_safe_name(value):
            return value
        meant = as_name(value) if key in self.values else "lab-1"
        self.refuse(key, NAME_RULE, f'write {key} = "{meant}"', required=required, code="E114")
        return default

    def names(self, key: str, choices: Sequence[str] | None = None) -> tuple[str, ...]:
        """A list of names, sorted, each once; with `choices`, each must be one of them."""
        good: set[str] = set()
        for position, value in enumerate(self._items(key, "a list of names")):
            allowed = is_safe_name(value) if choices is None else value in choices
            if isinstance(value, str) and allowed:
                good.add(value)
            elif choices is None:
                hint = f'write "{as_name(value)}", or remove it'
                self.add_item(key, position, f"is {described(value)}", NAME_RULE, hint, code="E114")
            else:
                hint = suggestion(value, choices) or "write one of these, or remove it from the list"
                self.add_item(key, position, f"is {described(value)}", one_of(choices), hint, code="E113")
        return tuple(sorted(good))

    def table(self, key: str) -> Table | None:
        """A table inside this one; None when it is absent or no table."""
        value = self.values.get(key)
        if isinstance(value, dict):
            return Table(self._faults, (*self.path, key), self._where, value, f"{self._label}{key}.")
        form = f"{key} = {{ ... }}" if self.path else f"[{key}]"
        hint = f"write {form}" if self.path else f"write {form} on a line of its own, its keys below"
        self.refuse(key, f"a table, as in {form}", hint, code="E115")
        return None

    def tables(self, key: str) -> Iterator[Table]:
        """The tables of a list inside this one."""
        for position, value in enumerate(self._items(key, "a list of tables")):
            if isinstance(value, dict):
                label = f"{self._label}{key}[{position}]."
                yield Table(self._faults, (*self.path, key, position), self._where, value, label)
            else:
                hint = f"write {key} = [{{ ... }}], a table for each"
                self.add_item(key, position, f"is {described(value)}", "a table", hint, code="E115")

    def _items(self, key: str, expected: str) -> list[object]:
        value = self.values.get(key)
        if isinstance(value, list):
            return value
        is_name = isinstance(value, str) and is_safe_name(value)
        hint = f"""write {key} = [{f'"{value}"' if is_name else "..."}]"""
        self.refuse(key, expected, hint, code="E115")
        return []

    def refuse(
        self, key: str, expected: str, hint: str = "", *, required: bool = False, code: str = "E112"
    ) -> None:
        """The key's value is not as expected; an absent key is fine unless required."""
        if key in self.values:
            self.add(key, f"is {described(self.values[key])}", expected, hint, code=code)
        elif required:
            hint = hint.replace("write ", "add ", 1) or f"add {key} = ..."
            self.add_whole(f"{self._label}{key} is missing", expected, hint, key=key, code="E111")


_OPTIONAL = "correct it, or remove the line to get the default"


def as_name(value: object) -> str:
    """The value as a name that would be taken: `my lab` becomes `my-lab`."""
    text = value if isinstance(value, str) else described(value)
    plain = "-".join(re.findall(r"[A-Za-z0-9._-]+", text)).lstrip(".-")[:64]
    return plain or "a-name"


def _meant(value: object, default: float) -> float:
    """The number that a text or a number stands for, as far as one can tell."""
    try:
        found = (
            float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else default
        )
    except (ValueError, OverflowError):
        return default
    return found if math.isfinite(found) and abs(found) <= _MAX_MEANT else default


_MAX_MEANT = 10.0**15


def _is_finite(value: object) -> bool:
    """No nan and no inf, both of which TOML knows, no whole number beyond its 64 bits, no truth value."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= INT_MAX
    return isinstance(value, float) and math.isfinite(value)


def _span(low: int, high: int) -> str:
    if high < INT_MAX:
        return f"from {low} to {high}"
    return f"of at least {low}" if low > -INT_MAX else "that fits 64 bits"
