"""All files of a folder become a data set, or nothing does."""

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cis490.episodes.dataset import MAX_EPISODES, DatasetError, dataset_id, pack
from cis490.episodes.format import EPISODE_SUFFIX, episode_id
from cis490.progress import Meter
from collection.importing.cutter import CutTally, Cutter, Piece, Rate, plain_stem
from collection.importing.description import Description
from collection.importing.episodes import encoded
from collection.importing.errors import BadRows, CannotCreate, MissingInput, RowFaults
from collection.importing.labels import Labels, read_spans
from collection.importing.reader import CsvFile, Tally
from collection.importing.recipes import EpisodeRow

_TWIN_BYTES: Final = 16


@dataclass(slots=True)
class Imported:
    """What came out of an import."""

    dataset_id: str = ""
    files: int = 0
    hz: float = 0.0
    size_bytes: int = 0
    episodes: list[EpisodeRow] = field(default_factory=list)
    read: Tally = field(default_factory=Tally)
    cut: CutTally = field(default_factory=CutTally)
    twins: int = 0
    """Episodes that hold exactly the samples of another one."""
    packed_bytes: int | None = None


def find_files(folder: Path, description: Description) -> list[str]:
    """Paths below the folder that the description covers, sorted. Raises MissingInput."""
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder; pass the folder that holds the CSV files")
    found = {
        path.relative_to(folder).as_posix()
        for pattern in description.files.include
        for path in _matching(folder, pattern)
    }
    found.discard(description.label.table or "")
    lost = sorted(name for name in found if (folder / name).is_symlink() and not (folder / name).exists())
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise MissingInput(
            f"{folder / lost[0]}{more}: a link to a file that is not there; fetch the file, or take the link away"
        )
    if not found:
        patterns = ", ".join(map(repr, description.files.include))
        raise MissingInput(f"{folder}: found no file that matches files.include = {patterns}")
    return sorted(found)


def _matching(folder: Path, pattern: str) -> list[Path]:
    try:
        # A link that leads nowhere is a recording that is missing, not one to pass over.
        return [
            path
            for path in folder.glob(pattern)
            if path.is_file() or (path.is_symlink() and not path.exists())
        ]
    except (ValueError, NotImplementedError) as error:
        raise MissingInput(f"files.include: {pattern!r} is no pattern below the folder: {error}") from error


