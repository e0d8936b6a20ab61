"""Live leases in memory: deadlines and heartbeats, renewed without touching the disk.

Safety needs tokens and states on disk (the queue writes those); deadlines only need to be right
within one life of the process, so after a restart every live lease simply gets one full period.
Deadlines are on the clock that counts suspend, never on wall time: a Pi has no battery clock.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from training.fleet.wire import Progress


@dataclass(slots=True)
class LiveLease:
    """The claim of one attempt while it lives."""

    job_id: str
    epoch: int
    host: str
    token: str | None
    claim_request: str | None
    deadline_s: float
    dataset_id: str | None = None
    """What this attempt trains on, whatever the manifest pins by now."""
    running: bool = False
    heartbeat_at: float | None = None
    """Wall time of the last heartbeat, for display."""
    progress: Progress | None = None


class LeaseBook:
    """All live leases. Not thread-safe: the queue's lock guards it."""

    def __init__(self) -> None:
        self._leases: dict[str, LiveLease] = {}
        self._busy: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def clear(self) -> None:
        self._leases.clear()
        self._busy.clear()

    def add(self, lease: LiveLease) -> None:
        self.end(lease.job_id)
        self._leases[lease.job_id] = lease
        self._busy[lease.host] = self._busy.get(lease.host, 0) + 1

    def end(self, job_id: str) -> None:
        lease = self._leases.pop(job_id, None)
        if lease is None:
            return
        left = self._busy[lease.host] - 1
        if left:
            self._busy[lease.host] = left
        else:
            del self._busy[lease.host]

    def get(self, job_id: str) -> LiveLease | None:
        return self._leases.get(job_id)

    def busy(self, host: str) -> int:
        """How many jobs this host holds now."""
        return self._busy.get(host, 0)

    def by_request(self, host: str, claim_request: str) -> LiveLease | None:
        """The lease that this very claim request was granted, while it lives."""
        if not self._busy.get(host):
            return None
        same = (x for x in self._leases.values() if x.host == host and x.claim_request == claim_request)
        return next(same, None)

    def expired(self, now_s: float) -> list[LiveLease]:
        return [lease for lease in self._leases.values() if lease.deadline_s <= now_s]

    def extend(self, seconds: float) -> None:
        """Give every lease more time: the receiver itself was away, nobody could have renewed."""
        for lease in self._leases.values():
            lease.deadline_s += seconds

    def all(self) -> list[LiveLease]:
        return list(self._leases.values())


def same_token(expected: str | None, given: str | None) -> bool:
    """Does the token that was sent match the lease's? A lease without one matches only requests without one."""
    if expected is None or given is None:
        return expected is None and given is None
    return hmac.compare_digest(expected.encode("utf-8"), given.encode("utf-8", "replace"))
