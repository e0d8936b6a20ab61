"""One job, brought into a phase by real events, and everything that a request could have changed, to compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cis490.clock import ManualClock
from tests.contract.lifecycle_cells import MAY_CHANGE, OF_THE_PHASE, Cell
from tests.factories.fleet import ARTIFACT, OTHER_ARTIFACT, cpu_host
from training.fleet.queue import Claim, JobQueue
from training.fleet.rows import job_row

Evidence = dict[str, list[tuple[Any, ...]]]
"""Table -> its rows; and `leases`, what memory knows of each live lease."""


@dataclass
class Lab:
    """Drives one job through a history. `suffix` is added to host names, so that many cells share a queue."""

    queue: JobQueue
    clock: ManualClock
    job_id: str
    plain: bool = False
    suffix: str = ""
    artifacts: tuple[str, ...] = (ARTIFACT, OTHER_ARTIFACT)
    reopen: Callable[[], JobQueue] | None = None
    bystander: tuple[str, str] | None = None
    """(job id, host) of another job, which must never notice."""
    leases: list[tuple[str, str | None]] = field(default_factory=list)
    """(host, token) of each claim, in order."""

    def play(self, history: str) -> None:
        for step in history.split("_"):
            host, _, verb = step.rpartition(".")
            if host:
                self.worker_step(verb, host + self.suffix)
            else:
                self.other_step(verb)

    def worker_step(self, verb: str, host: str) -> None:
        job_id, token = self.job_id, next((t for h, t in reversed(self.leases) if h == host), None)
        match verb:
            case "claim":
                self.claim(host)
            case "claim-without-upload":
                self.claim(host, uploads=())
            case "exhaust":
                while self.phase != "failed_lapsed":
                    self.claim(host)
                    self.other_step("lapse")
            case "heartbeat":
                assert self.queue.heartbeat(job_id, host, token=token)
            case "complete":
                assert self.queue.complete(job_id, host, artifact_id=self.artifacts[0], token=token)
            case "fail":
                assert self.queue.fail(job_id, host, error="first", token=token)
            case "give-up":
                assert self.queue.fail(job_id, host, error="first", token=token, fail_class="bad_config")
            case "release":
                assert self.queue.release(job_id, host, token=token)
            case _:
                raise AssertionError(verb)

    def other_step(self, verb: str) -> None:
        match verb:
            case "lapse":
                self.queue.run_batch([self.lapse])
            case "cancel":
                assert self.queue.cancel(self.job_id)
            case "requeue":
                assert self.queue.requeue(self.job_id)
            case "force":
                assert self.queue.requeue(self.job_id, force=True)
            case "hold":
                self.queue.sync_from_manifest([])
            case "restart":
                assert self.reopen is not None
                self.queue.close()
                self.queue = self.reopen()
            case _:
                raise AssertionError(verb)

    def lapse(self) -> None:
        """In one transaction, so that a receiver's own reaper cannot take the jump for a stall in between."""
        self.let_a_lease_pass()
        self.queue.sweep_stale()

    def let_a_lease_pass(self) -> None:
        """Without a sign of the job's holder; the bystander goes on reporting."""
        self.clock.advance(self.queue.stale_after_s)
        if self.bystander is not None:
            assert self.queue.heartbeat(*self.bystander)

    def claim(self, host: str, *, uploads: tuple[str, ...] | None = None) -> Claim:
        request = f"request-{host}-{len(self.leases)}"
        found = self.queue.claim(host, cpu_host(), with_token=not self.plain, claim_request=request)
        assert found.row is not None, found.reason
        assert found.lease is not None
        assert found.row.job_id == self.job_id
        self.leases.append((host, found.lease.token))
        for artifact in self.artifacts if uploads is None else uploads:
            self.queue.record_upload(self.job_id, found.row.epoch, artifact, 10)
        return found

    def last_request(self, host: str) -> str:
        number = max(at for at, (holder, _) in enumerate(self.leases) if holder == host)
        return f"request-{host}-{number}"

    def token_for(self, cell: Cell) -> str | None:
        if cell.token in ("wrong", "none"):
            return "never-given-out" if cell.token == "wrong" else None
        mine = [token for host, token in self.leases if cell.who or host == cell.host + self.suffix]
        return mine[0 if cell.token == "first" else -1]

    @property
    def phase(self) -> str:
        row = self.queue.get(self.job_id)
        assert row is not None
        return row.phase

    def evidence(self) -> Evidence:
        """Every row of every table, and the live leases; the time of a host's last sign is left out."""
        with self.queue._lock:
            execute = self.queue._connection.execute
            names = [
                row[0] for row in execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
            ]
            found = {name: [tuple(row) for row in execute(f"SELECT * FROM {name}")] for name in names}
            found["worker"] = [row[:2] for row in found["worker"]]
            found["leases"] = [tuple(asdict(lease).items()) for lease in self.queue.leases.all()]
        return found

    def jobs(self) -> dict[str, dict[str, Any]]:
        """The rows of all jobs as the database has them."""
        with self.queue._lock:
            rows = self.queue._connection.execute("SELECT * FROM job").fetchall()
        return {row["job_id"]: job_row(row).columns() for row in rows}


def changed_tables(before: Evidence, after: Evidence) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def check_accepted(cell: Cell, lab: Lab, before: Evidence, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The job is where the table says; one audit row tells it; only what this event may change has changed."""
    after = lab.evidence()
    event = {"other": "complete", "force": "requeue", "claim_again": "claim"}.get(cell.event, cell.event)
    assert lab.phase == cell.wanted
    told = lab.queue.audit(lab.job_id)[-1]
    assert len(after["audit"]) == len(before["audit"]) + 1, "one audit row"
    assert (told["event"], told["from_phase"], told["to_phase"]) == (event, cell.phase, cell.wanted)
    assert changed_tables(before, after) <= {
        "job",
        "attempt",
        "audit",
        "leases",
        "requirement_class",
        "worker",
    }
    for job_id, row in lab.jobs().items():
        moved = {key for key, value in row.items() if value != rows[job_id][key]}
        allowed = MAY_CHANGE[event] | OF_THE_PHASE if job_id == lab.job_id else set()
        assert moved <= allowed, f"{event} changed {sorted(moved - allowed)} of {row['name']}"
    others = [lease for lease in after["leases"] if dict(lease)["job_id"] != lab.job_id]
    assert others == [lease for lease in before["leases"] if dict(lease)["job_id"] != lab.job_id]
    live = [dict(lease) for lease in after["leases"] if dict(lease)["job_id"] == lab.job_id]
    assert len(live) == (cell.wanted in ("claimed", "running")), "a live lease exactly while it is held"


def check_unchanged(cell: Cell, lab: Lab, before: Evidence) -> None:
    after = lab.evidence()
    allowed = {"renewed": {"leases"}, "taken": {"upload"}}.get(cell.wanted, set())
    assert changed_tables(before, after) <= allowed
    assert lab.phase == cell.phase
