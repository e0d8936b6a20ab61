"""What the demo prints at its end: the trained models, why the other jobs wait, and what to type next."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cis490.digest import short
from training.fleet.bundle import BundleError, extract
from training.fleet.client import FleetClient

Row = dict[str, Any]
"""A JSON object as the receiver sends it."""

COLUMNS: Mapping[str, str] = {
    "ROC-AUC": "roc_auc",
    "95 % interval": "roc_auc_ci95",
    "active": "roc_auc_active",
    "PR-AUC": "pr_auc",
    "base rate": "base_rate",
    "FPR@90": "fpr_at_tpr90",
}
"""Heading -> key in the part "test" of the artifact's metrics.json."""
LEGEND = (
    "Measured on the held-out side of the split. active: ROC-AUC without the quiet start of each episode.",
    "PR-AUC is to be read against the base rate. FPR@90: share of benign windows that raise an alarm when nine of",
    "ten suspicious windows do. The artifact's model_card.md says what the data are, and what not to conclude.",
)


def text(row: Row, key: str) -> str:
    """The value as text; empty when absent or null."""
    value = row.get(key)
    return "" if value is None else str(value)


def number(value: object) -> str:
    """A measure to three digits, a range as two; "-" for what is absent or not defined."""
    if isinstance(value, list):
        return " to ".join(map(number, value))
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def artifact_lines(jobs: Sequence[Row], models: Path, shown: Callable[[Path], str]) -> list[str]:
    """A table of the trained models with the metrics that lie inside their artifacts, and where those are."""
    trained = [job for job in jobs if job["status"] == "completed"]
    if not trained:
        return []
    rows = [("model", *COLUMNS, "bytes", "artifact")]
    for job in trained:
        archive = bundle_path(models, job)
        measured = metrics_of(archive).get("test") or {}
        values = [number(measured.get(key)) for key in COLUMNS.values()]
        digest = short(job["artifact_id"])
        rows.append((text(job, "name"), *values, f"{archive.stat().st_size}", digest))
    where = bundle_path(models, {**trained[0], "artifact_id": "<artifact>"})
    return [
        "",
        "Trained models, with the metrics from inside their artifacts:",
        "",
        *_aligned(rows),
        "",
        *LEGEND,
        "",
        f"Artifacts: {shown(where)} and so on",
        f"Index:     {shown(models / 'index.jsonl')}",
    ]


def gap_lines(jobs: Sequence[Row], models: Path) -> list[str]:
    """Per model what a view from inside the guest adds: ROC-AUC of `oracle` minus that of `realistic`."""
    found: dict[str, dict[str, float]] = {}
    for job in jobs:
        if job["status"] == "completed":
            measured = metrics_of(bundle_path(models, job)).get("test") or {}
            value = measured.get("roc_auc_active")
            if isinstance(value, int | float):
                found.setdefault(text(job, "model"), {})[text(job, "mode")] = float(value)
    rows = [
        (model, number(at["realistic"]), number(at["oracle"]), f"{at['oracle'] - at['realistic']:+.3f}")
        for model, at in found.items()
        if {"realistic", "oracle"} <= at.keys()
    ]
    if not rows:
        return []
    return [
        "",
        "What a defender outside the guest misses (ROC-AUC without the quiet start):",
        "",
        *_aligned([("model", "realistic", "oracle", "gap"), *rows]),
    ]


def bundle_path(models: Path, job: Row) -> Path:
    """Where the store keeps a job's artifact; the lay-out is public."""
    return models / f"{job['model']}_{job['mode']}" / text(job, "artifact_id") / "bundle.tar.zst"


def metrics_of(archive: Path) -> Row:
    """`metrics.json` of a bundle; empty when the bundle cannot be read (the table then shows dashes)."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as work:
        folder = Path(work) / "files"
        try:
            extract(archive, folder)
            found = json.loads((folder / "metrics.json").read_bytes())
        except (BundleError, OSError, ValueError):
            return {}
    return found if isinstance(found, dict) else {}


def waiting_lines(client: FleetClient, host: str, passing: Collection[str]) -> list[str]:
    """Why the other jobs are still pending, as the receiver explains it, grouped by constraint."""
    pending = client.jobs("pending")
    if not pending:
        return []
    names: dict[str, list[str]] = {}
    example: dict[str, str] = {}
    for job in pending:
        answer = client.eligibility(text(job, "job_id"))
        for seen in answer["hosts"]:
            for check in seen["checks"]:
                if seen["host"] == host and not check["ok"] and check["constraint"] not in passing:
                    names.setdefault(check["constraint"], []).append(text(job, "name"))
                    example.setdefault(check["constraint"], f"{check['message']}")
    lines = ["", f"The other {len(pending)} jobs stay pending, and the receiver can say why:", ""]
    for constraint, waiting in sorted(names.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {constraint}: {len(waiting)} jobs ({_by_model(waiting)})")
        lines.append(f"      such as {waiting[0]}: {example[constraint]}")
    return lines


def failure_lines(jobs: Sequence[Row]) -> list[str]:
    """What failed, with its reason, and how many jobs that cost; nothing when all were trained."""
    ended = [job for job in jobs if job["status"] in ("failed", "cancelled")]
    lines: list[str] = []
    for job in ended:
        lines += ["", f"{text(job, 'name')} {text(job, 'status')}: {text(job, 'last_error')}"]
    trained = sum(job["status"] == "completed" for job in jobs)
    if rest := len(jobs) - trained - len(ended):
        lines += ["", f"{rest} jobs were not over when the demo stopped."]
    return lines


def after_lines(*, full: bool) -> list[str]:
    """What to type when the demo is over."""
    again = ".venv\\Scripts\\python -m tools.demo --serve" if os.name == "nt" else "make demo-receiver"
    if full:
        again += " --full" if os.name == "nt" else " ARGS=--full"
    return [
        "",
        "Next, see it as an operator does:",
        "",
        f"    {again}",
        "",
        "shows its pages in a browser at http://127.0.0.1:8445/, and in a second terminal, in this folder:",
        "",
        f"    {_jobs_command()} status",
    ]


def next_lines(url: str, usual_port: int, folder: str, token: str) -> list[str]:
    """What to type in a second terminal while a receiver runs on `url`; `folder` and `token` are paths."""
    jobs = _jobs_command()
    elsewhere = not url.endswith(f":{usual_port}")
    if os.name == "nt":
        address = [f"    $env:CIS490_RECEIVER_URL = '{url}'"] if elsewhere else []
        secret = f"    $env:CIS490_OPERATOR_TOKEN = Get-Content {token}"
    else:
        address = [f"    export CIS490_RECEIVER_URL={url}"] if elsewhere else []
        secret = f"    export CIS490_OPERATOR_TOKEN=$(cat {token})"
    return [
        "In a second terminal, in this folder:",
        "",
        *address,
        f"    {jobs} status",
        f"    {jobs} why cnn-realistic",
        f"    {jobs} pull gbt-realistic --out {folder}{os.sep}gbt-realistic",
        "",
        "and for what changes something (cancel, requeue, reload):",
        "",
        secret,
        f"    {jobs} requeue --force gbt-realistic",
    ]


def _jobs_command() -> str:
    own = Path(sys.prefix)
    name = own.name if own.parent == Path.cwd() else ".venv"
    return f"{name}\\Scripts\\cis490-jobs" if os.name == "nt" else f"{name}/bin/cis490-jobs"


def _by_model(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(name.rpartition("-")[0] for name in names))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
