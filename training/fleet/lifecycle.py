"""States, events and ONE transition table. Pure.

A job's *phase* is its public status plus whether its last lease has lapsed: a lapsed lease has run
out, but its holder may still come back as long as nobody else was given the job. Everything that may
happen to a job is a cell of `TABLE`; what is not in the table is refused. The state diagram in the
documentation, the CHECK constraint of the database and the tests are generated from here.

A worker's event first needs *standing* (`Standing`): only the holder of the job's current lease may
move it. An ended lease gets 410 with the reason, except that a replay of the very request which ended
it gets its old answer again (a lost answer must not make a worker throw a result away).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from training.fleet.types import STATUSES, Status

Phase = Literal[
    "pending", "pending_lapsed", "claimed", "running", "completed", "failed", "failed_lapsed", "cancelled"
]
PHASES: tuple[Phase, ...] = get_args(Phase)

Event = Literal["claim", "heartbeat", "complete", "fail", "release", "expire", "cancel", "requeue"]
EVENTS: tuple[Event, ...] = get_args(Event)
LEASE_EVENTS: frozenset[Event] = frozenset({"heartbeat", "complete", "fail", "release"})
OPERATOR_EVENTS: frozenset[Event] = frozenset({"cancel", "requeue"})

Standing = Literal["holder", "ended", "stranger"]
"""`holder`: of the current lease, live or lapsed. `ended`: held this job once. `stranger`: never did."""

AttemptOutcome = Literal["lapsed", "completed", "failed", "released", "cancelled", "superseded"]
"""How an attempt ended; None while it is live. `lapsed` may still turn into any other."""


def phase_of(status: Status, lapsed: bool) -> Phase:
    """The row's phase; a lapse only means something while the job waits or has used up its budget."""
    if lapsed and status == "pending":
        return "pending_lapsed"
    if lapsed and status == "failed":
        return "failed_lapsed"
    return status


def status_of(phase: Phase) -> tuple[Status, bool]:
    """The two columns that store a phase: (status, lapsed)."""
    status = phase.removesuffix("_lapsed")
    found = next(known for known in STATUSES if known == status)
    return found, phase.endswith("_lapsed")


@dataclass(frozen=True, slots=True)
class Cell:
    """What an event does in a phase: the next phase, by budget or force where that matters."""

    to: Phase
    without_budget: Phase | None = None
    """Next phase when the event uses up the last of its budget."""
    needs_force: bool = False
    new_generation: bool = False


_BACK = Cell("pending", without_budget="failed")
_LAPSE = Cell("pending_lapsed", without_budget="failed_lapsed")

TABLE: dict[tuple[Phase, Event], Cell] = {
    ("pending", "claim"): Cell("claimed"),
    ("pending_lapsed", "claim"): Cell("claimed"),
    ("claimed", "heartbeat"): Cell("running"),
    ("running", "heartbeat"): Cell("running"),
    ("pending_lapsed", "heartbeat"): Cell("running"),
    ("failed_lapsed", "heartbeat"): Cell("running"),
    ("claimed", "complete"): Cell("completed"),
    ("running", "complete"): Cell("completed"),
    ("pending_lapsed", "complete"): Cell("completed"),
    ("failed_lapsed", "complete"): Cell("completed"),
    ("claimed", "fail"): _BACK,
    ("running", "fail"): _BACK,
    ("pending_lapsed", "fail"): _BACK,
    ("failed_lapsed", "fail"): _BACK,
    ("claimed", "release"): Cell("pending"),
    ("running", "release"): Cell("pending"),
    ("pending_lapsed", "release"): Cell("pending"),
    ("failed_lapsed", "release"): Cell("pending"),
    ("claimed", "expire"): _LAPSE,
    ("running", "expire"): _LAPSE,
    ("pending", "cancel"): Cell("cancelled"),
    ("pending_lapsed", "cancel"): Cell("cancelled"),
    ("claimed", "cancel"): Cell("cancelled"),
    ("running", "cancel"): Cell("cancelled"),
    ("cancelled", "cancel"): Cell("cancelled"),
    ("failed", "requeue"): Cell("pending"),
    ("failed_lapsed", "requeue"): Cell("pending"),
    ("cancelled", "requeue"): Cell("pending"),
    ("completed", "requeue"): Cell("pending", needs_force=True, new_generation=True),
    ("pending", "requeue"): Cell("pending"),
    ("pending_lapsed", "requeue"): Cell("pending_lapsed"),
}

REPLAYS: dict[Event, AttemptOutcome] = {"complete": "completed", "fail": "failed", "release": "released"}
"""An ended attempt's own closing request, sent again, is answered as it was the first time."""


