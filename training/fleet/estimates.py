"""When a job will start and end, out of past attempts, with the basis; or nothing where there is no basis. Pure.

An attempt takes as long as the median of the completed ones of the same model and mode, on the same host where there
are any. When a job starts follows from playing the queue forward: each slot, as it becomes free, takes the best job
that its host may run. Wall times are UTC, seconds since the epoch.
"""

from __future__ import annotations

import heapq
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

MOST_PAST: Final = 1000
"""So many completed attempts are looked at, the newest."""


class Past(NamedTuple):
    """A completed attempt that trained from the start."""

    host: str
    took_s: float
    peak_rss_mib: float | None = None


@dataclass(frozen=True, slots=True)
class Took:
    """How long an attempt takes, and where that is known from."""

    seconds: float
    n: int
    basis: str


@dataclass(frozen=True, slots=True)
class History:
    """The completed attempts by model and mode, the newest first."""

    past: Mapping[tuple[str, str], Sequence[Past]] = field(default_factory=dict)
    _medians: dict[tuple[str, str], float] = field(default_factory=dict, repr=False, compare=False)
    """Of all hosts together, once somebody has asked: most hosts have no past attempt of most kinds."""

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]]) -> History:
        """From (model, mode, host, took_s, peak_rss_mib) each; those without a time are left out."""
        found: dict[tuple[str, str], list[Past]] = {}
        for model, mode, host, took_s, peak_rss_mib in rows:
            if took_s is not None and took_s >= 0:
                found.setdefault((model, mode), []).append(Past(host, float(took_s), peak_rss_mib))
        return cls(found)

    def took(self, model: str, mode: str, host: str | None, *, longer_than_s: float = 0.0) -> Took | None:
        """How long an attempt takes on this host; None without a past attempt (that took longer than that)."""
        known = self.past.get((model, mode), ())
        if longer_than_s:
            known = [one for one in known if one.took_s > longer_than_s]
        there = [one for one in known if one.host == host]
        chosen = there or known
        if not chosen:
            return None
        n, where = len(chosen), f"on {host}" if there else "on other hosts" if host is not None else ""
        attempts = "1 past attempt" if n == 1 else f"median of {n} past attempts"
        basis = f"{attempts} of {model} ({mode}) {where}".rstrip()
        if longer_than_s:
            basis += ", of those that took longer than this one has already"
        return Took(self._median(model, mode, chosen, is_all=not there and not longer_than_s), n, basis)

    def _median(self, model: str, mode: str, chosen: Sequence[Past], *, is_all: bool) -> float:
        if is_all and (model, mode) in self._medians:
            return self._medians[model, mode]
        found = statistics.median(one.took_s for one in chosen)
        if is_all:
            self._medians[model, mode] = found
        return found

    def peaks(self, model: str, mode: str) -> Peaks:
        """What past attempts of the kind used at most."""
        known = [one.peak_rss_mib for one in self.past.get((model, mode), ()) if one.peak_rss_mib]
        return Peaks(max(known) / 1024, len(known)) if known else Peaks()


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most memory that past attempts of a kind used; None: nobody measured it."""

    ram_gib: float | None = None
    n: int = 0

    def note(self, lowered: Mapping[str, float]) -> str:
        """What they say about lowering `min_ram_gib` to a value; "" without data."""
        new = lowered.get("min_ram_gib")
        if new is None or self.ram_gib is None:
            return ""
        attempts = "1 past attempt" if self.n == 1 else f"{self.n} past attempts"
        peaked = f"{attempts} of this kind peaked at {self.ram_gib:.1f} GiB of RAM"
        if not new:
            return peaked
        return f"{peaked}, so {new:g} {'looks safe' if self.ram_gib <= new else 'does not look safe'}"


NO_PEAKS: Final = Peaks()
NO_HISTORY: Final = History()


class Running(NamedTuple):
    """A job that runs now."""

    job_id: str
    model: str
    mode: str
    host: str
    claimed_at: float


class Waiting(NamedTuple):
    """A job that waits. They are listed in the order in which they are handed out."""

    job_id: str
    class_id: int
    model: str
    mode: str


class Host(NamedTuple):
    """A host that takes jobs, with its number of slots."""

    name: str
    slots: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a job starts and ends; `finish_at` is None where only the start is known."""

    start_at: float
    finish_at: float | None
    basis: str

    def to_dict(self) -> dict[str, Any]:
        return {"start_at": self.start_at, "finish_at": self.finish_at, "basis": self.basis}


