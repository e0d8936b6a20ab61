"""Facts about the machine that need no child process: cores, memory, architecture, the checkout's commit."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
from pathlib import Path


def os_name() -> str:
    """`linux`, `windows`, `macos`, or Python's own name for another."""
    return {"win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)


def architecture() -> str:
    """`x86_64` or `aarch64` whatever the system calls them, else the system's name in lower case."""
    if sys.platform == "win32":
        name = os.environ.get("PROCESSOR_ARCHITECTURE", "unknown")
    else:
        name = os.uname().machine
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name.lower())


def cores() -> int | None:
    """Cores this process may use; `os.cpu_count()` would ignore a cpuset."""
    if sys.platform == "linux":
        count: int | None = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    return count


def ram_gib() -> float | None:
    """Memory of the machine, as its kernel counts it (a little below the nominal size)."""
    size = _ram_bytes()
    return None if size is None else round(size / 2**30, 2)


if sys.platform == "win32":

    class _MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            ("total_phys", ctypes.c_uint64),
            *((f"unused_{index}", ctypes.c_uint64) for index in range(6)),
        )

    def _ram_bytes() -> int | None:
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return None
        return int(status.total_phys)
else:

    def _ram_bytes() -> int | None:
        with contextlib.suppress(ValueError, OSError):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with contextlib.suppress(ImportError):
            return int(importlib.import_module("psutil").virtual_memory().total)
        return None


def git_commit(root: Path) -> str | None:
    """The checked-out commit, read from `.git` without a git binary; None where `root` is no checkout."""
    try:
        folder = root / ".git"
        if folder.is_file():  # a worktree or submodule: "gitdir: PATH"
            folder = root / folder.read_text("utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text("utf-8").strip()
        if not head.startswith("ref: "):
            return _commit(head)
        common = folder / "commondir"
        shared = folder / common.read_text("utf-8").strip() if common.is_file() else folder
        return _resolve_ref(head.removeprefix("ref: "), folder, shared)
    except (OSError, ValueError):
        return None


def _resolve_ref(ref: str, folder: Path, shared: Path) -> str | None:
    for place in (folder, shared):
        if (place / ref).is_file():
            return _commit((place / ref).read_text("utf-8").strip())
    for line in (shared / "packed-refs").read_text("utf-8").splitlines():
        commit, _, name = line.partition(" ")
        if name == ref:
            return _commit(commit)
    return None


def _commit(text: str) -> str | None:
    is_hex = len(text) in (40, 64) and all(letter in "0123456789abcdef" for letter in text)
    return text if is_hex else None
