"""Long series become pieces: unbroken in time, of one host and one variant, and of the length of an episode."""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cis490.episodes.format import MAX_CELLS
from collection.importing.description import MAX_HZ, NAME, NAME_RULE, Description, Source
from collection.importing.errors import BadRows, RowFaults, shown
from collection.importing.reader import Block

RATE_ROWS: Final = 10_000
"""So many rows at the start of a file tell its rate."""
RATE_TOLERANCE: Final = 0.1
MAX_STEM_CHARS: Final = 48
_STRANGE: Final = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Piece:
    """What becomes one episode. `t_us` int64 (n,) on the file's clock; `values` int64 (n, channels);
    `suspicious` bool (n,); `line` is the file's line of the first row; `lost` counts samples in short gaps."""

    file: str
    line: int
    host: str
    family: str
    variant: str
    t_us: NDArray[np.int64]
    values: NDArray[np.int64]
    suspicious: NDArray[np.bool_]
    period_us: float
    lost: int


@dataclass(slots=True)
class CutTally:
    """What was left out, and why."""

    pieces: int = 0
    short_pieces: int = 0
    short_rows: int = 0
    gaps: int = 0
    lost: int = 0


class Names:
    """The host, family and variant of each row, as numbers into a list of names that are known by now."""

    def __init__(
        self, role: str, source: Source, file: str, groups: dict[str, str], faults: RowFaults
    ) -> None:
        self.role, self._source, self._file, self._faults = role, source, file, faults
        self._first_us: int | None = None
        self._known: dict[str, int] = {}
        self.names: list[str] = []
        stem = plain_stem(file)
        self._constant = source.constant or (groups[source.group] if source.group else stem)
        self._stem = stem

    def codes(self, block: Block) -> NDArray[np.int64]:
        """int64 (n,) for the rows of a block."""
        if self._source.stretch_s is not None:
            if self._first_us is None:
                self._first_us = int(block.t_us[0])
            stretch = (block.t_us - self._first_us) // int(self._source.stretch_s * 1e6)
            return self._coded(stretch, block, lambda value: f"{self._stem}-{int(value):04d}")
        if self._source.column is not None:
            return self._coded(block.text[self.role], block, str)
        return np.full(len(block), self._code(self._constant, int(block.line[0])), dtype=np.int64)

    def _coded(
        self, values: NDArray[np.generic], block: Block, spell: Callable[[str], str]
    ) -> NDArray[np.int64]:
        """Looks at a value only where it differs from the one before."""
        changes = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
        codes = [self._code(spell(str(values[at])), int(block.line[at])) for at in changes.tolist()]
        return np.repeat(np.array(codes, dtype=np.int64), np.diff([*changes.tolist(), len(values)]))

    def _code(self, name: str, line: int) -> int:
        if name not in self._known:
            if not NAME.fullmatch(name):
                column = self._source.column or ""
                self._faults.add(self._file, line, column, shown(name), f"{NAME_RULE}, as {self.role}")
            self._known[name] = len(self.names)
            self.names.append(name)
        return self._known[name]


