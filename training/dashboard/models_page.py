"""What was trained, side by side: a leaderboard for each split and mode, ticked models compared, one model's origin."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from training.dashboard import job_charts
from training.dashboard.job_page import tables_of
from training.dashboard.log_text import clean
from training.dashboard.pages import Ask, Page

Json = Mapping[str, Any]
TICK = "tick-"
"""A ticked model is a key of the query, `tick-<first 12 digits of its job>`: a form makes that without JavaScript."""
MOST_TICKED = job_charts.MOST_LINES
MOST_ROWS = 50
"""Of a table, unless `?all=1`."""
CARD, CONFIG = "model_card.md", "config.json"
MOST_HYPER, MOST_VALUE_CHARS = 100, 200
"""Of one artifact's hyperparameters, and of one of them as text."""
MOST_FILES, MOST_CARD_CHARS = 200, 40_000
"""Of one artifact on its card. Artifacts come from workers: a page stays small whatever they hold."""


async def models(ask: Ask) -> dict[str, Any]:
    """See docs/dashboard.md for the keys."""
    groups = (await ask.get("/v1/models"))["groups"]
    every = [{**model, "group": number} for number, group in enumerate(groups) for model in group["models"]]
    place = {
        model["job_id"]: at
        for at, model in enumerate(model for board in boards(groups, True) for model in board["models"])
    }
    every.sort(key=lambda model: place[model["job_id"]])  # as they stand on the page
    wanted = [model for model in every if TICK + model["job_id"][:12] in ask.query]
    ticked, card = await asyncio.gather(
        asyncio.gather(*(_ticked(ask, model) for model in wanted[:MOST_TICKED])),
        _card(ask, ask.query.get("card", "")),
    )
    return {
        "boards": boards(groups, ask.query.get("all") == "1"),
        "n_models": len(every),
        "ticked": list(ticked),
        "n_ticked": len(wanted),
        "comparable": len({model["group"] for model in wanted}) <= 1,
        "metrics_diff": metrics_diff(ticked),
        "hyper_diff": hyper_diff(ticked),
        "card": card,
    }


def boards(groups: Sequence[Json], all_rows: bool) -> list[dict[str, Any]]:
    """A table for each group and mode, best first; leaky groups last, as the interface orders them. Pure."""
    out = []
    for group in groups:
        for mode in sorted(
            {model["mode"] for model in group["models"]}, key=lambda word: (word != "realistic", word)
        ):
            found = [model for model in group["models"] if model["mode"] == mode]
            out.append(
                {
                    **{key: group[key] for key in ("split_recipe", "leaky", "train_hosts", "dataset_id")},
                    "mode": mode,
                    "models": found if all_rows else found[:MOST_ROWS],
                    "n_models": len(found),
                }
            )
    return out


async def _ticked(ask: Ask, model: Json) -> dict[str, Any]:
    """The model with the tables of its charts and the hyperparameters it was really trained with."""
    tables, config = await asyncio.gather(
        tables_of(ask, model["artifact_id"]),
        ask.maybe(f"/v1/model/{model['artifact_id']}/file/{CONFIG}", **{"as": "json"}),
    )
    return {**model, **tables, "hyper_used": hyper_of(config) or model.get("hyper") or {}}


def hyper_of(config: Json | None) -> dict[str, Any]:
    """The hyperparameters in the text of an artifact's configuration, defaults included; what is long is cut. Pure."""
    try:
        found = msgspec.json.decode((config or {}).get("text") or "{}")
        hyper = found.get("hyper") if isinstance(found, dict) else None
        named = hyper if isinstance(hyper, dict) else {}
        return {key[:MOST_VALUE_CHARS]: _short(named[key]) for key in list(named)[:MOST_HYPER]}
    except (msgspec.DecodeError, RecursionError):
        return {}


