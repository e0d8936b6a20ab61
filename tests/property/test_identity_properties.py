"""What never changes a job's id, and what always does."""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from hypothesis import assume, given
from hypothesis import strategies as st

from training.fleet.identity import canonical_json, job_id
from training.trainer.options import MODELS, MODES, SPLIT_RECIPES, Option, check_hyper, effective_hyper

Randoms = st.randoms(use_true_random=False)


@dataclass(frozen=True)
class Identity:
    """The six fields."""

    model: str
    mode: str
    hyper: Mapping[str, object]
    split_recipe: str
    train_hosts: tuple[str, ...]
    seed: int

    @property
    def job_id(self) -> str:
        return job_id(
            model=self.model,
            mode=self.mode,
            hyper=self.hyper,
            split_recipe=self.split_recipe,
            train_hosts=self.train_hosts,
            seed=self.seed,
        )

    @property
    def meaning(self) -> tuple[object, ...]:
        """What the job trains, with every default filled in: a second way to say "the same job"."""
        hyper = effective_hyper(self.model, self.hyper)
        hosts = frozenset(self.train_hosts)
        return self.model, self.mode, sorted(hyper.items()), self.split_recipe, hosts, self.seed


def option_values(option: Option) -> st.SearchStrategy[object]:
    low, high = option.minimum, option.maximum
    match option.type:
        case "bool":
            return st.booleans()
        case "choice":
            return st.sampled_from(option.choices)
        case "int":
            return st.integers(int(low), int(high))
        case "int_list":
            return st.lists(st.integers(int(low), int(high)), min_size=1, max_size=3)
        case _:
            return st.floats(low, high, exclude_min=option.above_minimum)


def hyper_tables(model: str) -> st.SearchStrategy[dict[str, object]]:
    options = MODELS[model].options
    values = {name: option_values(option) for name, option in options.items()}
    return st.fixed_dictionaries({}, optional=values).map(lambda table: without_contradictions(model, table))


def without_contradictions(model: str, table: dict[str, object]) -> dict[str, object]:
    """The table with what its options must agree in made to agree: see `ModelOptions.rule`."""
    whole = {name: table.get(name, option.default_value()) for name, option in MODELS[model].options.items()}
    if model == "transformer":
        heads = math.gcd(cast(int, whole["d_model"]), cast(int, whole["heads"]))
        return {**table, "heads": heads} if heads != whole["heads"] else table
    if model == "cnn":
        channels, kernels = cast(list[int], whole["channels"]), cast(list[int], whole["kernels"])
        same = (kernels * len(channels))[: len(channels)]
        return {**table, "kernels": same} if len(same) != len(kernels) else table
    return table


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    model = draw(st.sampled_from(sorted(MODELS)))
    return Identity(
        model=model,
        mode=draw(st.sampled_from(MODES)),
        hyper=draw(hyper_tables(model)),
        split_recipe=draw(st.sampled_from(sorted(SPLIT_RECIPES))),
        train_hosts=tuple(draw(st.lists(st.sampled_from(["lab-a", "lab-b", "lab-c"]), max_size=3))),
        seed=draw(st.integers(0, 3)),
    )


def respelled(value: object) -> object:
    """The same value in another spelling: 1 as 1.0, 1.0 as 1, 0 as -0.0."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return [respelled(item) for item in value]
    if isinstance(value, int) and float(value) == value:
        return float(value) if value else -0.0
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def shuffled(table: Mapping[str, object], order: random.Random) -> dict[str, object]:
    keys = list(table)
    order.shuffle(keys)
    return {key: table[key] for key in keys}


@given(identities(), Randoms)
def test_key_order_never_changes_an_id(job: Identity, order: random.Random) -> None:
    assert replace(job, hyper=shuffled(job.hyper, order)).job_id == job.job_id


@given(identities())
def test_number_spelling_never_changes_an_id(job: Identity) -> None:
    hyper = {key: respelled(value) for key, value in job.hyper.items()}

    assert replace(job, hyper=hyper, seed=int(float(job.seed))).job_id == job.job_id


@given(identities(), Randoms)
def test_an_id_default_written_out_never_changes_an_id(job: Identity, order: random.Random) -> None:
    options = MODELS[job.model].options
    absent = [name for name in options if name not in job.hyper]
    chosen = order.sample(absent, order.randint(0, len(absent)))
    written_out = {name: options[name].id_default_value() for name in chosen}

    assert replace(job, hyper={**job.hyper, **written_out}).job_id == job.job_id


@given(identities(), Randoms)
def test_the_order_of_train_hosts_and_duplicates_never_change_an_id(
    job: Identity, order: random.Random
) -> None:
    hosts = [*job.train_hosts, *job.train_hosts]
    order.shuffle(hosts)

    assert replace(job, train_hosts=tuple(hosts)).job_id == job.job_id


@given(identities(), identities())
def test_two_jobs_share_an_id_exactly_when_they_mean_the_same(one: Identity, other: Identity) -> None:
    assert (one.job_id == other.job_id) == (one.meaning == other.meaning)


@given(identities(), st.data())
def test_a_change_of_one_hyper_value_changes_the_id_exactly_when_it_means_another_job(
    job: Identity, data: st.DataObject
) -> None:
    options = MODELS[job.model].options
    name = data.draw(st.sampled_from(sorted(options)))
    changed = replace(job, hyper={**job.hyper, name: data.draw(option_values(options[name]))})
    assume(not check_hyper(job.model, changed.hyper))

    assert (changed.job_id == job.job_id) == (changed.meaning == job.meaning)


@given(identities())
def test_each_field_beside_hyper_changes_the_id(job: Identity) -> None:
    others = [
        replace(job, mode=next(mode for mode in MODES if mode != job.mode)),
        replace(job, split_recipe=next(name for name in SPLIT_RECIPES if name != job.split_recipe)),
        replace(job, train_hosts=(*job.train_hosts, "lab-z")),
        replace(job, seed=job.seed + 1),
        replace(job, model=next(name for name in MODELS if name != job.model), hyper={}),
    ]

    assert len({job.job_id, *(other.job_id for other in others)}) == len(others) + 1


JSON_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def same(one: object, other: object) -> bool:
    """Equal as JSON values: numbers by value, and a truth value is no number."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@given(JSON_VALUES)
def test_canonical_json_reads_back_as_the_same_value(value: object) -> None:
    assert same(json.loads(canonical_json(value)), value)


@given(JSON_VALUES, JSON_VALUES)
def test_canonical_bytes_are_equal_exactly_when_the_values_are(one: object, other: object) -> None:
    assert (canonical_json(one) == canonical_json(other)) == same(one, other)


@given(JSON_VALUES)
def test_a_value_read_back_has_the_same_canonical_bytes(value: object) -> None:
    text = canonical_json(value)

    assert canonical_json(json.loads(text)) == text
