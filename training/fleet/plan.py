"""What a reload would do, before it does it, and whether a plan still holds. Pure but for `put_in_force`.

    make     picture + manifest -> the plan: what `POST /v1/manifest/plan` answers, and what it is bound to
    moved    what is different now from when the plan was made, in words; nothing: it may be carried out

What becomes of each job is decided by `catalog.steps_of`, which a reload carries out. What is said about it stands
in `plan_changes` and `plan_warnings`.
"""

from __future__ import annotations

import hashlib
import time
from base64 import b32encode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from training.fleet import catalog
from training.fleet.plan_changes import differences, other_tables, told_host_by_host, told_of
from training.fleet.plan_fleet import Fleet, Picture, Standing, by_requirement, look
from training.fleet.plan_warnings import warnings
from training.fleet.rows import JobRow
from training.fleet.specs import Reference, rules_of
from training.fleet.types import HostSpec, JobSpec, Manifest

__all__ = ["Plan", "PlanRefused", "Plans", "Refusal", "look", "make", "moved", "put_in_force"]

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue
KEPT = 16
"""Plans that are remembered, so that a refusal can say what has moved."""
ID_CHARS = 8
MOST_SENTENCES = 10


@dataclass(frozen=True, slots=True)
class Bound:
    """What a plan is bound to: with any of it changed, a reload might do something else."""

    manifest_digest: str
    trainer_digest: str | None
    dataset: tuple[str, str] | None
    """Its id and its file."""
    in_force: str
    """A fingerprint of the manifest, hosts and rules in force."""
    jobs: Mapping[str, Standing]

    def plan_id(self) -> str:
        """The same for the same state, so that a plan made twice has one id."""
        jobs = sorted((key, *_values(standing)) for key, standing in self.jobs.items())
        text = repr((self.manifest_digest, self.trainer_digest, self.dataset, self.in_force, jobs))
        return b32encode(hashlib.sha256(text.encode()).digest()).decode()[:ID_CHARS]


@dataclass(slots=True)
class Plan:
    """One plan: its answer, and what it is bound to."""

    body: dict[str, Any]
    bound: Bound
    audit_seq: int
    applied: dict[str, int] = field(default_factory=dict)
    """What the reload answered that carried it out; empty until then."""

    @property
    def plan_id(self) -> str:
        return str(self.body["plan"])

    def was_applied(self, wanted: Manifest, trainer_digest: str | None, in_force: Manifest | None) -> bool:
        """Was it carried out, and is what it planned still in the file and in force?"""
        same = in_force is not None and in_force.digest == wanted.digest == self.bound.manifest_digest
        return bool(self.applied) and same and trainer_digest == self.bound.trainer_digest

    def does_the_same(self, other: Plan) -> bool:
        """Would a reload change the same things to the same values?"""
        return _deeds(self.body) == _deeds(other.body)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a plan is not carried out: the code of the first reason, a sentence for each, and the plan as it would be
    now (None: there never was one of that id)."""

    code: str
    sentences: tuple[str, ...]
    fresh: Plan | None
    does_the_same: bool = False
    """Would the fresh plan do what the refused one said?"""


class PlanRefused(Exception):
    """Nothing was changed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__("; ".join(refusal.sentences))
        self.refusal = refusal


