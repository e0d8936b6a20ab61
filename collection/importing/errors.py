"""What can end an import early, and the faults of single rows.

    ImportFailed
      BadRows          65  rows that cannot be imported; every one with file and line
      MissingInput     66  no such folder, or no file in it
      CannotCreate     73  the target exists already or cannot be written
      BadDescription   78  the description is wrong; the text names every key

The codes are those of BSD's sysexits.h.
"""

from dataclasses import dataclass

MAX_SHOWN = 20
MAX_COUNTED = 10_000
"""After so many faults the import stops reading: they have one cause, and counting on helps nobody."""
_MAX_FOUND_CHARS = 60


class ImportFailed(Exception):
    """An import that cannot go on, with the reason as text for a person."""

    exit_code = 70


class BadRows(ImportFailed):
    """Rows that cannot be imported."""

    exit_code = 65


class MissingInput(ImportFailed):
    """There is nothing to import."""

    exit_code = 66


class CannotCreate(ImportFailed):
    """The data set cannot be written where it should go."""

    exit_code = 73


class BadDescription(ImportFailed):
    """The description cannot be used."""

    exit_code = 78


@dataclass(frozen=True, slots=True)
class RowFault:
    """One thing that is wrong in a file. `line` counts from 1; 0 means the file as a whole."""

    file: str
    line: int
    column: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        column = f": column {self.column!r}" if self.column else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{place}{column}: found {self.found}, expected {self.expected}{hint}"


class RowFaults:
    """Collects faults in the order of reading: the first twenty whole, the others as a number."""

    def __init__(self) -> None:
        self.shown: list[RowFault] = []
        self.count = 0

    def add(
        self, file: str, line: int, column: str, found: str, expected: str, hint: str = "", *, times: int = 1
    ) -> None:
        """Note a fault that occurs `times` times from here on. Raises BadRows when there are too many to go on."""
        if len(self.shown) < MAX_SHOWN:
            self.shown.append(RowFault(file, line, column, found, expected, hint))
        self.count += times
        if self.count >= MAX_COUNTED:
            self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raises BadRows with every fault that is shown, file by file and line by line, and the count of the others."""
        if not self.count:
            return
        files = {fault.file: n for n, fault in reversed(list(enumerate(self.shown)))}
        in_order = sorted(self.shown, key=lambda fault: (files[fault.file], fault.line))
        lines = [str(fault) for fault in in_order]
        if self.count >= MAX_COUNTED:
            lines.append(f"... and so on; stopped reading after {self.count} faults")
        elif self.count > len(self.shown):
            lines.append(f"... and {self.count - len(self.shown)} further faults")
        lines.append("nothing was imported; mend the rows or the description, then import again")
        raise BadRows("\n".join(lines))


def shown(text: str) -> str:
    """What stands in a cell, quoted, on one line and not endless."""
    cut = text if len(text) <= _MAX_FOUND_CHARS else text[: _MAX_FOUND_CHARS - 3] + "..."
    return repr(cut) if text else "an empty cell"
