"""The pictures of an artifact, each drawn from the CSV table that lies beside it."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from cis490.charts import Axis, Bar, Cell, Head, Line, Mark, bar_chart, grid_chart, line_chart
from training.trainer.curves import Table, tables
from training.trainer.metrics_scored import Scored
from training.trainer.options import LEAKY_RECIPES
from training.trainer.spec import Job
from training.trainer.split_keys import EpisodeKey

FOLDER = "plots"
NAMES = ("roc", "pr", "confusion", "calibration", "delay", "families")
_THRESHOLD = "the threshold that the validation side fixed"


def plots(
    job: Job, scored: Scored, threshold: float, temperature: float, keys: Sequence[EpisodeKey]
) -> Mapping[str, bytes]:
    """File name -> content: an SVG and its CSV for each picture of the test side."""
    drawn: Mapping[str, Callable[[Table, str], bytes]] = {
        "roc": _roc,
        "pr": _pr,
        "confusion": _confusion,
        "calibration": _calibration,
        "delay": _delay,
        "families": _families,
    }
    leaky = "; LEAKY split, for comparison only" if job.split_recipe in LEAKY_RECIPES else ""
    what = f"{job.model}-{job.mode}, {job.split_recipe}{leaky}"
    files: dict[str, bytes] = {}
    for name, table in tables(scored, threshold, temperature, keys).items():
        files[f"{FOLDER}/{name}.csv"] = table.csv()
        files[f"{FOLDER}/{name}.svg"] = drawn[name](table, what)
    return files


def _roc(table: Table, what: str) -> bytes:
    fpr, tpr = table.numbers("false_positive_rate"), table.numbers("true_positive_rate")
    x, y = _marked(table, fpr, tpr)
    head = Head(
        "roc",
        f"ROC: {what}",
        f"True positive rate over false positive rate of the test windows; at the threshold of validation "
        f"{y:.1%} of the suspicious windows raise an alarm, and {x:.1%} of the benign ones.",
    )
    return line_chart(
        head,
        Axis("false positive rate (benign windows with an alarm)", 0, 1),
        Axis("true positive rate", 0, 1),
        [
            Line("test windows", list(zip(fpr, tpr, strict=True))),
            Line("a score that knows nothing", [(0, 0), (1, 1)], "reference"),
        ],
        [Mark(f"{_THRESHOLD}: detects {y:.1%} at {x:.1%} false positives", x, y)],
    )


def _pr(table: Table, what: str) -> bytes:
    recall, precision = table.numbers("recall"), table.numbers("precision")
    base_rate = precision[-1]  # at the lowest threshold every window raises an alarm
    marks = []
    if 1 in table.column("at_threshold"):
        x, y = _marked(table, recall, precision)
        marks = [Mark(f"{_THRESHOLD}: {y:.1%} of the alarms are right, {x:.1%} detected", x, y)]
    head = Head(
        "pr",
        f"Precision and recall: {what}",
        f"Precision over recall of the test windows; the base rate is {base_rate:.1%}.",
    )
    return line_chart(
        head,
        Axis("recall (suspicious windows with an alarm)", 0, 1),
        Axis("precision", 0, 1),
        [
            Line("test windows", _stairs(recall, precision)),
            Line(
                f"base rate: a score that knows nothing ({base_rate:.1%})",
                [(0, base_rate), (1, base_rate)],
                "reference",
            ),
        ],
        marks,
    )


def _stairs(recall: Sequence[float], precision: Sequence[float]) -> list[tuple[float, float]]:
    """Corners of the steps whose area is `pr_auc`: up to a recall holds the precision of the threshold that reaches
    it. A straight line between two thresholds would promise a precision that no threshold has (Davis and Goadrich
    2006)."""
    corners: list[tuple[float, float]] = []
    reached = 0.0
    for x, y in zip(recall, precision, strict=True):
        corners += [(reached, y), (x, y)]
        reached = x
    return corners


def _marked(table: Table, x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    row = table.column("at_threshold").index(1)
    return x[row], y[row]


def _confusion(table: Table, what: str) -> bytes:
    outcomes = ("no alarm", "alarm")
    found = {(row[0], row[1]): (cast(int, row[2]), cast(float, row[3])) for row in table.rows}
    rows = [
        (
            label,
            [
                Cell(str(n), f"{share:.1%} of {label}", share)
                for n, share in (found[label, o] for o in outcomes)
            ],
        )
        for label in ("benign", "suspicious")
    ]
    said = "; ".join(f"{label}, {outcome}: {n}" for (label, outcome), (n, _) in found.items())
    head = Head(
        "confusion", f"Windows with and without alarm: {what}", f"Test windows by label and alarm. {said}."
    )
    return grid_chart(head, outcomes, rows, "at " + _THRESHOLD)


def _calibration(table: Table, what: str) -> bytes:
    lines = [Line("perfectly calibrated", [(0, 0), (1, 1)], "reference")]
    for name, style in (("as given", "main"), ("with temperature", "second")):
        points = [(cast(float, row[4]), cast(float, row[5])) for row in table.rows if row[0] == name]
        lines.append(Line(f"scores {name}", points, "main" if style == "main" else "second", dots=True))
    head = Head(
        "calibration",
        f"Calibration: {what}",
        "Share of suspicious windows over the mean score of each bin, as given and with the temperature that the "
        "validation side gave; the table beside it says how many windows each bin holds.",
        "Bins with few windows scatter; their number stands in calibration.csv.",
    )
    return line_chart(
        head,
        Axis("mean score of the bin", 0, 1),
        Axis("share of suspicious windows", 0, 1),
        lines,
    )


def _delay(table: Table, what: str) -> bytes:
    detected = [(cast(float, row[0]), cast(float, row[1])) for row in table.rows if row[0] is not None]
    total, last_s = len(table.rows), max((delay for delay, _ in detected), default=1.0)
    end_s = max(1.0, last_s * 1.05)
    points = [(0.0, 0.0), *detected, (end_s, detected[-1][1] if detected else 0.0)]
    missed = total - len(detected)
    head = Head(
        "delay",
        f"Time to detection: {what}",
        f"Share of the {total} suspicious test episodes with an alarm, over the seconds since the onset; "
        f"{missed} are never detected.",
    )
    return line_chart(
        head,
        Axis("seconds from onset to the end of the first alarming window", 0, end_s),
        Axis("share of suspicious episodes", 0, 1),
        [Line(f"detected by then ({len(detected)} of {total}; {missed} never)", points, steps=True)],
    )


def _families(table: Table, what: str) -> bytes:
    groups = []
    for label, title, style in (
        ("suspicious", "Suspicious windows with an alarm (recall)", "main"),
        ("benign", "Benign windows with an alarm (false positives)", "second"),
    ):
        bars = [
            Bar(
                str(row[1]),
                float(cast(float, row[4])),
                f"{cast(float, row[4]):.0%} of {row[2]}",
                "main" if style == "main" else "second",
            )
            for row in table.rows
            if row[0] == label
        ]
        groups.append((title, bars))
    said = "; ".join(f"{row[1]} ({row[0]}): {cast(float, row[4]):.0%} of {row[2]}" for row in table.rows)
    head = Head(
        "families",
        f"Alarms by family: {what}",
        f"Share of the test windows of each family with an alarm. {said}.",
        "The quiet beginning of a suspicious episode is benign and counts for its family.",
    )
    return bar_chart(head, Axis("share of windows with an alarm", 0, 1), groups)
