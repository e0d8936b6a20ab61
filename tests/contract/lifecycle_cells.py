"""Every cell of (state x event x token) as data: what a request must do, whoever sends it, in every phase.

The tables say it in words, so that a reader can hold them against the design. Nothing here is computed by
the transition table that is under test. `test_lifecycle_cells.py` tries each cell on the queue and over HTTP.

A *history* brings one job into a phase by real events. A *requester* is who then sends the event: a host
and a token. What a cell may say:

| word | meaning |
|---|---|
| a phase | accepted: the job is in that phase, one audit row tells it, nothing else changes |
| `renewed` | accepted: the lease lives on in memory, the database is as it was |
| `same` | accepted as a repeat: answered as the first time, nothing changes |
| `taken` | an upload may come: nothing changes but the store and the list of uploads |
| `410`, `409` | refused, nothing changes at all |
| `nothing` | a claim or a sweep that finds nothing to do; nothing changes |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PHASES: Final = (
    "pending", "pending_lapsed", "claimed", "running", "completed", "failed", "failed_lapsed", "cancelled",
)  # fmt: skip

PATHS: Final[dict[str, str]] = {
    "pending": "x.claim_x.release",
    "pending_lapsed": "x.claim_lapse",
    "claimed": "x.claim",
    "running": "x.claim_x.heartbeat",
    "completed": "x.claim_x.complete",
    "failed": "x.claim_x.give-up",
    "failed_lapsed": "x.exhaust",
    "cancelled": "x.claim_cancel",
}
"""How a host x brings a pending job into each phase. `give-up`: fails with a bad configuration, which no
retry mends; `exhaust`: claims it and goes silent until the budget of losses is used up."""

HOLDER: Final = """
           pending pending_lapsed claimed   running   completed failed  failed_lapsed cancelled
heartbeat  410     running        running   renewed   410       410     running       410
complete   410     completed      completed completed same      410     completed     410
other      410     completed      completed completed 409       410     completed     410
upload     410     taken          taken     taken     taken     410     taken         410
fail       410     pending        pending   pending   410       same    pending       410
release    same    pending        pending   pending   410       410     pending       410
"""
"""The host and token of the job's last lease. `other` is a completion with another artifact. In the phases
that this lease itself led to, the request that ended it is a repeat."""

NOBODY: Final = """
           pending pending_lapsed claimed   running   completed failed  failed_lapsed cancelled
heartbeat  410     410            410       410       410       410     410           410
complete   410     410            410       410       410       410     410           410
other      410     410            410       410       410       410     410           410
upload     410     410            410       410       410       410     410           410
fail       410     410            410       410       410       410     410           410
release    410     410            410       410       410       410     410           410
"""
"""Whoever does not hold the job's current lease, and did not end a lease of it by this very request."""

ONCE_RELEASED: Final = NOBODY.replace(
    "release    410     410            410       410       410       410     410           410",
    "release    same    same           same      same      same      same    same          same",
)
ONCE_FAILED: Final = NOBODY.replace(
    "fail       410     410            410       410       410       410     410           410",
    "fail       same    same           same      same      same      same    same          same",
)
ONCE_COMPLETED: Final = """
           pending pending_lapsed claimed   running   completed failed  failed_lapsed cancelled
heartbeat  410     410            410       410       410       410     410           410
complete   same    same           same      same      same      same    same          same
other      409     409            409       409       409       409     409           409
upload     taken   taken          taken     taken     taken     taken   taken         taken
fail       410     410            410       410       410       410     410           410
release    410     410            410       410       410       410     410           410
"""

WITHOUT_A_LEASE: Final = """
              pending   pending_lapsed claimed        running        completed failed  failed_lapsed cancelled
claim         claimed   claimed        nothing        nothing        nothing   nothing nothing       nothing
claim_again   claimed   claimed        renewed        renewed        nothing   nothing nothing       nothing
expire        nothing   nothing        pending_lapsed pending_lapsed nothing   nothing nothing       nothing
cancel        cancelled cancelled      cancelled      cancelled      409       409     409           same
requeue       same      same           409            409            409       pending pending       pending
force         same      same           409            409            pending   pending pending       pending
"""
"""Events that show no token. `claim` is the last holder's with a request id of its own, `claim_again` with
the id of the claim that it already made, `force` a requeue with force."""


