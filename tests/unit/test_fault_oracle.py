"""The oracle of the fault tests sees what it is there to see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.factories.fault_oracle import Ack, Evidence, Stamp, faults_of

JOB, ARTIFACT = "a" * 64, "c" * 64


def job(**changes: Any) -> dict[str, Any]:
    """A job that was completed by its first attempt."""
    attempt = {"epoch": 1, "generation": 1, "outcome": "completed", "artifact_id": ARTIFACT}
    trail = [
        {"event": "claim", "from": "pending", "to": "claimed"},
        {"event": "complete", "from": "claimed", "to": "completed"},
    ]
    row = {"job_id": JOB, "name": "one", "status": "completed", "artifact_id": ARTIFACT, "attempts": 1}
    return row | {"last_error": None, "attempts_log": [attempt], "audit": trail} | changes


GOOD = Evidence(
    stamps=[Stamp("step", 10, "one", 1, 5.0)],
    acks=[
        Ack("claim", JOB, 1, request="r1"),
        Ack("upload", JOB, 1, ARTIFACT),
        Ack("complete", JOB, 1, ARTIFACT),
    ],
    jobs=[job()],
    blobs={ARTIFACT: ARTIFACT},
)


def test_a_run_in_which_all_is_well_has_no_faults() -> None:
    assert faults_of(GOOD) == []


TWICE = [{"epoch": n, "generation": 1, "outcome": "completed", "artifact_id": ARTIFACT} for n in (1, 2)]
BROKEN_TRAIL = [
    {"event": "claim", "from": "pending", "to": "claimed"},
    {"event": "complete", "from": "running", "to": "completed"},
]


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (replace(GOOD, jobs=[job(attempts_log=[])]), "that attempt is unknown"),
        (replace(GOOD, jobs=[]), "its job is gone"),
        (
            replace(GOOD, jobs=[job(attempts_log=[{**TWICE[0], "outcome": "lapsed"}])]),
            "it is 'lapsed' now",
        ),
        (replace(GOOD, blobs={}), f"artifact {ARTIFACT} is gone"),
        (replace(GOOD, blobs={ARTIFACT: "d" * 64}), f"artifact {ARTIFACT} holds"),
        (replace(GOOD, jobs=[job(attempts_log=TWICE)]), "generation 1 accepted 2 results"),
        (replace(GOOD, acks=[*GOOD.acks, Ack("claim", JOB, 1, request="r2")]), "granted to 2 claims"),
        (
            replace(GOOD, acks=[*GOOD.acks, Ack("cancel", JOB)]),
            "cancel of one was acknowledged and no audit row",
        ),
        (replace(GOOD, jobs=[job(status="running")]), "one is stuck: running"),
        (replace(GOOD, jobs=[job(audit=BROKEN_TRAIL)]), "begins at running, the one before ends at claimed"),
        (replace(GOOD, orphans=["7 python"]), "orphan process: 7 python"),
        (replace(GOOD, leftovers=["spool/x"]), "left behind: spool/x"),
        (replace(GOOD, database="row 3 missing"), "the database is damaged: row 3 missing"),
        (
            replace(GOOD, stamps=[*GOOD.stamps, Stamp("step", 11, "one", 2, 4.5)]),
            "trainers of epochs 1 and 2 ran at once for 0.500 s",
        ),
    ],
)
def test_each_broken_promise_is_found(evidence: Evidence, words: str) -> None:
    assert any(words in fault for fault in faults_of(evidence)), faults_of(evidence)


def test_a_trainer_whose_guard_was_stopped_too_is_beyond_the_promise() -> None:
    late = replace(
        GOOD, stamps=[*GOOD.stamps, Stamp("step", 11, "one", 2, 4.5)], unguarded=frozenset({"one"})
    )
    assert faults_of(late) == []
