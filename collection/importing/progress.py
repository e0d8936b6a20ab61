"""How far an import is: one line that is drawn again on a terminal, a line every ten seconds elsewhere."""

from collections.abc import Callable
from typing import Final, TextIO

ON_TERMINAL_S: Final = 0.1
ELSEWHERE_S: Final = 10.0
_BAR_CHARS: Final = 24


class Bar:
    """`total` bytes are to be read. `clock` gives seconds of a steady clock; `columns` the terminal's width."""

    def __init__(
        self, total: int, out: TextIO, clock: Callable[[], float], columns: Callable[[], int] = lambda: 80
    ) -> None:
        self._total, self._out, self._clock, self._columns = total, out, clock, columns
        self._live = out.isatty()
        self._began_s = self._told_s = clock()
        self.done = 0
        self.rows = 0

    def advance(self, size_bytes: int) -> None:
        """So many more bytes were read."""
        self.done += size_bytes
        now_s = self._clock()
        if now_s - self._told_s >= (ON_TERMINAL_S if self._live else ELSEWHERE_S):
            self._told_s = now_s
            self._tell(now_s)

    def close(self) -> None:
        """Clear the line."""
        if self._live:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _tell(self, now_s: float) -> None:
        elapsed_s = max(now_s - self._began_s, 1e-9)
        share = min(1.0, self.done / self._total) if self._total else 1.0
        left_s = elapsed_s * (1 - share) / share if share else 0.0
        text = f"{share:4.0%}  {self.rows} rows, {self.rows / elapsed_s:.0f} rows/s, {left_s:.0f} s left"
        if self._live:
            filled = round(share * _BAR_CHARS)
            line = f"importing [{'#' * filled}{'.' * (_BAR_CHARS - filled)}] {text}"
            self._out.write("\r\x1b[K" + line[: self._columns() - 1])
        else:
            self._out.write(f"importing {text}\n")
        self._out.flush()
