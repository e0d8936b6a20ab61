"""Rows of the queue's database as typed, immutable values."""

from __future__ import annotations

import json
import operator
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from training.fleet.eligibility import Learned
from training.fleet.lifecycle import AttemptOutcome, Phase, phase_of
from training.fleet.types import FailClass, Figure, RowKind, Status


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job. Wall times are seconds since the epoch; `row["name"]` reads a field as well."""

    seq: int
    job_id: str
    name: str
    model: str
    mode: str
    spec: dict[str, Any]
    priority: int
    class_id: int
    status: Status
    lapsed: bool
    held: bool
    ready_at: float | None
    generation: int
    epoch: int
    attempts: int
    host_losses: int
    program_failures: int
    learned: Learned
    claimed_by: str | None
    claimed_at: float | None
    heartbeat_at: float | None
    completed_at: float | None
    last_error: str | None
    artifact_id: str | None
    metrics: dict[str, Figure] = field(default_factory=dict)
    dataset_id: str | None = None
    trainer_digest: str | None = None
    kind: RowKind = "job"
    of_job_id: str | None = None
    """Of a shadow run: the job whose artifact it verifies, and which artifact."""
    of_artifact_id: str | None = None
    paused_reason: str | None = None
    """Why an operator does not want it handed out; what runs goes on."""

    @property
    def is_shadow(self) -> bool:
        return self.kind == "shadow"

    @property
    def phase(self) -> Phase:
        return phase_of(self.status, self.lapsed)

    def __getitem__(self, key: str) -> Any:
        if key not in self.__slots__:
            raise KeyError(key)
        return getattr(self, key)

    def columns(self) -> dict[str, Any]:
        """As SQL parameters."""
        out: dict[str, Any] = {key: getattr(self, key) for key in self.__slots__}
        out |= {
            "spec": dumps(self.spec),
            "metrics": dumps(self.metrics),
            "learned": dumps(asdict(self.learned)),
        }
        out |= {"lapsed": int(self.lapsed), "held": int(self.held)}
        return out


def job_row(row: sqlite3.Row) -> JobRow:
    """The row of a `SELECT *` (or `RETURNING *`) from `job`, whose columns stand in the order of the fields."""
    values: list[Any] = [*row]
    values[_SPEC] = msgspec.json.decode(values[_SPEC])
    values[_METRICS] = json.loads(values[_METRICS]) if values[_METRICS] != "{}" else {}
    learned = values[_LEARNED]
    values[_LEARNED] = _NOTHING if learned in _EMPTY else learned_of(json.loads(learned))
    values[_LAPSED], values[_HELD] = bool(values[_LAPSED]), bool(values[_HELD])
    return JobRow(*values)


def claimed(row: JobRow, *, host: str, at: float) -> JobRow:
    """The row after the statement `job_claim`. (`dataclasses.replace` would take a tenth of the whole claim.)"""
    values = list(_VALUES(row))
    values[_STATUS], values[_LAPSED], values[_EPOCH] = "claimed", False, row.epoch + 1
    values[_ATTEMPTS], values[_CLAIMED_BY], values[_CLAIMED_AT] = row.attempts + 1, host, at
    values[_HEARTBEAT_AT] = values[_READY_AT] = None
    return JobRow(*values)


_VALUES = operator.attrgetter(*JobRow.__slots__)
_STATUS, _EPOCH, _ATTEMPTS, _CLAIMED_BY, _CLAIMED_AT, _HEARTBEAT_AT, _READY_AT = (
    JobRow.__slots__.index(name)
    for name in ("status", "epoch", "attempts", "claimed_by", "claimed_at", "heartbeat_at", "ready_at")
)
_SPEC, _METRICS, _LEARNED, _LAPSED, _HELD = (
    JobRow.__slots__.index(name) for name in ("spec", "metrics", "learned", "lapsed", "held")
)


def learned_of(raw: Mapping[str, Any]) -> Learned:
    return Learned(**{**raw, "failed_hosts": tuple(raw.get("failed_hosts", ()))})


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One try of a job by one host. `token` is None for a plain client, judged by host."""

    job_id: str
    epoch: int
    generation: int
    host: str
    token: str | None
    claim_request: str | None
    claimed_at: float
    ended_at: float | None
    outcome: AttemptOutcome | None
    fail_class: FailClass | None
    error: str | None
    exit_code: int | None
    duration_s: float | None
    peak_rss_mib: float | None
    cpu_s: float | None
    artifact_id: str | None
    dataset_id: str | None
    trainer_digest: str | None

    def public(self) -> dict[str, Any]:
        """Everything but what identifies the lease: tokens never appear in answers to others."""
        hidden = ("token", "claim_request", "job_id")
        return {key: getattr(self, key) for key in self.__slots__ if key not in hidden}


def attempt_row(row: sqlite3.Row) -> AttemptRow:
    """The row of a `SELECT *` from `attempt`, whose columns stand in the order of the fields."""
    return AttemptRow(*row)


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """What is written when an attempt ends."""

    outcome: AttemptOutcome
    fail_class: FailClass | None = None
    error: str | None = None
    exit_code: int | None = None
    duration_s: float | None = None
    peak_rss_mib: float | None = None
    cpu_s: float | None = None
    artifact_id: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event. True when it was accepted; else `http_status` and `reason` say why not."""

    ok: bool
    row: JobRow | None = None
    http_status: int = 200
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


def dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


_NOTHING = Learned()
_EMPTY = ("{}", dumps(asdict(_NOTHING)))
"""Learned nothing, as the schema's default and as this program write it."""
