"""Brings the end of an attempt to the receiver: a result, a failure, or the job itself given back.

A finished result is kept until the receiver gave a final answer, through outages and restarts of any
length. Final are 200, 410 (the lease has ended) and 409 (the job is in another state). Anything else is
either worth asking again (`retry_reason`), or a refusal that only a person can lift (403: the manifest does
not name this host): then the result is *parked* and offered again from time to time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from cis490.clock import Clock
from cis490.digest import sha256_file
from cis490.failpoints import failpoint
from cis490.logs import event
from cis490.progress import ELSEWHERE_S, Every, sentence
from training.fleet.checkpoint_folders import is_kept_after, is_kept_without_lease
from training.fleet.client import FleetError, Refused, backoff_s, retry_reason
from training.fleet.stopping import Stop
from training.fleet.wire import CompleteRequest, FailRequest
from training.fleet.worker_state import LeaseRecord, StateFolder

logger = logging.getLogger(__name__)

STOPPING_UPLOAD_S = 30.0
PARK_AFTER = 8
"""Refusals in a row of one record, some four minutes: then other work goes on."""
_ABOUT_THIS_ONE = (400, 500)
"""Statuses that are worth another try but need not have to do with the receiver's state (damaged bytes, a defect)."""

Settled = Literal["delivered", "gone", "parked", "stopped"]
"""`gone`: the receiver wants it no more. `parked`, `stopped`: it is still owed, and still on disk."""


