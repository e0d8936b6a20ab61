"""What a power cut may leave of a folder: a record of the calls that changed it, and the trees they allow.

The model is the weakest that POSIX allows and file systems have been seen to use (Pillai et al., "All File Systems Are
Not Created Equal", OSDI 2014): data that was not synced may be absent, cut, or zeros; a name whose folder was not
synced may be absent, whatever happened to the file; each independently of the others. A rename is one step: both or
neither.
"""

from __future__ import annotations

import itertools
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Op:
    """One call. `path` and `target` are relative to the recorded folder, "." for itself."""

    kind: str
    path: str
    target: str = ""
    data: bytes = b""
    size: int = 0


@dataclass
class Recorder:
    """The calls on `base`, in order; `mark` puts in what was promised to somebody meanwhile."""

    base: Path
    ops: list[Op] = field(default_factory=list)
    _open: dict[int, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def mark(self, text: str) -> None:
        self.ops.append(Op("mark", text))

    @contextmanager
    def recording(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        real = {
            name: getattr(os, name)
            for name in (
                "open",
                "write",
                "fsync",
                "fdatasync",
                "ftruncate",
                "replace",
                "link",
                "unlink",
                "mkdir",
            )
        }

        def opened(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
            with self._lock:
                new = not os.path.exists(path)
                descriptor: int = real["open"](path, flags, mode, **more)
                at = self._relative(path)
                self._open.pop(descriptor, None)
                if at is not None:
                    self._open[descriptor] = at
                    if new:
                        self.ops.append(Op("create", at))
                return descriptor

        def written(descriptor: int, data: Any) -> int:
            with self._lock:
                count: int = real["write"](descriptor, data)
                if descriptor in self._open:
                    self.ops.append(Op("write", self._open[descriptor], data=bytes(data[:count])))
                return count

        def synced(name: str) -> Callable[[int], None]:
            def call(descriptor: int) -> None:
                real[name](descriptor)
                if descriptor in self._open:
                    is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
                    self.ops.append(Op("sync-folder" if is_folder else "sync", self._open[descriptor]))

            return call

        def cut(descriptor: int, size: int) -> None:
            real["ftruncate"](descriptor, size)
            if descriptor in self._open:
                self.ops.append(Op("cut", self._open[descriptor], size=size))

        def named(name: str) -> Callable[..., None]:
            def call(*paths: Any, **more: Any) -> None:
                real[name](*paths, **more)
                at = [self._relative(path) for path in paths if isinstance(path, str | os.PathLike)]
                if at[0] is not None:
                    self.ops.append(Op(name, at[0], (at[1] or "") if len(at) > 1 else ""))

            return call

        with patch.context() as context:
            context.setattr(os, "open", opened)
            context.setattr(os, "write", written)
            context.setattr(os, "ftruncate", cut)
            for name in ("fsync", "fdatasync"):
                context.setattr(os, name, synced(name))
            for name in ("replace", "link", "unlink", "mkdir"):
                context.setattr(os, name, named(name))
            yield

    def _relative(self, path: Any) -> str | None:
        try:
            return str(Path(path).relative_to(self.base))
        except (ValueError, TypeError):
            return None


@dataclass
class _File:
    pieces: list[Op] = field(default_factory=list)
    synced: int = 0
    """So many of the pieces are on disk for certain."""


@dataclass(frozen=True)
class _Name:
    """A pending change of names: set or remove each path; the folders whose sync makes it durable."""

    changes: tuple[tuple[str, _File | str | None], ...]

    @property
    def folders(self) -> set[str]:
        return {os.path.dirname(path) or "." for path, _ in self.changes}


class Disk:
    """What is certain, and what is pending, after a list of calls."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.names: dict[str, _File | str] = {}
        self.certain: dict[str, _File | str] = {}
        self.pending: list[_Name] = []
        self.marks: list[str] = []
        for op in ops:
            self._apply(op)

    def _apply(self, op: Op) -> None:
        match op.kind:
            case "mark":
                self.marks.append(op.path)
            case "create":
                self._change((op.path, _File()))
            case "mkdir":
                self._change((op.path, "folder"))
            case "unlink":
                self._change((op.path, None))
            case "replace":
                self._change((op.path, None), (op.target, self.names[op.path]))
            case "link":
                self._change((op.target, self.names[op.path]))
            case "write" | "cut":
                file = self.names[op.path]
                assert isinstance(file, _File)
                file.pieces.append(op)
            case "sync":
                file = self.names[op.path]
                assert isinstance(file, _File)
                file.synced = len(file.pieces)
            case "sync-folder":
                settled = [change for change in self.pending if op.path in change.folders]
                self.pending = [change for change in self.pending if op.path not in change.folders]
                for change in settled:
                    _put(self.certain, change)

    def _change(self, *changes: tuple[str, _File | str | None]) -> None:
        change = _Name(changes)
        _put(self.names, change)
        self.pending.append(change)

    def trees(self, draw: random.Random, limit: int) -> Iterator[dict[str, bytes | None]]:
        """Trees that a power cut may leave now: path -> content, None for a folder. At most `limit`."""
        count = len(self.pending)
        if 2**count * 4 <= limit:
            subsets = [list(bits) for bits in itertools.product((False, True), repeat=count)]
        else:
            subsets = [[False] * count, [True] * count]
            subsets += [[draw.random() < 0.5 for _ in range(count)] for _ in range(limit // 4 - 2)]
        for bits in subsets:
            names = dict(self.certain)
            for change, survives in zip(self.pending, bits, strict=True):
                if survives:
                    _put(names, change)
            for unsynced in ("all", "none", "cut", "zeros"):
                yield _reachable(names, unsynced, draw)


def _put(names: dict[str, _File | str], change: _Name) -> None:
    for path, value in change.changes:
        if value is None:
            names.pop(path, None)
        else:
            names[path] = value


def _reachable(names: dict[str, _File | str], unsynced: str, draw: random.Random) -> dict[str, bytes | None]:
    """Names whose folders are there, with their content."""
    tree: dict[str, bytes | None] = {}
    for path in sorted(names):  # folders come before what is in them
        parent = os.path.dirname(path)
        if parent == "" or tree.get(parent, b"") is None:
            value = names[path]
            tree[path] = None if isinstance(value, str) else _content(value, unsynced, draw)
    return tree


def _content(file: _File, unsynced: str, draw: random.Random) -> bytes:
    data = b""
    for number, op in enumerate(file.pieces):
        if op.kind == "cut":
            data = data[: op.size]
        elif number < file.synced or unsynced == "all":
            data += op.data
        elif unsynced == "zeros":
            data += bytes(len(op.data))
        elif unsynced == "cut":
            return data + op.data[: draw.randrange(len(op.data) + 1)]
        else:
            return data
    return data


def build(tree: dict[str, bytes | None], folder: Path) -> None:
    """Make the tree real."""
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
