"""One attempt at one job: fetch its data, run the trainer, pack what it made.

Nothing here raises for what goes wrong with the job: `Attempt.run` returns the request that ends the lease.
Only the loss of the lease is an exception, since then there is nothing to tell anybody.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cis490.clock import Clock
from cis490.digest import short
from cis490.episodes.dataset import DatasetError, unpack
from cis490.failpoints import failpoint
from cis490.logs import event
from training.fleet import bundle
from training.fleet.capability import CODE_ROOT
from training.fleet.client import FleetError, Refused, backoff_s, retry_reason
from training.fleet.guard_rules import EndReason, Limits, margin_s
from training.fleet.guard_wire import TrainerCommand
from training.fleet.guarded_run import CannotStart, GuardedRun, GuardLost, RunState
from training.fleet.lease_keeper import LeaseKeeper
from training.fleet.outcome import RunResult, fail_request, how_it_ended
from training.fleet.reports import Usage
from training.fleet.stopping import Stop
from training.fleet.types import FailClass
from training.fleet.wire import ClaimAnswer, CompleteRequest, FailRequest, Progress, ReleaseRequest
from training.fleet.worker_state import Ending, LeaseRecord, StateFolder

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How often the lease and the wish to stop are looked at while a trainer runs; its end is noticed at once."""
MAX_GUARDS_LOST = 3
"""A job whose guard was killed goes back unharmed, but not for ever: as often as a job may lose its host."""
PACK_PATIENCE_S = 3600.0
"""How long a finished result waits for room on the disk, while its lease is kept."""
LEASE_POLL_S = 0.01
"""How soon the answer to the first heartbeat is noticed, when the claim's own age is not known."""
NO_LEASE = "the receiver has not confirmed the lease in time; it goes on when it does"
STOPPING = ReleaseRequest("the worker was stopped")


class LeaseLost(Exception):
    """The lease has ended: whatever was being done for it is of no use."""

    def __init__(self, reason: str, job_status: object = None) -> None:
        super().__init__(reason)
        self.job_status = job_status
        """Of the job, as the receiver told it; None when it did not."""


class Unpacked(Exception):
    """The training has succeeded, and this worker stops before there was room to pack it: the next one will."""


class _Stopping(Exception):
    """This worker is to stop; the job goes back."""


class _GivenBack(Exception):
    """Nothing came of it, for a reason that is not the job's; it goes back unharmed."""


class _Fault(Exception):
    """The attempt cannot go on, and why."""

    def __init__(self, fail_class: FailClass, text: str) -> None:
        super().__init__(text)
        self.fail_class = fail_class


class Run(Protocol):
    """What is needed of a `GuardedRun`."""

    @property
    def pid(self) -> int | None: ...
    @property
    def progress(self) -> Progress | None: ...
    @property
    def frozen_s(self) -> float: ...
    def take_points(self) -> Sequence[Progress]: ...
    def wait(self, seconds: float) -> RunState: ...
    def confirm(self, deadline_s: float) -> None: ...
    def terminate(self, reason: EndReason = "asked") -> None: ...
    def end_now(self) -> None: ...
    def close(self) -> None: ...
    def result(self) -> RunResult: ...