class Postbox(Protocol):
    """The part of the client that is needed here."""

    def upload(
        self,
        job_id: str,
        token: str | None,
        path: Path,
        sha256: str,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> str: ...
    def complete(self, job_id: str, token: str | None, request: CompleteRequest) -> None: ...
    def fail(self, job_id: str, token: str | None, request: FailRequest) -> None: ...
    def release(self, job_id: str, token: str | None, reason: str) -> None: ...


Verdict = Literal["again", "wait", "fail", "park", "gone"]
"""What to do after a refusal: ask again now, or after a pause; report a failure instead; keep it; forget it."""


def verdict(error: FleetError, *, is_result: bool, is_repeated: bool, pauses: int = 0) -> Verdict:
    """What an error means for a record that owes a result (`is_result`) or only a message. Pure.

    A first 409 to a result means that the receiver lost the upload between the two requests: offer it again.
    """
    if isinstance(error, Refused):
        if error.status == 409 and is_result and not is_repeated:
            return "again"
        if error.status in (409, 410):
            return "gone"
        if error.status == 413 and is_result:
            return "fail"
        if error.status in _ABOUT_THIS_ONE and pauses >= PARK_AFTER:
            return "park"
    if retry_reason(error) is not None:
        return "wait"
    return "park" if is_result else "gone"


class _Stopped(Exception):
    """Ends an upload that nobody waits for any more."""


class Delivery:
    """Settles one record at a time; `random01` spreads the retries."""

    def __init__(
        self, client: Postbox, state: StateFolder, stop: Stop, clock: Clock, random01: Callable[[], float]
    ) -> None:
        self._client = client
        self._state = state
        self._stop = stop
        self._clock = clock
        self._random01 = random01
        self._stop_seen_s: float | None = None
        self._upload_log: Every | None = None
        self._upload_began_s = 0.0
        self.note: Callable[[str], None] = lambda text: None
        """Takes a line for the attempt's log, while there is one."""

    def settle(self, record: LeaseRecord) -> Settled:
        """Send the record's ending for as long as it takes; forgets the record once the answer is final.

        While a stop is requested there is one try.
        """
        record = self._checked(record)
        pauses = 0
        is_repeated = False
        while True:
            try:
                self._send(record)
            except _Stopped:
                return "stopped"
            except FleetError as error:
                is_result = isinstance(record.ending, CompleteRequest)
                match verdict(error, is_result=is_result, is_repeated=is_repeated, pauses=pauses):
                    case "again":
                        is_repeated = True
                        continue
                    case "fail":
                        record = self._as_failure(record, f"the receiver refused the result: {error}")
                        continue
                    case "park":
                        return self._park(record, error)
                    case "gone":
                        return self._gone(record, error)
                    case _:
                        problem = error
            else:
                self._delivered(record)
                return "delivered"
            if pauses == 0:
                event(logger, "delivery.waiting", level=logging.WARNING, job=record.name, reason=str(problem))
            if self._stop.wait(backoff_s(pauses, self._random01())):
                return "stopped"
            pauses += 1
            if isinstance(problem, Refused):
                record = self._checked(record)  # "sha-mismatch" may be the fault of our own disk

    def _send(self, record: LeaseRecord) -> None:
        match record.ending:
            case CompleteRequest():
                bundle, artifact_id = self._state.bundle(record), record.ending.artifact_id
                self._upload_began_s = self._clock.now_s()
                self._upload_log = Every(ELSEWHERE_S, self._upload_began_s)
                status = self._client.upload(
                    record.job_id, record.token, bundle, artifact_id, self._on_upload
                )
                event(logger, "job.uploaded", job=record.name, artifact_id=artifact_id, status=status)
                failpoint("worker.upload_answered")
                self._client.complete(record.job_id, record.token, record.ending)
                failpoint("worker.complete_answered")
            case FailRequest():
                self._client.fail(record.job_id, record.token, record.ending)
            case None:
                self._client.release(record.job_id, record.token, "the worker was restarted")
            case _:
                self._client.release(record.job_id, record.token, record.ending.reason)

    def _on_upload(self, sent: int, total: int) -> None:
        """A worker that is to stop gives an upload a little time; the next worker goes on where it broke off."""
        now = self._clock.now_s()
        if self._upload_log is not None and self._upload_log.due(now):
            event(
                logger,
                "job.uploading",
                sent_bytes=sent,
                total_bytes=total,
                percent=100 * sent // max(total, 1),
            )
            self.note(f"uploading the result: {sentence(sent, total, now - self._upload_began_s)}")
        if self._stop.requested:
            if self._stop_seen_s is None:
                self._stop_seen_s = now
            if now - self._stop_seen_s > STOPPING_UPLOAD_S:
                raise _Stopped

    def _delivered(self, record: LeaseRecord) -> None:
        match record.ending:
            case CompleteRequest():
                event(logger, "job.completed", job=record.name, artifact_id=record.ending.artifact_id)
            case FailRequest():
                event(
                    logger,
                    "job.failed",
                    level=logging.WARNING,
                    job=record.name,
                    fail_class=record.ending.fail_class,
                    error=record.ending.error.partition("\n")[0],
                )
            case _:
                event(logger, "job.released", job=record.name)
        self._state.drop(record, keeps_checkpoint=is_kept_after(record.ending))

    def _gone(self, record: LeaseRecord, error: FleetError) -> Settled:
        event(logger, "job.not_wanted", level=logging.WARNING, job=record.name, reason=str(error))
        told = error.body.get("job_status") if isinstance(error, Refused) else None
        self._state.drop(record, keeps_checkpoint=is_kept_without_lease(told))
        return "gone"

    def _park(self, record: LeaseRecord, error: FleetError) -> Settled:
        bundle = self._state.bundle(record)
        event(
            logger,
            "delivery.parked",
            level=logging.WARNING,
            job=record.name,
            reason=str(error),
            bundle=bundle,
        )
        return "parked"

    def _checked(self, record: LeaseRecord) -> LeaseRecord:
        """The record; as a failure, if its bundle is not on the disk as it was packed. OSError: unreadable now."""
        if not isinstance(record.ending, CompleteRequest):
            return record
        bundle = self._state.bundle(record)
        try:
            found = sha256_file(bundle)
        except FileNotFoundError:  # any other error may pass, and the result with it be readable again
            return self._as_failure(record, f"{bundle} is gone from the worker's disk")
        if found != record.ending.artifact_id:
            return self._as_failure(
                record, f"{bundle} was damaged on the worker's disk (it has sha256 {found})"
            )
        return record

    def _as_failure(self, record: LeaseRecord, why: str) -> LeaseRecord:
        request = FailRequest(error=f"trained, but the result cannot be delivered: {why}")
        return self._state.save(replace(record, ending=request))
