"""One host: what it is, what it may run, what it does, what became of its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from training.dashboard import charts, words
from training.dashboard.fleet_page import gpus
from training.dashboard.pages import Ask, Page
from training.dashboard.strip import STATES, spans, strip

LETTERS = {state: letter for letter, state in STATES.items()}
CAPABILITY = (
    ("os", "Operating system"), ("arch", "Processor architecture"), ("cores", "Cores"), ("ram_gib", "RAM, GiB"),
    ("has_cuda", "CUDA"), ("vram_gib", "VRAM of the largest GPU, GiB"), ("python_version", "Python"),
    ("torch_version", "torch"), ("models", "Models installed"), ("git_commit", "Commit"),
    ("trainer_digest", "Trainer"), ("hostname", "Its own name"),
)  # fmt: skip
MOST_SPANS = 60


async def host(ask: Ask) -> dict[str, Any]:
    name = ask.path["name"]
    found = await ask.get(f"/v1/host/{name}")
    history, may = await asyncio.gather(
        ask.maybe(f"/v1/host/{name}/history", hours=24), ask.maybe(f"/v1/host/{name}/eligibility")
    )
    return {"name": name, **found, "history": history, "eligibility": may}


def view(data: Mapping[str, Any], ask: Ask) -> Mapping[str, Any]:
    history = data.get("history") or {}
    points = history.get("points") or []
    letters = "".join(LETTERS.get(point.get("state") or "", ".") for point in points)
    step_s, from_at = history.get("step_s") or 300, history.get("from_at") or 0.0
    row = data.get("host") or {}
    known = row.get("capability") or {}
    in_force = row.get("effective") or {}
    return {
        "strip": strip(letters, step_s, words.span) if letters else None,
        "spans": spans(letters, step_s, from_at)[::-1][:MOST_SPANS],
        "pictures": pictures(data["name"], points, step_s),
        "gpus": gpus(row),
        "facts": [
            (text, known.get(key), in_force.get(key), in_force.get(key) != known.get(key))
            for key, text in CAPABILITY
            if known.get(key) is not None or in_force.get(key) is not None
        ],
        "policy": policy(data.get("policy") or {}),
    }


def policy(found: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """(key, value in words, line of the manifest or None) for each key that is set there."""
    lines, out = found.get("lines") or {}, []
    for key, value in found.items():
        if key in {"lines", "line", "name"} or (key not in lines and value in (None, [], {}, False)):
            continue
        out.append((key, words.plain(value), lines.get(key, found.get("line"))))
    return out


def pictures(host: str, points: Sequence[Mapping[str, Any]], step_s: float) -> list[Markup]:
    """How busy it was, and how full its memories: lines over the day; none where nothing was measured."""
    if not points:
        return []
    x = charts.time_side(points[0]["at"], points[-1]["at"] + step_s)
    hours = [at for at in x.at or () if points[0]["at"] <= at <= points[-1]["at"]]

    def drawn(key: str, title: str, label: str, high: float | None, *lines: tuple[str, str]) -> Markup | None:
        series = [
            charts.Series(name, [(point["at"], point.get(measure)) for point in points], name, style)
            for style, (measure, name) in enumerate(lines, 1)
        ]
        if not any(value is not None for one in series for _, value in one.points):
            return None
        words = charts.Words(key, title, f"{title} of {host} over the last 24 hours.")
        return charts.lines(words, series, x, charts.Side(label, 0.0, high), rows_at=hours)

    found = (
        drawn("busy", "How busy", "percent", 100.0, ("gpu_util_percent", "GPU"), ("cpu_percent", "CPU")),
        drawn("memory", "Memory in use", "GiB", None, ("vram_used_gib", "VRAM"), ("ram_used_gib", "RAM")),
    )
    return [one for one in found if one is not None]


PAGES = (Page("/host/{name}", "host.html", host, view),)
