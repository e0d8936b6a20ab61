"""What this machine is doing now: processor, memory, GPUs, disk, and the share of one trainer's process tree.

Asked by a thread that nobody waits for long: a driver that hangs costs the figures, never a heartbeat. GPUs are asked
in a child process with a time limit, as in `capability`; torch is not imported. On Linux the rest is read from /proc,
elsewhere psutil is asked where it is installed. What cannot be found out is None.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cis490.logs import event
from cis490.threads import start_beside
from training.fleet.capability import SMI_PLACES, ChildResult, RunChild, run_child
from training.fleet.reports import MAX_USED_GPUS, GpuUsage, Usage

logger = logging.getLogger(__name__)
SMI_TIMEOUT_S = 5.0
AGAIN_S = 600.0
"""After nvidia-smi failed, it is left alone for so long."""
FRESH_S = 120.0
"""An older sample is of no use."""
GIB = 2**30
SMI_GPUS = (
    "--query-gpu=uuid,utilization.gpu,memory.used,temperature.gpu", "--format=csv,noheader,nounits",
)  # fmt: skip
SMI_APPS = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")

CpuTimes = tuple[float, float]
"""(busy, all), in any unit, since any moment."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """What the driver says: the GPUs, and the memory (GiB) of each process on them."""

    gpus: list[GpuUsage]
    by_pid: Mapping[int, float]


class UsageMeter:
    """Samples on request. `ask` may be called from any thread; one sample is taken at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        run: RunChild = run_child,
        now_s: Callable[[], float] = time.monotonic,
        proc: Path = Path("/proc"),
    ) -> None:
        """`folder`: whose disk counts."""
        self._folder, self._run, self._now_s, self._proc = folder, run, now_s, proc
        self._lock = threading.Condition()
        self._is_sampling = False
        self._latest: tuple[float, Usage] | None = None
        self._cpu_before = cpu_times(proc)
        self._smi_from_s = -math.inf

    def ask(self, pid: int | None = None, *, wait_s: float = 0.0) -> Usage | None:
        """Begin a sample (with the tree of process `pid`), wait up to `wait_s` for it, and return the latest one."""
        with self._lock:
            if not self._is_sampling:
                with contextlib.suppress(RuntimeError):  # no room for one more thread
                    start_beside(
                        threading.Thread(target=self._sample, args=(pid,), name="usage", daemon=True)
                    )
                    self._is_sampling = True
            if wait_s > 0:
                self._lock.wait_for(lambda: not self._is_sampling, wait_s)
            if self._latest is None or self._now_s() - self._latest[0] > FRESH_S:
                return None
            return self._latest[1]

    def _sample(self, pid: int | None) -> None:
        found: Usage | None = None
        try:
            found = self._measured(pid)
        except Exception as error:  # noqa: BLE001 - drivers and foreign libraries: they cost the figures, nothing else
            event(logger, "usage.unknown", level=logging.DEBUG, reason=repr(error))
        finally:
            with self._lock:
                self._is_sampling = False
                if found is not None:
                    self._latest = self._now_s(), found
                self._lock.notify_all()

    def _measured(self, pid: int | None) -> Usage:
        cpu, before = cpu_times(self._proc), self._cpu_before
        self._cpu_before = cpu
        tree, rss = (frozenset[int](), None) if pid is None else tree_memory(pid)
        gpus = self._ask_driver(is_training=pid is not None)
        vram = None
        if gpus is not None and any(one in gpus.by_pid for one in tree):
            vram = math.fsum(gpus.by_pid.get(one, 0.0) for one in tree)
        return Usage(
            cpu_percent=cpu_percent(before, cpu),
            ram_used_gib=ram_used_gib(self._proc),
            gpus=None if gpus is None else gpus.gpus,
            disk_free_gib=_disk_free_gib(self._folder),
            job_rss_gib=rss,
            job_vram_gib=vram,
        )

    def _ask_driver(self, *, is_training: bool) -> Gpus | None:
        if self._now_s() < self._smi_from_s:
            return None
        program = shutil.which("nvidia-smi") or next(
            (place for place in SMI_PLACES if Path(place).is_file()), None
        )
        if program is None:
            return self._ask_nvml()
        told = parse_gpus(self._run([program, *SMI_GPUS], SMI_TIMEOUT_S))
        if told is None:
            self._smi_from_s = self._now_s() + AGAIN_S
            return None
        apps = self._run([program, *SMI_APPS], SMI_TIMEOUT_S) if is_training and told else None
        return Gpus(told, {} if apps is None else parse_apps(apps))

    def _ask_nvml(self) -> Gpus | None:
        """Where the tool is missing, the library may still be there."""
        if importlib.util.find_spec("pynvml") is None:
            return None
        found = parse_nvml(self._run([sys.executable, "-m", "training.fleet.usage"], SMI_TIMEOUT_S))
        if found is None:
            self._smi_from_s = self._now_s() + AGAIN_S
        return found


# -- pure: texts to values ------------------------------------------------------------------------------


def cpu_percent(before: CpuTimes | None, now: CpuTimes | None) -> float | None:
    """Of all cores together between two looks; None when no time has passed."""
    if before is None or now is None or now[1] <= before[1]:
        return None
    return round(min(100.0, max(0.0, 100.0 * (now[0] - before[0]) / (now[1] - before[1]))), 1)