def _short(value: Any) -> Any:
    """The value, or the beginning of its JSON where that is long."""
    text = msgspec.json.encode(value).decode()
    return value if len(text) <= MOST_VALUE_CHARS else f"{text[:MOST_VALUE_CHARS]}… ({len(text)} characters)"


def metrics_diff(ticked: Sequence[Json]) -> list[dict[str, Any]]:
    """A row for each figure that a ticked model has: its values, and how far each is from the first. Pure."""
    if len(ticked) < 2:
        return []
    keys = dict.fromkeys(key for model in ticked for key in model["metrics"] if not key.endswith("_ci95"))
    rows = []
    for key in keys:
        values = [_number(model["metrics"].get(key)) for model in ticked]
        intervals = [model["metrics"].get(f"{key}_ci95") for model in ticked]
        first = values[0]
        off = [None if first is None or value is None else value - first for value in values]
        rows.append({"key": key, "values": values, "intervals": intervals, "off": off})
    return rows


def hyper_diff(ticked: Sequence[Json]) -> dict[str, Any]:
    """`{"rows": [{"key", "values", "differs"}], "n_same"}`: what differs, an absent key as None. Pure."""
    if len(ticked) < 2:
        return {"rows": [], "n_same": 0}
    used = [
        {"model": one["model"], "mode": one["mode"], "seed": one["seed"], **one["hyper_used"]}
        for one in ticked
    ]
    keys = dict.fromkeys(key for hyper in used for key in hyper)
    rows = [{"key": key, "values": [hyper.get(key) for hyper in used]} for key in keys]
    differing = [row for row in rows if any(value != row["values"][0] for value in row["values"])]
    return {"rows": differing, "n_same": len(rows) - len(differing)}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


async def _card(ask: Ask, artifact_id: str) -> dict[str, Any] | None:
    """One artifact: lineage, files and model card. None where none is asked for."""
    if not artifact_id:
        return None
    lineage = await ask.get(f"/v1/model/{artifact_id}/lineage")  # refuses what is no artifact, and says so
    files, text = await asyncio.gather(
        ask.maybe(f"/v1/model/{artifact_id}/files"),
        ask.maybe(f"/v1/model/{artifact_id}/file/{CARD}", **{"as": "json"}),
    )
    listed = files["files"] if files else []
    return {
        "artifact_id": artifact_id,
        "lineage": lineage,
        "files": listed[:MOST_FILES],
        "n_files": len(listed),
        "text": clean(text["text"][:MOST_CARD_CHARS]) if text else None,
        "is_cut": text is not None and len(text["text"]) > MOST_CARD_CHARS,
    }


def view(data: Json, ask: Ask) -> Mapping[str, Any]:
    by_name = _names(data["ticked"])
    curves = {
        kind: {name: model["tables"][kind] for name, model in by_name.items() if kind in model["tables"]}
        for kind in ("roc", "pr")
    }
    return {
        "roc": job_charts.roc(curves["roc"]) if curves["roc"] else None,
        "pr": job_charts.pr(curves["pr"]) if curves["pr"] else None,
        "grids": [
            job_charts.windows(f"confusion-{number}", name, model["tables"]["confusion"])
            for number, (name, model) in enumerate(by_name.items())
            if "confusion" in model["tables"]
        ],
        "calibrations": [
            job_charts.reliability(f"calibration-{number}", name, model["tables"]["calibration"])
            for number, (name, model) in enumerate(by_name.items())
            if "calibration" in model["tables"]
        ],
        "names": list(by_name),
        "tick": TICK,
        "ticks": {TICK + model["job_id"][:12] for model in data["ticked"]},
    }


def _names(ticked: Sequence[Json]) -> dict[str, Json]:
    """Models by a name that is theirs alone: two jobs may have one, when a manifest changed."""
    names = [model["name"] for model in ticked]
    return {
        model["name"]
        if names.count(model["name"]) == 1
        else f"{model['name']} ({model['job_id'][:6]})": model
        for model in ticked
    }


PAGES = (Page("/models", "models.html", models, view),)