@dataclass(frozen=True, slots=True)
class Requester:
    """Who sends: `prefix` happens first, then `by` walks the path into the phase, then this host and token."""

    name: str
    table: str
    prefix: str = ""
    by: str = "a"
    host: str = "a"
    token: str = "last"
    """`last`: of the last lease; `first`: of the first lease; `wrong`: never given out; `none`: no header."""
    plain: bool = False
    """The leases were claimed by a client of the first kind, which gets no token and is judged by its host."""


REQUESTERS: Final = (
    Requester("the holder, right token", HOLDER),
    Requester("the holder's host, wrong token", NOBODY, token="wrong"),
    Requester("the holder's host, no token", NOBODY, token="none"),
    Requester("another host, right token", NOBODY, host="b"),
    Requester("another host, no token", NOBODY, host="b", token="none"),
    Requester("lapsed, then another host claimed", NOBODY, prefix="a.claim_lapse", by="b", token="first"),
    Requester("lapsed, then the same host claimed", NOBODY, prefix="a.claim_lapse", token="first"),
    Requester(
        "lapsed, cancelled, requeued, claimed by another host", NOBODY,
        prefix="a.claim_lapse_cancel_requeue", by="b", token="first",
    ),
    Requester("budget ran out, requeued, claimed again", NOBODY, prefix="a.exhaust_requeue", token="first"),
    Requester("an older attempt that was released", ONCE_RELEASED, prefix="a.claim_a.release", token="first"),
    Requester("an older attempt that failed", ONCE_FAILED, prefix="a.claim_a.fail", by="b", token="first"),
    Requester(
        "the generation before, completed", ONCE_COMPLETED, prefix="a.claim_a.complete_force", by="b", token="first",
    ),
    Requester("plain client, its host", HOLDER, token="none", plain=True),
    Requester("plain client, its host, with a token", NOBODY, token="wrong", plain=True),
    Requester("plain client, another host", NOBODY, host="b", token="none", plain=True),
    Requester(
        "plain client, lapsed, then another host claimed", NOBODY, prefix="a.claim_lapse", by="b", token="none",
        plain=True,
    ),
)  # fmt: skip
OPERATOR: Final = Requester("no lease needed", WITHOUT_A_LEASE)

BETWEEN: Final = """
history                                      lease phase          heartbeat complete  upload fail    release
a.claim_lapse                                last  pending_lapsed running   completed taken  pending pending
a.claim_a.heartbeat_lapse                    last  pending_lapsed running   completed taken  pending pending
a.claim_lapse_requeue                        last  pending_lapsed running   completed taken  pending pending
a.claim_lapse_a.heartbeat                    last  running        renewed   completed taken  pending pending
a.claim_lapse_a.heartbeat_lapse              last  pending_lapsed running   completed taken  pending pending
a.claim_lapse_restart                        last  pending_lapsed running   completed taken  pending pending
a.claim_lapse_b.claim                        first claimed        410       410       410    410     410
a.claim_lapse_b.claim_b.heartbeat            first running        410       410       410    410     410
a.claim_lapse_b.claim_restart                first claimed        410       410       410    410     410
a.claim_lapse_b.claim_lapse                  first pending_lapsed 410       410       410    410     410
a.claim_lapse_b.claim_b.release              first pending        410       410       410    410     410
a.claim_lapse_b.claim_b.complete             first completed      410       410       410    410     410
a.claim_lapse_a.claim                        first claimed        410       410       410    410     410
a.claim_lapse_a.release                      last  pending        410       410       410    410     same
a.claim_lapse_a.fail                         last  pending        410       410       410    same    410
a.claim_lapse_cancel                         last  cancelled      410       410       410    410     410
a.claim_lapse_cancel_requeue                 last  pending        410       410       410    410     410
a.claim_lapse_cancel_requeue_b.claim         first claimed        410       410       410    410     410
a.exhaust                                    last  failed_lapsed  running   completed taken  pending pending
a.exhaust_restart                            last  failed_lapsed  running   completed taken  pending pending
a.exhaust_requeue                            last  pending        410       410       410    410     410
a.exhaust_requeue_b.claim                    last  claimed        410       410       410    410     410
a.exhaust_a.heartbeat                        last  running        renewed   completed taken  pending pending
a.exhaust_a.heartbeat_lapse                  last  failed_lapsed  running   completed taken  pending pending
a.exhaust_a.heartbeat_cancel                 last  cancelled      410       410       410    410     410
a.claim_a.fail_a.claim_a.fail_a.claim        last  claimed        running   completed taken  failed  pending
a.claim_a.fail_a.claim_a.fail_a.claim_lapse  last  pending_lapsed running   completed taken  failed  pending
a.claim_a.heartbeat_hold                     last  running        renewed   completed taken  pending pending
a.claim_hold_lapse                           last  pending_lapsed running   completed taken  pending pending
a.claim_restart                              last  claimed        running   completed taken  pending pending
a.claim_a.heartbeat_restart                  last  running        renewed   completed taken  pending pending
a.claim-without-upload                       last  claimed        running   409       taken  pending pending
"""
"""What may happen between a lease's start, or its lapse, and the return of host `a`: with and without a claim in
between, an operator's verb in between, budgets that ran out meanwhile. `lease`: which of a's leases it shows.
`hold`: the job leaves the manifest; `restart`: the receiver starts anew; `claim-without-upload`: the artifact was
never stored for this attempt (all other claims here have it stored)."""


