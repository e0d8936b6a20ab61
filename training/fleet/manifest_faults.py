"""What can be wrong with a manifest, as lines for the person who wrote it.

TrainingManifestError    the file was refused; `faults` has everything found, sorted by line
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from training.fleet.toml_lines import LineIndex, Path
from training.trainer.options import did_you_mean

_MAX_PRINTED = 20
_MAX_SHOWN_CHARS = 60
_MAX_LISTED = 20
_MAX_INT_BITS = 63
"""TOML's whole numbers have 64 bits, one of them the sign; longer ones are not printed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to mend. The texts join to `where: found; expected ...; hint  [code]`."""

    line: int | None
    """In the manifest, from 1; None when it is about the file as a whole."""
    where: str
    """The table, as in `jobs[3] "mlp-oracle"`; empty at the top of the file. Positions count from 0."""
    found: str
    expected: str = ""
    hint: str = ""
    source: str = "manifest.toml"
    """The file, as the operator named it."""
    key: str = ""
    """The key at fault, as in `hyper.hidden`; empty when it is about the file as a whole."""
    code: str = "E112"
    """Stable; `cis490-jobs explain CODE` says more."""

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        expected = f"expected {self.expected}" if self.expected else ""
        text = "; ".join(part for part in (self.found, expected, self.hint) if part)
        return ": ".join(part for part in (place, self.where, text) if part) + f"  [{self.code}]"

    def public(self) -> dict[str, str | int | None]:
        """As JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


class TrainingManifestError(Exception):
    """A manifest that was refused as a whole. As text: a line for each fault, at most 20, then how many more."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        lines = [str(fault) for fault in faults[:_MAX_PRINTED]]
        if len(faults) > _MAX_PRINTED:
            lines.append(f"... and {len(faults) - _MAX_PRINTED} more")
        super().__init__("\n".join(lines))


class Faults:
    """Collects the faults of one file and looks up their lines."""

    def __init__(self, source: str, lines: LineIndex) -> None:
        self.source = source
        self.lines = lines
        self._found: list[Fault] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(
        self, path: Path, where: str, found: str, expected: str, hint: str, *, key: str, code: str = "E112"
    ) -> None:
        """`path` leads to what is at fault; its line is looked up."""
        line = self.lines.line(path)
        self._found.append(Fault(line, where, found, expected, hint, self.source, key, code))

    def raise_if_any(self) -> None:
        """Raises TrainingManifestError with all faults, those of one line in the order they were found."""
        if self._found:
            raise TrainingManifestError(tuple(sorted(self._found, key=lambda fault: fault.line or 0)))


def shown(text: str, max_chars: int = _MAX_SHOWN_CHARS) -> str:
    """A key or a path as it may stand in a one-line message: quoted unless plain, and not endless."""
    text = _cut(text, max_chars)
    return text if text.isprintable() and text.strip() == text != "" else ascii(text)


def described(value: object) -> str:
    """A value in words: `-1`, `"twice"`, `a list`, `the date 2026-01-01`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= _MAX_INT_BITS else "a huge whole number"
    if isinstance(value, float):
        return str(value)
    if isinstance(value, str):
        text = _cut(value, _MAX_SHOWN_CHARS)
        return f'"{text}"' if text.isprintable() else ascii(text)
    if isinstance(value, datetime.date | datetime.time):
        return f"the {'time' if isinstance(value, datetime.time) else 'date'} {value}"
    return "a list" if isinstance(value, list) else "a table"


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."


def one_of(choices: Sequence[str]) -> str:
    """`one of a, b`; a long list is cut."""
    rest = f" ({len(choices)} in all)" if len(choices) > _MAX_LISTED else ""
    return f"one of {', '.join(choices[:_MAX_LISTED])}{rest}"


def suggestion(word: object, choices: Sequence[str]) -> str:
    """`did you mean gbt?`, or nothing when no choice is close."""
    close = nearest(word, choices)
    return f"did you mean {close}?" if close else ""


def nearest(word: object, choices: Sequence[str]) -> str | None:
    """The choice that was most likely meant: one slip of the pen away, or else much like it."""
    if not isinstance(word, str) or len(word) > _MAX_SHOWN_CHARS:
        return None
    lower = word.lower()
    slips = [choice for choice in choices if _is_one_slip(lower, choice.lower())]
    likely = [choice for choice in slips if choice[:1].lower() == lower[:1]] or slips
    return next(iter(likely), None) or did_you_mean(word, choices)


def _is_one_slip(word: str, meant: str) -> bool:
    """Equal, or one letter more, less or other, or two neighbours swapped."""
    if abs(len(word) - len(meant)) > 1:
        return False
    same = next((at for at, (a, b) in enumerate(zip(word, meant, strict=False)) if a != b), None)
    if same is None:
        return True
    rest, other = word[same:], meant[same:]
    swapped = rest[:2] == other[1::-1] and rest[2:] == other[2:]
    return rest[1:] == other[1:] or rest[1:] == other or rest == other[1:] or swapped
