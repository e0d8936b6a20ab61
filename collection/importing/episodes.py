"""A piece of a series becomes an episode file."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from cis490.episodes.arrays import to_payload
from cis490.episodes.format import EpisodeError, EpisodeMeta, Interval, Label, encode
from collection.importing.cutter import Piece
from collection.importing.description import Description
from collection.importing.errors import BadRows

TOOL_VERSION: Final = "cis490-import 1"
_MAX_FILE_CHARS: Final = 200
UNKNOWN: Final = "unknown (imported)"


def encoded(piece: Piece, description: Description, hz: int) -> tuple[EpisodeMeta, bytes, bytes]:
    """(meta data, payload, the whole file) of a piece. Raises BadRows."""
    rules = description.episode
    t_us = piece.t_us - piece.t_us[0]
    zero_s = description.time.zero_s
    started_at_s = None if zero_s is None else int(zero_s + piece.t_us[0] // 1_000_000)
    meta = EpisodeMeta(
        host=piece.host,
        profile=piece.variant,
        family=piece.family,
        variant=0,
        parameters={"file": _printable(piece.file), "line": piece.line},
        background="none",
        intervals=tuple(_intervals(piece, round(rules.baseline_s * 1e6))),
        hz=hz,
        n_samples=len(t_us),
        dropped_samples=piece.lost,
        channels=tuple(one.channel for one in description.channels),
        kernel=UNKNOWN,
        cpu_count=1,
        tool_version=TOOL_VERSION,
        simulated=False,
        shape=UNKNOWN,
        licence=rules.licence,
        started_at_s=started_at_s,
        scaling=rules.scaling,
    )
    payload = to_payload(np.concatenate([t_us[None, :], piece.values.T]))
    try:
        return meta, payload, encode(meta, payload)
    except EpisodeError as error:
        hint = "check time.unit and time.zero"
        if "end of the meta data" in str(error):
            hint = "too many changes of the label, or channels, for one header: set a smaller episode.seconds"
        raise BadRows(f"{piece.file}:{piece.line}: makes no valid episode: {error}; {hint}") from error


def _printable(file: str) -> str:
    text = "".join(sign if sign.isprintable() else "?" for sign in file)
    return text[-_MAX_FILE_CHARS:]


def _intervals(piece: Piece, baseline_us: int) -> Iterator[Interval]:
    """Spans of one label; those that begin in the baseline are cut where it ends. A row's label holds until the
    next row, the last row's for one period."""
    t_us = piece.t_us - piece.t_us[0]
    starts = [0, *(np.flatnonzero(piece.suspicious[1:] != piece.suspicious[:-1]) + 1).tolist()]
    end_us = int(t_us[-1]) + max(1, round(piece.period_us))
    ends = [*(int(t_us[start]) for start in starts[1:]), end_us]
    for start, end in zip(starts, ends, strict=True):
        label: Label = "suspicious" if piece.suspicious[start] else "benign"
        begin = int(t_us[start])
        if begin < baseline_us < end:
            yield Interval(begin, baseline_us, label, "baseline")
            begin = baseline_us
        yield Interval(begin, end, label, "baseline" if begin < baseline_us else "active")
