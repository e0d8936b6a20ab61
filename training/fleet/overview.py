"""The fleet on one screen, as data: what `GET /v1/overview` answers. Pure: rows and times in, JSON out.

Nothing is judged here. Who may run what comes from `explain`, states from rows, and this puts a sentence, the
hosts and what needs a person together, each problem with the command to type next.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.fleet.tables import duration, gist
from training.fleet.types import STATUSES

ACTIVE = ("claimed", "running")
MOST_NAMED = 5
"""Names in one sentence; of the others only the number is told."""
RENEWAL_LATE_S = 10 * 86400.0
"""A certificate lasts 30 days and is due on day 10: with so little left it was not renewed for ten days."""
_DISK_NEXT = "df -h   (on the receiver's machine)"
_LOG_NEXT = "journalctl -u cis490-trainer-receiver -n 50   (on the receiver's machine)"
_TROUBLE = {
    "disk": ("disk_full", _DISK_NEXT),
    "writer": ("writer_trouble", _LOG_NEXT),
    "reaper": ("reaper_late", _LOG_NEXT),
}
"""Key of `GET /v1/health` -> code of the problem, and what to type next."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the receiver knows at one instant. Jobs and workers are the rows of `GET /v1/jobs` and `/v1/workers`."""

    at: float
    started_at: float
    jobs: Sequence[Mapping[str, Any]]
    """With `counts`: at least those that are claimed, running, failed, or have lost an attempt."""
    shadows: Sequence[Mapping[str, Any]]
    workers: Sequence[Mapping[str, Any]]
    manifest_hosts: Sequence[str] = ()
    """Every host that the manifest in force names."""
    name: str | None = None
    path: str | None = None
    digest: str | None = None
    n_manifest_jobs: int = 0
    stuck: Sequence[Mapping[str, Any]] = ()
    trouble: Mapping[str, str] = field(default_factory=dict)
    """What `GET /v1/health` complains about."""
    fleet_paused: str | None = None
    usage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Host -> what it uses now, as its worker reported it last."""
    estimates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Job id -> when it is expected to end, and the basis."""
    done_estimate: Mapping[str, Any] | None = None
    counts: Mapping[str, int] | None = None
    """Jobs by status; None: counted in `jobs`, which has all of them."""
    certificates: Mapping[str, float] = field(default_factory=dict)
    """Host -> when its certificate ends; only of hosts that have one."""
    n_waiting: int | None = None
    """Jobs that wait and stand in the manifest; None likewise."""


def overview(facts: Facts) -> dict[str, Any]:
    """The answer of `GET /v1/overview`."""
    counts = _counts(facts)
    hosts = _hosts(facts)
    running = [job for job in facts.jobs if job["status"] in ACTIVE]
    return {
        "name": facts.name,
        "manifest": {"digest": facts.digest, "path": facts.path, "n_jobs": facts.n_manifest_jobs},
        "at": facts.at,
        "started_at": facts.started_at,
        "sentence": sentence(counts, facts.fleet_paused, facts.done_estimate, facts.at),
        "counts": counts,
        "n_jobs": sum(counts.values()),
        "fleet_paused": facts.fleet_paused,
        "done_estimate": facts.done_estimate,
        "hosts": hosts,
        "running": [{**job, "estimate": facts.estimates.get(job["job_id"])} for job in running],
        "problems": problems(facts, hosts),
        "stuck": list(facts.stuck),
        "shadows": [one for one in facts.shadows if one["status"] in ("pending", *ACTIVE)],
    }


def _counts(facts: Facts) -> dict[str, int]:
    if facts.counts is not None:
        return {word: facts.counts.get(word, 0) for word in STATUSES}
    return {word: sum(job["status"] == word for job in facts.jobs) for word in STATUSES}


