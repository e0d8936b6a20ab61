"""The table of models and hyper-parameters: what is refused, and what never changes a job's identity."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.trainer.options import (
    MODELS,
    MODES,
    HyperError,
    HyperFault,
    HyperValue,
    Option,
    check_hyper,
    did_you_mean,
    effective_hyper,
    identity_hyper,
    json_schema,
)


def values_of(option: Option) -> st.SearchStrategy[object]:
    """Values that the option takes."""
    whole = st.integers(math.ceil(max(option.minimum, -1e9)), math.floor(min(option.maximum, 1e9)))
    match option.type:
        case "bool":
            return st.booleans()
        case "choice":
            return st.sampled_from(option.choices)
        case "int":
            return whole
        case "int_list":
            return st.lists(whole, min_size=1, max_size=option.max_items)
        case _:
            return st.floats(option.minimum, option.maximum, exclude_min=option.above_minimum)


@st.composite
def model_and_hyper(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A model with some of its options set, none of which contradicts another."""
    model = draw(st.sampled_from(sorted(MODELS)))
    options = MODELS[model].options
    names = draw(st.lists(st.sampled_from(sorted(options)), unique=True))
    hyper = {name: draw(values_of(options[name])) for name in names}
    rule = MODELS[model].rule
    complete = {name: option.default_value() for name, option in options.items()} | hyper
    assume(rule is None or rule(cast(Mapping[str, HyperValue], complete)) is None)
    return model, hyper


