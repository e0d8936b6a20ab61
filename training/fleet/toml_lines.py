"""Where each key of a TOML text stands. Pure.

The standard library's parser tells no line numbers, and a fault without one is hard to find in a manifest of
14 jobs. This scanner reads the same text once more and only notes where keys begin. It never judges:
`tomllib` has accepted the text before anyone asks for a line. What it does not understand it skips, and knows
fewer lines then; it never raises.

A path is the sequence of keys and list positions that leads to a value: `("jobs", 3, "hyper", "dropout")`.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]

_MAX_DEPTH = 64
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_REST_OF_LINE = re.compile(r"[^\n]*")
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''',
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\[\]{}#\n]+")


class LineIndex:
    """The lines of a text's keys; lines count from 1."""

    def __init__(self, lines: dict[Path, int]) -> None:
        self._lines = lines

    def line(self, path: Path) -> int:
        """Where the path's key stands, or else the nearest table around it, or else line 1."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 1

    def __contains__(self, path: Path) -> bool:
        return path in self._lines


def index_lines(text: str) -> LineIndex:
    """Scan a whole TOML text."""
    scanner = _Scanner(text)
    scanner.document()
    return LineIndex(scanner.lines)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._array_sizes: dict[Path, int] = {}
        """Arrays of tables and how many tables each has by now."""

    def document(self) -> None:
        table: Path = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self._header()
            elif not self._pair(table, depth=0):
                self._skip(_REST_OF_LINE)
            self._skip(_BLANK)

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Move behind the pattern if it comes next; tells whether anything was skipped."""
        match = pattern.match(self.text, self.at)
        if match is None or match.end() == self.at:
            return False
        self.at = match.end()
        return True

    def _take(self, symbol: str) -> bool:
        if not self.text.startswith(symbol, self.at):
            return False
        self.at += len(symbol)
        return True

    def _note(self, path: Path, start: int) -> None:
        """Note a path and, where they are new, the tables that it implies."""
        line = bisect_right(self._line_starts, start)
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _header(self) -> Path:
        """`[a.b]` or `[[a.b]]`: the path that the following keys belong to."""
        start = self.at
        self._take("[")
        is_array = self._take("[")
        parts = self._key()
        self._skip(_REST_OF_LINE)
        path: Path = ()
        for part in parts[:-1]:
            path = self._latest((*path, part))
        path = (*path, *parts[-1:])
        if is_array:
            self._array_sizes[path] = self._array_sizes.get(path, 0) + 1
        path = self._latest(path)
        self._note(path, start)
        return path

    def _latest(self, path: Path) -> Path:
        """A header that passes through an array of tables means its newest table."""
        size = self._array_sizes.get(path)
        return path if size is None else (*path, size - 1)

    def _key(self) -> tuple[str, ...]:
        """A dotted key; empty when there is none here. Only its first 64 parts count: no real key has more."""
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            match = _KEY_PART.match(self.text, self.at)
            if match is None:
                return tuple(parts[:_MAX_DEPTH])
            parts.append(_unquoted(match.group()))
            self.at = match.end()
            self._skip(_SPACE)
            if not self._take("."):
                return tuple(parts[:_MAX_DEPTH])

    def _pair(self, table: Path, depth: int) -> bool:
        """`key = value`; False when it is none."""
        start = self.at
        key = self._key()
        if not key or not self._take("="):
            return False
        path = (*table, *key)
        self._note(path, start)
        self._skip(_SPACE)
        self._value(path, depth)
        return True

    def _value(self, path: Path, depth: int) -> None:
        if depth > _MAX_DEPTH:
            self.at = len(self.text)
        elif self._take("["):
            self._array(path, depth)
        elif self._take("{"):
            self._inline_table(path, depth)
        elif not self._skip(_STRING):
            self._skip(_SCALAR)

    def _array(self, path: Path, depth: int) -> None:
        position = 0
        self._skip(_BLANK)
        while self.at < len(self.text) and not self._take("]"):
            start = self.at
            self._note((*path, position), start)
            self._value((*path, position), depth + 1)
            self._skip(_BLANK)
            self._take(",")
            self._skip(_BLANK)
            if self.at == start:
                return
            position += 1

    def _inline_table(self, path: Path, depth: int) -> None:
        self._skip(_BLANK)
        while self.at < len(self.text) and not self._take("}"):
            if not self._pair(path, depth + 1):
                return
            self._skip(_BLANK)
            self._take(",")
            self._skip(_BLANK)


def _unquoted(part: str) -> str:
    if part.startswith("'"):
        return part[1:-1]
    if not part.startswith('"'):
        return part
    if "\\" not in part:
        return part[1:-1]
    try:
        return str(tomllib.loads(f"key = {part}")["key"])
    except tomllib.TOMLDecodeError:
        return part[1:-1]