class DatasetSource(Protocol):
    """The part of the client that is needed here."""

    def fetch_dataset(
        self, dataset_id: str, target: Path, on_progress: Callable[[int, int], None] | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What an attempt works with; tests replace single ones."""

    client: DatasetSource
    state: StateFolder
    stop: Stop
    clock: Clock
    sleep: Callable[[float], None]
    random01: Callable[[], float]
    start_trainer: Callable[[TrainerCommand, Clock], Run]
    trainer_module: str
    max_frozen_s: float | None = None
    guards_lost: dict[str, int] = field(default_factory=dict)
    """By job: how often its guard was lost here."""
    usage: Callable[[int | None, float], Usage | None] = lambda pid, wait_s: None
    """Samples what this machine is doing, with the tree of a process; waits so many seconds for it."""


def start_trainer(command: TrainerCommand, clock: Clock) -> Run:
    """A trainer behind a guard of its own."""
    return GuardedRun(command, clock=clock)


class Attempt:
    """Work for one lease, which `keeper` keeps alive meanwhile."""

    def __init__(
        self,
        tools: Tools,
        answer: ClaimAnswer,
        record: LeaseRecord,
        keeper: LeaseKeeper,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`note` takes a line for the attempt's log at the receiver."""
        self._note = note
        self._tools = tools
        self._answer = answer
        self._record = record
        self._keeper = keeper
        self._folder = tools.state.job_folder(record)

    def run(self) -> Ending:
        """Do it. Raises LeaseLost or Unpacked, with no process left."""
        try:
            data = self._dataset()
            command = self._prepare(data)
            result = self._train(command)
            return self._pack(result) if result.succeeded else fail_request(result)
        except _Stopping:
            return STOPPING
        except _GivenBack as reason:
            return ReleaseRequest(str(reason))
        except _Fault as fault:
            return FailRequest(error=str(fault), fail_class=fault.fail_class)
        except (OSError, bundle.BundleError) as error:
            return FailRequest(error=f"the worker could not do its part in {self._tools.state.root}: {error}")

    def _check(self) -> None:
        if self._keeper.lost is not None:
            raise LeaseLost(self._keeper.lost, self._keeper.lost_job_status)
        if self._tools.stop.requested:
            raise _Stopping

    # -- data ----------------------------------------------------------------------------------------

    def _dataset(self) -> Path:
        """Folder of the job's data set, fetched if it is not there yet."""
        dataset_id = self._answer.dataset_id
        if dataset_id is None:
            raise _Fault("missing", "the manifest pins no data set; add [dataset] to it and reload")
        folder = self._tools.state.dataset(dataset_id)
        if not folder.is_dir():
            try:
                self._fetch(dataset_id, folder)
            except DatasetError as error:  # damaged on the way, most likely; the second time it is the source
                event(
                    logger, "dataset.damaged", level=logging.WARNING, dataset_id=dataset_id, reason=str(error)
                )
                try:
                    self._fetch(dataset_id, folder)
                except DatasetError as again:
                    raise _Fault(
                        "bad_data", f"data set {dataset_id} arrived damaged twice: {again}"
                    ) from again
        return folder

    def _fetch(self, dataset_id: str, folder: Path) -> None:
        self._note(f"fetching data set {short(dataset_id)}")
        archive = folder.with_name(f"{dataset_id}.tar.zst")
        started_s = self._tools.clock.now_s()
        failures = 0
        while True:
            self._check()
            try:
                self._tools.client.fetch_dataset(dataset_id, archive, lambda done, total: self._check())
                break
            except FleetError as error:
                if retry_reason(error) is None:
                    text = error.reason if isinstance(error, Refused) else str(error)
                    raise _Fault(
                        "missing", f"the receiver does not give data set {dataset_id}: {text}"
                    ) from error
                event(
                    logger, "dataset.waiting", level=logging.WARNING, dataset_id=dataset_id, reason=str(error)
                )
                self._tools.stop.wait(backoff_s(failures, self._tools.random01(), cap_s=30.0))
                failures += 1
        failpoint("worker.dataset_fetched")
        try:
            size_bytes = archive.stat().st_size
            episodes = unpack(archive, folder, dataset_id)
        finally:
            archive.unlink(missing_ok=True)
        failpoint("worker.dataset_unpacked")
        took_s = self._tools.clock.now_s() - started_s
        self._note(f"data set {short(dataset_id)}: {size_bytes} bytes, {episodes} episodes, {took_s:.1f} s")
        event(
            logger,
            "dataset.fetched",
            dataset_id=dataset_id,
            episodes=episodes,
            size_bytes=size_bytes,
            took_s=took_s,
        )

    # -- trainer -------------------------------------------------------------------------------------

    def _prepare(self, data: Path) -> TrainerCommand:
        """Lay out the working folder (job.json, out/, progress.jsonl) and the job's folder for checkpoints."""
        shutil.rmtree(self._folder, ignore_errors=True)
        out, progress = self._folder / "out", self._folder / "progress.jsonl"
        out.mkdir(parents=True)
        spec = self._folder / "job.json"
        spec.write_text(json.dumps(self._answer.spec, indent=1, sort_keys=True), "utf-8")
        kept = self._tools.state.checkpoints.prepare(self._record.job_id, is_resumed=self._answer.resume)
        argv = [sys.executable, "-m", self._tools.trainer_module, "--spec", str(spec), "--data", str(data)]
        argv += ["--out", str(out), "--progress-file", str(progress), "--checkpoint-dir", str(kept)]
        if self._answer.device != "auto":
            argv += ["--device", self._answer.device]
        failpoint("worker.folder_prepared")
        return TrainerCommand(
            argv=argv,
            progress_file=str(progress),
            mark=self._tools.state.mark(self._record),
            cwd=str(CODE_ROOT),
            limits=Limits(
                timeout_s=_limit(self._answer.spec.get("timeout_s")),
                stall_s=_limit(self._answer.spec.get("stall_s")),
                max_frozen_s=self._tools.max_frozen_s,
            ),
            lease_s=self._record.lease_s,
            end_file=str(self._tools.state.end_file(self._record)),
            log_folder=str(self._tools.state.log_folder(self._record)),
        )

    def _train(self, command: TrainerCommand) -> RunResult:
        """Run the trainer to its end. Raises LeaseLost, _Stopping, _Fault; no process is left in any case."""
        result: RunResult | None = None
        while result is None:
            deadline_s = self._valid_deadline()
            try:
                run = self._tools.start_trainer(replace(command, deadline_s=deadline_s), self._tools.clock)
                result = self._watch(run)
            except CannotStart as error:
                raise _Fault("program", str(error)) from None
            except GuardLost as lost:
                raise self._after(lost) from None
        failpoint("worker.end_seen")
        return result

    def _valid_deadline(self) -> float:
        """Wait until the lease is known to hold: a trainer starts inside it only."""
        margin = margin_s(self._record.lease_s)
        while True:
            self._check()
            deadline_s = self._keeper.deadline_s
            if self._tools.clock.now_s() < deadline_s - margin:
                return deadline_s
            self._tools.sleep(LEASE_POLL_S)

    def _watch(self, run: Run) -> RunResult | None:
        """From the start to the end; None when the lease had run out before there was a start."""
        tools, was_asked, before = self._tools, False, "starting"
        try:
            failpoint("worker.guard_started")
            while (state := run.wait(POLL_S)) not in ("ended", "late"):
                self._log_change(run, before, state)
                before = state
                self._keeper.progress, self._keeper.pid = run.progress, run.pid
                self._keeper.add_points(run.take_points())
                run.confirm(self._keeper.deadline_s)
                if self._keeper.lost is not None:
                    raise LeaseLost(self._keeper.lost, self._keeper.lost_job_status)
                if tools.stop.requested and not was_asked:
                    was_asked = True
                    run.terminate()
                tools.sleep(0.0)
        except (GuardLost, CannotStart):
            raise
        except BaseException:
            run.end_now()
            raise
        run.close()
        self._keeper.pid = None
        if state == "late":
            return None
        self._keeper.add_points(run.take_points())
        self._log_change(run, before, state)
        return self._judged(run.result(), was_asked)

    def _log_change(self, run: Run, before: str, state: str) -> None:
        job = self._record.name
        if before == "starting" and state != "starting":
            event(logger, "job.started", job=job, epoch=self._record.epoch, pid=run.pid)
            self._note(f"{job}: the trainer runs (attempt {self._answer.attempts})")
        if state == "frozen" != before:
            event(logger, "job.frozen", level=logging.WARNING, job=job, reason=NO_LEASE)
            self._note(f"frozen: {NO_LEASE}")
        if before == "frozen" != state == "running":
            event(logger, "job.thawed", job=job, frozen_s=run.frozen_s)
            self._note(f"thawed: the trainer goes on; it stood still for {run.frozen_s:.0f} s in all")

    def _judged(self, result: RunResult, was_asked: bool) -> RunResult:
        event(
            logger,
            "job.ended",
            job=self._record.name,
            exit_code=result.exit_code,
            signal=result.signal_number,
            duration_s=result.duration_s,
            frozen_s=result.frozen_s,
            peak_rss_mib=result.peak_rss_mib,
        )
        self._note(f"the trainer has ended: {how_it_ended(result)}, after {result.duration_s:.1f} s")
        self._tools.guards_lost.pop(self._record.job_id, None)
        if result.ended_by == "frozen":
            raise _GivenBack(f"the trainer was {how_it_ended(result)}")
        if was_asked and not result.succeeded:
            raise _Stopping
        return result

    def _after(self, lost: GuardLost) -> Exception:
        """Nobody knows who kills guards; a job is not to blame at first."""
        job_id, tools = self._record.job_id, self._tools
        count = tools.guards_lost[job_id] = tools.guards_lost.get(job_id, 0) + 1
        event(
            logger,
            "job.guard_lost",
            level=logging.WARNING,
            job=self._record.name,
            reason=str(lost),
            times=count,
        )
        if count < MAX_GUARDS_LOST:
            return _GivenBack(str(lost))
        del tools.guards_lost[job_id]
        return _Fault("program", f"{lost} ({count} times in a row; the kernel's log may tell who does that)")

    def _pack(self, result: RunResult) -> CompleteRequest:
        """The result as a bundle in the spool. A stop does not hinder it: the work is done."""
        info = self._packed()
        event(
            logger, "job.packed", job=self._record.name, artifact_id=info.sha256, size_bytes=info.size_bytes
        )
        failpoint("worker.bundle_packed")
        return complete_request(info.sha256, result)

    def _packed(self) -> bundle.BundleInfo:
        """Pack; a disk that is full or fails is waited for, since the work lies finished beside it."""
        started_s, failures = self._tools.clock.now_s(), 0
        while True:
            try:
                failpoint("worker.before_pack")
                return bundle.pack(self._folder / "out", self._tools.state.bundle(self._record))
            except OSError as error:
                waited_s = self._tools.clock.now_s() - started_s
                if self._tools.stop.requested:
                    raise Unpacked(str(error)) from error
                if waited_s > PACK_PATIENCE_S:
                    raise
                if failures == 0:
                    event(
                        logger,
                        "job.pack_waiting",
                        level=logging.ERROR,
                        job=self._record.name,
                        reason=str(error),
                    )
            if self._keeper.lost is not None:
                raise LeaseLost(self._keeper.lost, self._keeper.lost_job_status)
            self._tools.stop.wait(backoff_s(failures, self._tools.random01()))
            failures += 1


def complete_request(artifact_id: str, result: RunResult) -> CompleteRequest:
    """The report of a result that was packed."""
    return CompleteRequest(
        artifact_id=artifact_id,
        metrics=dict(result.metrics),
        duration_s=round(result.duration_s, 3),
        peak_rss_mib=result.peak_rss_mib,
        cpu_s=result.cpu_s,
    )


def _limit(value: object) -> float | None:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
    )
