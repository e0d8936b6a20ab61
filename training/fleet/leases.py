"""Live leases in memory: deadlines and heartbeats, renewed without touching the disk.

Safety needs tokens and states on disk (the queue writes those); deadlines only need to be right
within one life of the process, so after a restart every live lease simply gets one full period.
Deadlines are on the clock that counts suspend, never on wall time: a Pi has no battery clock.

Who may touch what: a lease enters and leaves the book under the queue's lock, by the thread that holds the
transaction. Renewing is the one thing that others do meanwhile (`LeaseBook.renew`); a lock of its own, held for
an instant and never during I/O, keeps the two apart.
"""

from __future__ import annotations

import hmac
import threading
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
    heard_s: float | None = None
    """When the last heartbeat came, on the clock of `deadline_s`."""
    settled: bool = False
    """The disk knows it as it is here; before that it may still be rolled back."""
    name: str = ""
    """Of the job, for display."""


class LeaseBook:
    """All live leases. But for `renew` the queue's lock guards it."""

    def __init__(self) -> None:
        self._leases: dict[str, LiveLease] = {}
        self._busy: dict[str, int] = {}
        self._guard = threading.Lock()
        self._unsettled: list[LiveLease] = []

    def __len__(self) -> int:
        return len(self._leases)

    def clear(self) -> None:
        with self._guard:
            self._leases.clear()
        self._busy.clear()
        self._unsettled.clear()

    def add(self, lease: LiveLease) -> None:
        """Enter a lease that the running transaction makes; `settle` follows when it is on disk."""
        self.end(lease.job_id)
        self._leases[lease.job_id] = lease
        self._unsettled.append(lease)
        self._busy[lease.host] = self._busy.get(lease.host, 0) + 1

    def settle(self) -> None:
        """What the book says is on disk now."""
        for lease in self._unsettled:
            lease.settled = True
        self._unsettled.clear()

    def end(self, job_id: str) -> None:
        with self._guard:
            lease = self._leases.pop(job_id, None)
        if lease is not None:
            self._less_busy(lease.host)

    def _less_busy(self, host: str) -> None:
        left = self._busy[host] - 1
        if left:
            self._busy[host] = left
        else:
            del self._busy[host]

    def get(self, job_id: str) -> LiveLease | None:
        return self._leases.get(job_id)

    def renew(
        self,
        job_id: str,
        host: str,
        token: str | None,
        progress: Progress | None,
        *,
        now_s: float,
        wall_s: float,
        lease_s: float,
    ) -> bool:
        """Move the deadline, at once and whatever transaction is running. True: that was all there is to do.

        False: the row has to be looked at, in the order of the transactions: the lease is not in the book (a
        transaction that has just ended it may still fail), it is not on disk yet, or it is the first
        heartbeat. The latter's deadline is moved all the same: who has called is not swept while he waits.
        """
        with self._guard:
            lease = self._leases.get(job_id)
            if lease is None or lease.host != host or not same_token(lease.token, token):
                return False
            lease.deadline_s = now_s + lease_s
            if not lease.running or not lease.settled:
                return False
            lease.heard_s, lease.heartbeat_at = now_s, wall_s
            if progress is not None:
                lease.progress = progress
            return True

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
        """The leases that have run out. Each may still be renewed until `take_expired`."""
        return [lease for lease in self.all() if lease.deadline_s <= now_s]

    def take_expired(self, lease: LiveLease, now_s: float) -> bool:
        """Take the lease out of the book if it has run out still; from then on a heartbeat waits its turn."""
        with self._guard:
            if lease.deadline_s > now_s or self._leases.get(lease.job_id) is not lease:
                return False
            del self._leases[lease.job_id]
        self._less_busy(lease.host)
        return True

    def extend(self, seconds: float, *, latest_s: float) -> None:
        """Give every lease more time, no longer than `latest_s`: the receiver itself was away, nobody could renew."""
        with self._guard:
            for lease in self._leases.values():
                lease.deadline_s = max(lease.deadline_s, min(lease.deadline_s + seconds, latest_s))

    def all(self) -> list[LiveLease]:
        return list(self._leases.values())


def same_token(expected: str | None, given: str | None) -> bool:
    """Does the token that was sent match the lease's? A lease without one matches only requests without one."""
    if expected is None or given is None:
        return expected is None and given is None
    return hmac.compare_digest(expected.encode("utf-8"), given.encode("utf-8", "replace"))
