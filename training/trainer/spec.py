"""The specification of one job, as the worker hands it over. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from training.trainer.errors import BadConfig
from training.trainer.options import (
    DEFAULT_SPLIT_RECIPE,
    MODELS,
    MODES,
    SEED_MAX,
    SPLIT_RECIPES,
    HyperValue,
    check_hyper,
    did_you_mean,
    effective_hyper,
)


@dataclass(frozen=True)
class Job:
    """What to train. `hyper` is complete: every option of the model with its value. `requires_cuda` is where to
    train it, not what: it is no part of the result."""

    model: str
    mode: str
    hyper: Mapping[str, HyperValue]
    split_recipe: str
    train_hosts: tuple[str, ...]
    seed: int
    requires_cuda: bool = False


def parse_job(raw: Mapping[str, object]) -> Job:
    """Check a specification. Keys that say nothing about the training (name, priority, ...) are ignored.

    `model` and `mode` are required; `hyper` {}, `split_recipe` host_disjoint, `train_hosts` [] and `seed` 0
    are the defaults. Raises BadConfig with every fault found.
    """
    faults = list(_faults(raw))
    if faults:
        raise BadConfig("the job cannot be trained: " + "; ".join(faults))
    model = cast(str, raw["model"])
    return Job(
        model=model,
        mode=cast(str, raw["mode"]),
        hyper=effective_hyper(model, cast(Mapping[str, object], raw.get("hyper", {}))),
        split_recipe=cast(str, raw.get("split_recipe", DEFAULT_SPLIT_RECIPE)),
        train_hosts=tuple(sorted(set(cast(list[str], raw.get("train_hosts", []))))),
        seed=cast(int, raw.get("seed", 0)),
        requires_cuda=raw.get("require_cuda") is True,
    )


def _faults(raw: Mapping[str, object]) -> Iterator[str]:
    model = raw.get("model")
    yield from _choice("model", model, tuple(MODELS))
    yield from _choice("mode", raw.get("mode"), MODES)
    yield from _choice("split_recipe", raw.get("split_recipe", DEFAULT_SPLIT_RECIPE), tuple(SPLIT_RECIPES))
    hyper = raw.get("hyper", {})
    if not isinstance(hyper, Mapping):
        yield f"hyper: found {hyper!r}, expected a table of options"
    elif isinstance(model, str) and model in MODELS:
        yield from (str(fault) for fault in check_hyper(model, hyper))
    hosts = raw.get("train_hosts", [])
    if not isinstance(hosts, list | tuple) or not all(isinstance(host, str) for host in hosts):
        yield f"train_hosts: found {hosts!r}, expected a list of host names"
    seed = raw.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= SEED_MAX:
        yield f"seed: found {seed!r}, expected a whole number from 0 to {SEED_MAX}"


def _choice(key: str, found: object, choices: tuple[str, ...]) -> Iterator[str]:
    if isinstance(found, str) and found in choices:
        return
    hint = did_you_mean(found, choices) if isinstance(found, str) else None
    shown = "nothing" if found is None else repr(found)
    yield f"{key}: found {shown}, expected one of {', '.join(choices)}" + (
        f"; did you mean {hint}?" if hint else ""
    )