def parse_gpus(result: ChildResult) -> list[GpuUsage] | None:
    """The answer to `SMI_GPUS`; [] when there is no GPU, None when nvidia-smi does not work."""
    if result.code is not None and "no devices were found" in f"{result.stdout}\n{result.stderr}".lower():
        return []
    if result.code != 0:
        return None
    rows = [line.split(",") for line in result.stdout.splitlines() if line.strip()]
    return [
        GpuUsage(
            util_percent=_between(row[1], 100.0),
            vram_used_gib=_mib(row[2]),
            temperature_c=_between(row[3], 1000.0),
        )
        for row in rows[:MAX_USED_GPUS]
        if len(row) == 4
    ]


def parse_apps(result: ChildResult) -> dict[int, float]:
    """The answer to `SMI_APPS`: process -> GiB on all GPUs; empty where the driver does not tell (containers)."""
    found: dict[int, float] = {}
    for line in result.stdout.splitlines() if result.code == 0 else ():
        pid, _, memory = line.partition(",")
        size = _mib(memory)
        if pid.strip().isdecimal() and size is not None:
            found[int(pid)] = found.get(int(pid), 0.0) + size
    return found


def parse_nvml(result: ChildResult) -> Gpus | None:
    """What `main` printed."""
    try:
        value = json.loads(result.stdout) if result.code == 0 else None
        if not isinstance(value, dict):
            return None
        by_pid = {int(pid): float(size) for pid, size in value["by_pid"].items()}
        return Gpus([GpuUsage(**one) for one in value["gpus"][:MAX_USED_GPUS]], by_pid)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _between(text: str, most: float) -> float | None:
    number = text.strip()
    return min(float(number), most) if number.isdecimal() else None


def _mib(text: str) -> float | None:
    number = text.strip().removesuffix("MiB").strip()
    return round(int(number) / 1024, 3) if number.isdecimal() else None


# -- this machine ---------------------------------------------------------------------------------------


def cpu_times(proc: Path = Path("/proc")) -> CpuTimes | None:
    """Since the boot. Waiting for a disk is not being busy."""
    try:
        words = (proc / "stat").read_text("ascii").split("\n", 1)[0].split()
        ticks = [int(word) for word in words[1:9]]  # guest time is part of user time
    except (OSError, ValueError):
        return _psutil_cpu()
    return (float(sum(ticks) - ticks[3] - ticks[4]), float(sum(ticks))) if len(ticks) == 8 else None


def ram_used_gib(proc: Path = Path("/proc")) -> float | None:
    """What is not available to a new program."""
    try:
        lines = (line.split() for line in (proc / "meminfo").read_text("ascii").splitlines())
        sizes = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
        return round((sizes["MemTotal"] - sizes["MemAvailable"]) / 2**20, 3)
    except (OSError, ValueError, KeyError):
        psutil = _psutil()
        if psutil is None:
            return None
        memory = psutil.virtual_memory()
        return round(float(memory.total - memory.available) / GIB, 3)


def tree_memory(pid: int) -> tuple[frozenset[int], float | None]:
    """(the processes of the tree of `pid`, their resident memory in GiB)."""
    if sys.platform == "linux":
        from training.fleet.guard_posix import processes, tree_of

        tree = tree_of(processes(), pid)
        size = sum(one.rss_pages for one in tree) * os.sysconf("SC_PAGE_SIZE")
        found = frozenset(one.pid for one in tree), round(size / GIB, 4) if tree else None
    else:
        found = _psutil_tree(pid)
    return found


def _psutil_tree(pid: int) -> tuple[frozenset[int], float | None]:
    psutil = _psutil()
    if psutil is None:
        return frozenset({pid}), None
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return frozenset(), None
    size = 0
    for one in tree:
        with contextlib.suppress(psutil.Error):
            size += one.memory_info().rss
    return frozenset(one.pid for one in tree), round(size / GIB, 4)


def _psutil_cpu() -> CpuTimes | None:
    psutil = _psutil()
    if psutil is None:
        return None
    times = psutil.cpu_times()
    total = float(sum(times))
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _psutil() -> Any:
    try:
        return importlib.import_module("psutil")
    except ImportError:
        return None


def _disk_free_gib(folder: Path) -> float | None:
    try:
        return round(shutil.disk_usage(folder).free / GIB, 3)
    except OSError:
        return None


def nvml_usage(nvml: Any) -> dict[str, Any]:
    """What NVML tells, as JSON; figures that it does not tell are null."""

    def told(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except nvml.NVMLError:
            return None

    gpus, by_pid = [], dict[int, float]()
    for index in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        rates = told(partial(nvml.nvmlDeviceGetUtilizationRates, device))
        memory = told(partial(nvml.nvmlDeviceGetMemoryInfo, device))
        heat = told(partial(nvml.nvmlDeviceGetTemperature, device, nvml.NVML_TEMPERATURE_GPU))
        gpus.append(
            {
                "util_percent": None if rates is None else float(rates.gpu),
                "vram_used_gib": None if memory is None else round(memory.used / GIB, 3),
                "temperature_c": None if heat is None else float(heat),
            }
        )
        for one in told(partial(nvml.nvmlDeviceGetComputeRunningProcesses, device)) or ():
            if one.usedGpuMemory is not None:
                by_pid[one.pid] = by_pid.get(one.pid, 0.0) + one.usedGpuMemory / GIB
    return {"gpus": gpus, "by_pid": by_pid}


def main() -> int:
    """Print what NVML tells as JSON; exit code 1 where it tells nothing."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        print(json.dumps(nvml_usage(nvml)))
    except Exception as error:  # noqa: BLE001 - a library of the driver's: it may say anything
        print(f"NVML tells nothing: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