class Plans:
    """The last plans by id. Used on the event loop's thread alone."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Plan] = OrderedDict()

    def keep(self, made: Plan) -> None:
        self._kept[made.plan_id] = made
        self._kept.move_to_end(made.plan_id)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def named(self, plan_id: str) -> Plan:
        """Raises PlanRefused for one that is not known here."""
        found = self._kept.get(plan_id.strip().upper())
        if found is None:
            text = (
                f'no plan "{plan_id[:40]}" is known here: the receiver remembers the last {KEPT}, until it is '
                "restarted; nothing was changed"
            )
            raise PlanRefused(Refusal(E_UNKNOWN, (text,), None))
        return found

    def __len__(self) -> int:
        return len(self._kept)


def _values(standing: Standing) -> tuple[object, ...]:
    return standing.status, standing.generation, standing.held, standing.epoch


def bound_to(picture: Picture, wanted: Manifest, trainer_digest: str | None) -> Bound:
    """What a plan for this manifest is bound to now."""
    policy = [(name, _policy_of(spec)) for name, spec in sorted(picture.hosts.items())]
    old = picture.in_force.digest if picture.in_force is not None else None  # with its other tables
    text = repr((policy, picture.policy, picture.reference, picture.rules.names_hosts, old))
    pin = wanted.dataset
    return Bound(
        manifest_digest=wanted.digest,
        trainer_digest=trainer_digest,
        dataset=None if pin is None else (pin.dataset_id, pin.path),
        in_force=hashlib.sha256(text.encode()).hexdigest(),
        jobs=picture.standing,
    )


def _policy_of(spec: HostSpec) -> tuple[object, ...]:
    return spec.allow_jobs, spec.deny_jobs, spec.capability, spec.force, spec.slots


def make(picture: Picture, wanted: Manifest, trainer_digest: str | None, *, preview: bool = False) -> Plan:
    """What a reload of `wanted` would do. `preview`: of a text that is not the receiver's own file, so that nobody
    can carry it out."""
    reference = Reference(wanted.dataset.dataset_id if wanted.dataset else None, trainer_digest)
    steps = catalog.steps_of(wanted.jobs, picture.known, reference)
    fleet = Fleet(picture, wanted, rules_of(wanted, trainer_digest))
    jobs = [told_of(step, fleet, reference) for step in steps if step.action != "keep"]
    waiting = by_requirement(steps, picture.requirements)
    hosts = told_host_by_host(picture, wanted, fleet, waiting)
    policy = differences(picture.policy, wanted.policy)
    other = other_tables(picture.in_force, wanted)
    before, after = picture.reference, reference
    dataset = _from_to(before.dataset_id, after.dataset_id)
    trainer = _from_to(before.trainer_digest, after.trainer_digest)
    moves = sum(step.action == "move" for step in steps)
    bound = bound_to(picture, wanted, trainer_digest)
    body: dict[str, Any] = {
        "plan": None if preview else bound.plan_id(),
        "ok": True,
        "changes": len(jobs)
        - moves
        + len(hosts)
        + len(policy)
        + len(other)
        + sum(map(bool, (dataset, trainer))),
        "manifest": {
            "from_digest": picture.in_force.digest if picture.in_force is not None else None,
            "to_digest": wanted.digest,
            "path": wanted.path,
            "n_jobs": len(wanted.jobs),
        },
        "jobs": jobs,
        "n_unchanged": sum(step.action == "keep" for step in steps),
        "n_moved": moves,
        "unchanged": [_unchanged(step.spec, step.row) for step in steps if step.action == "keep"],
        "hosts": hosts,
        "policy": policy,
        "other": other,
        "dataset": dataset,
        "trainer": trainer,
        "warnings": warnings(picture, wanted, fleet, steps, waiting, reference),
        "counts": catalog.counts_of(steps),
    }
    return Plan(body, bound, picture.audit_seq)


def _from_to(before: object, after: object) -> dict[str, Any] | None:
    return None if before == after else {"from": before, "to": after}


def _deeds(body: Mapping[str, Any]) -> object:
    """What a reload would change, without what it says about it."""
    jobs = [
        (job["action"], job["job_id"], job["old_job_id"], job["changed"])
        for job in body["jobs"]
        if job["action"] != "move"
    ]
    hosts = [(host["action"], host["name"], host["changed"]) for host in body["hosts"]]
    return jobs, hosts, body["policy"], body["other"], body["dataset"], body["trainer"], body["counts"]


def _unchanged(spec: JobSpec | None, row: JobRow | None) -> dict[str, Any]:
    assert spec is not None and row is not None
    return {"name": spec.name, "job_id": spec.job_id, "line": spec.line, "status": row.status}


# -- does it still hold?

E_UNKNOWN, E_QUEUE, E_FILE, E_TRAINER, E_POLICY = "E030", "E031", "E032", "E033", "E034"


def put_in_force(
    queue: JobQueue,
    wanted: Manifest,
    trainer_digest: str | None,
    made: Plan | None,
    in_force: Manifest | None,
    actor: str = "operator",
) -> dict[str, int] | Refusal:
    """Carry out the reload, if the plan still holds. Checked and done in one transaction, so that nothing can move
    in between."""
    with queue.atomic():
        if made is not None:
            picture = look(queue, wanted, in_force)
            now = bound_to(picture, wanted, trainer_digest)
            reasons = moved(made.bound, now, _happened(queue, made, now))
            if reasons:
                fresh = make(picture, wanted, trainer_digest)
                texts = tuple(text for _, text in reasons)
                return Refusal(reasons[0][0], texts, fresh, made.does_the_same(fresh))
        counts = queue.apply_manifest(wanted, trainer_digest=trainer_digest)
        changes = [f"{n} {word}" for word, n in counts.items() if n and word != "unchanged"]
        if changes or in_force is None or in_force.digest != wanted.digest:  # a repeat leaves no trace
            by = "" if actor == "operator" else f", by {actor}"
            queue.audit_host("manifest", "reload", "", (", ".join(changes) or "no job changed") + by)
        return counts


def moved(was: Bound, now: Bound, audit: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What is different now, a code and a sentence each; nothing: the plan holds. `audit` has the last event of
    each job that has moved. Pure."""
    reasons: list[tuple[str, str]] = []
    if was.manifest_digest != now.manifest_digest:
        text = f"the manifest file has changed ({was.manifest_digest[:12]} -> {now.manifest_digest[:12]})"
        reasons.append((E_FILE, text))
    elif was.dataset != now.dataset:
        reasons.append((E_FILE, "the pinned data set is another file"))
    if was.trainer_digest != now.trainer_digest:
        text = f"the receiver's checkout of the trainer has changed ({_pair(was, now)})"
        reasons.append((E_TRAINER, text))
    if was.in_force != now.in_force:
        reasons.append((E_POLICY, "another manifest has been put in force"))
    jobs = [
        _what_happened(now.jobs.get(key) or was.jobs[key], audit.get(key)) for key in changed_jobs(was, now)
    ]
    reasons += [(E_QUEUE, text) for text in jobs[:MOST_SENTENCES]]
    if len(jobs) > MOST_SENTENCES:
        reasons.append((E_QUEUE, f"and {len(jobs) - MOST_SENTENCES} more jobs moved"))
    return reasons


