"""Lines of a terminal that are redrawn in place, and the keys that are pressed meanwhile.

`rich` draws where it is installed; else a few escape sequences do. Neither is imported or sent where the output is no
terminal.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, TextIO

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def can_redraw(out: TextIO, env: Mapping[str, str]) -> bool:
    """Is this a terminal that can move its cursor?"""
    return out.isatty() and env.get("TERM") != "dumb"


def cut(line: str, width: int) -> str:
    """`line`, at most `width` columns wide on the screen; one that has to be cut loses its colours."""
    plain = _ESCAPE.sub("", line)
    return line if len(plain) <= width else plain[: max(width - 3, 0)] + "..."


class Region(Protocol):
    """What `draw` was given last stands on the terminal; it stays there at the end."""

    def draw(self, lines: Sequence[str], width: int) -> None: ...
    def __enter__(self) -> Region: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def region(out: TextIO) -> Region:
    """The best there is."""
    return RichRegion(out) if importlib.util.find_spec("rich") else PlainRegion(out)


class PlainRegion:
    """Goes up to the first line and writes all of them again; what is longer than the new text is erased."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._height = 0

    def __enter__(self) -> PlainRegion:
        self._out.write("\x1b[?25l")  # no cursor: it would jump
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.write("\x1b[?25h")
        self._out.flush()

    def draw(self, lines: Sequence[str], width: int) -> None:
        up = f"\x1b[{self._height}F" if self._height else ""
        self._out.write(up + "".join(f"{cut(line, width)}\x1b[K\n" for line in lines) + "\x1b[J")
        self._out.flush()
        self._height = len(lines)


class RichRegion:
    """The same by `rich.live`, which knows the consoles of Windows as well."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=out, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> RichRegion:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def draw(self, lines: Sequence[str], width: int) -> None:
        from rich.text import Text

        text = Text.from_ansi("\n".join(cut(line, width) for line in lines), no_wrap=True, end="")
        self._live.update(text, refresh=True)


def size_of(out: TextIO, columns: int, height: int) -> tuple[int, int]:
    """(columns, lines) that the terminal has now; what was found at the start where it does not tell."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = os.get_terminal_size(out.fileno())
        return found.columns or columns, found.lines or height
    return columns, height


class Keys(Protocol):
    def pressed(self, wait_s: float) -> str:
        """The key that was pressed, "" when none was within `wait_s`."""
        ...


class NoKeys:
    """Standard input is no terminal: nothing can be pressed."""

    def pressed(self, wait_s: float) -> str:
        time.sleep(wait_s)
        return ""


@contextlib.contextmanager
def keys() -> Iterator[Keys]:
    """Single key strokes of this process's terminal, without Enter and unseen; put back as it was at the end."""
    if not sys.stdin.isatty():
        yield NoKeys()
    elif sys.platform == "win32":
        yield _WindowsKeys()
    else:
        import termios
        import tty

        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
        tty.setcbreak(number)
        try:
            yield _PosixKeys(number)
        finally:
            termios.tcsetattr(number, termios.TCSADRAIN, before)


class _PosixKeys:
    def __init__(self, number: int) -> None:
        self._number = number

    def pressed(self, wait_s: float) -> str:
        import select

        if not select.select([self._number], [], [], wait_s)[0]:
            return ""
        return os.read(self._number, 1).decode("latin-1") or "q"  # the terminal is gone


class _WindowsKeys:
    def pressed(self, wait_s: float) -> str:
        if sys.platform == "win32":
            import msvcrt

            end = time.monotonic() + wait_s
            while time.monotonic() < end:
                if msvcrt.kbhit():
                    return msvcrt.getwch()
                time.sleep(0.05)
        return ""
