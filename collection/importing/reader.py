"""A CSV file as blocks of numbers.

A block of lines goes through numpy's CSV reader, about a million cells in 0.15 s. Where that reader stumbles,
or where a cell could mean something else than it read, the block is read again cell by cell: that is slow, knows
lines and columns, and applies the rule for missing values. Both ways give the same numbers for a sound row.
"""

import csv
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collection.importing import times
from collection.importing.description import DELIMITERS, Description
from collection.importing.errors import BadRows, RowFaults, shown
from collection.importing.toml_table import did_you_mean

BLOCK_BYTES: Final = 2 << 20
PART_LINES: Final = 256
MAX_LINE_BYTES: Final = 1 << 20
BOM: Final = b"\xef\xbb\xbf"
NAME_CHARS: Final = 72
"""More than a name may have: a longer one is cut, and is refused all the same."""
NUMBER_CHARS: Final = 40
_EXACT: Final = 2.0**53
"""From here on a float64 does not hold every integer."""
_INT64_MAX: Final = 2**63 - 1
ROLES: Final = ("label", "host", "family", "variant")


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file.

    `line` int64 (n,) from 1; `t_us` int64 (n,); `values` int64 (n, channels) in steps of the channel's
    `per_unit`; `text` has for each role that is read from a column its text (n,).
    """

    line: NDArray[np.int64]
    t_us: NDArray[np.int64]
    values: NDArray[np.int64]
    text: Mapping[str, NDArray[np.str_]]

    def __len__(self) -> int:
        return len(self.t_us)

    @staticmethod
    def joined(parts: "Sequence[Block]") -> "Block":
        """The rows of all parts, in order."""
        return Block(
            np.concatenate([part.line for part in parts]),
            np.concatenate([part.t_us for part in parts]),
            np.concatenate([part.values for part in parts]),
            {role: np.concatenate([part.text[role] for part in parts]) for role in parts[0].text},
        )


@dataclass(slots=True)
class Tally:
    """What was done to make rows usable."""

    rows: int = 0
    filled: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where everything stands in a line."""

    count: int
    names: tuple[str, ...]
    time: int | None
    channels: tuple[int, ...]
    roles: Mapping[str, int]


def _plain(name: str) -> str:
    """A column's name for a message: a file that is no table should not write to somebody's terminal."""
    return name if name.isprintable() else shown(name)


