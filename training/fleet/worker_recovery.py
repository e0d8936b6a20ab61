"""Making good for a worker that was killed: end what is left of its trainers, save what was finished, tidy up."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cis490.digest import sha256_file
from cis490.failpoints import failpoint
from cis490.logs import event
from training.fleet import bundle
from training.fleet.attempt import complete_request
from training.fleet.guard_wire import MARK, TrainerEnd, boot_id, end_of
from training.fleet.guarded_run import kill_marked, metrics_in
from training.fleet.outcome import RunResult, fail_request, result_of
from training.fleet.wire import CompleteRequest
from training.fleet.worker_state import Ending, LeaseRecord, StateFolder

logger = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)


def recover(state: StateFolder, wall_s: float, boot: Callable[[], str | None] = boot_id) -> list[LeaseRecord]:
    """Leave no process and no half file behind; returns the leases to settle, results first, oldest first.

    By the wall time `wall_s` old checkpoints go; `boot` names the machine's current boot. Call it before anything is
    claimed; after an OSError, call it again.
    """
    records, damaged = state.records()
    for path in damaged:
        event(logger, "worker.lease_unreadable", level=logging.WARNING, path=path)
        path.replace(path.with_suffix(".damaged"))
    killed = kill_marked(MARK, frozenset(map(state.mark, records)))
    if killed:
        event(logger, "worker.leftover_killed", level=logging.WARNING, pids=killed)
    failpoint("worker.leftovers_killed")
    records = [_with_ending(state, record, boot()) for record in records]
    failpoint("worker.results_salvaged")
    state.sweep(wall_s)
    failpoint("worker.swept")
    return sorted(records, key=lambda one: not isinstance(one.ending, CompleteRequest))


def _with_ending(state: StateFolder, record: LeaseRecord, boot: str | None) -> LeaseRecord:
    """The record, with the ending that its attempt came to if the worker died before it could write that down."""
    if record.ending is not None:
        return record
    ending: Ending | None = None
    try:
        ending = _ending_on_disk(state, record, boot)
        if ending is not None:
            event(
                logger,
                "worker.result_salvaged",
                job=record.name,
                epoch=record.epoch,
                ending=ending_kind(ending),
            )
            return state.save(replace(record, ending=ending))
    except (OSError, bundle.BundleError) as error:
        if ending is None and isinstance(error, OSError) and error.errno in FULL:
            raise  # the work lies there finished; there will be room again
        event(logger, "worker.result_lost", level=logging.WARNING, job=record.name, reason=str(error))
    return replace(record, ending=ending)


def _ending_on_disk(state: StateFolder, record: LeaseRecord, boot: str | None) -> Ending | None:
    end = _read_end(state.end_file(record))
    metrics = metrics_in(state.job_folder(record) / "progress.jsonl")
    result = RunResult(0, metrics=metrics) if end is None else result_of(end, metrics)
    packed = state.bundle(record)
    if packed.is_file():  # whole, and of a trainer that succeeded, else it would not be there
        return complete_request(sha256_file(packed), result)
    if end is None:
        return None
    if not result.succeeded:
        return None if end.ended_by == "asked" else fail_request(result)
    if end.boot is None or end.boot != boot:
        # What the trainer wrote was never synced: after a power cut its files may be there and be empty.
        return None
    return complete_request(bundle.pack(state.job_folder(record) / "out", packed).sha256, result)


def _read_end(path: Path) -> TrainerEnd | None:
    try:
        return end_of(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def ending_kind(ending: Ending | None) -> str:
    """`complete`, `fail`, `release`, or `unfinished`."""
    return "unfinished" if ending is None else type(ending).__name__.removesuffix("Request").lower()
