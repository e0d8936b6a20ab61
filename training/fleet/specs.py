"""A job's spec out of its dict, and how a finished result differs from what would be trained now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.fleet import identity
from training.fleet.eligibility import Rules
from training.fleet.rows import JobRow
from training.fleet.types import JobSpec, Manifest
from training.trainer.options import LEAKY_RECIPES

_TUPLES = ("train_hosts", "allowed_hosts")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a fresh result would be made from: the pinned dataset and the receiver's own trainer."""

    dataset_id: str | None = None
    trainer_digest: str | None = None


def spec_of(raw: Mapping[str, Any]) -> JobSpec:
    """A `JobSpec` from its dict; a missing id is computed, missing mutable fields get their defaults."""
    known = {key: raw[key] for key in JobSpec.__slots__ if key in raw}
    known |= {key: tuple(known.get(key) or ()) for key in _TUPLES}
    known.setdefault("hyper", {})
    known.setdefault("split_recipe", "host_disjoint")
    known.setdefault("seed", 0)
    known.setdefault("name", f"{known.get('model')}-{known.get('mode')}")
    if not known.get("job_id"):
        keys = ("model", "mode", "hyper", "split_recipe", "train_hosts", "seed")
        known["job_id"] = identity.job_id(**{key: known[key] for key in keys})
    return JobSpec(**known)


def rules_of(manifest: Manifest, trainer_digest: str | None) -> Rules:
    """What the manifest says about the fleet as a whole."""
    policy = manifest.policy
    return Rules(bool(manifest.hosts), policy.unknown_hosts, policy.trainer, trainer_digest)


def is_leaky(row: JobRow) -> bool:
    """Was it tested on what resembles its training data too much? Then its figures are no results to quote."""
    return row.spec.get("split_recipe") in LEAKY_RECIPES


def stale_of(row: JobRow, reference: Reference) -> list[str]:
    """How a completed job's result differs from what would be trained now; empty when it does not."""
    if row.status != "completed":
        return []
    pairs = (
        ("data changed", row.dataset_id, reference.dataset_id),
        ("trainer changed", row.trainer_digest, reference.trainer_digest),
    )
    return [text for text, used, now in pairs if used is not None and now is not None and used != now]