class CsvFile:
    """Reads one file. `name` is its path below the folder, for messages."""

    def __init__(
        self, path: Path, name: str, description: Description, faults: RowFaults, tally: Tally
    ) -> None:
        self._path, self._name, self._rules = path, name, description
        self._faults, self._tally = faults, tally
        self._columns = _Columns(0, (), None, (), {})
        self._scales = np.array([float(one.channel.per_unit) for one in description.channels])
        sign = re.escape(description.files.delimiter)
        # A whole cell in quotes that holds neither delimiter nor quote: it means the same without them.
        self._quoted = re.compile(rf'(?:(?<=[{sign}\n])|^)"([^"{sign}\r\n]*)"(?=[{sign}\r\n]|$)')
        self._rows = 0
        self._blank_line = 0
        self._last: list[int | None] = [None] * len(description.channels)
        self._has_offset: bool | None = None

    def blocks(self, advanced: Callable[[int], None]) -> Iterator[Block]:
        """The file's rows. `advanced` is told how many bytes were read. Faults go to the list; a file whose
        columns are not what the description says yields nothing."""
        line = 1
        for data in self._whole_lines(advanced):
            text = self._decoded(data, line)
            n_lines = text.count("\n") + (not text.endswith("\n"))
            if line == 1:
                text, skipped = self._after_header(text)
                if not self._columns.count:
                    return
            else:
                skipped = 0
            if text:
                block = self._block(text, line + skipped, n_lines - skipped)
                if len(block):
                    yield block
            line += n_lines
        if self._rows == 0:
            self._faults.add(
                self._name, 0, "", "no rows", "at least two", "leave the file out of files.include"
            )

    def _whole_lines(self, advanced: Callable[[int], None]) -> Iterator[bytes]:
        """The file in pieces that end with a line; the first one without the byte order mark."""
        rest = b""
        with self._path.open("rb") as file:
            mark = file.read(len(BOM))
            if mark != BOM:
                file.seek(0)
            while chunk := file.read(BLOCK_BYTES):
                advanced(len(chunk))
                end = chunk.rfind(b"\n") + 1
                if end == 0:
                    rest += chunk
                else:
                    yield rest + chunk[:end]
                    rest = chunk[end:]
                if len(rest) > MAX_LINE_BYTES:
                    raise BadRows(
                        f"{self._name}: a line is longer than {MAX_LINE_BYTES} bytes; is this a CSV file, and does "
                        "every line end with a line feed?"
                    )
        if rest:
            yield rest

    def _decoded(self, data: bytes, line: int) -> str:
        try:
            return data.decode(self._rules.files.encoding)
        except UnicodeDecodeError as error:
            at = line + data.count(b"\n", 0, error.start)
            hint = "save the file as UTF-8, or set files.encoding = 'latin-1'"
            found = f"the byte 0x{data[error.start]:02x}"
            if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                found, hint = "UTF-16", "save the file as UTF-8"
            raise BadRows(f"{self._name}:{at}: found {found}, expected UTF-8; {hint}") from error

    # --- the header ---

    def _after_header(self, text: str) -> tuple[str, int]:
        """The text behind the header, and how many lines that skips."""
        rules = self._rules.files
        skipped = rules.skip_lines
        for _ in range(skipped):
            text = text.partition("\n")[2]
        first = text.partition("\n")[0].rstrip("\r")
        try:
            fields = [field.strip() for field in next(csv.reader([first], delimiter=rules.delimiter), [])]
        except csv.Error as error:
            self._faults.add(self._name, skipped + 1, "", f"a line that is no CSV ({error})", "the header")
            return "", skipped
        if rules.header:
            text, skipped = text.partition("\n")[2], skipped + 1
        else:
            fields = [str(n + 1) for n in range(len(fields))]
        self._find_columns(fields, first, max(skipped, 1))
        return text, skipped

    def _find_columns(self, fields: list[str], line_text: str, line: int) -> None:
        rules = self._rules
        sources = rules.episode
        roles = {"label": rules.label.column, "host": sources.host.column}
        roles |= {"family": sources.family.column, "variant": sources.variant.column}
        wanted = [one.column for one in rules.channels] + [
            c for c in (rules.time.column, *roles.values()) if c
        ]
        missing = [column for column in dict.fromkeys(wanted) if fields.count(column) != 1]
        for column in missing:
            hint = did_you_mean(column, fields)
            if fields.count(column):
                hint = "two columns of one name cannot be told apart; rename one"
            elif len(fields) == 1:
                hint = self._delimiter_hint(line_text) or hint
            found = "it twice" if fields.count(column) else "no such column"
            listed = ", ".join(_plain(field) for field in fields[:12]) + (", ..." if len(fields) > 12 else "")
            self._faults.add(self._name, line, column, found, f"it once; the columns are {listed}", hint)
        if not missing:
            at = {name: n for n, name in enumerate(fields)}
            self._columns = _Columns(
                count=len(fields),
                names=tuple(fields),
                time=None if rules.time.column is None else at[rules.time.column],
                channels=tuple(at[one.column] for one in rules.channels),
                roles={role: at[column] for role, column in roles.items() if column is not None},
            )

    def _delimiter_hint(self, line: str) -> str:
        counts = {sign: line.count(sign) for sign in DELIMITERS if sign != self._rules.files.delimiter}
        best = max(counts, key=lambda sign: counts[sign])
        return f"the line has {counts[best]} {best!r}: set files.delimiter = {best!r}" if counts[best] else ""

    # --- the fast path ---

    def _block(self, text: str, first_line: int, n_lines: int) -> Block:
        block = self._fast(text, first_line, n_lines)
        if block is None and n_lines > PART_LINES:
            return self._parts(text, first_line)
        if block is None:
            block = self._exact(text, first_line)
        else:
            self._rows += n_lines
            self._last = [int(value) for value in block.values[-1]]
        self._tally.rows += len(block)
        return block

    def _parts(self, text: str, first_line: int) -> Block:
        """A block in small parts, so that one odd row does not slow down thousands of sound ones."""
        lines = text.removesuffix("\n").split("\n")
        starts = range(0, len(lines), PART_LINES)
        parts = [lines[start : start + PART_LINES] for start in starts]
        return Block.joined(
            [
                self._block("\n".join(part) + "\n", first_line + start, len(part))
                for start, part in zip(starts, parts, strict=True)
            ]
        )

    def _fast(self, text: str, first_line: int, n_lines: int) -> Block | None:
        """None when the block holds anything that only the exact path can judge."""
        if '"' in text:
            text = self._quoted.sub(r"\1", text)
        if self._blank_line or '"' in text or "\0" in text:
            return None
        table = self._loaded(text)
        if table is None or len(table) != n_lines:
            return None
        numbers = self._numbers(table)
        t_us = self._times(table, n_lines)
        if numbers is None or t_us is None:
            return None
        steps = numbers * self._scales
        if not bool(np.all(np.abs(steps) < _EXACT)):  # False for NaN too
            return None
        return Block(
            line=np.arange(first_line, first_line + n_lines, dtype=np.int64),
            t_us=t_us,
            values=np.rint(steps).astype(np.int64),
            text={role: np.strings.strip(table[f"f{at}"]) for role, at in self._columns.roles.items()},
        )

    def _loaded(self, text: str) -> NDArray[np.void] | None:
        if not text.strip():
            return None
        with warnings.catch_warnings():
            # numpy would read 1.5 as the integer 1, with nothing but a warning.
            warnings.simplefilter("error")
            try:
                return np.loadtxt(
                    io.StringIO(text),
                    dtype=self._dtype(),
                    delimiter=self._rules.files.delimiter,
                    comments=None,
                    ndmin=1,
                )
            except (ValueError, OverflowError, Warning):
                return None

    def _dtype(self) -> np.dtype[np.void]:
        """Unused columns are read as one character: so the number of columns is checked in every row."""
        columns, rules = self._columns, self._rules
        number = "f8" if rules.files.decimal == "." else f"S{NUMBER_CHARS}"
        kinds = dict.fromkeys(range(columns.count), "U1")
        kinds |= dict.fromkeys(columns.channels, number)
        if columns.time is not None:
            unit = rules.time.unit
            kinds[columns.time] = (
                f"U{NUMBER_CHARS}" if unit == "iso8601" else "i8" if unit in ("us", "ns") else number
            )
        words = [*(rules.label.suspicious or ()), *(rules.label.benign or ())]
        for role, at in columns.roles.items():
            # Longer texts are cut, so the width leaves room to see that one is longer than any known word.
            width = max([NAME_CHARS, *(len(word) + 8 for word in words)]) if role == "label" else NAME_CHARS
            width = max(width, int(kinds[at][1:]) if kinds[at][0] == "U" else 0)
            kinds[at] = f"U{width}"
        return np.dtype([(f"f{at}", kind) for at, kind in kinds.items()])

    def _numbers(self, table: NDArray[np.void]) -> NDArray[np.float64] | None:
        columns = [self._floats(table[f"f{at}"]) for at in self._columns.channels]
        found = [column for column in columns if column is not None]
        return np.stack(found, axis=1) if len(found) == len(columns) else None

    def _floats(self, column: NDArray[np.generic]) -> NDArray[np.float64] | None:
        """float64 (n,) of a column of numbers, written with the decimal sign of the description."""
        if column.dtype.kind == "f":
            return column.astype(np.float64)
        texts = column.astype(f"S{NUMBER_CHARS}")
        strange = (np.strings.find(texts, b".") >= 0) | (np.strings.find(texts, b"_") >= 0)
        if bool(np.any(strange | (np.strings.str_len(texts) >= NUMBER_CHARS))):
            return None
        try:
            return np.strings.replace(texts, b",", b".").astype(np.float64)
        except ValueError:
            return None

    def _times(self, table: NDArray[np.void], n_rows: int) -> NDArray[np.int64] | None:
        at = self._columns.time
        if at is None:
            return self._even(np.arange(self._rows, self._rows + n_rows))
        unit = self._rules.time.unit
        column = table[f"f{at}"]
        if unit == "iso8601" and bool(np.any(np.strings.str_len(column) >= NUMBER_CHARS)):
            return None  # cut, perhaps: what remains could be a time although the whole is none
        if unit in ("s", "ms"):
            floats = self._floats(column)
            return None if floats is None else times.from_column(floats, unit)
        found = times.from_column(column, unit)
        if unit == "iso8601" and found is not None:
            with_offset = times.has_offset(str(column[0]).strip())
            if self._has_offset not in (None, with_offset):
                return None
            self._has_offset = with_offset
        return found

    def _even(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """Times of rows that come at a fixed rate."""
        assert self._rules.time.hz is not None
        stamps: NDArray[np.int64] = np.rint(rows * (1e6 / self._rules.time.hz)).astype(np.int64)
        return stamps

    # --- the exact path ---

    def _exact(self, text: str, first_line: int) -> Block:
        """Row by row; rows with a fault are left out and noted."""
        lines: list[int] = []
        stamps: list[int] = []
        values: list[list[int]] = []
        texts: dict[str, list[str]] = {role: [] for role in self._columns.roles}
        raw_lines = text.split("\n")
        if raw_lines[-1] == "":
            raw_lines.pop()
        for line, raw in enumerate(raw_lines, first_line):
            fields = self._fields(raw.removesuffix("\r"), line)
            if fields is None:
                continue
            row = self._rows
            self._rows += 1
            stamp = self._stamp(fields, row, line)
            numbers = self._row_values(fields, line)
            if stamp is None or numbers is None:
                continue
            lines.append(line)
            stamps.append(stamp)
            values.append(numbers)
            self._last = list(numbers)
            for role, at in self._columns.roles.items():
                texts[role].append(fields[at])
        return Block(
            line=np.array(lines, dtype=np.int64),
            t_us=np.array(stamps, dtype=np.int64),
            values=np.array(values, dtype=np.int64).reshape(len(lines), len(self._columns.channels)),
            text={role: np.array(column, dtype=np.str_) for role, column in texts.items()},
        )

    def _fields(self, raw: str, line: int) -> list[str] | None:
        """The cells of a line; None for an empty line and for one that is no row."""
        if not raw.strip():
            self._blank_line = self._blank_line or line
            return None
        if self._blank_line:
            # Empty lines at the end of a file are common and harmless; between rows something was lost.
            if self._rules.missing.policy == "drop_row":
                self._tally.dropped += 1
            else:
                self._faults.add(self._name, self._blank_line, "", "an empty line", "a row")
            self._blank_line = 0
        if "\0" in raw:
            self._faults.add(
                self._name, line, "", "a zero byte", "text", "the file may be cut short or damaged"
            )
            return None
        try:
            fields = next(csv.reader([raw], delimiter=self._rules.files.delimiter, strict=True))
        except csv.Error as error:
            hint = "a quoted cell cannot hold a line end" if '"' in raw else "lines must end with a line feed"
            self._faults.add(self._name, line, "", f"a line that is no CSV ({error})", "a row", hint)
            return None
        if len(fields) != self._columns.count:
            hint = self._decimal_hint(len(fields))
            found = f"{len(fields)} cells"
            self._faults.add(self._name, line, "", found, f"{self._columns.count} as in the first line", hint)
            return None
        return [field.strip() for field in fields]

    def _decimal_hint(self, n_fields: int) -> str:
        rules = self._rules.files
        if rules.delimiter == "," and n_fields > self._columns.count:
            return "is the decimal sign a comma? Such tables have another delimiter: set files.delimiter, files.decimal"
        return ""

    def _stamp(self, fields: list[str], row: int, line: int) -> int | None:
        at, rules = self._columns.time, self._rules.time
        if at is None:
            return int(self._even(np.array([row]))[0])
        text = fields[at]
        plain = text
        if self._rules.files.decimal == "," and rules.unit != "iso8601":
            plain = text.replace(",", ".") if "." not in text else ""
        found = times.from_text(plain, rules.unit)
        if found is not None and rules.unit == "iso8601":
            with_offset = times.has_offset(plain)
            if self._has_offset not in (None, with_offset):
                found = None
            else:
                self._has_offset = with_offset
        if found is None:
            if text in self._rules.missing.values and self._rules.missing.policy == "drop_row":
                self._tally.dropped += 1
                return None
            assert rules.column is not None
            self._faults.add(self._name, line, rules.column, shown(text), times.EXPECTED[rules.unit])
        return found

    def _row_values(self, fields: list[str], line: int) -> list[int] | None:
        """The row's values in steps, or None when the row is faulty or left out."""
        found: list[int] = []
        sound = True
        for n, at in enumerate(self._columns.channels):
            text = fields[at]
            if text in self._rules.missing.values:
                value = self._for_missing(n, line, text)
                if self._rules.missing.policy == "drop_row":
                    self._tally.dropped += 1
                    return None
            else:
                value = self._steps(n, line, text)
            sound = sound and value is not None
            found.append(value or 0)
        return found if sound else None

    def _for_missing(self, n: int, line: int, text: str) -> int | None:
        column, policy = self._rules.channels[n].column, self._rules.missing.policy
        if policy == "refuse":
            hint = "to accept such cells set missing.policy = 'previous' or 'drop_row'"
            self._faults.add(self._name, line, column, shown(text), "a number", hint)
        elif policy == "previous":
            if self._last[n] is None:
                self._faults.add(self._name, line, column, shown(text), "a number: no row before it has one")
            else:
                self._tally.filled += 1
            return self._last[n]
        return None

    def _steps(self, n: int, line: int, text: str) -> int | None:
        """A number in steps of the channel: as the fast path has it below 2**53, and exactly above."""
        one, decimal = self._rules.channels[n], self._rules.files.decimal
        plain = text
        if decimal == ",":
            plain = text.replace(",", ".") if "." not in text else "no number"
        if not times.NUMBER.fullmatch(plain):
            hint = ""
            if decimal == "." and times.NUMBER.fullmatch(text.replace(",", ".")):
                hint = "set files.decimal = ','"
            elif decimal == "," and times.NUMBER.fullmatch(text):
                hint = "set files.decimal = '.'"
            elif times.NUMBER.fullmatch(text.replace(",", "").replace(".", "").replace(" ", "")):
                hint = "write numbers without separators of thousands"
            self._faults.add(self._name, line, one.column, shown(text), "a number", hint)
            return None
        steps = float(plain) * self._scales[n]
        if abs(steps) < _EXACT:
            return int(np.rint(steps))
        if len(text) <= NUMBER_CHARS and abs(steps) <= 2.0**64:
            whole = int((Decimal(plain) * one.channel.per_unit).to_integral_value())
            if abs(whole) <= _INT64_MAX:
                return whole
        most = f"at most {_INT64_MAX // one.channel.per_unit} with the decimals of the description"
        self._faults.add(self._name, line, one.column, shown(text), most)
        return None
