"""Keeps one lease alive with heartbeats from a thread of its own, whatever the main thread is busy with."""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from cis490.clock import Clock, SystemClock
from cis490.logs import event
from cis490.threads import start_beside
from training.fleet.client import FleetError, LeaseGone, Refused, backoff_s
from training.fleet.point_buffer import PointBuffer
from training.fleet.reports import Usage, usage_json
from training.fleet.wire import Progress
from training.fleet.worker_state import LeaseRecord

logger = logging.getLogger(__name__)

SAMPLE_S = 0.5
"""How long a heartbeat waits for the sample of the machine's use; else it brings the one before."""
LAST_S = 2.0
"""How long the end of an attempt waits for the heartbeat with its last points, where there is no answer."""


class Heart(Protocol):
    """The part of the client that is needed here."""

    def heartbeat(
        self,
        job_id: str,
        token: str | None,
        progress: Progress | None = None,
        news: Mapping[str, Any] | None = None,
    ) -> float | None: ...


class LeaseKeeper:
    """Beats at once and then every `heartbeat_s`, from `__enter__` to `__exit__`; sooner after a failure.

    The main thread sets `progress` and reads `lost` and `deadline_s`. An outage is not a loss: only a 410 is.
    """

    def __init__(
        self,
        heart: Heart,
        record: LeaseRecord,
        clock: Clock | None = None,
        granted_s: float = -math.inf,
        usage: Callable[[int | None, float], Usage | None] = lambda pid, wait_s: None,
    ) -> None:
        """`granted_s`: when the claim was sent, on `clock`; -inf when that is not known for certain. `usage` samples
        what the machine is doing, with the tree of a process, and waits so many seconds for it."""
        self.pid: int | None = None
        """Of the trainer, for the sample."""
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
        self._usage = usage
        self._points = PointBuffer()
        self._takes_news = True
        """False once the receiver has refused a heartbeat for what it brought beside the lease."""
        self._is_first = True
        self._failures = 0
        self._closing = threading.Event()
        self._early = threading.Event()
        self._beaten = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{record.key}", daemon=True)

    def __enter__(self) -> Self:
        start_beside(self._thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the beats. One that waits for its answer is not waited for; a late one does no harm."""
        self._closing.set()
        self._early.set()
        self._thread.join(1.0)

    def add_points(self, points: Sequence[Progress]) -> None:
        """What the trainer told; it rides on the next heartbeat. The first point of all makes that one come at once."""
        if points and self._points.add(points, self._clock.now_s()):
            self._early.set()

    def deliver_points(self, timeout_s: float = LAST_S) -> None:
        """The trainer has ended: send its last points with a heartbeat of their own, as far as there is an answer."""
        for _ in range(2):  # the one that is under way may have been made without them
            if not len(self._points) or self.lost is not None or not self._takes_news or self._failures:
                return
            self._beaten.clear()
            self._early.set()
            self._beaten.wait(timeout_s / 2)

    def beat(self) -> None:
        """Send one heartbeat; what goes wrong is remembered or logged, never raised."""
        record = self._record
        usage = None if self._is_first else self._usage(self.pid, SAMPLE_S)  # the first one is waited for
        self._is_first = False
        sent_s = self._clock.now_s()
        news, taken = self._news(usage, sent_s)
        try:
            lease_s = self._send(news)
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
            self._points.confirm(taken)

    def _news(self, usage: Usage | None, sent_s: float) -> tuple[dict[str, Any], int]:
        """(further keys of a heartbeat's body, how many points they hold)."""
        if not self._takes_news:
            return {}, 0
        points = self._points.batch()
        news: dict[str, Any] = {"points": points, "sent_s": round(sent_s, 3)} if points else {}
        return news | ({} if usage is None else {"usage": usage_json(usage)}), len(points)

    def _send(self, news: Mapping[str, Any]) -> float | None:
        """One heartbeat. What rides on it must never cost the lease: refused for that, it is sent without."""
        record = self._record
        if news:
            try:
                return self._heart.heartbeat(record.job_id, record.token, self.progress, news)
            except Refused as refusal:
                if refusal.status not in (400, 413, 422):
                    raise
                self._takes_news = False
                event(
                    logger,
                    "job.report_refused",
                    level=logging.WARNING,
                    job=record.name,
                    reason=refusal.reason,
                )
        return self._heart.heartbeat(record.job_id, record.token, self.progress)

    def _pause_s(self) -> float:
        usual_s = self._record.heartbeat_s
        if not self._failures:
            return usual_s
        # A trainer may stand still until the next answer; the jitter keeps a fleet from asking in step.
        return min(usual_s, 0.1 * usual_s + backoff_s(self._failures - 1, random.random(), cap_s=usual_s))

    def _run(self) -> None:
        while not self._closing.is_set() and self.lost is None:
            self._early.clear()
            self.beat()
            self._beaten.set()
            self._early.wait(self._pause_s())
