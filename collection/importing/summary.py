"""What was imported, and what it is good for, in words."""

import math
from collections import Counter
from pathlib import Path
from typing import Final

from collection.importing.description import Description
from collection.importing.folder import Imported
from collection.importing.recipes import usable

_MAX_LISTED: Final = 8
_WINDOW_ROWS: Final = 6
_DEFAULT_WINDOW_S: Final = 4
_LONGEST_WINDOW_S: Final = 60
"""What the trainer's windows need, are, and can be."""


def told(imported: Imported, description: Description, out: Path, pack_to: Path | None) -> str:
    """The summary as lines."""
    episodes = imported.episodes
    suspicious = sum(episode.suspicious for episode in episodes)
    rates = f"{imported.hz:.4g} rows a second"
    lines = [
        ("rows", f"{imported.read.rows} of {imported.files} files, {rates}"),
        ("episodes", f"{len(episodes)}, {imported.size_bytes / 1e6:.1f} MB in {out}"),
        ("labels", f"{suspicious} suspicious, {len(episodes) - suspicious} benign episodes"),
        ("hosts", _counted(Counter(episode.host for episode in episodes))),
        ("families", _counted(Counter(episode.family for episode in episodes))),
        ("variants", str(len({(episode.family, episode.variant) for episode in episodes}))),
        *_left_out(imported, description),
    ]
    lines += [(use.recipe, use.verdict + (f": {use.why}" if use.why else "")) for use in usable(episodes)]
    lines.append(("dataset_id", imported.dataset_id))
    text = "".join(f"{name:<17} {value}\n" for name, value in lines)
    text += "\nfor the manifest:\n\n[dataset]\n" + f'id = "{imported.dataset_id}"\n'
    if pack_to is not None:
        return text + f'file = "{pack_to.name}"\n'
    return (
        text
        + 'file = "NAME.tar.zst"   # pack it: python -m collection.record --pack FOLDER --out NAME.tar.zst\n'
    )


def _left_out(imported: Imported, description: Description) -> list[tuple[str, str]]:
    read, cut = imported.read, imported.cut
    lines: list[tuple[str, str]] = []
    if read.filled:
        lines.append(("filled", f"{read.filled} cells without a value got the one before (missing.policy)"))
    if read.dropped:
        lines.append(("dropped", f"{read.dropped} rows with missing cells (missing.policy)"))
    if cut.gaps:
        lines.append(("gaps", f"{cut.gaps} longer than {description.time.max_gap:g} rows: cut there"))
    if cut.lost:
        lines.append(("lost", f"{cut.lost} rows in shorter gaps"))
    if cut.short_rows:
        shortest = description.episode.shortest_s
        lines.append(
            ("left out", f"{cut.short_rows} rows in {cut.short_pieces} pieces of less than {shortest:g} s")
        )
    if imported.twins:
        lines.append(
            (
                "twins",
                f"{imported.twins} episodes hold the very samples of another one: is a file there twice?",
            )
        )
    needed_s = math.ceil(_WINDOW_ROWS / imported.hz)
    if needed_s > _LONGEST_WINDOW_S:
        why = f"the trainer's windows reach {_LONGEST_WINDOW_S} s and need {_WINDOW_ROWS} rows"
        lines.append(("slow", f"{why}: these are too far apart to train on"))
    elif needed_s > _DEFAULT_WINDOW_S:
        lines.append(
            ("slow", f"a window needs {_WINDOW_ROWS} rows: train with hyper.window_s = {needed_s} or more")
        )
    return lines


def _counted(counts: Counter[str]) -> str:
    listed = [f"{name} ({count})" for name, count in sorted(counts.items())[:_MAX_LISTED]]
    more = f", and {len(counts) - _MAX_LISTED} more" if len(counts) > _MAX_LISTED else ""
    return ", ".join(listed) + more
