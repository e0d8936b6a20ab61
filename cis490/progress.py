"""How far long work is: a bar with rate and time left on a terminal, a line every ten seconds elsewhere.

The wording is made by pure functions; the clock is passed in. `rich` draws the bar where it is installed, else one
line is written over and over. Work that is done within a moment shows nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TextIO

ON_TERMINAL_S = 0.2
ELSEWHERE_S = 10.0
BAR_CELLS = 24


def size(size_bytes: float) -> str:
    """With a binary unit: `512 B`, `1.5 MiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def span(seconds: float) -> str:
    """`8 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def left_s(done: float, total: float, elapsed_s: float) -> float | None:
    """Seconds until all is done if it goes on like this; None while nobody can say."""
    if done <= 0 or total <= 0 or elapsed_s <= 0:
        return None
    return max(total - done, 0.0) * elapsed_s / done


def sentence(
    done: float, total: float, elapsed_s: float, *, items: int | None = None, unit: str = "items"
) -> str:
    """`1.5 MiB of 4.0 MiB (38 %), 512.0 KiB/s, 5 s left`; of work that is counted in items, `items` tells how many
    of them that was: `38 %, 150 rows, 12 rows/s, 28 s left`. `total` 0: nobody knows how much there is."""
    pace = max(elapsed_s, 1e-9)
    share = f"{100 * min(done / total, 1.0):.0f} %" if total > 0 else ""
    if items is None:
        parts = [
            f"{size(done)} of {size(total)} ({share})" if share else size(done),
            f"{size(done / pace)}/s",
        ]
    else:
        parts = [share] if share else []
        parts += [f"{items} {unit}", f"{items / pace:.0f} {unit}/s"]
    rest = left_s(done, total, elapsed_s)
    if rest is not None:
        parts.append(f"{span(rest)} left")
    return ", ".join(parts)


def bar(done: float, total: float, cells: int = BAR_CELLS) -> str:
    """`[######..................]`; "" when nobody knows how much there is."""
    if total <= 0:
        return ""
    full = round(cells * min(max(done / total, 0.0), 1.0))
    return f"[{'#' * full}{'.' * (cells - full)}]"


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _has_rich() -> bool:
    import importlib.util

    return importlib.util.find_spec("rich") is not None


class Every:
    """Says when it is time again: `due(now_s)` is true at most once in `every_s`, and not within the first."""

    def __init__(self, every_s: float, now_s: float) -> None:
        self._every_s, self._told_s = every_s, now_s

    def due(self, now_s: float) -> bool:
        if now_s - self._told_s < self._every_s:
            return False
        self._told_s = now_s
        return True


class Meter:
    """Shows on `out` how far something is. Call it with (done, total) or `advance` it; `close` it at the end.

    `what` says what is going on ("downloading"). `now_s` gives seconds of a steady clock, `columns` the width of the
    terminal. With `unit`, `items` is counted beside the amount, and rates are of items.
    """

    def __init__(
        self,
        what: str,
        out: TextIO,
        *,
        total: float = 0,
        unit: str | None = None,
        now_s: Callable[[], float] = time.monotonic,
        columns: Callable[[], int] | None = None,
    ) -> None:
        self._what, self._out, self._now_s, self._columns = what, out, now_s, columns or _columns
        self._unit = unit
        self._live = out.isatty()
        self._began_s = now_s()
        self._every = Every(ON_TERMINAL_S if self._live else ELSEWHERE_S, self._began_s)
        self._drawing: Any = None
        self._line = False
        self.done: float = 0
        self.total = total
        self.items = 0

    def __call__(self, done: float, total: float) -> None:
        """So much is done, of so much."""
        self.done, self.total = done, total
        now_s = self._now_s()
        if self._every.due(now_s):
            self._tell(now_s)

    def advance(self, amount: float) -> None:
        """So much more is done."""
        self(self.done + amount, self.total)

    def close(self) -> None:
        """Take the bar away, so that what follows starts on its own line."""
        if self._drawing is not None:
            self._drawing.stop()
            self._drawing = None
        elif self._line:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._line = False

    def _tell(self, now_s: float) -> None:
        items = None if self._unit is None else self.items
        text = sentence(self.done, self.total, now_s - self._began_s, items=items, unit=self._unit or "")
        if not self._live:
            self._out.write(f"{self._what}: {text}\n")
            self._out.flush()
        elif _has_rich():
            self._by_rich(text)
        else:
            line = " ".join(part for part in (self._what, bar(self.done, self.total), text) if part)
            self._out.write("\r\x1b[K" + line[: max(self._columns() - 1, 20)])
            self._out.flush()
            self._line = True

    def _by_rich(self, text: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        if self._drawing is None:
            console = Console(file=self._out, highlight=False, markup=False, emoji=False)
            plain = TextColumn("{task.description}", markup=False)
            said = TextColumn("{task.fields[said]}", markup=False)
            self._drawing = Progress(
                plain, BarColumn(BAR_CELLS), said, console=console, auto_refresh=False, transient=True
            )
            self._drawing.start()
            self._task = self._drawing.add_task(self._what, total=self.total or None, said=text)
        self._drawing.update(self._task, completed=self.done, total=self.total or None, said=text)
        self._drawing.refresh()
