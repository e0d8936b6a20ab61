"""The transition table, cell by cell."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from training.fleet.lifecycle import (
    EVENTS,
    LEASE_EVENTS,
    PHASES,
    REPLAYS,
    TABLE,
    AttemptOutcome,
    Event,
    Move,
    Phase,
    Refusal,
    Replay,
    Standing,
    decide,
    mermaid,
    phase_of,
    status_of,
    table_markdown,
)
from training.fleet.types import STATUSES

LEASED: tuple[Phase, ...] = ("claimed", "running", "pending_lapsed", "failed_lapsed")

EXPECTED: dict[Event, dict[Phase, Phase]] = {
    "claim": {"pending": "claimed", "pending_lapsed": "claimed"},
    "heartbeat": dict.fromkeys(LEASED, "running"),
    "complete": dict.fromkeys(LEASED, "completed"),
    "fail": dict.fromkeys(LEASED, "pending"),
    "release": dict.fromkeys(LEASED, "pending"),
    "expire": {"claimed": "pending_lapsed", "running": "pending_lapsed"},
    "cancel": dict.fromkeys(("pending", "pending_lapsed", "claimed", "running", "cancelled"), "cancelled"),
    "requeue": {
        "failed": "pending",
        "failed_lapsed": "pending",
        "cancelled": "pending",
        "pending": "pending",
        "pending_lapsed": "pending_lapsed",
    },
}


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(PHASES, EVENTS)))
def test_every_cell_is_as_the_design_says(phase: Phase, event: Event) -> None:
    decision = decide(phase, event, standing="holder")
    wanted = EXPECTED[event].get(phase)
    if wanted is None:
        assert isinstance(decision, Refusal)
        assert decision.http_status == (410 if event in LEASE_EVENTS else 409)
        assert decision.reason
    else:
        assert decision == Move(phase, wanted)


@pytest.mark.parametrize("phase", LEASED)
def test_a_failure_without_budget_is_final(phase: Phase) -> None:
    assert decide(phase, "fail", standing="holder", budget_left=False) == Move(phase, "failed")


@pytest.mark.parametrize("phase", ["claimed", "running"])
def test_a_lapse_without_budget_fails_the_job_but_keeps_its_lease(phase: Phase) -> None:
    assert decide(phase, "expire", budget_left=False) == Move(phase, "failed_lapsed")


def test_completed_work_is_repeated_only_by_force_and_as_a_new_generation() -> None:
    assert isinstance(decide("completed", "requeue"), Refusal)
    assert decide("completed", "requeue", force=True) == Move("completed", "pending", new_generation=True)


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(PHASES, sorted(LEASE_EVENTS))))
@pytest.mark.parametrize("standing", ["stranger", "ended"])
def test_nobody_but_the_holder_moves_a_job(phase: Phase, event: Event, standing: Standing) -> None:
    decision = decide(phase, event, standing=standing)
    assert isinstance(decision, Refusal)
    assert decision.http_status == 410


@pytest.mark.parametrize(("event", "outcome"), sorted(REPLAYS.items()))
@pytest.mark.parametrize("phase", PHASES)
def test_the_request_that_ended_a_lease_is_answered_again(
    phase: Phase, event: Event, outcome: AttemptOutcome
) -> None:
    assert decide(phase, event, standing="ended", outcome=outcome) == Replay(phase)


def test_another_request_of_an_ended_lease_is_refused() -> None:
    assert isinstance(decide("completed", "fail", standing="ended", outcome="completed"), Refusal)


def test_a_repeated_completion_with_another_artifact_conflicts() -> None:
    decision = decide("completed", "complete", standing="ended", outcome="completed", same_artifact=False)
    assert isinstance(decision, Refusal)
    assert decision.http_status == 409


def test_a_phase_is_its_status_and_its_lapse() -> None:
    assert {phase_of(*status_of(phase)) for phase in PHASES} == set(PHASES)
    assert phase_of("completed", lapsed=True) == "completed"


def test_the_database_knows_exactly_these_statuses() -> None:
    schema = Path("training/fleet/sql/0001_first.sql").read_text(encoding="utf-8")
    assert "CHECK (status IN (" + ", ".join(f"'{status}'" for status in STATUSES) + "))" in schema


def test_the_documented_diagram_and_table_are_the_tables_own() -> None:
    page = Path("docs/lifecycle.md").read_text(encoding="utf-8")
    assert mermaid() in page
    assert table_markdown() in page


def test_every_phase_can_be_left_and_reached() -> None:
    reached = {cell.to for cell in TABLE.values()} | {c.without_budget for c in TABLE.values()}
    assert set(PHASES) <= reached
    assert {phase for phase, _ in TABLE} == set(PHASES)