def _pair(was: Bound, now: Bound) -> str:
    return f"{(was.trainer_digest or '-')[:12]} -> {(now.trainer_digest or '-')[:12]}"


def changed_jobs(was: Bound, now: Bound) -> list[str]:
    """The ids of the jobs that do not stand where they stood."""
    keys = [*was.jobs, *(key for key in now.jobs if key not in was.jobs)]
    return [key for key in keys if _place(was.jobs.get(key)) != _place(now.jobs.get(key))]


def _place(standing: Standing | None) -> tuple[object, ...] | None:
    return None if standing is None else _values(standing)


_HAPPENED = {
    "claim": "was claimed by {who}",
    "heartbeat": "is running again on {who}, which was thought lost",
    "complete": "was completed by {who}",
    "fail": "failed on {who}",
    "release": "was given back by {who}",
    "expire": "was lost: its host stopped reporting",
    "cancel": "was cancelled",
    "requeue": "was requeued",
    "retrain": "was queued again by a reload",
    "reload": "was changed by a reload",
}


def _what_happened(standing: Standing, event: Mapping[str, Any] | None) -> str:
    if event is None:
        return f"{standing.name} is {standing.status} now"
    who = str(event["actor"]).removeprefix("host:")
    words = _HAPPENED.get(str(event["event"]), "moved ({event})").format(who=who, event=event["event"])
    at = time.strftime("%H:%M UTC", time.gmtime(event["at"]))
    return f"{standing.name} {words} at {at}"


def _happened(queue: JobQueue, made: Plan, now: Bound) -> dict[str, dict[str, Any]]:
    """The last event since the plan of each job that has moved; in the queue's transaction."""
    found = {}
    for job_id in changed_jobs(made.bound, now)[:MOST_SENTENCES]:
        row = queue.execute("audit_since", job_id=job_id, after=made.audit_seq).fetchone()
        if row is not None:
            found[job_id] = dict(row)
    return found
