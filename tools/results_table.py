"""The generated part of docs/results.md, from the rows that `tools.results` measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tsc_table import aligned
from training.trainer.options import LEAKY_RECIPES, SPLIT_RECIPES

MEASURED = Path(__file__).resolve().parent.parent / "docs" / "results.json"
SPLITS = ("host_disjoint", "variant_disjoint", "random_window")

Row = Mapping[str, Any]


def results(measured: Path = MEASURED) -> str:
    """The whole part; says so when nothing was measured."""
    if not measured.is_file():
        return "Not measured for this version yet; `make results` does it.\n"
    found = json.loads(measured.read_text(encoding="utf-8"))
    return page(found["rows"], found["versions"], found["dataset_id"])


def page(rows: Sequence[Row], versions: Mapping[str, str], dataset_id: str) -> str:
    """A table for each split, then the observability gap."""
    made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [f"Data set `{dataset_id[:12]}`, seed 0, on the CPU. Made by `make results` with {made_with}.\n"]
    for split in SPLITS:
        mine = [row for row in rows if row["split"] == split]
        if mine:
            parts.append(f"### {split}{_mark(split)}\n\nSplit: {SPLIT_RECIPES[split]}.\n\n{_table(mine)}")
    parts.append(
        "### Observability gap\n\nROC-AUC (active) of `oracle` minus that of `realistic`: what a defender outside "
        f"the guest misses.\n\n{_gaps(rows)}"
    )
    return "\n".join(parts)


def _mark(split: str) -> str:
    return " (leaky: for comparison only)" if split in LEAKY_RECIPES else ""


def _table(rows: Sequence[Row]) -> str:
    header = (
        "job",
        "ROC-AUC, active",
        "95 %",
        "PR-AUC",
        "base rate",
        "FPR at TPR 90",
        "test windows",
        "CPU s",
    )
    return aligned(
        header,
        (
            (
                f"`{row['model']}-{row['mode']}`",
                digits(row["test"].get("roc_auc_active")),
                _interval(row["test"].get("roc_auc_active_ci95")),
                digits(row["test"].get("pr_auc")),
                digits(row["test"].get("base_rate")),
                digits(row["test"].get("fpr_at_tpr90")),
                str(row["test"].get("windows", "-")),
                f"{row['cpu_s']:.1f}",
            )
            for row in rows
        ),
    )


def _gaps(rows: Sequence[Row]) -> str:
    active = {(row["model"], row["split"], row["mode"]): row["test"].get("roc_auc_active") for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = [
        (
            f"`{model}`",
            *(_gap(active.get((model, s, "oracle")), active.get((model, s, "realistic"))) for s in SPLITS),
        )
        for model in models
    ]
    return aligned(
        ("model", *(f"{split} (leaky)" if split in LEAKY_RECIPES else split for split in SPLITS)), lines
    )


def _gap(oracle: float | None, realistic: float | None) -> str:
    return "-" if oracle is None or realistic is None else f"{oracle - realistic:+.3f}"


def digits(value: float | None) -> str:
    """A share to three digits; "-" for what is not defined."""
    return "-" if value is None else f"{value:.3f}"


def _interval(value: Sequence[float] | None) -> str:
    return "-" if value is None else " to ".join(map(digits, value))
