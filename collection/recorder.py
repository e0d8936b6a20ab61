"""Samples the channels at a fixed rate, at absolute deadlines of the monotonic clock, with true time stamps.

Sampling itself uses only the standard library and appends to lists: about 1 ms of CPU a sample. A
sample that comes late keeps its true time; those whose time has passed meanwhile are dropped and counted.

Counters of the process tree stay cumulative when processes end. CPU time, faults and input/output of an ended
process are those that the kernel added to its parent, so work of a process that lives between two samples is seen
as soon as its parent has waited for it. Context switches are not handed to the parent: those of a short-lived
process count only as far as a sample saw them.
"""

import gc
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collection import channels as ch

_READ_BYTES: Final = 65_536
_SWITCHES: Final = ("tree.switches.voluntary", "tree.switches.involuntary")
_LEVELS: Final = ("tree.processes", "tree.threads", "tree.fds", "tree.rss")


@dataclass(frozen=True, slots=True)
class Recording:
    """`t_us[i]` belongs to `rows[i]`, whose values stand in the order of `channels.CHANNELS`."""

    t_us: list[int]
    rows: list[list[int]]
    dropped_samples: int
    cpu_s: float


class OpenFile:
    """A /proc file kept open: reading again from offset 0 is cheaper than opening it again."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> str:
        """The file's text now. Raises `OSError` when its process is gone."""
        return os.pread(self._fd, _READ_BYTES, 0).decode("ascii", "replace")

    def close(self) -> None:
        os.close(self._fd)


def whole_disks(block: Path = Path("/sys/block")) -> frozenset[str]:
    """Names of the real disks: no loop devices, memory disks, or volumes mapped onto other disks."""
    virtual = ("loop", "ram", "zram", "dm-", "md", "sr")
    return frozenset(name for name in os.listdir(block) if not name.startswith(virtual))


class SystemSampler:
    """Reads the system-wide channels."""

    def __init__(self) -> None:
        self._stat, self._meminfo = OpenFile("/proc/stat"), OpenFile("/proc/meminfo")
        self._vmstat, self._disks = OpenFile("/proc/vmstat"), OpenFile("/proc/diskstats")
        self._net, self._snmp = OpenFile("/proc/net/dev"), OpenFile("/proc/net/snmp")
        present = [name for name in ch.PRESSURE if os.path.exists(f"/proc/pressure/{name}")]
        self._pressure = {name: OpenFile(f"/proc/pressure/{name}") for name in present}
        self._names = whole_disks()

    def sample(self) -> dict[str, int]:
        values = ch.parse_stat(self._stat.read())
        values |= ch.parse_meminfo(self._meminfo.read())
        values |= ch.parse_vmstat(self._vmstat.read())
        values |= ch.parse_diskstats(self._disks.read(), self._names)
        values |= ch.parse_net_dev(self._net.read())
        values |= ch.parse_snmp(self._snmp.read())
        for name, file in self._pressure.items():
            values |= ch.parse_pressure(name, file.read())
        return values

    def close(self) -> None:
        for file in (self._stat, self._meminfo, self._vmstat, self._disks, self._net, self._snmp):
            file.close()
        for file in self._pressure.values():
            file.close()


class _Process:
    """Open files of one process of the tree, and its last seen context switches."""

    def __init__(self, pid: int) -> None:
        base = f"/proc/{pid}"
        self.fd_folder = f"{base}/fd"
        self._files: list[OpenFile] = []
        try:
            for name in ("stat", "io", "status", f"task/{pid}/children"):
                self._files.append(OpenFile(f"{base}/{name}"))
        except OSError:
            self.close()
            raise
        self.switches = dict.fromkeys(_SWITCHES, 0)

    def children(self) -> list[int]:
        return [int(pid) for pid in self._files[3].read().split()]

    def sample(self) -> dict[str, int]:
        values = ch.parse_process_stat(self._files[0].read())
        values |= ch.parse_process_io(self._files[1].read())
        self.switches |= ch.parse_process_status(self._files[2].read())
        values["tree.fds"] = len(os.listdir(self.fd_folder))
        return values

    def close(self) -> None:
        for file in self._files:
            file.close()


class TreeSampler:
    """Reads the process tree below (and including) one process."""

    def __init__(self, root_pid: int) -> None:
        self._root = root_pid
        self._known: dict[int, _Process] = {}
        self._ended = dict.fromkeys(_SWITCHES, 0)
        self._highest: dict[str, int] = {}
        self._page_kib = os.sysconf("SC_PAGE_SIZE") // 1024

    def sample(self) -> dict[str, int]:
        totals = dict.fromkeys(ch.TREE_UNITS, 0)
        alive: set[int] = set()
        # Parents come before children. A child that ends in between is missing from this sample; the other order
        # would count it twice, in itself and in its parent.
        queue = [self._root]
        for pid in queue:
            try:
                process = self._known.get(pid) or _Process(pid)
                self._known[pid] = process
                values = process.sample()
                queue.extend(process.children())
            except OSError:
                continue
            alive.add(pid)
            totals["tree.processes"] += 1
            totals["tree.rss"] += values.pop("rss_pages") * self._page_kib
            for name, value in values.items():
                totals[name] += value
        self._forget(set(self._known) - alive)
        for name in _SWITCHES:
            totals[name] = self._ended[name] + sum(p.switches[name] for p in self._known.values())
        return self._never_falling(totals)

    def close(self) -> None:
        self._forget(set(self._known))

    def _forget(self, pids: Iterable[int]) -> None:
        for pid in pids:
            process = self._known.pop(pid)
            process.close()
            for name in _SWITCHES:
                self._ended[name] += process.switches[name]

    def _never_falling(self, totals: dict[str, int]) -> dict[str, int]:
        """Between its end and its parent's wait a process is missing from both: keep the last total then."""
        for name, value in totals.items():
            if name not in _LEVELS:
                totals[name] = self._highest[name] = max(value, self._highest.get(name, 0))
        return totals


def record(
    root_pid: int,
    start_ns: int,
    duration_s: float,
    hz: int,
    *,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Recording:
    """Sample from `start_ns` of the clock on, `duration_s` x `hz` times, the system and the tree of `root_pid`."""
    period_ns = 1_000_000_000 // hz
    wanted = round(duration_s * hz)
    system, tree = SystemSampler(), TreeSampler(root_pid)
    t_us: list[int] = []
    rows: list[list[int]] = []
    dropped = 0
    collecting = gc.isenabled()
    gc.disable()
    cpu_before = time.process_time()
    try:
        for n in range(wanted):
            due_ns = start_ns + n * period_ns
            late_ns = clock_ns() - due_ns
            if late_ns > 0:
                # Its time has passed while we slept or sampled too long; taken now, it would repeat the last one.
                dropped += 1
                continue
            if late_ns < 0:
                sleep(-late_ns / 1e9)
            t_us.append((clock_ns() - start_ns) // 1000)
            rows.append(ch.row(system.sample() | tree.sample()))
        cpu_s = time.process_time() - cpu_before
    finally:
        system.close()
        tree.close()
        if collecting:
            gc.enable()
    return Recording(t_us, rows, dropped, cpu_s)
