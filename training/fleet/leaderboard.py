"""The completed jobs side by side, and what the modes are apart: the answer of `GET /v1/models`. Pure.

Figures are only comparable where the same was tested: jobs with one split recipe, the same training hosts and the
same data set form a group. The *observability gap* of a model is what the oracle's signals from inside the guest would
add to what a defender outside sees: ROC-AUC of the oracle minus that of the realistic job that is equal in everything
else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.fleet import identity
from training.fleet.rows import JobRow
from training.fleet.specs import Reference, is_leaky, stale_of
from training.trainer.options import HyperError, identity_hyper

SORTED_BY = "roc_auc"
GAP_MEASURES = ("roc_auc_active", "roc_auc")
"""The first one that both jobs report: on active windows, since the quiet baseline before an onset is easy for both."""
_OTHER_MODE = {"realistic": "oracle", "oracle": "realistic"}


@dataclass(frozen=True, slots=True)
class Made:
    """What the queue knows of how an artifact was made, None where nobody said."""

    size_bytes: int | None = None
    duration_s: float | None = None
    peak_rss_mib: float | None = None


def board(
    rows: Iterable[JobRow], reference: Reference, made: Mapping[tuple[str, str], Made] | None = None
) -> dict[str, Any]:
    """`rows` are all jobs, since one that is not completed may be the missing half of a gap; `made` is by job and
    artifact."""
    everything = list(rows)
    twins: dict[bytes, list[JobRow]] = {}
    for row in everything:
        twins.setdefault(apart_from_mode(row), []).append(row)
    groups: dict[tuple[Any, ...], list[JobRow]] = {}
    for row in everything:
        if row.status == "completed":
            groups.setdefault(_group(row), []).append(row)
    return {
        "groups": [
            {
                "split_recipe": recipe,
                "leaky": is_leaky(found[0]),
                "train_hosts": list(hosts),
                "dataset_id": dataset_id or None,
                "models": [
                    _entry(row, twins[apart_from_mode(row)], reference, (made or {}).get(_key(row), Made()))
                    for row in sorted(found, key=_best_first)
                ],
            }
            for (_, recipe, hosts, dataset_id), found in sorted(groups.items(), key=lambda pair: pair[0])
        ]
    }


def gap(row: JobRow, twins: Sequence[JobRow]) -> dict[str, Any]:
    """Oracle minus realistic for the pair that `row` is half of. `twins` are equal to it in everything but mode.

    `value` is None when there is no such pair, and `reason` says what is missing.
    """
    halves = [one for one in twins if one.mode == _OTHER_MODE.get(row.mode)]
    done = [one for one in halves if one.status == "completed"]
    usable = [
        one for one in done if (one.dataset_id, one.trainer_digest) == (row.dataset_id, row.trainer_digest)
    ]
    if not usable:
        return _no_gap(_missing(row, halves, done))
    other = max(usable, key=lambda one: (not one.held, one.completed_at or 0.0))
    oracle, realistic = (row, other) if row.mode == "oracle" else (other, row)
    for measure in GAP_MEASURES:
        high, low = _number(oracle.metrics, measure), _number(realistic.metrics, measure)
        if high is not None and low is not None:
            return {
                "value": round(high - low, 6),
                "measure": measure,
                "oracle": high,
                "realistic": low,
                "partner": other.name,
                "reason": "",
            }
    return _no_gap(f"{row.name} and {other.name} do not both report a ROC-AUC")


def _no_gap(reason: str) -> dict[str, Any]:
    return {
        "value": None,
        "measure": None,
        "oracle": None,
        "realistic": None,
        "partner": None,
        "reason": reason,
    }


def _missing(row: JobRow, halves: Sequence[JobRow], done: Sequence[JobRow]) -> str:
    wanted = _OTHER_MODE.get(row.mode)
    if wanted is None:
        return f"the mode {row.mode} has no counterpart"
    if done:
        what = "on other data" if done[0].dataset_id != row.dataset_id else "by another trainer"
        return f"{done[0].name} was trained {what}"
    if halves:
        return f"{halves[0].name} is {halves[0].status}"
    return f"no {wanted} job of {row.model} with the same split, hosts, seed and hyper"


def _key(row: JobRow) -> tuple[str, str]:
    return row.job_id, row.artifact_id or ""


def _entry(row: JobRow, twins: Sequence[JobRow], reference: Reference, made: Made) -> dict[str, Any]:
    return {
        "job_id": row.job_id,
        "name": row.name,
        "model": row.model,
        "mode": row.mode,
        "seed": row.spec.get("seed", 0),
        "host": row.claimed_by,
        "completed_at": row.completed_at,
        "artifact_id": row.artifact_id,
        "trainer_digest": row.trainer_digest,
        "metrics": row.metrics,
        "gap": gap(row, twins),
        "leaky": is_leaky(row),
        "stale": stale_of(row, reference),
        "held": row.held,
        "hyper": row.spec.get("hyper") or {},
        "size_bytes": made.size_bytes,
        "duration_s": made.duration_s,
        "peak_rss_mib": made.peak_rss_mib,
        "n_parameters": _count(row.metrics, "n_parameters"),
    }


def _best_first(row: JobRow) -> tuple[bool, float, str]:
    figure = _number(row.metrics, SORTED_BY)
    return figure is None, -(figure or 0.0), row.name


def _group(row: JobRow) -> tuple[bool, str, tuple[str, ...], str]:
    """Leaky ones last."""
    recipe, hosts = str(row.spec.get("split_recipe", "")), row.spec.get("train_hosts") or ()
    return is_leaky(row), recipe, tuple(sorted(set(hosts))), row.dataset_id or ""


def apart_from_mode(row: JobRow) -> bytes:
    """Equal for jobs that differ in nothing but their mode."""
    spec, hyper = row.spec, row.spec.get("hyper") or {}
    try:
        hyper = identity_hyper(row.model, hyper)
    except (KeyError, HyperError):  # of a model that this receiver does not know any more
        hyper = dict(hyper)
    hosts = sorted(set(spec.get("train_hosts") or ()))
    return identity.canonical_json(
        [row.model, hyper, spec.get("split_recipe", ""), hosts, spec.get("seed", 0)]
    )


def _count(metrics: Mapping[str, Any], key: str) -> int | None:
    value = metrics.get(key)
    return int(value) if isinstance(value, int | float) and 0 <= value <= 1e15 else None


def _number(metrics: Mapping[str, Any], key: str) -> float | None:
    """A figure between 0 and 1, as all that are used here are; None for anything else that a client may have sent."""
    value = metrics.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        return None
    return float(value)