def sentence(
    counts: Mapping[str, int],
    fleet_paused: str | None = None,
    done: Mapping[str, Any] | None = None,
    now: float = 0.0,
) -> str:
    """`3 running, 7 pending, 1 failed, 3 done of 14 jobs; all done about 18:40 UTC (3 past attempts)`."""
    total = sum(counts.values())
    if not total:
        return "no jobs yet: the manifest names none, or it was not loaded"
    words = {"claimed": "starting", "completed": "done"}
    order = ("running", "claimed", "pending", "failed", "cancelled", "completed")
    parts = [f"{counts[word]} {words.get(word, word)}" for word in order if counts.get(word)]
    text = f"{', '.join(parts)} of {total} {'job' if total == 1 else 'jobs'}"
    if fleet_paused is not None:
        text += "; the fleet is paused"
    elif done is not None:
        text += f"; all done about {clock_text(done['at'], now)} ({done['basis']})"
    return text


def clock_text(at: float, now: float) -> str:
    """`18:40 UTC`, on another day than `now` `Nov 22, 18:40 UTC`: a wall time for a sentence."""
    found, today = (datetime.datetime.fromtimestamp(one, datetime.UTC) for one in (at, now))
    day = "" if found.date() == today.date() else f"{found:%b} {found.day}, "
    return f"{day}{found:%H:%M} UTC"


# -- hosts


def _hosts(facts: Facts) -> list[dict[str, Any]]:
    """Every host that has called, and after them those of the manifest that never did."""
    holding: dict[str, list[str]] = {}
    for job in (*facts.jobs, *facts.shadows):
        if job["status"] in ACTIVE and job["claimed_by"]:
            holding.setdefault(job["claimed_by"], []).append(job["name"])
    found = [
        {
            **worker,
            "state": host_state(worker),
            "jobs": holding.get(worker["host"], []),
            "usage": facts.usage.get(worker["host"]),
        }
        for worker in facts.workers
    ]
    called = {worker["host"] for worker in facts.workers}
    unseen = sorted(name for name in facts.manifest_hosts if name not in called)
    return found + [_unseen(name, holding.get(name, [])) for name in unseen]


def host_state(worker: Mapping[str, Any]) -> str:
    """One word for a host; those in capitals need a person."""
    if worker.get("drained_reason") is not None:
        return "draining" if worker.get("busy") else "drained"
    if not worker.get("live"):
        return "LOST"
    if worker.get("paused_reason") is not None:
        return "PAUSED"
    return "running" if worker.get("busy") else "idle"


def _unseen(name: str, jobs: list[str]) -> dict[str, Any]:
    return {
        "host": name, "capability": {}, "effective": {}, "last_seen_at": None, "live": False, "busy": 0, "slots": 0,
        "paused_reason": None, "drained_reason": None, "mismatches": [], "in_manifest": True, "eligible_jobs": 0,
        "state": "unseen", "jobs": jobs, "usage": None,
    }  # fmt: skip


# -- what needs a person


