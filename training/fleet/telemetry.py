"""The receiver's side of what workers tell beside their leases: use of machines, points of progress, logs.

What is shown of the present (usage, 24 h of each host) is in memory; logs and points lie in the `LogStore`. All disk
work is done by one thread of its own, in the order in which it was asked for, so a slow disk holds up no heartbeat:
points that would wait too long are dropped, appends refused. Everything else belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from cis490.clock import Clock
from cis490.files import atomic_write
from cis490.logs import event
from training.fleet.host_history import HostHistory, state_of
from training.fleet.leases import LiveLease
from training.fleet.log_store import Key, LogStore
from training.fleet.reports import ProgressPoint, Usage, gpu_util_percent, usage_json, vram_used_gib

T = TypeVar("T")
log = logging.getLogger(__name__)
SNAPSHOT_EVERY_S = 600.0
MAX_WAITING = 256
"""Pieces of disk work that may wait; then appends are refused."""
MAX_UNWRITTEN = 32_768
"""Progress points that may wait for the disk, of all attempts together; what is more is dropped."""
MAX_PEAKS = 4096
MAX_HOSTS = 2000
_OLDEST_S = 7 * 86400.0
"""A point that claims to be older is taken for a new one."""
_PEAK_GROWS = 1.02
"""A new peak is written down when it is so much higher than the one on the disk."""

Publish = Callable[[str, Mapping[str, Any]], None]


class Busy(Exception):
    """The disk does not keep up with what is to be kept."""


class Telemetry:
    """See the module. `root` None: nothing is kept on the disk. `publish` tells whoever listens to events."""

    def __init__(self, root: Path | None, clock: Clock, publish: Publish = lambda kind, data: None) -> None:
        self.logs = None if root is None else LogStore(root, clock.wall_s)
        self.history = HostHistory()
        self.publish = publish
        self._clock = clock
        self._usage: dict[str, tuple[float, dict[str, Any]]] = {}
        self._peaks: OrderedDict[Key, dict[str, float]] = OrderedDict()
        """Of live attempts: the highest use, as far as the disk knows it and beyond."""
        self._made_thread: ThreadPoolExecutor | None = None
        self._guard = threading.Lock()
        """Of the next three, which the event loop and the disk's thread change."""
        self._waiting = 0
        self._unwritten: dict[Key, list[dict[str, Any]]] = {}
        self._n_unwritten = 0
        self._is_failing = False
        self._snapshot_at_s = clock.now_s() + SNAPSHOT_EVERY_S
        self._snapshot_changes = 0
        if root is not None:
            self._load(root / "hosts.history")

    # -- what workers tell; on the event loop, memory alone

    def heard(
        self, lease: LiveLease, points: Sequence[ProgressPoint], sent_s: float | None, usage: Usage | None
    ) -> None:
        """A heartbeat of this lease brought news."""
        wall = self._clock.wall_s()
        key = lease.job_id, lease.epoch
        rows: list[dict[str, Any]] = []
        for point in points:
            row = {
                "at": _time_of(point, sent_s, wall), "step": point.step, "total": point.total, "unit": point.unit,
                "loss": point.loss, "metric": point.metric,
            }  # fmt: skip
            rows.append(row)
        if rows:
            told = {"job_id": lease.job_id, "name": lease.name, "host": lease.host, "epoch": lease.epoch}
            self.publish("progress", {**told, **rows[-1], "n_points": len(rows)})
        if usage is not None:
            found = usage_json(usage)
            peak = self._new_peak(key, found)
            rows += [{"peak": peak}] if peak else []
            self._use(lease.host, found, wall)
        if rows and self.logs is not None:
            self._keep(key, rows)

    def host_usage(self, host: str, usage: Usage) -> None:
        """A host told how busy its machine is."""
        self._use(host, usage_json(usage), self._clock.wall_s())

    def _use(self, host: str, found: dict[str, Any], wall: float) -> None:
        if host in self._usage or len(self._usage) < MAX_HOSTS:
            self._usage[host] = wall, found
        self.history.use(host, found, wall)
        self.publish("usage", {"host": host, "at": wall, **found})

    def usage(self, host: str) -> dict[str, Any] | None:
        """What the host told last, with `at`; None when it told nothing since the receiver started."""
        found = self._usage.get(host)
        return None if found is None else {"at": found[0], **found[1]}

    def usages(self) -> dict[str, dict[str, Any]]:
        """`usage` of every host that told."""
        return {host: {"at": at, **found} for host, (at, found) in list(self._usage.items())}

    def _new_peak(self, key: Key, usage: Mapping[str, Any]) -> dict[str, float] | None:
        """The attempt's peaks when one of them has grown enough to be written down."""
        known = self._peaks.setdefault(key, {})
        self._peaks.move_to_end(key)
        while len(self._peaks) > MAX_PEAKS:
            self._peaks.popitem(last=False)
        now = {
            "job_rss_gib": usage.get("job_rss_gib"), "job_vram_gib": usage.get("job_vram_gib"),
            "gpu_util_percent": gpu_util_percent(usage), "vram_used_gib": vram_used_gib(usage),
        }  # fmt: skip
        grown = False
        for name, value in now.items():
            if value is not None and (name not in known or value > known[name] * _PEAK_GROWS):
                known[name], grown = value, True
        return dict(known) if grown else None

    # -- the disk, in its own thread

    async def on_disk(self, call: Callable[[LogStore], T]) -> T:
        """The result of disk work on the logs. Raises Busy, OSError, and what `call` raises."""
        if self.logs is None:
            raise FileNotFoundError("this receiver keeps its queue in memory, and no logs")
        logs = self.logs
        self._count_in()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(logs))
        finally:
            self._count_out()

    def _count_in(self) -> None:
        with self._guard:
            if self._waiting >= MAX_WAITING:
                raise Busy(f"{self._waiting} pieces of disk work wait already")
            self._waiting += 1

    def _count_out(self) -> None:
        with self._guard:
            self._waiting -= 1

    @property
    def _thread(self) -> ThreadPoolExecutor:
        if self._made_thread is None:
            self._made_thread = ThreadPoolExecutor(1, thread_name_prefix="telemetry")
        return self._made_thread

    def _later(self, call: Callable[[], None]) -> None:
        """Disk work that nobody waits for; that it fails is said once, until it succeeds again. Raises Busy."""
        self._count_in()

        def run() -> None:
            try:
                call()
                self._is_failing = False
            except Exception as error:  # noqa: BLE001 - a convenience; no heartbeat fails for it
                if not self._is_failing:
                    self._is_failing = True
                    event(log, "telemetry.failing", level=logging.WARNING, reason=repr(error))
            finally:
                self._count_out()

        self._thread.submit(run)

    def _keep(self, key: Key, rows: list[dict[str, Any]]) -> None:
        """Have rows written. Those of many heartbeats are one piece of disk work while the thread is busy."""
        with self._guard:
            if self._n_unwritten + len(rows) > MAX_UNWRITTEN:
                return
            is_first = not self._unwritten
            self._unwritten.setdefault(key, []).extend(rows)
            self._n_unwritten += len(rows)
        if is_first:
            try:
                self._later(self._write_points)
            except Busy:
                self._taken()

    def _taken(self) -> dict[Key, list[dict[str, Any]]]:
        with self._guard:
            found, self._unwritten, self._n_unwritten = self._unwritten, {}, 0
            return found

    def _write_points(self) -> None:
        """In the thread. Raises what the last attempt raised whose rows could not be written."""
        failure: Exception | None = None
        for key, rows in self._taken().items():
            try:
                assert self.logs is not None
                self.logs.add_points(key, rows)
            except Exception as error:  # noqa: BLE001 - the others have a right to theirs
                failure = error
        if failure is not None:
            raise failure

    # -- from time to time

    async def look(self, workers: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]) -> None:
        """Note the state of each host; now and then write the history down."""
        rows = await workers()
        wall = self._clock.wall_s()
        self.history.keep_only(row["host"] for row in rows)
        for row in rows:
            self.history.look(row["host"], state_of(row), wall)
        known = {row["host"] for row in rows}
        for name in [name for name in self._usage if name not in known]:
            del self._usage[name]
        if self._clock.now_s() >= self._snapshot_at_s:
            self._snapshot_at_s = self._clock.now_s() + SNAPSHOT_EVERY_S
            self._save()

    def _save(self) -> None:
        if self.logs is None or self.history.changes == self._snapshot_changes:
            return
        self._snapshot_changes = self.history.changes
        root, data = self.logs.root, self.history.dump()

        def write() -> None:
            root.mkdir(parents=True, exist_ok=True)
            atomic_write(root / "hosts.history", data)

        with contextlib.suppress(Busy):
            self._later(write)

    def _load(self, path: Path) -> None:
        try:
            self.history.load(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            event(log, "telemetry.history_lost", level=logging.WARNING, path=path, reason=str(error))

    def close(self) -> None:
        """Write what is to be kept, and end the thread. Blocks."""
        self._save()
        if self._made_thread is not None:
            self._made_thread.shutdown(wait=True)
            self._made_thread = None


def _time_of(point: ProgressPoint, sent_s: float | None, wall_s: float) -> float:
    """When the point was read, on this machine's clock: the worker's own clock may stand anywhere."""
    if point.at_s is None or sent_s is None:
        return round(wall_s, 3)
    age_s = sent_s - point.at_s
    return round(wall_s - age_s, 3) if 0 <= age_s <= _OLDEST_S and math.isfinite(age_s) else round(wall_s, 3)
