"""Every model and every hyper-parameter the trainer knows, in one table.

The manifest loader, the command line of `run.py`, `--describe` and the training code all read this table, so
a key can be known to all of them or to none. The module does no I/O and imports nothing heavy: the
coordinator loads it too.

`id_default` is the value that is left out of a job's id. It equals `default` today; once released it never
changes, so that a better default later renames no job.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, cast

OptionType = Literal["int", "float", "bool", "int_list", "choice"]
HyperValue = int | float | bool | str | list[int]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MODES: tuple[str, ...] = ("realistic", "oracle")
"""`realistic` reads only what is seen from outside the guest; `oracle` reads ground-truth signals too."""

SPLIT_RECIPES: Mapping[str, str] = MappingProxyType(
    {
        "host_disjoint": "test on hosts that did not train",
        "family_disjoint": "test on families of behaviour that did not train",
        "variant_disjoint": "test on variants of known families that did not train",
        "time": "test on what was recorded last",
        "random_group": "test on random whole episodes",
        "random_window": "test on random windows (leaky: for comparison only)",
    }
)
DEFAULT_SPLIT_RECIPE = "host_disjoint"
LEAKY_RECIPES: frozenset[str] = frozenset({"random_window"})
"""Recipes whose test side resembles the training side too much to be believed; labelled wherever they show."""

SEED_MAX = 2**31 - 1
"""Seeds are 0..SEED_MAX: the range that every library in use takes unchanged."""


@dataclass(frozen=True)
class Option:
    """One hyper-parameter. For `int_list`, the range holds for each item and `max_items` for the list."""

    name: str
    type: OptionType
    default: int | float | bool | str | tuple[int, ...]
    help: str
    minimum: float = -math.inf
    maximum: float = math.inf
    above_minimum: bool = False
    unit: str = ""
    choices: tuple[str, ...] = ()
    max_items: int = 8
    id_default: int | float | bool | str | tuple[int, ...] | None = None

    def default_value(self) -> HyperValue:
        """The default in the form `effective_hyper` gives it."""
        return _normal(self.default)

    def id_default_value(self) -> HyperValue:
        """The value that is left out of a job's id."""
        return self.default_value() if self.id_default is None else _normal(self.id_default)


@dataclass(frozen=True)
class Needs:
    """What a host must have. `libraries` are import names, `min_ram_gib` a nominal size."""

    cuda: Literal["no", "preferred"]
    min_ram_gib: float
    libraries: tuple[str, ...]


Rule = Callable[[Mapping[str, HyperValue]], "HyperFault | None"]
"""Given the complete options of a model, each within its range: what is wrong with them together. Pure."""


@dataclass(frozen=True)
class ModelOptions:
    """One model: its options by name, its needs, the module that trains it (see `training.trainer.models`), and
    whether it trains in steps that progress can count and a checkpoint can interrupt. `plugin` names the package
    that offers it, empty for our own; `rule` sees options that contradict each other."""

    name: str
    help: str
    needs: Needs
    iterative: bool
    module: str
    options: Mapping[str, Option] = field(default_factory=dict)
    plugin: str = ""
    rule: Rule | None = None


@dataclass(frozen=True)
class HyperFault:
    """One thing wrong with a hyper table: `found` and `expected` are texts for a person."""

    key: str
    found: str
    expected: str
    did_you_mean: str | None = None

    def __str__(self) -> str:
        hint = f"; did you mean {self.did_you_mean}?" if self.did_you_mean else ""
        return f"hyper.{self.key}: found {self.found}, expected {self.expected}{hint}"


class HyperError(ValueError):
    """A hyper table that does not fit its model. `faults` holds every fault found, never only the first."""

    def __init__(self, model: str, faults: Sequence[HyperFault]) -> None:
        self.model = model
        self.faults = tuple(faults)
        super().__init__(f"{model}: " + "; ".join(str(fault) for fault in faults))


def _int(name: str, default: int, low: int, high: int, text: str, unit: str = "") -> Option:
    return Option(name, "int", default, text, minimum=low, maximum=high, unit=unit)


def _float(
    name: str, default: float, low: float, high: float, text: str, unit: str = "", *, above: bool = False
) -> Option:
    return Option(name, "float", default, text, minimum=low, maximum=high, above_minimum=above, unit=unit)


def _ints(name: str, default: tuple[int, ...], low: int, high: int, text: str) -> Option:
    return Option(name, "int_list", default, text, minimum=low, maximum=high)


WINDOW_OPTIONS = (
    _float("window_s", 4, 1, 3600, "length of the windows that are classified", "s"),
    _float("stride_s", 1, 0.1, 3600, "distance between the starts of two windows", "s"),
)
"""Every model has these."""


