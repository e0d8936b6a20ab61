"""All jobs: filtered, sorted, a hundred a page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from training.dashboard.pages import Ask, Page

PER_PAGE = 100
MAX_QUERY_CHARS = 100
STATUSES = ("pending", "claimed", "running", "completed", "failed", "cancelled")
SORTS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "priority": lambda job: (-(job.get("priority") or 0)),
    "name": lambda job: job["name"],
    "status": lambda job: STATUSES.index(job["status"]),
    "model": lambda job: (job["model"], job["mode"]),
    "host": lambda job: job.get("claimed_by") or "\x7f",
    "attempts": lambda job: -job["attempts"],
    "changed": lambda job: -max((job.get(key) or 0.0) for key in ("claimed_at", "heartbeat_at", "completed_at")),
}  # fmt: skip
"""Word of `?sort=` -> what a job is sorted by; equal ones stay in the receiver's order, priority and then age."""


async def jobs(ask: Ask) -> dict[str, Any]:
    kind = "shadow" if ask.query.get("kind") == "shadow" else "job"
    found = (await ask.get("/v1/jobs", kind=kind))["jobs"]
    asked = {
        key: ask.query.get(key, "").strip()[:MAX_QUERY_CHARS]
        for key in ("status", "model", "mode", "q", "sort")
    }
    number = _page_number(ask.query.get("page", ""))
    return {**await asyncio.to_thread(chosen, found, asked, number), "kind": kind}


def chosen(found: list[dict[str, Any]], asked: Mapping[str, str], number: int) -> dict[str, Any]:
    """The page `number` (from 1) of the jobs that `asked` leaves, and what there is to choose from. Pure.

    An unknown status or sort is none: all jobs, by priority.
    """
    status = asked["status"] if asked["status"] in STATUSES else ""
    sort = asked["sort"] if asked["sort"] in SORTS else "priority"
    words = asked["q"].lower().split()
    kept = [
        job
        for job in found
        if (not asked["model"] or job["model"] == asked["model"])
        and (not asked["mode"] or job["mode"] == asked["mode"])
        and all(word in _text(job) for word in words)
    ]
    counts = {word: sum(job["status"] == word for job in kept) for word in STATUSES}
    kept = sorted((job for job in kept if status in {"", job["status"]}), key=SORTS[sort])
    pages = max(1, -(-len(kept) // PER_PAGE))
    number = min(number, pages)
    return {
        "jobs": kept[(number - 1) * PER_PAGE : number * PER_PAGE],
        "total": len(kept), "n_jobs": len(found), "page": number, "pages": pages, "per_page": PER_PAGE,
        "counts": counts, "asked": {**asked, "status": status, "sort": sort},
        "models": sorted({job["model"] for job in found}), "modes": sorted({job["mode"] for job in found}),
    }  # fmt: skip


def _text(job: Mapping[str, Any]) -> str:
    return " ".join(
        filter(None, (job["name"], job.get("claimed_by"), job.get("last_error"), job["job_id"]))
    ).lower()


def _page_number(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdecimal() and len(text) < 8 else 1


PAGES = (Page("/jobs", "jobs.html", jobs),)
