"""What a job's page says in words: the next action, and what was asked for against what was used. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]


def next_step(job: Json, why: Json | None) -> dict[str, str | None]:
    """`text` for a person and the `command` to type, None where there is nothing to do."""
    name, status = job["name"], job["status"]
    if job.get("paused_reason") and status == "pending":
        return _step(f"It is paused: {job['paused_reason']}", f"cis490-jobs resume {name}")
    if status == "pending":
        return _waiting(job, why)
    if status in ("claimed", "running"):
        return _step("It is being trained; this page follows it.", f"cis490-jobs logs {name} -f")
    if status == "failed":
        return _step(
            "It has failed for good. Read the error below, mend the cause, then put it back in the queue.",
            f"cis490-jobs requeue {name}",
        )
    if status == "cancelled":
        return _step(
            "It was cancelled. Putting it back lets it wait for a host again.", f"cis490-jobs requeue {name}"
        )
    if job.get("kind") == "shadow":
        return _step(
            "The two results are ready to be compared.",
            f"cis490-jobs verify {str(job.get('of_job_id'))[:12]}",
        )
    if job.get("stale"):
        return _step(
            f"The result is not what would be trained now: {', '.join(job['stale'])}.",
            f"cis490-jobs requeue --force {name}",
        )
    return _step("Its artifact is ready to be fetched.", f"cis490-jobs pull {name}")


def _waiting(job: Json, why: Json | None) -> dict[str, str | None]:
    if job.get("lapsed"):
        return _step(
            f"Its lease ran out: {job.get('claimed_by') or 'its host'} stopped answering. Another host may take it; "
            "if that one comes back first, its work counts.",
            None,
        )
    if why is None:
        return _step("It waits for a host.", f"cis490-jobs why {job['name']}")
    suggestions = why.get("suggestions") or []
    if why.get("claimable") or not suggestions:
        return _step(why.get("summary") or "It waits for a host.", None)
    first = suggestions[0]
    starts = f", then it starts {first['starts']}" if first.get("starts") else ""
    text = f"{why.get('summary') or ''} The smallest change that would let it run: {first['text']}{starts}."
    return _step(text, first.get("command"))


def _step(text: str, command: str | None) -> dict[str, str | None]:
    return {"text": text.strip(), "command": command}


def used(job: Json, progress: Json | None) -> list[dict[str, Any]]:
    """Rows of `{"what", "unit", "asked", "used"}`: what the manifest asks for and the most that the attempt used; None
    is unknown or not asked for."""
    spec, peak = job["spec"], (progress or {}).get("peak") or {}
    attempt = job["attempts_log"][-1] if job["attempts_log"] else {}
    return [
        {"what": "VRAM", "unit": "GiB", "asked": spec.get("min_vram_gib") or None, "used": peak.get("job_vram_gib")},
        {"what": "RAM", "unit": "GiB", "asked": spec.get("min_ram_gib") or None, "used": peak.get("job_rss_gib")},
        {"what": "GPU", "unit": "%", "asked": None, "used": peak.get("gpu_util_percent")},
        {"what": "Time", "unit": "s", "asked": spec.get("timeout_s"), "used": _took(attempt)},
    ]  # fmt: skip


def _took(attempt: Json) -> float | None:
    if attempt.get("duration_s") is not None:
        return float(attempt["duration_s"])
    if attempt.get("ended_at") is not None and attempt.get("claimed_at") is not None:
        return float(attempt["ended_at"] - attempt["claimed_at"])
    return None
