"""What only the HTML of a job's page needs: its charts, and the table of `why`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from training.dashboard import artifact_tables, words
from training.dashboard.charts import Mark, Series, Side, Span, Words, confusion, figure, lines, timeline
from training.dashboard.log_text import clean
from training.dashboard.pages import Ask

Json = Mapping[str, Any]
VALIDATION = ("validation_loss", "val_loss")
SHARES = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
"""Where the tables of ROC and PR curves read off the lines."""
MOST_LINES = 6


def view(data: Json, ask: Ask) -> Mapping[str, Any]:
    tables = (data.get("artifact") or {}).get("tables") or {}
    name = data["job"]["name"]
    return {
        "loss": loss(data),
        "attempts": attempts(data["job"], ask.now_s),
        "roc": roc({name: tables["roc"]}) if "roc" in tables else None,
        "pr": pr({name: tables["pr"]}) if "pr" in tables else None,
        "confusion": windows("confusion", name, tables["confusion"]) if "confusion" in tables else None,
        "calibration": reliability("calibration", name, tables["calibration"])
        if "calibration" in tables
        else None,
        "error": clean(str(data["job"].get("last_error") or "")),
        "columns": columns((data.get("eligibility") or {}).get("hosts") or []),
    }


# -- how it learns


def loss(data: Json) -> Markup:
    """Training and validation loss by step, with another attempt's or job's in the background where that is asked."""
    points = (data.get("progress") or {}).get("points") or []
    other = data.get("other") or {}
    unit = next((point["unit"] for point in reversed(points) if point.get("unit")), "step")
    series = _losses(points, "", 1)
    if other.get("points"):
        series += _losses(other["points"], f"{other['label']}: ", 3, _short(other["label"]))
    log = data["asked"]["scale"] == "log"
    job = data["job"]
    last = next((point for point in reversed(points) if point.get("loss") is not None), None)
    said = "No loss was reported yet."
    if last is not None:
        said = f"After {unit} {last['step']} the training loss is {figure(last['loss'], 4)}."
        best = _best(points)
        said += (
            "" if best is None else f" Best validation loss {figure(best[1], 4)} at {unit} {figure(best[0])}."
        )
    told = Words(
        "loss", f"Loss of {job['name']}", f"Loss by {unit}. {said}", note=said,
        empty=_why_no_loss(job, points),
    )  # fmt: skip
    return lines(told, series, Side(unit, text=figure), Side("loss", log=log))


def _why_no_loss(job: Json, points: Sequence[Json]) -> str:
    if points:
        return "Its trainer reports steps but no loss that could be drawn."
    if job["status"] in ("claimed", "running"):
        return "No step has been reported yet. The curve appears with the first one, without a reload."
    if job["status"] == "pending" and not job["attempts_log"]:
        return "It was not claimed yet. The curve is drawn while it trains."
    return "No progress points of this attempt were kept."


def _short(label: str) -> str:
    """At the end of a line there is room for a number, not for a name."""
    word, _, number = label.partition(" ")
    return f"#{number}" if word == "attempt" and len(number) < 4 else "other"


def _losses(points: Sequence[Json], prefix: str, style: int, short: str = "") -> list[Series]:
    train = [(float(point["step"]), point.get("loss")) for point in points if point.get("step") is not None]
    held = [
        (float(point["step"]), value)
        for point in points
        if point.get("step") is not None and (value := _validation(point)) is not None
    ]
    out = [Series(f"{prefix}training", train, short or "train", style)]
    if held:
        out.append(Series(f"{prefix}validation", held, f"{short} val".strip(), style + 1))
    return out


def _validation(point: Json) -> float | None:
    metric = point.get("metric") or {}
    return next((metric[key] for key in VALIDATION if isinstance(metric.get(key), int | float)), None)


def _best(points: Sequence[Json]) -> tuple[float, float] | None:
    known = [(value, float(point["step"])) for point in points if (value := _validation(point)) is not None]
    if not known:
        return None
    value, step = min(known)
    return step, value


# -- when it was tried


def attempts(job: Json, now_s: float) -> Markup | None:
    """The attempts over time, by host and outcome; None without any."""
    spans = [_span(one, now_s) for one in job["attempts_log"]]
    if not spans:
        return None
    said = (
        f"{words.plural(len(spans), 'attempt')} on {', '.join(dict.fromkeys(span.lane for span in spans))}."
    )
    dropped = job.get("n_attempts", len(spans)) - len(spans)
    told = Words(
        "attempts-over-time", "Attempts over time", f"{said} The last: {spans[-1].kind} on {spans[-1].lane}.",
        f"{words.utc(spans[0].from_at)} to {words.utc(max(span.to_at for span in spans))}."
        + (f" {words.plural(dropped, 'earlier one is', 'earlier ones are')} not shown." if dropped else ""),
    )  # fmt: skip
    return timeline(told, spans, ["attempt", "host", "from", "took", "outcome"])


def _span(attempt: Json, now_s: float) -> Span:
    outcome, from_at = attempt["outcome"] or "running", attempt["claimed_at"]
    to_at = max(from_at, now_s if attempt["ended_at"] is None else attempt["ended_at"])
    mark = words.mark(outcome)
    return Span(
        attempt["host"], from_at, to_at, f"{mark}{attempt['epoch']}", outcome, mark, words.tone(outcome),
        [str(attempt["epoch"]), attempt["host"], words.utc(from_at), words.span(to_at - from_at), f"{mark} {outcome}"],
    )  # fmt: skip


# -- what came out


def roc(by_name: Mapping[str, Json]) -> Markup:
    """True over false positive rate, a line for each model."""
    series = [
        Series(name, [(x, y) for x, y in table["points"]], style=style, upright=True)
        for style, (name, table) in zip(range(1, MOST_LINES + 1), by_name.items(), strict=False)
    ]
    told = Words(
        "roc",
        "ROC",
        f"True positive rate over false positive rate of the test windows: {', '.join(by_name)}.",
    )
    return lines(
        told, [*series, Series("a score that knows nothing", [(0, 0), (1, 1)], style=0)],
        Side("false positive rate", 0, 1, at=FIFTHS), Side("true positive rate", 0, 1, at=FIFTHS),
        marks=_thresholds(by_name), letters=len(series) > 1, rows_at=SHARES, square=True,
    )  # fmt: skip


def pr(by_name: Mapping[str, Json]) -> Markup:
    """Precision over recall, a line for each model."""
    series = [
        Series(name, artifact_tables.stairs(table["points"]), style=style, upright=True)
        for style, (name, table) in zip(range(1, MOST_LINES + 1), by_name.items(), strict=False)
    ]
    told = Words(
        "pr", "Precision and recall", f"Precision over recall of the test windows: {', '.join(by_name)}."
    )
    return lines(
        told, series, Side("recall", 0, 1, at=FIFTHS), Side("precision", 0, 1, at=FIFTHS),
        marks=_thresholds(by_name), letters=len(series) > 1, rows_at=SHARES, square=True,
    )  # fmt: skip


FIFTHS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def _thresholds(by_name: Mapping[str, Json]) -> list[Mark]:
    """A mark on each line; one entry of the legend stands for all of them."""
    label = "the threshold in use" if len(by_name) == 1 else "the threshold in use, in the colour of its line"
    found: list[Mark] = []
    for style, table in zip(range(1, MOST_LINES + 1), by_name.values(), strict=False):
        if table.get("at_threshold"):
            x, y = table["at_threshold"]
            found.append(Mark("" if found else label, x, y, style))
    return found


def windows(name: str, label: str, cells: Sequence[Json]) -> Markup:
    """The confusion grid."""
    said = "; ".join(f"{one['label']}, {one['outcome']}: {one['windows']}" for one in cells)
    told = Words(
        name, f"Windows with and without alarm: {label}", f"Test windows by label and alarm. {said}."
    )
    return confusion(told, artifact_tables.grid(cells), "at the threshold that validation fixed")


def reliability(name: str, label: str, found: Mapping[str, Sequence[Sequence[float]]]) -> Markup:
    """Share of suspicious windows over the mean score of each bin."""
    shorts = {"as given": "given", "with temperature": "temp."}
    series = [
        Series(f"scores {kind}", sorted((x, y) for x, y in points), shorts.get(kind, kind), style, dots=True)
        for style, (kind, points) in enumerate(found.items(), start=1)
    ]
    told = Words(
        name, f"Calibration: {label}",
        "Share of suspicious windows over the mean score of each bin; on the dotted line a score of 0.7 is right seven "
        "times in ten.",
        "Bins with few windows scatter; plots/calibration.csv says how many each holds.",
    )  # fmt: skip
    return lines(
        told, [Series("perfectly calibrated", [(0, 0), (1, 1)], style=0), *series],
        Side("mean score of the bin", 0, 1, at=FIFTHS), Side("share of suspicious windows", 0, 1, at=FIFTHS),
        square=True,
    )  # fmt: skip


# -- why


def columns(hosts: Sequence[Json]) -> list[str]:
    """The constraints of the table of `why`: those that keep some host from the job; none is left out that matters."""
    seen: dict[str, bool] = {}
    for host in hosts:
        for check in host["checks"]:
            seen[check["constraint"]] = seen.get(check["constraint"], False) or not check["ok"]
    return [name for name, fails in seen.items() if fails]