def _gradient(*, epochs: int, batch_size: int, learning_rate: float) -> tuple[Option, ...]:
    """What every model that is trained by gradients takes, with the defaults that differ."""
    return (
        *WINDOW_OPTIONS,
        _int("epochs", epochs, 1, 10_000, "passes over the training windows"),
        _float("learning_rate", learning_rate, 0, 1, "step size of Adam", above=True),
        _int("batch_size", batch_size, 1, 65_536, "windows in one step"),
        _float("weight_decay", 0.1, 0, 10, "decoupled weight decay of Adam"),
        _float("label_smoothing", 0, 0, 0.5, "share of the target that is spread over all classes"),
        _float("grad_clip", 1, 0, 1000, "largest norm of the gradient in one step; 0 clips nothing"),
        _int(
            "patience", 0, 0, 10_000, "epochs without a better validation loss before stopping; 0 never stops"
        ),
    )


_SCHEDULES = ("constant", "cosine")
_SCHEDULE_HELP = "learning rate over the training: the same, or a short rise and a cosine down to 0"
_NEURAL = (
    *_gradient(epochs=30, batch_size=64, learning_rate=0.002),
    Option("schedule", "choice", "cosine", _SCHEDULE_HELP, choices=_SCHEDULES),
    _int("torch_threads", 1, 1, 64, "processor threads of torch; another number gives other last bits"),
)
_DROPOUT = _float("dropout", 0.3, 0, 0.9, "share of inputs and hidden units left out in a training step")

_NUMPY_NEEDS = Needs("no", 0.5, ("numpy", "safetensors"))
_TORCH_NEEDS = Needs("preferred", 2, ("numpy", "torch", "safetensors"))


def _model(
    name: str,
    text: str,
    needs: Needs,
    options: Sequence[Option],
    *,
    iterative: bool = True,
    rule: Rule | None = None,
) -> ModelOptions:
    by_name = MappingProxyType({o.name: o for o in options})
    return ModelOptions(name, text, needs, iterative, f"training.trainer.models.{name}", by_name, rule=rule)


def _one_kernel_each(hyper: Mapping[str, HyperValue]) -> HyperFault | None:
    channels, kernels = cast(list[int], hyper["channels"]), cast(list[int], hyper["kernels"])
    if len(channels) == len(kernels):
        return None
    return HyperFault(
        "kernels",
        f"a list of {len(kernels)}",
        f"as many as hyper.channels has, which is {len(channels)}: one of each per convolution",
    )


def _heads_share_the_width(hyper: Mapping[str, HyperValue]) -> HyperFault | None:
    width, heads = cast(int, hyper["d_model"]), cast(int, hyper["heads"])
    if width % heads == 0:
        return None
    return HyperFault("d_model", str(width), f"a multiple of hyper.heads, which is {heads}")


_TABLE = (
    _model(
        "gbt",
        "gradient-boosted trees on summary statistics (LightGBM)",
        Needs("no", 0.5, ("numpy", "lightgbm")),
        (
            *WINDOW_OPTIONS,
            _int("num_leaves", 15, 2, 255, "leaves of one tree"),
            _float("learning_rate", 0.05, 0, 1, "weight of each new tree", above=True),
            _int("rounds", 150, 1, 5000, "number of trees"),
            _int("min_data_in_leaf", 20, 1, 10_000, "fewest windows in a leaf"),
            _float("feature_fraction", 0.3, 0, 1, "share of the features that one tree may use", above=True),
            _float("bagging_fraction", 0.8, 0, 1, "share of the windows that one tree sees", above=True),
            _float("lambda_l2", 1, 0, 1000, "L2 penalty on the leaf values"),
            _int("max_bin", 63, 2, 255, "histogram bins per feature"),
        ),
    ),
    _model(
        "mlp",
        "multi-layer perceptron on summary statistics, or on raw windows (numpy)",
        _NUMPY_NEEDS,
        (
            *_gradient(epochs=60, batch_size=32, learning_rate=0.001),
            Option("schedule", "choice", "constant", _SCHEDULE_HELP, choices=_SCHEDULES),
            Option(
                "inputs",
                "choice",
                "summary",
                "summary statistics, or the raw samples of the window",
                choices=("summary", "raw"),
            ),
            _ints("hidden", (64, 32), 1, 4096, "units of the hidden layers"),
            _DROPOUT,
        ),
    ),
    _model(
        "cnn",
        "fully convolutional network on the raw windows",
        _TORCH_NEEDS,
        (
            *_NEURAL,
            _ints("channels", (64, 96, 64), 1, 1024, "filters of the convolutions"),
            _ints("kernels", (7, 5, 3), 1, 99, "kernel length of each convolution, in samples"),
        ),
        rule=_one_kernel_each,
    ),
    _model(
        "gru",
        "gated recurrent units over short overlapping patches of the window",
        _TORCH_NEEDS,
        (
            *_NEURAL,
            _int(
                "patch",
                4,
                1,
                100,
                "samples that one step reads; the next begins half a patch later",
                "samples",
            ),
            _int("hidden", 64, 1, 2048, "units of one layer"),
            _int("layers", 1, 1, 8, "stacked layers"),
            Option("bidirectional", "bool", False, "read the window in both directions"),
            Option(
                "pool",
                "choice",
                "all",
                "what is read off the steps: their mean, the last, or mean, largest and last side by side",
                choices=("all", "mean", "last"),
            ),
            _DROPOUT,
        ),
    ),
    _model(
        "tcn",
        "temporal convolutional network: causal residual blocks with growing dilation",
        _TORCH_NEEDS,
        (
            *_NEURAL,
            _int("channels", 32, 1, 1024, "filters of each block"),
            _int("blocks", 4, 1, 12, "residual blocks; dilation doubles with each"),
            _int("kernel", 3, 2, 31, "kernel length", "samples"),
            _DROPOUT,
        ),
    ),
    _model(
        "transformer",
        "transformer encoder over patches of the window",
        _TORCH_NEEDS,
        (
            *_NEURAL,
            _int("patch", 8, 1, 100, "length of one patch; the next begins half a patch later", "samples"),
            _int("d_model", 64, 8, 1024, "width of the encoder"),
            _int("layers", 2, 1, 24, "encoder layers"),
            _int("heads", 4, 1, 32, "attention heads"),
            _DROPOUT,
        ),
        rule=_heads_share_the_width,
    ),
    _model(
        "rocket",
        "fixed convolution kernels with a closed-form ridge classifier",
        _NUMPY_NEEDS,
        (
            *WINDOW_OPTIONS,
            _int("num_features", 10_000, 84, 100_000, "features drawn from the kernels"),
        ),
        iterative=False,
    ),
)

