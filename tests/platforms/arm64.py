"""A Debian for arm64 that QEMU runs, as scripts/platforms.sh prepares it: a copy of the checkout is run in there."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from tests.platforms.wine import ROOT, cache

TIMEOUT_S = 1500.0
"""Of one test run: an emulated processor is about fifteen times as slow."""
_INSIDE = """
set -e
mount --bind "$2" "$1/src"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
root=$1
shift 2
exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/tmp LANG=C.UTF-8 PYTHONPATH=/site \
    sh -c 'cd /src && exec "$@"' sh "$@"
"""


def root() -> Path | None:
    """The folder with the Debian in it; None when it is not prepared."""
    found = [path / "debian" for path in sorted(cache().glob("arm64-*")) if path.suffix != ".partial"]
    return found[-1] if found else None


def why_not() -> str | None:
    """Why nothing can be run there; None when it can."""
    if root() is None:
        return "the emulated arm64 is not prepared here; type: sudo make test-platforms"
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "the emulated arm64 needs root"
    if platform.machine() != "aarch64" and not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        return "the kernel does not hand arm64 programs to QEMU; type: scripts/platforms.sh arm64"
    return None


def copy_checkout(target: Path) -> None:
    """What a clone has, and what is not committed yet: tests may write beside their files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in the emulated Debian, in `checkout`. Its mounts are its own and end with it."""
    inside = root()
    assert inside is not None, why_not()
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSIDE, "sh", inside, checkout, *command],
        capture_output=True, text=True, encoding="utf-8", errors="replace", check=False,
        stdin=subprocess.DEVNULL, timeout=TIMEOUT_S,
    )  # fmt: skip
