"""Every cell of (state x event x token), on the queue. The tables stand in `lifecycle_cells.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cis490.clock import ManualClock
from tests.contract.cell_lab import Lab, check_accepted, check_unchanged
from tests.contract.lifecycle_cells import OPERATOR, PATHS, REQUESTERS, Cell, cells, read
from tests.factories.fleet import ARTIFACT, OTHER_ARTIFACT, cpu_host, job, job_id, manifest
from training.fleet.ledger import MEMORY
from training.fleet.lifecycle import EVENTS, PHASES
from training.fleet.queue import JobQueue
from training.fleet.rows import Outcome

NAME = "gbt-realistic"
CELLS = cells()


def ask(lab: Lab, cell: Cell) -> str:
    """Send the cell's event to the queue; the word for what came back."""
    queue, host = lab.queue, cell.host
    if cell.event in ("claim", "claim_again"):
        request = lab.last_request(host) if cell.event == "claim_again" else "one more"
        granted = queue.claim(host, cpu_host(), with_token=True, claim_request=request)
        if granted.row is None or granted.lease is None:
            return "nothing"
        assert (cell.wanted == "renewed") == ((host, granted.lease.token) == lab.leases[-1]), (
            "its own lease again"
        )
        return "accepted"
    if cell.event == "expire":
        return "accepted" if queue.sweep_stale() else "nothing"
    done = send(lab, cell)
    assert done or done.reason, "a refusal says why"
    return "accepted" if done else str(done.http_status)


def send(lab: Lab, cell: Cell) -> Outcome:
    queue, job, host = lab.queue, lab.job_id, cell.host
    if cell.event in ("requeue", "force"):
        return queue.requeue(job, force=cell.event == "force")
    if cell.event == "cancel":
        return queue.cancel(job)
    token = lab.token_for(cell)
    match cell.event:
        case "heartbeat":
            return queue.heartbeat(job, host, token=token)
        case "upload":
            return queue.standing(job, host, token)
        case "fail":
            return queue.fail(job, host, error="second", token=token)
        case "release":
            return queue.release(job, host, token=token)
    artifact = {"complete": ARTIFACT, "other": OTHER_ARTIFACT}[cell.event]
    return queue.complete(job, host, artifact_id=artifact, token=token, require_upload=True)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_queue_does_in_every_cell_what_the_table_says(cell: Cell, tmp_path: Path) -> None:
    clock = ManualClock()
    path = str(tmp_path / "q.db") if "restart" in cell.history else MEMORY
    queue = JobQueue(path, clock=clock)
    queue.apply_manifest(
        manifest(job(allowed_hosts=("a", "b")), job("bystander", priority=9, allowed_hosts=("c",)))
    )
    queue.claim("c", cpu_host())
    queue.heartbeat(job_id("bystander"), "c")
    lab = Lab(queue, clock, job_id(NAME), cell.plain, reopen=lambda: JobQueue(path, clock=clock))
    lab.bystander = (job_id("bystander"), "c")
    try:
        lab.play(cell.history)
        assert lab.phase == cell.phase, "the history leads where the table says"
        if cell.event == "expire":
            lab.let_a_lease_pass()
            queue.explain(lab.job_id)  # drops the wish for the same host, which has become too old meanwhile
        before, rows = lab.evidence(), lab.jobs()
        answer = ask(lab, cell)
        if cell.wanted in PHASES:
            assert answer == "accepted"
            check_accepted(cell, lab, before, rows)
        else:
            quiet = cell.wanted in ("same", "renewed", "taken")
            assert answer == ("accepted" if quiet else cell.wanted)
            check_unchanged(cell, lab, before)
    finally:
        lab.queue.close()


def test_the_tables_have_a_cell_for_every_phase_event_and_requester() -> None:
    """A phase or event that is added to the lifecycle needs a column or row here."""
    assert set(PATHS) == set(PHASES)
    asked = {"fail", "release", "heartbeat", "complete", *read(OPERATOR.table)}
    assert set(EVENTS) <= asked
    of_tables = {(cell.who, cell.event, cell.phase) for cell in CELLS if cell.who}
    assert len(of_tables) == (len(REQUESTERS) * 6 + 6) * len(PHASES)
    accepted = sum(cell.wanted in PHASES for cell in CELLS)
    refused = sum(cell.wanted in ("409", "410") for cell in CELLS)
    print(f"{len(CELLS)} cells: {accepted} move the job, {refused} are refused, the rest change nothing")


def test_a_claim_that_is_asked_again_has_a_whole_lease_again() -> None:
    """The host may count its lease from this request; the receiver must not count from an earlier one."""
    clock = ManualClock()
    queue = JobQueue(MEMORY, clock=clock)
    queue.apply_manifest(manifest(job()))
    first = queue.claim("a", cpu_host(), with_token=True, claim_request="one")
    clock.advance(queue.stale_after_s - 1)
    again = queue.claim("a", cpu_host(), with_token=True, claim_request="one")
    clock.advance(queue.stale_after_s - 1)
    assert queue.sweep_stale() == 0
    assert first.lease is not None
    assert again.lease is not None
    assert again.lease.token == first.lease.token
    queue.close()