_MODELS = {model.name: model for model in _TABLE}
MODELS: Mapping[str, ModelOptions] = MappingProxyType(_MODELS)
"""Every model by name: our own, and those that `register` added."""

_RUN_OPTIONS = (
    "help describe data out progress_file threads device checkpoint_dir checkpoint_every_s "
    "spec model mode split_recipe train_hosts seed"
)
RESERVED: frozenset[str] = frozenset(_RUN_OPTIONS.split())
"""Names of `run`'s own options: on its command line no hyper-parameter can be called so."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_OPTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def register(model: ModelOptions) -> None:
    """Add a model of another package, for this process. `training.trainer.registry` calls it with what it finds.

    Raises ValueError for a name that is taken or cannot stand in a manifest, and for a default that its own
    option refuses: a table that contradicts itself would refuse the jobs of whoever trusts it.
    """
    if not _NAME.fullmatch(model.name):
        raise ValueError(
            f"model {model.name!r}: expected a name of 1 to 64 letters, digits, '.', '_' and '-', with no leading dot"
        )
    if model.name in _MODELS and _MODELS[model.name] != model:
        owner = _MODELS[model.name].plugin or "the trainer itself"
        raise ValueError(f"model {model.name!r} is there already, from {owner}")
    for name, option in model.options.items():
        if name in RESERVED or not _OPTION_NAME.fullmatch(name):
            raise ValueError(
                f"model {model.name!r}: an option cannot be named {name!r}; take another word of a-z, 0-9 and _"
            )
        if name != option.name:
            raise ValueError(f"model {model.name!r}: option {option.name!r} stands under the name {name!r}")
        for value in (option.default_value(), option.id_default_value()):
            if (fault := _value_fault(option, value)) is not None:
                raise ValueError(f"model {model.name!r}: the default of its own option does not fit: {fault}")
        if option.type in ("int", "float", "int_list") and not all(
            map(math.isfinite, (option.minimum, option.maximum))
        ):
            raise ValueError(f"model {model.name!r}: option {name!r} needs a minimum and a maximum")
    missing = [name for name in ("window_s", "stride_s") if name not in model.options]
    if missing:
        raise ValueError(f"model {model.name!r}: has no option {', '.join(missing)}; take WINDOW_OPTIONS")
    _MODELS[model.name] = model


def did_you_mean(word: str, choices: Iterable[str]) -> str | None:
    """The choice closest to a mistyped word, or None when nothing is close."""
    return next(iter(difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)), None)


def check_hyper(model: str, hyper: Mapping[str, object]) -> list[HyperFault]:
    """Every fault of a hyper table, in the order of its keys, or else what its options contradict each other in;
    empty when it fits.

    Raises KeyError for a model that is not in `MODELS`: the caller names that fault in its own words.
    """
    known = MODELS[model]
    faults = list(_faults(known, hyper))
    if not faults and known.rule is not None and (fault := known.rule(_complete(known, hyper))) is not None:
        faults.append(fault)
    return faults


def _complete(model: ModelOptions, hyper: Mapping[str, object]) -> dict[str, HyperValue]:
    return {
        name: _normal(hyper[name]) if name in hyper else model.options[name].default_value()
        for name in sorted(model.options)
    }


def _faults(model: ModelOptions, hyper: Mapping[str, object]) -> Iterator[HyperFault]:
    for key in sorted(hyper):
        option = model.options.get(key)
        if option is None:
            yield HyperFault(
                key=key,
                found="a key that is not known for " + model.name,
                expected="one of " + ", ".join(model.options),
                did_you_mean=did_you_mean(key, model.options),
            )
        elif (fault := _value_fault(option, hyper[key])) is not None:
            yield fault


def _value_fault(option: Option, value: object) -> HyperFault | None:
    if _fits(option, value):
        return None
    hint = did_you_mean(value, option.choices) if isinstance(value, str) else None
    return HyperFault(option.name, _found(value), expected_text(option), hint)


def _fits(option: Option, value: object) -> bool:
    match option.type:
        case "bool":
            return isinstance(value, bool)
        case "choice":
            return isinstance(value, str) and value in option.choices
        case "int_list":
            if not isinstance(value, list | tuple) or not 1 <= len(value) <= option.max_items:
                return False
            return all(_number_fits(option, item, whole=True) for item in value)
        case _:
            return _number_fits(option, value, whole=option.type == "int")


def _number_fits(option: Option, value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False  # True is an int to Python, but not to a person
    if isinstance(value, float) and (not math.isfinite(value) or (whole and not value.is_integer())):
        return False
    if value < option.minimum or (option.above_minimum and value == option.minimum):
        return False
    return value <= option.maximum


_TYPE_WORDS: Mapping[type, str] = {
    bool: "a truth value",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
    dict: "a table",
}


def _found(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return f"{shown} ({_TYPE_WORDS.get(type(value), type(value).__name__)})"


def _number(value: int | float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value) if isinstance(value, float) or value.bit_length() < 200 else "a huge whole number"


def expected_text(option: Option) -> str:
    """What an option takes, in words: `a whole number from 2 to 255`."""
    low, high = _number(option.minimum), _number(option.maximum)
    span = f"above {low} and at most {high}" if option.above_minimum else f"from {low} to {high}"
    unit = f" ({option.unit})" if option.unit else ""
    match option.type:
        case "bool":
            return "true or false"
        case "choice":
            return "one of " + ", ".join(option.choices)
        case "int_list":
            return f"a list of 1 to {option.max_items} whole numbers {span}{unit}"
        case "int":
            return f"a whole number {span}{unit}"
        case _:
            return f"a number {span}{unit}"


def _normal(value: object) -> HyperValue:
    """One spelling per value: 1 for 1.0, 0 for -0.0, a list for a tuple. The value has been checked."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, list | tuple):
        return [int(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    assert isinstance(value, int | float), value
    return value


def effective_hyper(model: str, hyper: Mapping[str, object]) -> dict[str, HyperValue]:
    """All options of the model with their values, defaults filled in, keys sorted, each number in one
    spelling (an integral float becomes an int). Raises HyperError with every fault."""
    faults = check_hyper(model, hyper)
    if faults:
        raise HyperError(model, faults)
    return _complete(MODELS[model], hyper)


def identity_hyper(model: str, hyper: Mapping[str, object]) -> dict[str, HyperValue]:
    """The part of the effective hyper that belongs into a job's id: keys whose value is not the id_default.
    Raises HyperError with every fault."""
    options = MODELS[model].options
    return {
        name: value
        for name, value in effective_hyper(model, hyper).items()
        if value != options[name].id_default_value()
    }


def json_schema(model: str) -> dict[str, Json]:
    """The hyper table of a model as JSON Schema (draft 2020-12)."""
    properties: dict[str, Json] = {
        name: _option_schema(option) for name, option in sorted(MODELS[model].options.items())
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _option_schema(option: Option) -> dict[str, Json]:
    default = option.default_value()
    schema: dict[str, Json] = {
        "description": option.help,
        "default": list(default) if isinstance(default, list) else default,
    }
    if option.unit:
        schema["x-unit"] = option.unit
    low = "exclusiveMinimum" if option.above_minimum else "minimum"
    limits: dict[str, Json] = {low: _normal_number(option.minimum), "maximum": _normal_number(option.maximum)}
    match option.type:
        case "bool":
            return schema | {"type": "boolean"}
        case "choice":
            return schema | {"type": "string", "enum": list(option.choices)}
        case "int_list":
            items: dict[str, Json] = {"type": "integer", **limits}
            return schema | {"type": "array", "items": items, "minItems": 1, "maxItems": option.max_items}
        case "int":
            return schema | {"type": "integer", **limits}
        case _:
            return schema | {"type": "number", **limits}


def _normal_number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value