def of_running(history: History, job: Running, now: float) -> Estimate | None:
    """When a job that runs will end. One that takes longer than usual is compared with those that did so too."""
    so_far_s = max(0.0, now - job.claimed_at)
    took = history.took(job.model, job.mode, job.host)
    if took is not None and took.seconds < so_far_s:
        took = history.took(job.model, job.mode, job.host, longer_than_s=so_far_s)
    if took is None:
        return None
    return Estimate(job.claimed_at, job.claimed_at + took.seconds, took.basis)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The queue played forward. Jobs that never get a slot whose time is known are not in `jobs`."""

    jobs: Mapping[str, Estimate]
    done_at: float | None
    """When the last of all jobs ends; None where the end of one of them has no basis."""
    n_past: int
    """Past attempts that it rests on."""


def forecast(
    hosts: Sequence[Host],
    running: Sequence[Running],
    waiting: Sequence[Waiting],
    fits: Callable[[str, int], bool],
    history: History,
    now: float,
    *,
    until: str | None = None,
) -> Forecast:
    """Play the queue forward from `now`. `fits(host, class_id)` tells who may run what; wishes are left out of it.

    Stops once the job `until` has its slot. Running jobs on hosts that take no further ones count for the end.
    """
    lanes, ends, found, bases = _lanes(hosts, running, history, now)
    lines = _Lines(waiting)
    n_open = sum(end is None for end in ends)
    last = max([now, *(end for end in ends if end is not None)])
    classes: dict[str, list[int]] = {}
    known: dict[tuple[str, str, str], Took | None] = {}
    while lanes and lines.n and (until is None or until not in found):
        free_at, name = heapq.heappop(lanes)
        if name not in classes:
            classes[name] = [class_id for class_id in lines.classes if fits(name, class_id)]
        job = lines.take(classes[name])
        if job is None:
            continue  # nobody else comes: this slot stays free
        kind = job.model, job.mode, name
        if kind not in known:
            known[kind] = history.took(*kind)
        took = known[kind]
        where = f"{name} is free" if free_at <= now else f"{name} is expected to be free then"
        if took is None:
            found[job.job_id] = Estimate(free_at, None, where)
            n_open += 1
            continue  # nobody knows when the slot is free again
        bases[took.basis] = took.n
        found[job.job_id] = Estimate(free_at, free_at + took.seconds, f"{where}; {took.basis}")
        last = max(last, free_at + took.seconds)
        heapq.heappush(lanes, (free_at + took.seconds, name))
    done_at = None if n_open or lines.n else last
    return Forecast(found, done_at, sum(bases.values()))


def _lanes(
    hosts: Sequence[Host], running: Sequence[Running], history: History, now: float
) -> tuple[list[tuple[float, str]], list[float | None], dict[str, Estimate], dict[str, int]]:
    """The slots as a heap of (free from when on, host): one that is busy for an unknown time is not in it."""
    takes = {host.name: host.slots for host in hosts}
    busy = dict.fromkeys(takes, 0)
    lanes: list[tuple[float, str]] = []
    ends: list[float | None] = []
    found: dict[str, Estimate] = {}
    bases: dict[str, int] = {}
    for job in running:
        estimate = of_running(history, job, now)
        end = None if estimate is None or estimate.finish_at is None else max(now, estimate.finish_at)
        ends.append(end)
        if estimate is not None:
            found[job.job_id] = estimate
            took = history.took(job.model, job.mode, job.host)
            bases[estimate.basis] = took.n if took is not None else 0
        if job.host in takes:
            busy[job.host] += 1
            if end is not None and busy[job.host] <= takes[job.host]:
                lanes.append((end, job.host))
    for name, slots in takes.items():
        lanes += [(now, name)] * max(0, slots - busy[name])
    heapq.heapify(lanes)
    return lanes, ends, found, bases


class _Lines:
    """The waiting jobs, a line for each class; taken in the order of the whole."""

    def __init__(self, waiting: Sequence[Waiting]) -> None:
        self._waiting = waiting
        self._lines: dict[int, deque[int]] = {}
        for place, job in enumerate(waiting):
            self._lines.setdefault(job.class_id, deque()).append(place)
        self._first = {class_id: line[0] for class_id, line in self._lines.items()}
        """Class -> place of its best job in the whole line; an empty class is beyond the end."""
        self.n = len(waiting)
        self.classes = list(self._lines)

    def take(self, classes: Iterable[int]) -> Waiting | None:
        """The best job of these classes; None when they are empty. Asked thousands of times, of dozens of classes."""
        end = len(self._waiting)
        place = min(map(self._first.__getitem__, classes), default=end)
        if place == end:
            return None
        job = self._waiting[place]
        line = self._lines[job.class_id]
        line.popleft()
        self._first[job.class_id] = line[0] if line else end
        self.n -= 1
        return job
