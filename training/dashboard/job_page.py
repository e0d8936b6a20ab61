"""One job: its state and what to do next, how it learns, what it prints, its attempts, why it waits, what came out."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from training.dashboard import actions, artifact_tables, job_charts, job_next
from training.dashboard.api import Refusal
from training.dashboard.log_text import clean
from training.dashboard.pages import Action, Ask, Page

LOG_BYTES = 24 * 1024
"""Of the log on the page; earlier parts are a link away."""
ACTIVE = ("claimed", "running")
MOST_HOSTS = 30
MOST_ATTEMPTS, MOST_AUDIT = 60, 100
MAX_WORD_CHARS = 200

VERIFY = actions.Verb(
    "job", "verify", "Verify {name}?",
    "It is trained once more by a verification run, on a host like the one that made its artifact, and the two results "
    "are compared. Nothing about the job itself changes.",
    "Start a verification run", "A verification run of {name} waits for a host.",
)  # fmt: skip


async def job(ask: Ask) -> dict[str, Any]:
    """See docs/dashboard.md for the keys."""
    named = await ask.get("/v1/resolve", job=ask.path["name"])
    job_id = named["job_id"]
    found = (await ask.get(f"/v1/job/{job_id}"))["job"]
    epochs = [attempt["epoch"] for attempt in found["attempts_log"]]
    found |= {
        "n_attempts": len(epochs), "attempts_log": found["attempts_log"][-MOST_ATTEMPTS:],
        "audit": found["audit"][-MOST_AUDIT:],
    }  # fmt: skip
    epoch = _number(ask.query.get("attempt"), epochs) or (epochs[-1] if epochs else None)
    progress, other, log, why, shadows, artifact = await asyncio.gather(
        _progress(ask, job_id, epoch),
        _other(ask, job_id, epochs, epoch),
        _log(ask, job_id, epoch),
        _why(ask, found),
        _shadows(ask, found),
        _artifact(ask, found),
    )
    return {
        "job": found,
        "next": job_next.next_step(found, why),
        "asked": {"attempt": epoch, "scale": _scale(ask), "with": ask.query.get("with", "")[:MAX_WORD_CHARS]},
        "progress": progress,
        "other": other,
        "log": log,
        "eligibility": why,
        "verifications": shadows,
        "artifact": artifact,
        "used": job_next.used(found, progress),
    }


_NO_LOG = {
    "text": "", "offset": 0, "next_offset": 0, "first_offset": 0, "epoch": None, "live": False, "is_end": True,
    "earlier": None, "later": None,
}  # fmt: skip


def _scale(ask: Ask) -> str:
    return "log" if ask.query.get("scale") == "log" else "linear"


def _number(text: str | None, known: Sequence[int]) -> int | None:
    """The number, where it is one of these."""
    return next((one for one in known if str(one) == text), None)


async def _progress(ask: Ask, job_id: str, epoch: int | None) -> dict[str, Any] | None:
    return None if epoch is None else await ask.maybe(f"/v1/job/{job_id}/progress", epoch=epoch)


async def _other(ask: Ask, job_id: str, epochs: Sequence[int], epoch: int | None) -> dict[str, Any] | None:
    """What `?with=` lays over the curve: an attempt of this job by its number, or another job's latest by its name.
    `{"error"}` where there is no such."""
    word = ask.query.get("with", "").strip()[:MAX_WORD_CHARS]
    if not word:
        return None
    number = _number(word, epochs)
    try:
        if number is not None:
            found = await ask.get(f"/v1/job/{job_id}/progress", epoch=number)
            return {"label": f"attempt {number}", "points": found["points"]}
        named = await ask.get("/v1/resolve", job=word)
        found = await ask.get(f"/v1/job/{named['job_id']}/progress")
        return {"label": named["name"], "points": found["points"]}
    except Refusal as refusal:
        return {"error": str(refusal)}


async def _log(ask: Ask, job_id: str, epoch: int | None) -> dict[str, Any] | None:
    """The end of the log, or with `?offset=` the part from there on; `text` is harmless, `earlier` and `later` are
    where the neighbouring parts begin."""
    if epoch is None:
        return None
    text = ask.query.get("offset", "")
    offset = int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None
    part = {"tail": LOG_BYTES} if offset is None else {"offset": offset, "limit": LOG_BYTES}
    try:
        found = await ask.get(f"/v1/job/{job_id}/log", epoch=epoch, **part)
    except Refusal as refusal:
        return {**_NO_LOG, "empty_reason": str(refusal)} if refusal.status == 403 else None
    begins, ends = found["offset"], found["next_offset"]
    return {
        **found,
        "text": clean(found["text"]),
        "is_end": offset is None,
        "earlier": max(found["first_offset"], begins - LOG_BYTES) if begins > found["first_offset"] else None,
        "later": ends if ends < found.get("end_offset", ends) else None,
    }


async def _why(ask: Ask, found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer of `why`, with its first hosts: those that could run it, then the closest."""
    if found["status"] in ("completed", *ACTIVE):
        return None
    why = await ask.maybe(f"/v1/job/{found['job_id']}/eligibility")
    if why is None:
        return None
    hosts = sorted(
        why["hosts"], key=lambda host: (sum(not check["ok"] for check in host["checks"]), host["host"])
    )
    return {**why, "hosts": hosts[:MOST_HOSTS], "n_hosts": len(hosts)}


async def _shadows(ask: Ask, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Verification runs of this job; for such a run: the job that it verifies."""
    if found["kind"] == "shadow":
        verified = await ask.maybe(f"/v1/job/{found['of_job_id']}")
        return [verified["job"]] if verified else []
    if not any(attempt["outcome"] == "completed" for attempt in found["attempts_log"]):
        return []
    listed = await ask.maybe("/v1/jobs", kind="shadow") or {"jobs": []}
    return [one for one in listed["jobs"] if one.get("of_job_id") == found["job_id"]]


async def _artifact(ask: Ask, found: Mapping[str, Any]) -> dict[str, Any] | None:
    """What came out: the tables of its charts; where it comes from stands on the models page."""
    artifact_id = found.get("artifact_id")
    if found["status"] != "completed" or not artifact_id:
        return None
    return {"artifact_id": artifact_id, **await tables_of(ask, artifact_id)}


async def tables_of(ask: Ask, artifact_id: str) -> dict[str, Any]:
    """`{"tables", "fault"}`: what the charts need of an artifact, or why there is nothing."""
    try:
        listed = await ask.get(f"/v1/model/{artifact_id}/files")
    except Refusal as refusal:
        return {"tables": {}, "fault": str(refusal)}
    names = [one["name"] for one in listed["files"] if one["name"] in artifact_tables.FILES]
    found = await asyncio.gather(
        *(ask.maybe(f"/v1/model/{artifact_id}/file/{name}", **{"as": "json"}) for name in names)
    )
    texts = {one["name"]: one["text"] for one in found if one is not None}
    return {"tables": artifact_tables.tables(texts), "fault": None}


PAGES = (Page("/job/{name}", "job.html", job, job_charts.view),)
ACTIONS = (Action(VERIFY.path, functools.partial(actions.act, VERIFY)),)
