"""A file system of a few megabytes that can be filled: tmpfs. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

MIB = 1024 * 1024
RECEIVER_BYTES = 144 * MIB
"""For a receiver's folders: the reserve that uploads leave alone, the ballast, and a few artifacts."""


class SmallDisk:
    """A mounted tmpfs; `folder` is for whoever shall run out of space."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self.folder = mount / "data"
        self.folder.mkdir()
        self._filler = mount / "filler"

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all space but `leave_bytes`."""
        with self._filler.open("ab") as file:
            while (free := shutil.disk_usage(self.mount).free - leave_bytes) > 0:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), min(free, MIB))
                    file.seek(0, os.SEEK_END)
                except OSError:
                    return

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink(missing_ok=True)

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.mount).free


@contextlib.contextmanager
def small_disk(mount: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount it; PermissionError where that is not possible."""
    mount.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        raise PermissionError("a small tmpfs needs root")
    try:
        yield SmallDisk(mount)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
