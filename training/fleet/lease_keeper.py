"""Keeps one lease alive with heartbeats from a thread of its own, whatever the main thread is busy with."""

from __future__ import annotations

import logging
import math
import random
import threading
from types import TracebackType
from typing import Protocol, Self

from cis490.clock import Clock, SystemClock
from cis490.logs import event
from training.fleet.client import FleetError, LeaseGone, backoff_s
from training.fleet.wire import Progress
from training.fleet.worker_state import LeaseRecord

logger = logging.getLogger(__name__)


class Heart(Protocol):
    """The part of the client that is needed here."""

    def heartbeat(self, job_id: str, token: str | None, progress: Progress | None = None) -> float | None: ...


class LeaseKeeper:
    """Beats at once and then every `heartbeat_s`, from `__enter__` to `__exit__`; sooner after a failure.

    The main thread sets `progress` and reads `lost` and `deadline_s`. An outage is not a loss: only a 410 is.
    """

    def __init__(
        self, heart: Heart, record: LeaseRecord, clock: Clock | None = None, granted_s: float = -math.inf
    ) -> None:
        """`granted_s`: when the claim was sent, on `clock`; -inf when that is not known for certain."""
        self.progress: Progress | None = None
        self.lost: str | None = None
        """The receiver's reason once the lease has ended; the trainer must then be ended too."""
        self.lost_job_status: object = None
        """What the receiver then told of the job's status."""
        self.deadline_s = granted_s + record.lease_s
        """Until when the lease holds for certain: counted from the *sending* of what was confirmed last."""
        self._heart = heart
        self._record = record
        self._clock = clock or SystemClock()
        self._failures = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{record.key}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the beats. One that waits for its answer is not waited for; a late one does no harm."""
        self._closing.set()
        self._thread.join(1.0)

    def beat(self) -> None:
        """Send one heartbeat; what goes wrong is remembered or logged, never raised."""
        record = self._record
        sent_s = self._clock.now_s()
        try:
            lease_s = self._heart.heartbeat(record.job_id, record.token, self.progress)
        except LeaseGone as gone:
            self.lost_job_status = gone.body.get("job_status")
            self.lost = gone.reason
        except FleetError as error:
            self._failures += 1
            if self._failures == 1:  # the end of the outage will be the next line
                event(
                    logger, "job.heartbeat_failing", level=logging.WARNING, job=record.name, reason=str(error)
                )
        else:
            # A receiver that was restarted may grant shorter leases than the one that the claim was made of.
            self.deadline_s = sent_s + (lease_s or record.lease_s)
            if self._failures:
                event(logger, "job.heartbeat_restored", job=record.name, failures=self._failures)
            self._failures = 0

    def _pause_s(self) -> float:
        usual_s = self._record.heartbeat_s
        if not self._failures:
            return usual_s
        # A trainer may stand still until the next answer; the jitter keeps a fleet from asking in step.
        return min(usual_s, 0.1 * usual_s + backoff_s(self._failures - 1, random.random(), cap_s=usual_s))

    def _run(self) -> None:
        while not self._closing.is_set() and self.lost is None:
            self.beat()
            self._closing.wait(self._pause_s())
