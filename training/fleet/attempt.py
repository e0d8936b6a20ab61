"""One attempt at one job: fetch its data, run the trainer, pack what it made.

Nothing here raises for what goes wrong with the job: `Attempt.run` returns the request that ends the lease.
Only the loss of the lease is an exception, since then there is nothing to tell anybody.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cis490.clock import Clock
from cis490.episodes.dataset import DatasetError, unpack
from cis490.logs import event
from training.fleet import bundle
from training.fleet.client import FleetError, Refused, backoff_s, retry_reason
from training.fleet.guard import RunState, TrainerCommand, TrainerRun
from training.fleet.lease_keeper import LeaseKeeper
from training.fleet.outcome import EndReason, RunResult, fail_request
from training.fleet.stopping import Stop
from training.fleet.types import FailClass
from training.fleet.wire import ClaimAnswer, CompleteRequest, FailRequest, Progress, ReleaseRequest
from training.fleet.worker_state import Ending, LeaseRecord, StateFolder

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How often the trainer is looked at: it bounds how late its end, or the loss of the lease, is noticed."""
STOPPING = ReleaseRequest("the worker was stopped")


class LeaseLost(Exception):
    """The lease has ended: whatever was being done for it is of no use."""


class _Stopping(Exception):
    """This worker is to stop; the job goes back."""


class _Fault(Exception):
    """The attempt cannot go on, and why."""

    def __init__(self, fail_class: FailClass, text: str) -> None:
        super().__init__(text)
        self.fail_class = fail_class


class Run(Protocol):
    """What is needed of a `TrainerRun`."""

    @property
    def pid(self) -> int: ...
    @property
    def progress(self) -> Progress | None: ...
    def poll(self) -> RunState: ...
    def terminate(self, reason: EndReason = "asked") -> None: ...
    def kill(self) -> None: ...
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


def start_trainer(command: TrainerCommand, clock: Clock) -> Run:
    """A real process; from the main thread only."""
    return TrainerRun(command, clock=clock)


class Attempt:
    """Work for one lease, which `keeper` keeps alive meanwhile."""

    def __init__(self, tools: Tools, answer: ClaimAnswer, record: LeaseRecord, keeper: LeaseKeeper) -> None:
        self._tools = tools
        self._answer = answer
        self._record = record
        self._keeper = keeper
        self._folder = tools.state.job_folder(record)

    def run(self) -> Ending:
        """Do it. Raises LeaseLost, with no process left."""
        try:
            data = self._dataset()
            command = self._prepare(data)
            result = self._train(command)
            return self._pack(result) if result.succeeded else fail_request(result)
        except _Stopping:
            return STOPPING
        except _Fault as fault:
            return FailRequest(error=str(fault), fail_class=fault.fail_class)
        except (OSError, bundle.BundleError) as error:
            return FailRequest(error=f"the worker could not do its part in {self._tools.state.root}: {error}")

    def _check(self) -> None:
        if self._keeper.lost is not None:
            raise LeaseLost(self._keeper.lost)
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
        try:
            size_bytes = archive.stat().st_size
            episodes = unpack(archive, folder, dataset_id)
        finally:
            archive.unlink(missing_ok=True)
        took_s = self._tools.clock.now_s() - started_s
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
        """Lay out the working folder: job.json, out/, progress.jsonl."""
        shutil.rmtree(self._folder, ignore_errors=True)
        out, progress = self._folder / "out", self._folder / "progress.jsonl"
        out.mkdir(parents=True)
        spec = self._folder / "job.json"
        spec.write_text(json.dumps(self._answer.spec, indent=1, sort_keys=True), "utf-8")
        argv = [sys.executable, "-m", self._tools.trainer_module, "--spec", str(spec), "--data", str(data)]
        return TrainerCommand(
            argv=[*argv, "--out", str(out), "--progress-file", str(progress)],
            progress_file=progress,
            mark=self._tools.state.mark(self._record),
            timeout_s=_limit(self._answer.spec.get("timeout_s")),
            stall_s=_limit(self._answer.spec.get("stall_s")),
        )

    def _train(self, command: TrainerCommand) -> RunResult:
        """Run the trainer to its end. Raises LeaseLost, _Stopping; no process is left in any case."""
        self._check()
        tools = self._tools
        run = tools.start_trainer(command, tools.clock)
        tools.stop.on_second = run.kill
        event(logger, "job.started", job=self._record.name, epoch=self._record.epoch, pid=run.pid)
        was_asked = False
        try:
            while run.poll() != "ended":
                self._keeper.progress = run.progress
                if self._keeper.lost is not None:
                    raise LeaseLost(self._keeper.lost)
                if tools.stop.requested and not was_asked:
                    was_asked = True
                    run.terminate()
                tools.sleep(POLL_S)
        except BaseException:
            run.kill()
            while run.poll() != "ended":
                tools.sleep(POLL_S)
            raise
        result = run.result()
        event(
            logger,
            "job.ended",
            job=self._record.name,
            exit_code=result.exit_code,
            signal=result.signal_number,
            duration_s=result.duration_s,
            peak_rss_mib=result.peak_rss_mib,
        )
        if was_asked and not result.succeeded:
            raise _Stopping
        return result

    def _pack(self, result: RunResult) -> CompleteRequest:
        """The result as a bundle in the spool. A stop does not hinder it: the work is done."""
        info = bundle.pack(self._folder / "out", self._tools.state.bundle(self._record))
        event(
            logger, "job.packed", job=self._record.name, artifact_id=info.sha256, size_bytes=info.size_bytes
        )
        return CompleteRequest(
            artifact_id=info.sha256,
            metrics=dict(result.metrics),
            duration_s=round(result.duration_s, 3),
            peak_rss_mib=result.peak_rss_mib,
            cpu_s=result.cpu_s,
        )


def _limit(value: object) -> float | None:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
    )