@dataclass(frozen=True, slots=True)
class Move:
    """Allowed: the job goes from `source` to `target`."""

    source: Phase
    target: Phase
    new_generation: bool = False

    @property
    def changes(self) -> bool:
        """False for an idempotent repeat, which writes nothing and leaves no audit row."""
        return self.source != self.target


@dataclass(frozen=True, slots=True)
class Replay:
    """Allowed, and already done: answer as before, write nothing."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not allowed. `http_status` is 409 (illegal state) or 410 (the lease is gone)."""

    http_status: Literal[409, 410]
    reason: str


Decision = Move | Replay | Refusal

_GONE: dict[Phase, str] = {
    "pending": "the job is waiting again; this lease has ended",
    "pending_lapsed": "the job is waiting again; this lease has ended",
    "claimed": "the job was given to another attempt",
    "running": "the job was given to another attempt",
    "completed": "the job is completed",
    "failed": "the job has failed for good; this lease has ended",
    "failed_lapsed": "the job has failed for good; this lease has ended",
    "cancelled": "the job was cancelled",
}


def decide(
    phase: Phase,
    event: Event,
    *,
    standing: Standing = "stranger",
    outcome: AttemptOutcome | None = None,
    same_artifact: bool = True,
    budget_left: bool = True,
    force: bool = False,
) -> Decision:
    """May `event` happen in `phase`, and what follows.

    `standing` and `outcome` describe the requester's own attempt (lease events only), `same_artifact`
    whether a repeated completion names the artifact that was accepted, `budget_left` whether the job
    may be tried again after this event, `force` the operator's explicit wish to redo finished work.
    """
    if event in LEASE_EVENTS and standing != "holder":
        return _without_standing(phase, event, standing, outcome, same_artifact)
    cell = TABLE.get((phase, event))
    if cell is None:
        return _refused(phase, event)
    if cell.needs_force and not force:
        return Refusal(409, f"the job is {phase}; only an explicit force repeats it, as a new generation")
    target = cell.without_budget if cell.without_budget and not budget_left else cell.to
    return Move(phase, target, cell.new_generation)


def _without_standing(
    phase: Phase, event: Event, standing: Standing, outcome: AttemptOutcome | None, same_artifact: bool
) -> Decision:
    if standing == "ended" and REPLAYS.get(event) == outcome and outcome is not None:
        if event == "complete" and not same_artifact:
            return Refusal(409, "this attempt has already completed the job with another artifact")
        return Replay(phase)
    if standing == "stranger":
        return Refusal(410, f"this lease does not hold the job ({_GONE[phase]})")
    return Refusal(410, _GONE[phase])


def _refused(phase: Phase, event: Event) -> Refusal:
    status, _ = status_of(phase)
    if event in LEASE_EVENTS:
        return Refusal(410, _GONE[phase])
    if event == "requeue":
        return Refusal(409, f"the job is {status}: cancel it first, or wait until it ends")
    if event == "cancel":
        return Refusal(409, f"the job is already {status}; there is nothing to cancel")
    return Refusal(409, f"{event} is not possible while the job is {status}")


def mermaid() -> str:
    """The state diagram in Mermaid syntax; the page in `docs/` is generated from it and a test compares."""
    lines = ["stateDiagram-v2", "    [*] --> pending: reload"]
    merged: dict[tuple[Phase, Phase], list[str]] = {}
    for (source, event), cell in TABLE.items():
        label = f"{event} (force)" if cell.needs_force else event
        merged.setdefault((source, cell.to), []).append(label)
        if cell.without_budget:
            merged.setdefault((source, cell.without_budget), []).append(f"{event} (budget used up)")
    for (source, target), labels in merged.items():
        lines.append(f"    {source} --> {target}: {', '.join(labels)}")
    return "\n".join(lines) + "\n"


def table_markdown() -> str:
    """The table as Markdown, events down, phases across; generated into `docs/` like the diagram."""
    rows = ["| event | " + " | ".join(PHASES) + " |", "|---" * (len(PHASES) + 1) + "|"]
    for event in EVENTS:
        cells = []
        for phase in PHASES:
            cell = TABLE.get((phase, event))
            if cell is None:
                cells.append(
                    "410" if event in LEASE_EVENTS else ("-" if event in ("claim", "expire") else "409")
                )
                continue
            text = cell.to if cell.without_budget is None else f"{cell.to} / {cell.without_budget}"
            cells.append(text + (" (force)" if cell.needs_force else ""))
        rows.append(f"| {event} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"