def read(table: str) -> dict[str, dict[str, str]]:
    """A table above as event -> phase -> word."""
    header, *rows = [line.split() for line in table.strip().splitlines()]
    return {event: dict(zip(header, words, strict=True)) for event, *words in rows}


@dataclass(frozen=True, slots=True)
class Cell:
    """One request after one history, and the word that stands for what must come of it."""

    history: str
    phase: str
    event: str
    wanted: str
    host: str = "a"
    token: str = "last"
    plain: bool = False
    who: str = ""

    def __str__(self) -> str:
        return f"{self.event}-{self.phase}-{self.who or self.history}".replace(" ", "_")


def cells() -> list[Cell]:
    """Every cell of every table."""
    found = []
    for requester in (*REQUESTERS, OPERATOR):
        for event, row in read(requester.table).items():
            for phase, wanted in row.items():
                path = PATHS[phase].replace("x.", f"{requester.by}.")
                history = "_".join(filter(None, (requester.prefix, path)))
                found.append(
                    Cell(
                        history, phase, event, wanted, requester.host, requester.token, requester.plain,
                        requester.name,
                    )
                )  # fmt: skip
    header, *rows = [line.split() for line in BETWEEN.strip().splitlines()]
    for history, lease, phase, *words in rows:
        found += [
            Cell(history, phase, event, wanted, token=lease)
            for event, wanted in zip(header[3:], words, strict=True)
        ]
    return found


MAY_CHANGE: Final[dict[str, frozenset[str]]] = {
    "claim": frozenset({"claimed_by", "claimed_at", "heartbeat_at", "epoch", "attempts"}),
    "heartbeat": frozenset({"heartbeat_at", "claimed_by", "host_losses", "last_error"}),
    "complete": frozenset(
        {"claimed_by", "completed_at", "artifact_id", "metrics", "dataset_id", "trainer_digest", "last_error"}
    ),
    "fail": frozenset({"claimed_by", "last_error", "program_failures", "host_losses", "learned", "class_id"}),
    "release": frozenset({"claimed_by", "host_losses", "learned", "class_id"}),
    "expire": frozenset({"claimed_by", "heartbeat_at", "host_losses", "last_error", "learned", "class_id"}),
    "cancel": frozenset(),
    "requeue": frozenset(
        {
            "claimed_by", "claimed_at", "host_losses", "program_failures", "last_error", "learned", "class_id",
            "generation", "attempts", "artifact_id", "completed_at", "metrics",
        }
    ),
}  # fmt: skip
"""Columns of the job's row that an accepted event may change, besides those of its phase."""
OF_THE_PHASE: Final = frozenset({"status", "lapsed", "ready_at"})