def respelled(value: object) -> object:
    """The same value in the other number spelling: 3 for 3.0 and 3.0 for 3."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, list):
        return tuple(respelled(item) for item in value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return float(cast(int, value))


def test_all_seven_models_are_there_and_name_the_module_that_trains_them() -> None:
    assert list(MODELS) == ["gbt", "mlp", "cnn", "gru", "tcn", "transformer", "rocket"]
    for name, model in MODELS.items():
        assert (model.module, model.plugin) == (f"training.trainer.models.{name}", "")
    assert MODES == ("realistic", "oracle")


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_default_is_a_value_the_option_takes(model: str) -> None:
    assert check_hyper(model, {name: o.default for name, o in MODELS[model].options.items()}) == []


@pytest.mark.parametrize("model", sorted(MODELS))
def test_id_defaults_equal_the_defaults_of_today(model: str) -> None:
    for option in MODELS[model].options.values():
        assert option.id_default_value() == option.default_value()


def test_the_id_defaults_that_were_released_never_change() -> None:
    """A changed value here renames every job that left the option out: add options, never edit these lines."""
    assert {n: o.id_default_value() for n, o in MODELS["gbt"].options.items()} == {
        "window_s": 4,
        "stride_s": 1,
        "num_leaves": 15,
        "learning_rate": 0.05,
        "rounds": 150,
        "min_data_in_leaf": 20,
        "feature_fraction": 0.3,
        "bagging_fraction": 0.8,
        "lambda_l2": 1,
        "max_bin": 63,
    }
    assert {n: o.id_default_value() for n, o in MODELS["mlp"].options.items()} == {
        "window_s": 4,
        "stride_s": 1,
        "epochs": 60,
        "learning_rate": 0.001,
        "batch_size": 32,
        "weight_decay": 0.1,
        "label_smoothing": 0,
        "grad_clip": 1,
        "patience": 0,
        "hidden": [64, 32],
        "dropout": 0.3,
        "schedule": "constant",
        "inputs": "summary",
    }


def test_every_fault_is_reported_not_only_the_first() -> None:
    faults = check_hyper("gbt", {"num_leafs": 3, "rounds": True, "learning_rate": 0, "max_bin": 1.5})
    assert [fault.key for fault in faults] == ["learning_rate", "max_bin", "num_leafs", "rounds"]


def test_a_mistyped_key_gets_the_nearest_known_one() -> None:
    fault = check_hyper("mlp", {"learning_rat": 0.1})[0]
    assert fault.did_you_mean == "learning_rate"
    assert str(fault).endswith("did you mean learning_rate?")
    assert check_hyper("mlp", {"zzz": 1})[0].did_you_mean is None


def test_a_mistyped_choice_gets_the_nearest_one() -> None:
    assert check_hyper("gru", {"pool": "maen"}) == [
        HyperFault("pool", "'maen' (a text)", "one of all, mean, last", "mean")
    ]


@pytest.mark.parametrize(
    "hyper",
    [
        {"rounds": True},
        {"rounds": 1.5},
        {"rounds": "150"},
        {"rounds": None},
        {"rounds": 0},
        {"rounds": 5001},
        {"rounds": 10**400},
        {"learning_rate": 0},
        {"learning_rate": -0.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"learning_rate": [0.1]},
    ],
)
def test_a_value_of_the_wrong_type_or_size_is_refused(hyper: Mapping[str, object]) -> None:
    (fault,) = check_hyper("gbt", hyper)
    assert fault.found
    assert "from" in fault.expected or "above" in fault.expected


@pytest.mark.parametrize("hidden", [[], [0], [1.5], [True], "64", 64, [1] * 9, {"a": 1}])
def test_a_list_is_judged_with_its_items(hidden: object) -> None:
    (fault,) = check_hyper("mlp", {"hidden": hidden})
    assert fault.expected == "a list of 1 to 8 whole numbers from 1 to 4096"


def test_a_truth_value_is_no_number_and_a_number_no_truth_value() -> None:
    assert check_hyper("gru", {"bidirectional": True}) == []
    assert check_hyper("gru", {"bidirectional": 1})[0].expected == "true or false"


def test_effective_hyper_fills_in_defaults_and_spells_numbers_one_way() -> None:
    hyper = effective_hyper("gbt", {"rounds": 20.0, "lambda_l2": -0.0})
    assert set(hyper) == set(MODELS["gbt"].options)
    assert repr(hyper["rounds"]) == "20"
    assert repr(hyper["lambda_l2"]) == "0"
    assert list(hyper) == sorted(hyper)


def test_effective_hyper_refuses_faults_with_all_of_them_in_its_text() -> None:
    with pytest.raises(HyperError, match=r"(?s)max_bin.*rounds") as caught:
        effective_hyper("gbt", {"rounds": 0, "max_bin": 0})
    assert len(caught.value.faults) == 2


@given(model_and_hyper())
def test_number_spelling_and_key_order_never_change_the_identity(
    drawn: tuple[str, dict[str, object]],
) -> None:
    model, hyper = drawn
    other = {name: respelled(value) for name, value in reversed(hyper.items())}
    assert json.dumps(identity_hyper(model, hyper)) == json.dumps(identity_hyper(model, other))


@given(model_and_hyper())
def test_spelled_out_defaults_never_change_the_identity(drawn: tuple[str, dict[str, object]]) -> None:
    model, hyper = drawn
    explicit = {name: o.default for name, o in MODELS[model].options.items()} | hyper
    assert identity_hyper(model, explicit) == identity_hyper(model, hyper)


@given(model_and_hyper())
def test_every_value_that_differs_from_its_default_is_in_the_identity(
    drawn: tuple[str, dict[str, object]],
) -> None:
    model, hyper = drawn
    options = MODELS[model].options
    changed = {n: v for n, v in effective_hyper(model, hyper).items() if v != options[n].default_value()}
    assert identity_hyper(model, hyper) == changed


@pytest.mark.parametrize("model", sorted(MODELS))
def test_the_json_schema_names_every_option_and_nothing_else(model: str) -> None:
    schema = json_schema(model)
    assert schema["additionalProperties"] is False
    assert set(cast(dict[str, object], schema["properties"])) == set(MODELS[model].options)
    json.dumps(schema, allow_nan=False)


def test_the_json_schema_carries_the_ranges() -> None:
    properties = cast(dict[str, dict[str, object]], json_schema("gbt")["properties"])
    assert properties["num_leaves"]["minimum"] == 2
    assert properties["num_leaves"]["type"] == "integer"
    assert properties["learning_rate"]["exclusiveMinimum"] == 0
    assert properties["window_s"]["x-unit"] == "s"


def test_did_you_mean_is_silent_when_nothing_is_close() -> None:
    assert did_you_mean("relistic", MODES) == "realistic"
    assert did_you_mean("x", MODES) is None


def test_the_table_imports_nothing_heavy() -> None:
    code = (
        "import sys, training.trainer.options; print(sorted({'numpy','lightgbm','torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("model", "hyper", "said"),
    [
        (
            "transformer",
            {"d_model": 30, "heads": 4},
            "hyper.d_model: found 30, expected a multiple of hyper.heads, which is 4",
        ),
        ("transformer", {"d_model": 30}, "which is 4"),
        (
            "cnn",
            {"channels": [4, 4], "kernels": [3]},
            "hyper.kernels: found a list of 1, expected as many as hyper.channels has, which is 2",
        ),
        ("cnn", {"channels": [4, 4]}, "hyper.kernels: found a list of 3"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_trained(
    model: str, hyper: Mapping[str, object], said: str
) -> None:
    (fault,) = check_hyper(model, hyper)
    assert said in str(fault)
    with pytest.raises(HyperError):
        effective_hyper(model, hyper)


def test_options_that_agree_are_taken_also_where_a_default_would_not() -> None:
    assert check_hyper("cnn", {"channels": [4, 4], "kernels": [3, 3]}) == []
    assert check_hyper("transformer", {"d_model": 30, "heads": 5}) == []


def test_a_value_out_of_range_is_named_alone_and_not_together_with_what_follows_from_it() -> None:
    assert [fault.key for fault in check_hyper("transformer", {"d_model": 30, "heads": 0})] == ["heads"]
