"""Fleet: the sentence, what needs a person, hosts, what runs, what waits in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from training.dashboard import words
from training.dashboard.pages import Ask, Page
from training.dashboard.strip import strip

MOST_PROBLEMS = 20
MOST_STUCK = 20


async def fleet(ask: Ask) -> dict[str, Any]:
    overview, history = await asyncio.gather(ask.get("/v1/overview"), ask.maybe("/v1/hosts/history"))
    return {**overview, "history": history}


def view(data: Mapping[str, Any], ask: Ask) -> Mapping[str, Any]:
    history = data.get("history") or {}
    step_s = history.get("step_s") or 300
    strips = {
        host: strip(letters, step_s, words.span) for host, letters in (history.get("hosts") or {}).items()
    }
    return {
        "strips": strips, "gpus": {row["host"]: gpus(row) for row in data["hosts"]}, "hours": _hours(history),
        "most_problems": MOST_PROBLEMS, "most_stuck": MOST_STUCK,
    }  # fmt: skip


def gpus(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A host's GPUs: what they are, from its capability, and what they do, from its last usage."""
    known = (row.get("capability") or {}).get("gpus") or []
    used = (row.get("usage") or {}).get("gpus") or []
    out = []
    for at in range(max(len(known), len(used))):
        one: Mapping[str, Any] = known[at] if at < len(known) else {}
        now: Mapping[str, Any] = used[at] if at < len(used) else {}
        total, taken = one.get("vram_gib"), now.get("vram_used_gib")
        share = None if taken is None or not total else max(0.0, min(1.0, taken / total))
        out.append({
            "name": one.get("name"), "util_percent": now.get("util_percent"), "temperature_c": now.get("temperature_c"),
            "vram_gib": total, "vram_used_gib": taken, "vram_share": share,
        })  # fmt: skip
    return out


def _hours(history: Mapping[str, Any]) -> float:
    longest = max(map(len, (history.get("hosts") or {"": ""}).values()), default=0)
    return longest * float(history.get("step_s") or 300) / 3600


PAGES = (Page("/", "fleet.html", fleet, view),)
