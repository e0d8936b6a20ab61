"""Simulated hosts: shares of this machine, cut with control groups, into which a workload is put.

A lab host is not a machine of its own: its kernel, memory and disk are those of the machine that records, and the
system-wide channels show all of it. What differs is how much processor, memory and disk the workload gets.
Episodes say so: `simulated` is true and `shape` tells the share.

Needs root and control groups of version 1 with cpu, cpuset, memory and blkio. The limit on writing acts on
direct and synchronous writes only: version 1 does not know who caused a delayed write.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
CONTROLLERS: Final = ("cpu", "cpuset", "memory", "blkio")
PERIOD_US: Final = 20_000
"""Length of a quota period. The kernel's 100 ms are as long as our sampling interval and would beat with it."""


class HostError(Exception):
    """This machine cannot be shaped as asked."""


@dataclass(frozen=True, slots=True)
class HostShape:
    """`cpus` in the kernel's list format; `quota_percent` of one processor; `write_kib_s` None = no limit."""

    name: str
    cpus: str
    quota_percent: int
    memory_mib: int
    write_kib_s: int | None

    @property
    def text(self) -> str:
        write = (
            "no write limit" if self.write_kib_s is None else f"synchronous writes {self.write_kib_s} KiB/s"
        )
        return f"cpuset {self.cpus}; quota {self.quota_percent} %; memory {self.memory_mib} MiB; {write}"


LAB_HOSTS: Final[Mapping[str, HostShape]] = {
    shape.name: shape
    for shape in (
        HostShape("lab-a", "0", 60, 512, 12_288),
        HostShape("lab-b", "0-1", 120, 768, None),
        HostShape("lab-c", "1", 90, 384, 24_576),
        HostShape("lab-d", "0-1", 80, 640, 8192),
        HostShape("lab-e", "0-1", 100, 512, 16_384),
    )
}
MAIN_HOSTS: Final = ("lab-a", "lab-b", "lab-c", "lab-d")
HELDOUT_HOSTS: Final = ("lab-e",)


class Cage:
    """The control groups of one simulated host. Use as a context manager: leaving removes them."""

    def __init__(self, shape: HostShape, scratch: Path, root: Path = CGROUPS) -> None:
        self._shape, self._scratch, self._root = shape, scratch, root
        self._groups = {name: root / name / f"cis490-{shape.name}" for name in CONTROLLERS}

    def __enter__(self) -> "Cage":
        missing = [name for name in CONTROLLERS if not (self._root / name / "cgroup.procs").exists()]
        if missing or os.geteuid() != 0:
            raise HostError(
                f"cannot simulate host {self._shape.name}: need root (user id is {os.geteuid()}) and control groups "
                f"version 1 below {self._root} (missing: {', '.join(missing) or 'none'}); "
                "to record this machine as it is, give it its own name: --hosts NAME"
            )
        try:
            self._shape_groups()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def add(self, pid: int) -> None:
        """Put a process, and whatever it starts from now on, on the simulated host."""
        for group in self._groups.values():
            self._write(group / "cgroup.procs", str(pid))

    def _shape_groups(self) -> None:
        for group in self._groups.values():
            group.mkdir(exist_ok=True)
        cpu, cpuset = self._groups["cpu"], self._groups["cpuset"]
        self._write(cpu / "cpu.cfs_period_us", str(PERIOD_US))
        self._write(cpu / "cpu.cfs_quota_us", str(PERIOD_US * self._shape.quota_percent // 100))
        self._write(cpuset / "cpuset.cpus", self._shape.cpus)
        self._write(cpuset / "cpuset.mems", "0")
        self._write(self._groups["memory"] / "memory.limit_in_bytes", f"{self._shape.memory_mib}M")
        if self._shape.write_kib_s is not None:
            disk = whole_disk(self._scratch)
            limit = self._groups["blkio"] / "blkio.throttle.write_bps_device"
            self._write(limit, f"{disk} {self._shape.write_kib_s * 1024}")

    def _write(self, file: Path, text: str) -> None:
        try:
            file.write_text(text)
        except OSError as error:
            raise HostError(
                f"simulated host {self._shape.name}: cannot write {text!r} to {file}: {error}"
            ) from error

    def _remove(self) -> None:
        for group in self._groups.values():
            for _ in range(50):
                if not group.exists():
                    break
                try:
                    group.rmdir()
                except OSError:  # busy until the kernel has finished with the last process
                    time.sleep(0.05)
            else:
                print(f"warning: {group} is still in use; remove it with: rmdir {group}")


def whole_disk(path: Path, block: Path = Path("/sys/dev/block")) -> str:
    """`major:minor` of the disk that holds `path`; of the whole disk when the file system is on a partition."""
    device = path.stat().st_dev
    entry = block / f"{os.major(device)}:{os.minor(device)}"
    if (entry / "partition").exists():
        return (entry.resolve().parent / "dev").read_text().strip()
    if not entry.exists():
        raise HostError(
            f"{path} is not on a disk (device {entry.name}); choose a folder on a disk with --scratch"
        )
    return entry.name