def import_folder(
    folder: Path,
    description: Description,
    out: Path,
    pack_to: Path | None,
    bar: Callable[[int], Meter],
    say: Callable[[str], None],
) -> Imported:
    """Import everything into the new folder `out`, and pack it if asked. Raises ImportFailed; then nothing is left.

    The folder appears under its name only when all rows are in it. `bar` makes the progress bar for a number of
    bytes.
    """
    for target in (out, pack_to):
        if target is not None and (target.exists() or target.is_symlink()):
            raise CannotCreate(f"{target}: exists already; delete it or choose another name")
    if pack_to is not None and not pack_to.parent.is_dir():
        # Told now, and not when a million rows have been read.
        raise CannotCreate(
            f"{pack_to}: cannot be written: there is no folder {pack_to.parent}; make it, or choose another --pack"
        )
    if pack_to is not None and os.path.abspath(pack_to) == os.path.abspath(out):
        raise CannotCreate(f"{out}: --out and --pack are the same; the one is a folder, the other a file")
    files = find_files(folder, description)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise CannotCreate(f"{out}: cannot be created: {error.strerror}") from error
    packed = False
    try:
        imported = _Import(folder, description, partial, files).run(bar)
        if pack_to is not None:
            say(f"packing {len(imported.episodes)} episodes, {imported.size_bytes / 1e6:.0f} MB")
            packed = True
            pack(partial, pack_to)
            imported.packed_bytes = pack_to.stat().st_size
        partial.chmod(0o755)
        partial.rename(out)
        packed = False  # from here on both results stay
    except DatasetError as error:
        text = str(error).replace(str(partial), str(out))
        raise BadRows(f"{text}; nothing was imported") from error
    except OSError as error:
        raise CannotCreate(f"{error.filename or out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if packed and pack_to is not None:
            pack_to.unlink(missing_ok=True)
            pack_to.with_name(pack_to.name + ".partial").unlink(missing_ok=True)
    return imported


class _Import:
    """One run over all files."""

    def __init__(self, folder: Path, description: Description, target: Path, files: list[str]) -> None:
        self._folder, self._rules, self._target, self._files = folder, description, target, files
        self._faults = RowFaults()
        self._rate = Rate(description, self._faults)
        self._result = Imported(files=len(files))
        self._ids: list[str] = []
        self._samples_seen: set[bytes] = set()
        self._in_file: Counter[str] = Counter()

    def run(self, make_bar: Callable[[int], Meter]) -> Imported:
        spans = read_spans(self._folder, self._rules, self._files, self._faults)
        labels = Labels(self._rules, spans, self._faults)
        bar = make_bar(sum(self._size(file) for file in self._files))
        try:
            for number, file in enumerate(self._files):
                self._one_file(file, number, labels, bar)
        finally:
            bar.close()
        self._faults.raise_if_any()
        if not self._ids:
            shortest = self._rules.episode.shortest_s
            raise BadRows(
                f"{self._folder}: no unbroken series of {shortest:g} s in {self._result.read.rows} rows "
                f"({self._result.cut.gaps} gaps); choose smaller episode.seconds and episode.shortest_s, or a larger "
                "time.max_gap"
            )
        try:
            self._result.dataset_id = dataset_id(self._ids)
        except DatasetError as error:
            raise BadRows(str(error)) from error
        self._result.hz = 1e6 / self._rate.period_us
        return self._result

    def _size(self, file: str) -> int:
        try:
            return (self._folder / file).stat().st_size
        except OSError as error:
            raise MissingInput(f"{self._folder / file}: cannot be read: {error.strerror}") from error

    def _one_file(self, file: str, number: int, labels: Labels, bar: Meter) -> None:
        groups = self._groups(file)
        if groups is None:
            return
        cutter = Cutter(
            self._rules,
            file,
            groups,
            self._faults,
            self._result.cut,
            lambda piece: self._write(piece, number),
        )
        reader = CsvFile(self._folder / file, file, self._rules, self._faults, self._result.read)
        period_us: float | None = None
        try:
            for block in reader.blocks(bar.advance):
                if period_us is None:
                    period_us = self._rate.of_file(file, block)
                cutter.add(block, labels.of(block, file, groups.get("label")), period_us)
                bar.items = self._result.read.rows
        except OSError as error:
            if error.filename != os.fspath(self._folder / file):
                raise
            raise MissingInput(f"{self._folder / file}: cannot be read: {error.strerror}") from error
        cutter.end()

    def _groups(self, file: str) -> dict[str, str] | None:
        """The named groups of the file's name, or None after a fault."""
        rules = self._rules
        if rules.files.name is None:
            return {}
        match = rules.files.name.fullmatch(file)
        if match is None:
            hint = "mend files.name, or take the file out of files.include"
            self._faults.add(
                file, 0, "", f"the name {file!r}", f"a name that matches {rules.files.name.pattern!r}", hint
            )
            return None
        groups = {name: text or "" for name, text in match.groupdict().items()}
        if rules.label.group and rules.label.is_suspicious(groups[rules.label.group]) is None:
            found = f"the label {groups[rules.label.group]!r} in the name"
            self._faults.add(file, 0, "", found, rules.label.expected)
            return None
        return groups

    def _write(self, piece: Piece, number: int) -> None:
        if self._faults.count:
            return  # nothing will come of it: read on for further faults only
        if len(self._ids) >= MAX_EPISODES:
            raise BadRows(
                f"{piece.file}:{piece.line}: a data set has at most {MAX_EPISODES} episodes; set a larger "
                "episode.seconds"
            )
        meta, payload, data = encoded(piece, self._rules, self._rate.hz)
        name = f"{plain_stem(piece.file)}-{number:04d}-{self._in_file[piece.file]:05d}{EPISODE_SUFFIX}"
        self._in_file[piece.file] += 1
        path = self._target / piece.host / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self._ids.append(episode_id(data))
        samples = hashlib.sha256(payload).digest()[:_TWIN_BYTES]
        self._result.twins += samples in self._samples_seen
        self._samples_seen.add(samples)
        self._result.size_bytes += len(data)
        self._result.episodes.append(
            EpisodeRow(
                host=piece.host,
                family=piece.family,
                variant=piece.variant,
                suspicious=meta.label == "suspicious",
                started_at_s=meta.started_at_s,
                duration_s=float(piece.t_us[-1] - piece.t_us[0]) / 1e6,
            )
        )