class Cutter:
    """Cuts the rows of one file. `emit` is called with every piece."""

    def __init__(
        self,
        description: Description,
        file: str,
        groups: dict[str, str],
        faults: RowFaults,
        tally: CutTally,
        emit: Callable[[Piece], None],
    ) -> None:
        episode = description.episode
        self._rules, self._file, self._faults, self._tally = description, file, faults, tally
        self._emit = emit
        self._host = Names("host", episode.host, file, groups, faults)
        self._family = Names("family", episode.family, file, groups, faults)
        self._variant = Names("variant", episode.variant, file, groups, faults)
        self._length_us = int(episode.seconds * 1e6) if episode.seconds else 0
        self._period_us = 0.0
        self._open: list[_Rows] = []
        self._open_rows = 0
        self._last: _Rows | None = None
        self._run_us = 0
        self._hosts_left: set[int] = set()

    def add(self, block: Block, suspicious: NDArray[np.bool_], period_us: float) -> None:
        """The next rows of the file, `period_us` apart."""
        self._period_us = period_us
        rows = _Rows(
            block.line,
            block.t_us,
            block.values,
            suspicious,
            self._host.codes(block),
            self._family.codes(block),
            self._variant.codes(block),
        )
        new_run = self._new_runs(rows)
        cuts = np.flatnonzero(self._new_pieces(rows, new_run)).tolist()
        self._last = rows.part(len(rows) - 1, len(rows))
        begin = 0
        for cut in [*cuts, len(rows)]:
            if cut > begin:
                self._open.append(rows.part(begin, cut))
                self._open_rows += cut - begin
            if cut < len(rows):
                self._close()
            begin = cut
        self._check_size(int(block.line[-1]))

    def end(self) -> None:
        """No more rows."""
        self._close()

    def _new_runs(self, rows: "_Rows") -> NDArray[np.bool_]:
        """bool (n,): here a series begins that has nothing to do with the row before."""
        before = self._last or rows.part(0, 1)
        host, variant = _before(before.host, rows.host), _before(before.variant, rows.variant)
        steps = rows.t_us - _before(before.t_us, rows.t_us)
        other_host = rows.host != host
        other = other_host | (rows.variant != variant)
        if self._rules.episode.variant.stretch_s is not None:
            # A stretch ends an episode and not the series: time must go on growing.
            other = other_host.copy()
        first = self._last is None
        if first:
            other[0] = True
        self._check_growing(rows, steps, other)
        self._check_hosts(rows, other_host)
        gaps = (steps > self._rules.time.max_gap * self._period_us) & ~other
        self._tally.gaps += int(gaps.sum())
        if not self._rules.time.split_at_gaps:
            for row in np.flatnonzero(gaps).tolist():
                found = f"{steps[row] / 1e6:g} s after the row before"
                limit = self._rules.time.max_gap * self._period_us / 1e6
                hint = "to cut there set time.on_gap = 'split'"
                self._fault(rows, row, found, f"at most {limit:g} s", hint)
        runs: NDArray[np.bool_] = other | gaps
        return runs

    def _check_growing(self, rows: "_Rows", steps: NDArray[np.int64], other: NDArray[np.bool_]) -> None:
        for row in np.flatnonzero((steps <= 0) & ~other).tolist():
            found = (
                "the same time as in the row before"
                if steps[row] == 0
                else f"{-steps[row] / 1e6:g} s back in time"
            )
            hint = "sort the rows; where several share one time stamp leave time.column out and set time.hz"
            self._fault(rows, row, found, "a later time than in the row before", hint)

    def _check_hosts(self, rows: "_Rows", other_host: NDArray[np.bool_]) -> None:
        """Rows of several hosts in turns would be cut to pieces."""
        for row in np.flatnonzero(other_host).tolist():
            if row or self._last is not None:
                self._hosts_left.add(int(rows.host[row - 1] if row else self._last.host[0]))  # type: ignore[union-attr]
            if int(rows.host[row]) in self._hosts_left:
                name = self._host.names[int(rows.host[row])]
                hint = "sort the file by host, then by time"
                self._fault(
                    rows, row, f"host {name!r} again after another", "the rows of a host together", hint
                )

    def _fault(self, rows: "_Rows", row: int, found: str, expected: str, hint: str) -> None:
        self._faults.add(
            self._file, int(rows.line[row]), self._rules.time.column or "", found, expected, hint
        )

    def _new_pieces(self, rows: "_Rows", new_run: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool (n,): an episode ends before this row."""
        at = np.maximum.accumulate(np.where(new_run, np.arange(len(rows)), -1))
        run_us = np.where(at >= 0, rows.t_us[np.maximum(at, 0)], self._run_us)
        cuts: NDArray[np.bool_] = new_run | (
            rows.variant != _before((self._last or rows).variant, rows.variant)
        )
        if self._length_us:
            chunk = (rows.t_us - run_us) // self._length_us
            last = (int(self._last.t_us[0]) - self._run_us) // self._length_us if self._last else 0
            cuts = cuts | (chunk != np.concatenate([[last], chunk[:-1]]))
        self._run_us = int(run_us[-1])
        return cuts

    def _check_size(self, line: int) -> None:
        cells = self._open_rows * (1 + len(self._rules.channels))
        if cells > MAX_CELLS:
            raise BadRows(
                f"{self._file}:{line}: an episode of {self._open_rows} rows and more, expected at most "
                f"{MAX_CELLS // (1 + len(self._rules.channels))}; set episode.seconds to cut the series"
            )

    def _close(self) -> None:
        """Emit the open rows as a piece, unless they are too few."""
        if not self._open:
            return
        rows = _Rows.joined(self._open)
        self._open, self._open_rows = [], 0
        span_us = int(rows.t_us[-1] - rows.t_us[0]) + self._period_us
        # Half a period of tolerance: n rows at a jittery clock span a little less than n periods.
        if len(rows) < 2 or span_us + self._period_us / 2 < self._rules.episode.shortest_s * 1e6:
            self._tally.short_pieces += 1
            self._tally.short_rows += len(rows)
            return
        steps = np.diff(rows.t_us) / self._period_us
        lost = int(np.maximum(np.rint(steps) - 1, 0).sum())
        self._tally.pieces += 1
        self._tally.lost += lost
        telling = int(np.argmax(rows.suspicious))  # 0 where nothing is suspicious
        self._emit(
            Piece(
                file=self._file,
                line=int(rows.line[0]),
                host=self._host.names[int(rows.host[0])],
                family=self._family.names[int(rows.family[telling])],
                variant=self._variant.names[int(rows.variant[0])],
                t_us=rows.t_us,
                values=rows.values,
                suspicious=rows.suspicious,
                period_us=self._period_us,
                lost=lost,
            )
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    line: NDArray[np.int64]
    t_us: NDArray[np.int64]
    values: NDArray[np.int64]
    suspicious: NDArray[np.bool_]
    host: NDArray[np.int64]
    family: NDArray[np.int64]
    variant: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t_us)

    def part(self, begin: int, end: int) -> "_Rows":
        """Some of the rows, as a view."""
        return _Rows(*(getattr(self, name)[begin:end] for name in _Rows.__slots__))

    @staticmethod
    def joined(parts: "list[_Rows]") -> "_Rows":
        return _Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in _Rows.__slots__))


def _before(last: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row's predecessor; that of the first row is the first of `last`."""
    return np.concatenate([last[:1], column[:-1]])


def plain_stem(file: str) -> str:
    """A file's path below the folder without its suffix, as a name: what may not stand in one becomes a dash, and a
    long one is cut and told apart by its digest."""
    folder, _, name = file.rpartition("/")
    stem = _STRANGE.sub("-", f"{folder}/{name.rpartition('.')[0] or name}").strip("-_")
    if len(stem) > MAX_STEM_CHARS:
        digest = hashlib.sha256(file.encode()).hexdigest()[:8]
        stem = f"{stem[: MAX_STEM_CHARS - 9]}-{digest}"
    return stem or "file"


class Rate:
    """How far apart the rows are: as declared, or as the first file has them. All files must agree."""

    def __init__(self, description: Description, faults: RowFaults) -> None:
        self._rules, self._faults = description.time, faults
        self._declared = description.time.hz is not None
        self.period_us = 1e6 / description.time.hz if description.time.hz else 0.0
        self._from = "time.hz"

    def of_file(self, file: str, block: Block) -> float:
        """Microseconds between two rows of a file, of which `block` is the beginning."""
        if self._rules.column is None:
            return self.period_us
        found_us = _typical_step(block.t_us[:RATE_ROWS])
        if found_us is None:
            if not self.period_us:
                self._faults.add(file, 0, "", "no two rows with growing time", "rows to tell their rate from")
                return 1.0
            return self.period_us
        if not self.period_us:
            if found_us < 1e6 / MAX_HZ * (1 - RATE_TOLERANCE):
                found = f"{1e6 / found_us:.0f} rows a second"
                hint = "check time.unit, or average the rows down"
                self._faults.add(file, 0, self._rules.column, found, f"at most {MAX_HZ}", hint)
            self.period_us, self._from = found_us, file
        elif abs(found_us - self.period_us) > RATE_TOLERANCE * self.period_us:
            found = f"rows {found_us / 1e6:g} s apart"
            hint = (
                "check time.unit" if self._declared else "one data set has one rate: import the files apart"
            )
            self._faults.add(
                file, 0, self._rules.column, found, f"{self.period_us / 1e6:g} s as {self._from} has", hint
            )
        return self.period_us

    @property
    def hz(self) -> int:
        """The nominal rate of an episode: a whole number, at least 1."""
        return max(1, min(MAX_HZ, math.floor(1e6 / self.period_us + 0.5)))


def _typical_step(t_us: NDArray[np.int64]) -> float | None:
    """The mean of the steps that are no gaps: time stamps in whole milliseconds make the median too coarse."""
    steps = np.diff(t_us)
    steps = steps[steps > 0]
    if not len(steps):
        return None
    return float(steps[steps <= 3 * np.median(steps)].mean())
