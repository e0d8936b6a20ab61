"""The worker: claims jobs, trains them, delivers the results. `python -m training.fleet.worker --help`.

At the start it first makes good for a predecessor that was killed: ends what is left of its trainer,
delivers its results and gives its leases back. Then it asks for jobs until it is told to stop. The first
SIGTERM lets the trainer end and gives the job back; the second one ends everything at once.

Exit codes: 0 stopped as asked, or `--once` / `--exit-when-idle` was fulfilled; 2 unknown option; 69 another
worker uses the state folder; 73 the state folder cannot be used; 78 a setting is wrong.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from cis490 import logs
from cis490.clock import Clock, SystemClock
from cis490.failpoints import failpoint
from cis490.logs import event
from cis490.sd_notify import systemd
from training.fleet.attempt import Attempt, DatasetSource, LeaseLost, Tools, Unpacked, start_trainer
from training.fleet.capability import CODE_ROOT, Survey, survey
from training.fleet.checkpoint_folders import is_kept_without_lease
from training.fleet.client import FleetClient, FleetError, Refused, backoff_s
from training.fleet.credentials import CredentialsError
from training.fleet.delivery import Delivery, Postbox
from training.fleet.host_facts import git_commit
from training.fleet.lease_keeper import Heart, LeaseKeeper
from training.fleet.log_feed import LogFeed, LogSink
from training.fleet.renewal import Renewer
from training.fleet.reports import Usage
from training.fleet.stopping import Stop
from training.fleet.types import Capability
from training.fleet.usage import UsageMeter
from training.fleet.watchdog import WorkerWatch
from training.fleet.wire import ClaimAnswer, CompleteRequest, FailRequest, ReleaseRequest
from training.fleet.worker_recovery import ending_kind, recover
from training.fleet.worker_settings import SettingsError, WorkerSettings, log_file, read
from training.fleet.worker_state import Ending, InUse, LeaseRecord, StateFolder, record_of

logger = logging.getLogger("training.fleet.worker")  # also when run with -m

CLAIM_WAIT_S = 20.0
"""How long a claim waits at the receiver, so that a new job starts at once."""
SURVEY_EVERY_S = 600.0
PARKED_AGAIN_S = 300.0
"""How often a result that the receiver will not take is offered again."""
HURRY_S = 5.0
"""How long a stopping worker waits for an answer."""

EXIT_IN_USE, EXIT_NO_STATE, EXIT_CONFIG = 69, 73, 78


class Client(DatasetSource, Heart, Postbox, LogSink, Protocol):
    """What the worker needs of `FleetClient`."""

    @property
    def idle_reason(self) -> str | None: ...
    def claim(
        self, capability: Capability, *, request_id: str, wait_s: float = 0.0, usage: Usage | None = None
    ) -> ClaimAnswer | None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything that the worker does not decide itself; tests replace single parts."""

    survey: Callable[[], Survey]
    commit: Callable[[], str | None] = lambda: git_commit(CODE_ROOT)
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep
    random01: Callable[[], float] = random.random
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())


