"""Keeps one lease alive with heartbeats from a thread of its own, whatever the main thread is busy with."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Protocol, Self

from cis490.logs import event
from training.fleet.client import FleetError, LeaseGone
from training.fleet.wire import Progress
from training.fleet.worker_state import LeaseRecord

logger = logging.getLogger(__name__)


class Heart(Protocol):
    """The part of the client that is needed here."""

    def heartbeat(self, job_id: str, token: str | None, progress: Progress | None = None) -> None: ...


class LeaseKeeper:
    """Beats at once and then every `heartbeat_s`, from `__enter__` to `__exit__`.

    The main thread sets `progress` and reads `lost`. An outage is not a loss: only a 410 is.
    """

    def __init__(self, heart: Heart, record: LeaseRecord) -> None:
        self.progress: Progress | None = None
        self.lost: str | None = None
        """The receiver's reason once the lease has ended; the trainer must then be ended too."""
        self._heart = heart
        self._record = record
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
        try:
            self._heart.heartbeat(record.job_id, record.token, self.progress)
        except LeaseGone as gone:
            self.lost = gone.reason
        except FleetError as error:
            self._failures += 1
            if self._failures == 1:  # the end of the outage will be the next line
                event(
                    logger, "job.heartbeat_failing", level=logging.WARNING, job=record.name, reason=str(error)
                )
        else:
            if self._failures:
                event(logger, "job.heartbeat_restored", job=record.name, failures=self._failures)
            self._failures = 0

    def _run(self) -> None:
        while not self._closing.is_set() and self.lost is None:
            self.beat()
            self._closing.wait(self._record.heartbeat_s)
