"""A job's id: the golden ids, and what has a canonical form."""

import datetime
import hashlib
import math
from collections.abc import Iterable, Mapping

import pytest

from training.fleet.identity import IdentityError, canonical_json, job_id
from training.trainer.options import MODELS

GOLDEN_IDS = {
    ("gbt", "realistic"): "ba10b6074cd48942dea4dd19f7476f43432fb5d111d5258a7fc722c464055a56",
    ("gbt", "oracle"): "4e4fbff6e929b31108df0869c9accb8f4ae585a70e4b6940446a84217478a325",
    ("mlp", "realistic"): "06e61f911d24cba6d34cdd22c682b217ac01bc74c0eca678737632128ba4d5f3",
    ("mlp", "oracle"): "77121bb7590b4f5c792d2688f9419736893007120b5f55e4243d2d36e289d579",
    ("rocket", "realistic"): "1338b8148ab51ff9c1bb9312c3a76b89980e66e0c8ba0434956343835d3efc41",
    ("rocket", "oracle"): "539b0d89a7b2cbaf1e94c627fe2152bea9597c5156c8273e9077e86eaf3eb76e",
    ("cnn", "realistic"): "d83a89f5372f77af17aafdeed452c811fa8480e1118a48d6779a727e5eb7f37d",
    ("cnn", "oracle"): "e66b1f97948de27a4ec924257e2dd9ade896f32a02ecc81ff9bdccb8e39d11b9",
    ("gru", "realistic"): "a2a027a345d0c85d1bbe71fd4e004bd13a0b5945e6c4a33dfb44ec68939ff9da",
    ("gru", "oracle"): "48590b0c7dc27c271ed2d5b010e57414303a956142e1c51995dd7078136a7694",
    ("tcn", "realistic"): "dd7d5ddd0804a82b1c9c14286e13754c378e8c4d61c6083243819f1b15d34eb7",
    ("tcn", "oracle"): "36b2f66b349652dfd8452e7483c7a12de5ca2d2571a825bcb9bca5e3cf02939b",
    ("transformer", "realistic"): "92a0362fe5943d5228c77d04ba76639c2642ebf75bfa713892d6f9b7ded6d2be",
    ("transformer", "oracle"): "2932902bc2664b2d6b400a5a4dbf124b1d0cab5755962fbac3071289938c6f75",
}
"""The 14 jobs of the lab's manifest. Never edit one: a store somewhere knows its results by these ids."""


def an_id(
    model: str = "mlp",
    mode: str = "oracle",
    hyper: Mapping[str, object] | None = None,
    split_recipe: str = "host_disjoint",
    train_hosts: Iterable[str] = (),
    seed: int = 0,
) -> str:
    return job_id(
        model=model,
        mode=mode,
        hyper=hyper or {},
        split_recipe=split_recipe,
        train_hosts=train_hosts,
        seed=seed,
    )


@pytest.mark.parametrize(("model", "mode"), GOLDEN_IDS)
def test_the_ids_of_the_labs_jobs_never_change(model: str, mode: str) -> None:
    assert an_id(model, mode) == GOLDEN_IDS[model, mode]


def test_there_is_a_golden_id_for_every_model_and_mode() -> None:
    assert {model for model, _ in GOLDEN_IDS} == set(MODELS)
    assert len(GOLDEN_IDS) == 14


def test_the_id_of_a_job_with_everything_set_never_changes() -> None:
    hyper = {"hidden": [128, 64], "dropout": 0.25, "learning_rate": 3e-4}

    found = an_id("mlp", "oracle", hyper, "variant_disjoint", ["lab-b", "lab-a"], 7)

    assert found == "75d6d70d047d9ddfe0ac1cea7568b0d76e1694939d86a2a80a10a3f1c7533ca3"


def test_an_id_is_the_sha256_of_the_six_fields_as_canonical_json() -> None:
    text = (
        b'{"hyper":{"dropout":0.25},"mode":"oracle","model":"mlp","seed":7,'
        b'"split_recipe":"host_disjoint","train_hosts":["a","b"]}'
    )

    found = an_id(hyper={"dropout": 0.25, "batch_size": 32.0}, train_hosts=["b", "a", "b"], seed=7)

    assert found == hashlib.sha256(text).hexdigest()


def test_an_unknown_model_has_no_id() -> None:
    with pytest.raises(IdentityError, match="'svm', which is not known"):
        an_id("svm")


def test_a_hyper_table_with_a_fault_has_no_id() -> None:
    with pytest.raises(IdentityError, match=r"learning_rat.*did you mean learning_rate"):
        an_id(hyper={"learning_rat": 0.1})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (1e3, "1000"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (2**53 + 1, "9007199254740993"),
        (2.0**60, "1152921504606846976"),
        (-5, "-5"),
        (True, "true"),
        (False, "false"),
        ("a", '"a"'),
        ('"\\\n', '"\\"\\\\\\n"'),
        ("ü", '"\\u00fc"'),
        ([2, 1.0, "x"], '[2,1,"x"]'),
        ((2, 1), "[2,1]"),
        ({"b": 1, "a": {"d": [], "c": {}}}, '{"a":{"c":{},"d":[]},"b":1}'),
    ],
)
def test_a_value_has_one_spelling(value: object, text: str) -> None:
    assert canonical_json(value) == text.encode()


def test_texts_are_taken_as_they_are_without_unicode_normalisation() -> None:
    assert canonical_json("\u00e9") != canonical_json("e\u0301")


def test_true_is_not_one() -> None:
    assert canonical_json([True, False]) != canonical_json([1, 0])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "nan has no canonical form"),
        ([math.inf], "inf has no canonical form"),
        ({"a": -math.inf}, "-inf has no canonical form"),
        (None, "NoneType has no canonical form"),
        (b"a", "bytes has no canonical form"),
        ({1, 2}, "set has no canonical form"),
        (datetime.date(2026, 1, 1), "date has no canonical form"),
        ({1: "a"}, "a key is a int, not a text"),
        (10**400, "1329 bits is too big"),
    ],
)
def test_a_value_without_a_canonical_form_is_refused(value: object, reason: str) -> None:
    with pytest.raises(IdentityError, match=reason):
        canonical_json(value)


def test_a_structure_that_holds_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)

    with pytest.raises(IdentityError, match="nested deeper than 32 levels"):
        canonical_json(endless)