class Worker:
    """The loop. One thread, plus one for the heartbeats of the lease it holds."""

    def __init__(
        self,
        settings: WorkerSettings,
        client: Client,
        state: StateFolder,
        stop: Stop,
        around: Surroundings,
        tools: Tools,
    ) -> None:
        self._settings = settings
        self._client = client
        self._state = state
        self._stop = stop
        self._around = around
        self._tools = tools
        self._delivery = Delivery(client, state, stop, around.clock, around.random01)
        self._survey: Survey | None = None
        self._surveyed_s = -math.inf
        self._commit: str | None = None
        self._claim_failures = 0
        self._claim_failed_by: int | None = None
        """The status of the last refusal; None when there was no answer."""
        self._disk_failures = 0
        self._knows_claim = False
        """Whether this process has sent the claim that stands in the state folder, or had an answer to it."""
        self._first_asked: tuple[str, float] = ("", -math.inf)
        """The claim's id, and when it was first sent; -inf when a predecessor did."""
        self._idle_since_s: float | None = None
        self._idle_reason: str | None = None
        self._parked: dict[str, tuple[float, LeaseRecord]] = {}
        """Lease key -> when to offer its result again, and the result."""

    def run(self) -> None:
        """Until a stop is requested, or there is nothing more to do and that was asked for."""
        settings = self._settings
        event(logger, "worker.started", host=settings.host, receiver=settings.receiver_url, pid=os.getpid())
        has_recovered = False
        while not self._stop.requested:
            try:
                if not has_recovered:
                    self._recover()
                    has_recovered = True
                    continue
                self._offer_parked()
                if self._turn():
                    break
                self._disk_failures = 0
            except OSError as error:
                self._disk_failed(error)
                has_recovered = False  # settle what stands on the disk as if a predecessor had left it
        event(logger, "worker.stopped", host=settings.host)

    def _disk_failed(self, error: OSError) -> None:
        """Nothing can be written down, so nothing may be claimed: say so, and try again for as long as it takes."""
        if self._disk_failures == 0:
            self._report_disk(error)
        pause_s = max(self._settings.poll_s, backoff_s(self._disk_failures, self._around.random01()))
        self._disk_failures += 1
        self._stop.wait(pause_s)

    def _report_disk(self, error: OSError) -> None:
        event(
            logger, "worker.disk_failing", level=logging.ERROR, state_dir=self._state.root, reason=str(error)
        )

    # -- the predecessor -----------------------------------------------------------------------------

    def _recover(self) -> None:
        """Settle every lease that a killed worker left, results first. Nothing is claimed before."""
        for record in recover(self._state, self._around.clock.wall_s()):
            if self._stop.requested:
                return
            event(
                logger,
                "worker.leftover",
                job=record.name,
                epoch=record.epoch,
                ending=ending_kind(record.ending),
            )
            self._settle(record)
            failpoint("worker.record_settled")

    def _offer_parked(self) -> None:
        now = self._around.clock.now_s()
        for at_s, record in list(self._parked.values()):
            if at_s <= now and not self._stop.requested:
                self._settle(record)

    # -- one turn ------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Ask once and do the job if there is one; True when the worker is to end."""
        capability = self._capability()
        asked_s = self._around.clock.now_s()
        request_id = self._claim_request(asked_s)
        try:
            usage, wait_s = self._tools.usage(None, 0.0), self._wait_s(asked_s)  # no claim waits for a sample
            answer = self._client.claim(capability, request_id=request_id, wait_s=wait_s, usage=usage)
        except FleetError as error:
            self._claim_failed(error)
            return False
        failpoint("worker.claim_answered")
        if self._claim_failures:
            event(logger, "worker.receiver_back", failures=self._claim_failures)
        self._claim_failures = 0
        if answer is None:
            self._first_asked = ("", -math.inf)
            return self._idle(asked_s)
        self._idle_since_s = self._idle_reason = None
        self._work_on(answer)
        return self._settings.once

    def _claim_request(self, now_s: float) -> str:
        """The claim's id. A repeated claim gets the lease that the first one was granted, so that one's age counts."""
        made: list[str] = []

        def make() -> str:
            made.append(self._around.new_id())
            return made[0]

        request_id = self._state.claim_request(make)
        failpoint("worker.claim_request_saved")
        if self._first_asked[0] != request_id:
            self._first_asked = (request_id, now_s if made or self._knows_claim else -math.inf)
        self._knows_claim = True
        return request_id

    def _wait_s(self, now_s: float) -> float:
        limit_s = self._settings.exit_when_idle_s
        if self._settings.once:
            return 0.0
        if limit_s is None:
            return CLAIM_WAIT_S
        since_s = now_s if self._idle_since_s is None else self._idle_since_s
        return max(0.0, min(CLAIM_WAIT_S, since_s + limit_s - now_s))

    def _claim_failed(self, error: FleetError) -> None:
        if self._stop.requested:
            return
        kind = error.status if isinstance(error, Refused) else None
        if self._claim_failures == 0 or kind != self._claim_failed_by:  # a line for each, and one at the end
            event(logger, "worker.claim_failing", level=logging.WARNING, reason=str(error))
        pause_s = max(self._settings.poll_s, backoff_s(self._claim_failures, self._around.random01()))
        self._claim_failures, self._claim_failed_by = self._claim_failures + 1, kind
        self._stop.wait(pause_s)

    def _idle(self, asked_s: float) -> bool:
        now = self._around.clock.now_s()
        if self._idle_since_s is None:
            self._idle_since_s = asked_s
        reason = self._client.idle_reason or "no reason given"
        if reason != self._idle_reason:
            event(logger, "worker.idle", reason=reason)
            self._idle_reason = reason
        limit_s = self._settings.exit_when_idle_s
        if self._settings.once or (limit_s is not None and now - self._idle_since_s >= limit_s):
            return True
        # A receiver that let the claim wait has done the pausing already.
        self._stop.wait(self._settings.poll_s - (now - asked_s))
        return False

    def _capability(self) -> Capability:
        """What this host can do; looked up again now and then, after a failure, and when the code has changed."""
        now, commit = self._around.clock.now_s(), self._around.commit()
        if self._survey is None or now - self._surveyed_s >= SURVEY_EVERY_S or commit != self._commit:
            found = self._around.survey()
            if self._survey is None or found != self._survey:
                capability = found.capability
                event(
                    logger,
                    "worker.capability",
                    models=",".join(capability.models or []),
                    cores=capability.cores,
                    ram_gib=capability.ram_gib,
                    has_cuda=capability.has_cuda,
                    vram_gib=capability.vram_gib,
                    torch=capability.torch_version,
                    trainer=capability.trainer_digest,
                )
                for note in found.notes:
                    event(logger, "worker.capability_note", level=logging.WARNING, note=note)
            self._survey, self._surveyed_s, self._commit = found, self._around.clock.now_s(), commit
        return self._survey.capability

    # -- one job -------------------------------------------------------------------------------------

    def _work_on(self, answer: ClaimAnswer) -> None:
        record, granted_s = record_of(answer), self._first_asked[1]
        try:
            self._state.save(record)
        except OSError as error:
            self._give_back(record, error)
            raise
        failpoint("worker.lease_saved")
        with contextlib.suppress(OSError):  # asked with the same id again, the receiver gives another lease
            self._state.claim_answered()
        event(
            logger,
            "job.claimed",
            job=record.name,
            job_id=record.job_id,
            epoch=record.epoch,
            attempts=answer.attempts,
        )
        usage = self._tools.usage
        with (
            LeaseKeeper(self._client, record, self._around.clock, granted_s, usage) as keeper,
            LogFeed(self._client, record, self._state.log_folder(record)) as feed,
        ):
            try:
                ending = self._attempt(answer, record, keeper, feed.note)
            except LeaseLost as lost:
                event(logger, "job.lease_lost", level=logging.WARNING, job=record.name, reason=str(lost))
                self._forget(record, keeps_checkpoint=is_kept_without_lease(lost.job_status))
                return
            except Unpacked as full:  # lease file and folder stay: `recover` goes on from there
                event(logger, "job.pack_postponed", level=logging.WARNING, job=record.name, reason=str(full))
                return
            keeper.deliver_points()
            feed.flush()
            self._delivery.note = feed.note
            self._deliver(self._with_ending(record, ending))
        if isinstance(ending, FailRequest):
            self._surveyed_s = -math.inf

    def _forget(self, record: LeaseRecord, *, keeps_checkpoint: bool) -> None:
        try:
            self._state.drop(record, keeps_checkpoint=keeps_checkpoint)
        except OSError as error:  # later, as a job given back, which the receiver will answer with 410
            self._park(record, error)

    def _with_ending(self, record: LeaseRecord, ending: Ending) -> LeaseRecord:
        """The record to deliver. When it cannot be written down it is delivered all the same, and the sooner."""
        ended = replace(record, ending=ending)
        try:
            self._state.save(ended)
        except OSError as error:
            self._report_disk(error)
        failpoint("worker.ending_saved")
        return ended

    def _give_back(self, record: LeaseRecord, error: OSError) -> None:
        """A lease that cannot be written down would be forgotten by a restart: better not to have it."""
        reason = f"the worker cannot write to its state folder: {error.strerror or error}"
        if self._delivery.settle(replace(record, ending=ReleaseRequest(reason))) != "stopped":
            self._state.claim_answered()

    def _attempt(
        self, answer: ClaimAnswer, record: LeaseRecord, keeper: LeaseKeeper, note: Callable[[str], None]
    ) -> Ending:
        try:
            return Attempt(self._tools, answer, record, keeper, note).run()
        except (LeaseLost, Unpacked):
            raise
        except Exception as error:  # noqa: BLE001 - a defect of the worker must not keep the job for ever
            event(logger, "worker.defect", level=logging.ERROR, job=record.name)
            return FailRequest(error=f"the worker itself failed: {type(error).__name__}: {error}")

    def _settle(self, record: LeaseRecord) -> None:
        """Deliver what is left of an earlier attempt; a result's lease is kept alive meanwhile."""
        if isinstance(record.ending, CompleteRequest):
            with LeaseKeeper(self._client, record, self._around.clock):
                self._deliver(record)
        else:
            self._deliver(record)

    def _deliver(self, record: LeaseRecord) -> None:
        try:
            settled = self._delivery.settle(record)
        except OSError as error:  # of our own disk; the network's are settled there
            self._park(record, error)
            return
        if settled == "parked":
            self._park(record, None)
        else:
            self._parked.pop(record.key, None)

    def _park(self, record: LeaseRecord, error: OSError | None) -> None:
        if error is not None:
            self._report_disk(error)
        self._parked[record.key] = (self._around.clock.now_s() + PARKED_AGAIN_S, record)


