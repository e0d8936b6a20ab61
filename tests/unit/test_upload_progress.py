"""A long upload of a worker leaves a line each ten seconds in its log, and a short one none."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from training.fleet.delivery import Delivery
from training.fleet.stopping import Stop
from training.fleet.wire import CompleteRequest
from training.fleet.worker_state import LeaseRecord, StateFolder

MIB = 1024 * 1024


class Receiver:
    """Takes an upload of ten MiB, one MiB in `step_s`."""

    def __init__(self, clock: ManualClock, step_s: float) -> None:
        self._clock, self._step_s = clock, step_s

    def upload(self, job_id, token, path, sha256, on_progress=None) -> str:  # type: ignore[no-untyped-def]
        for done in range(1, 11):
            self._clock.advance(self._step_s)
            on_progress(done * MIB, 10 * MIB)
        return "stored"

    def complete(self, job_id: str, token: str | None, request: CompleteRequest) -> None:
        """Accepted."""

    fail = release = complete


@pytest.mark.parametrize(("step_s", "percents"), [(4.0, [30, 60, 90]), (0.5, [])])
def test_it_tells_how_far_it_is_every_ten_seconds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step_s: float, percents: list[int]
) -> None:
    clock, state = ManualClock(), StateFolder(tmp_path)
    digest = hashlib.sha256(b"model").hexdigest()
    record = LeaseRecord("a" * 64, "gbt-oracle", 1, 30.0, "token", CompleteRequest(digest))
    state.bundle(record).parent.mkdir(parents=True, exist_ok=True)
    state.bundle(record).write_bytes(b"model")
    state.save(record)
    delivery = Delivery(Receiver(clock, step_s), state, Stop(), clock, lambda: 0.5)  # type: ignore[arg-type]
    notes: list[str] = []
    delivery.note = notes.append
    with caplog.at_level(logging.INFO):
        assert delivery.settle(record) == "delivered"
    told = [row for row in caplog.records if row.getMessage() == "job.uploading"]
    assert [row.event_fields["percent"] for row in told] == percents  # type: ignore[attr-defined]
    first = "uploading the result: 3.0 MiB of 10.0 MiB (30 %), 256.0 KiB/s, 28 s left"
    assert [note for note in notes if note.startswith("uploading")][:1] == [first][: len(percents)]