def problems(facts: Facts, hosts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What needs a person, errors first. Each is one sentence and the command to type next."""
    found = [_failed(job) for job in facts.jobs if job["status"] == "failed"]
    found += [problem for host in hosts if (problem := _of_host(host, facts.at)) is not None]
    if facts.fleet_paused is not None:
        found.append(
            _problem("warning", "fleet_paused", f"the fleet is paused: {facts.fleet_paused or 'no reason given'}",
                     "cis490-jobs resume")
        )  # fmt: skip
    for key, text in facts.trouble.items():
        code, command = _TROUBLE.get(key, ("trouble", _LOG_NEXT))
        found.append(_problem("error", code, text, command))
    found += [_troubled(job) for job in facts.jobs if _has_failed_before(job)]
    found += _certificates(facts)
    found += _idle(facts, hosts)
    rank = {"error": 0, "warning": 1}
    return sorted(found, key=lambda problem: rank[problem["severity"]])


def _problem(
    severity: str, code: str, text: str, command: str, *, job: str | None = None, host: str | None = None
) -> dict[str, Any]:
    return {"severity": severity, "code": code, "text": text, "next": command, "job": job, "host": host}


def word_for(job: Mapping[str, Any]) -> str:
    """The word that names this job in a command: its name, or its id once another job may have the name."""
    return str(job["job_id"])[:12] if job.get("held") else str(job["name"])


def _failed(job: Mapping[str, Any]) -> dict[str, Any]:
    word = word_for(job)
    text = (
        f"{word} failed after {_tries(job)}: {gist(str(job.get('last_error') or '')) or 'no error message'}"
    )
    return _problem("error", "job_failed", text, f"cis490-jobs show {word}", job=job["name"])


def _has_failed_before(job: Mapping[str, Any]) -> bool:
    losses = int(job.get("program_failures") or 0) + int(job.get("host_losses") or 0)
    return job["status"] in ("pending", *ACTIVE) and losses > 0 and bool(job.get("last_error"))


def _troubled(job: Mapping[str, Any]) -> dict[str, Any]:
    word = word_for(job)
    again = "waits for another try" if job["status"] == "pending" else "is being tried again"
    text = f"{word} {again} after {_tries(job)}: {gist(str(job['last_error']))}"
    return _problem("warning", "job_troubled", text, f"cis490-jobs show {word}", job=job["name"])


def _tries(job: Mapping[str, Any]) -> str:
    count = int(job.get("attempts") or 0)
    return f"{count} attempt" if count == 1 else f"{count} attempts"


def _of_host(host: Mapping[str, Any], at: float) -> dict[str, Any] | None:
    name, jobs = host["host"], host["jobs"]
    silent = host["state"] in ("LOST", "draining") and not host["live"]
    if silent and jobs:
        text = f"{name} does not answer {_silence(host, at)} and holds {_named(jobs)}"
        return _problem("error", "host_lost", text, f"cis490-jobs why --host {name}", host=name, job=jobs[0])
    if host["paused_reason"] is not None:
        text = f"{name} is paused and takes no job: {host['paused_reason']}"
        return _problem("warning", "host_paused", text, f"cis490-jobs why --host {name}", host=name)
    return None


def _certificates(facts: Facts) -> list[dict[str, Any]]:
    """Hosts of the manifest that should have renewed their certificate and did not."""
    found = []
    for name in facts.manifest_hosts:
        left_s = facts.certificates.get(name, math.inf) - facts.at
        if left_s > RENEWAL_LATE_S:
            continue
        when = f"ends in {duration(left_s)}" if left_s > 0 else f"ended {duration(-left_s)} ago"
        text = f"the certificate of {name} {when}, and its worker has not renewed it"
        command = "journalctl -u cis490-trainer-worker -n 50   (on that machine)"
        found.append(_problem("warning", "certificate_late", text, command, host=name))
    return found


def _silence(host: Mapping[str, Any], at: float) -> str:
    last = host["last_seen_at"]
    return "" if last is None else f"(last seen {duration(at - last)} ago)"


def _idle(facts: Facts, hosts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Hosts that would take a job and may run none of those that wait."""
    waiting = facts.n_waiting
    if waiting is None:
        waiting = sum(job["status"] == "pending" and not job.get("held") for job in facts.jobs)
    idle = [host["host"] for host in hosts if host["state"] == "idle" and not host["eligible_jobs"]]
    if not waiting or not idle or facts.fleet_paused is not None:
        return []
    jobs = (
        "1 job waits, and it may not run there"
        if waiting == 1
        else f"{waiting} jobs wait, and none may run there"
    )
    verb = "is" if len(idle) == 1 else "are"
    text = f"{_named(idle)} {verb} idle: {jobs}"
    only = idle[0] if len(idle) == 1 else None
    return [_problem("warning", "host_idle", text, f"cis490-jobs why --host {idle[0]}", host=only)]


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"