def build(settings: WorkerSettings, state: StateFolder, stop: Stop) -> Worker:
    """A worker on this machine. Raises SettingsError for a receiver address that cannot be used."""
    try:
        client = FleetClient(settings.receiver_url, host=settings.host, credentials=settings.credentials)
    except CredentialsError as error:  # `read` has looked at them, a moment ago
        raise SettingsError(f"--credentials: {error}  [E040]") from None
    except ValueError as error:
        hint = "write --receiver-url http://HOST:8445"
        raise SettingsError(f"{settings.receiver_url_source}: {error}; {hint}  [E212]") from None
    stop.on_request = lambda: client.hurry(HURRY_S)

    def look() -> Survey:
        return survey(hostname=settings.host, trainer_module=settings.trainer_module)

    around = Surroundings(look)
    meter = UsageMeter(state.root)
    tools = Tools(
        client=client,
        state=state,
        stop=stop,
        clock=around.clock,
        sleep=around.sleep,
        random01=around.random01,
        start_trainer=start_trainer,
        trainer_module=settings.trainer_module,
        max_frozen_s=settings.max_frozen_s,
        usage=lambda pid, wait_s: meter.ask(pid, wait_s=wait_s),
    )
    return Worker(settings, client, state, stop, around, tools)


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Entry point; returns the exit code."""
    try:
        logs.configure("INFO", log_file(argv, environ))
        settings = read(argv, environ)
    except OSError as error:
        return _refuse(EXIT_CONFIG, f"--log-file: {error}")
    except SettingsError as error:
        return _refuse(EXIT_CONFIG, str(error))
    logs.configure(settings.log_level, settings.log_file)
    manager = systemd()
    stop = Stop()
    stop.listen()
    try:
        state = StateFolder(settings.state_dir)
        with state.locked():
            worker = build(settings, state, stop)
            with WorkerWatch(manager, stop.unseen_s), _renewing(settings):
                worker.run()
    except InUse as error:
        return _refuse(EXIT_IN_USE, str(error))
    except SettingsError as error:
        return _refuse(EXIT_CONFIG, str(error))
    except OSError as error:
        return _refuse(
            EXIT_NO_STATE, f"state folder {settings.state_dir} cannot be used: {error}; see --state-dir"
        )
    return 0


def _renewing(settings: WorkerSettings) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if settings.credentials is None else Renewer(settings.credentials)


def _refuse(code: int, text: str) -> int:
    print(f"cis490 worker: {text}", file=sys.stderr)
    if logs.goes_into_a_file():  # of a service on Windows nobody sees standard error
        event(logger, "worker.refused", level=logging.CRITICAL, code=code, reason=text)
    return code


if __name__ == "__main__":
    sys.exit(main())
