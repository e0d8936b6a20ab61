"""Gradient-boosted trees (LightGBM) on summary statistics: the baseline to beat.

The number of rounds is fixed. Stopping early on a validation side of a dozen episodes was seen to collapse
the model to the base rate.

Boosting runs in segments of `SEGMENT` rounds. Each goes on from the *text* of the model so far, with generators
seeded anew from (seed, segment). An interrupted training goes on from the last segment's text and so runs through
the very same statements as one that was left alone, whatever LightGBM keeps in memory besides its text.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import lightgbm as lgb
import numpy as np
from lightgbm.callback import CallbackEnv
from numpy.typing import NDArray

from training.trainer.models import Context, Inputs, State, Step, TrainingData, UnusableState
from training.trainer.models.checks import check_data
from training.trainer.options import HyperValue, Json

MODEL_FILE = "model.lgb.txt"

SEGMENT = 50
"""Rounds between two texts to go on from. It decides the bytes of a model, so it is no option."""

_STATE_FILE = "state.json"
_HOST_DEPENDENT = ("[num_threads:",)
"""Lines of the model text that say how it was trained rather than what came out."""

_PASSED_ON = (
    "num_leaves",
    "learning_rate",
    "min_data_in_leaf",
    "feature_fraction",
    "bagging_fraction",
    "lambda_l2",
    "max_bin",
)


class Gbt:
    """A trained booster."""

    def __init__(self, booster: lgb.Booster) -> None:
        self._booster = booster

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """See `Trained`."""
        if not len(x):  # LightGBM refuses to predict nothing
            return np.empty((0, max(2, self._booster.num_model_per_iteration())))
        scores = np.asarray(self._booster.predict(x, num_threads=1), dtype=np.float64)
        return np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores

    def files(self) -> Mapping[str, bytes]:
        """The model as LightGBM's text."""
        return {MODEL_FILE: _text(self._booster)}

    def preprocess(self) -> Mapping[str, Json]:
        """Trees need no scaling."""
        return {}


def _text(booster: lgb.Booster) -> bytes:
    lines = booster.model_to_string().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_HOST_DEPENDENT)).encode("utf-8")


def reads(hyper: Mapping[str, HyperValue]) -> Inputs:
    """Always summary statistics."""
    return "summary"


def fit(data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> Gbt:
    """Train `rounds` trees (times the classes, for more than two); bit-identical for every number of threads."""
    check_data("gbt", data, "summary")
    total = int(cast(int, hyper["rounds"]))
    context.session.start(total, "round")
    done, text = _resumed(context.session.resume(), data, total)
    params = _params(data.n_classes, hyper, context)
    train = lgb.Dataset(data.train_x, label=data.train_y, params=params, free_raw_data=False)
    watched = [train]
    if len(data.validation_y):
        watched.append(
            lgb.Dataset(data.validation_x, label=data.validation_y, reference=train, free_raw_data=False)
        )
    while done < total:
        rounds = min(SEGMENT - done % SEGMENT, total - done)
        booster = lgb.train(
            params | _seeds(context.seed, done // SEGMENT),
            train,
            num_boost_round=rounds,
            init_model=lgb.Booster(model_str=text.decode("utf-8")) if text else None,
            valid_sets=watched,
            valid_names=["train", "validation"][: len(watched)],
            callbacks=[_Report(context, done, total, _state(done, text))],
        )
        done += rounds
        text = _text(booster)
    return Gbt(lgb.Booster(model_str=text.decode("utf-8")))


def _params(n_classes: int, hyper: Mapping[str, HyperValue], context: Context) -> dict[str, object]:
    objective: dict[str, object] = (
        {"objective": "binary", "metric": "binary_logloss"}
        if n_classes == 2
        else {"objective": "multiclass", "metric": "multi_logloss", "num_class": n_classes}
    )
    return {
        **objective,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": context.threads,
        # The bins are made once for all segments.
        "data_random_seed": _words(context.seed, 0, 1)[0],
        "bagging_freq": 1,
        "verbosity": -1,
        **{name: hyper[name] for name in _PASSED_ON},
    }


def _seeds(seed: int, segment: int) -> dict[str, object]:
    bagging, feature_fraction = _words(seed, segment + 1, 2)
    return {"bagging_seed": bagging, "feature_fraction_seed": feature_fraction}


def _words(seed: int, counter: int, count: int) -> list[int]:
    """Random numbers of 0 to 2^31 - 1, the range of LightGBM's seeds."""
    return [int(word) >> 1 for word in np.random.SeedSequence([seed, counter]).generate_state(count)]


class _Report:
    """Tells the session of each round. What is saved is the end of the segment before."""

    def __init__(self, context: Context, done: int, total: int, state: State) -> None:
        self._session = context.session
        self._done = done
        self._total = total
        self._state = state

    def __call__(self, env: CallbackEnv) -> None:
        losses = {row[0]: float(row[2]) for row in env.evaluation_result_list or []}
        # LightGBM counts trees, and a round without a useful split adds none.
        step = self._done + env.iteration - env.begin_iteration + 1
        self._session.step(Step(step, self._total, losses["train"], losses.get("validation")), self._state)


def _state(done: int, text: bytes) -> State:
    if not text:  # within the first segment
        return dict
    numbers = {"round": done, "sha256": hashlib.sha256(text).hexdigest()}
    files = {_STATE_FILE: json.dumps(numbers).encode(), MODEL_FILE: text}
    return lambda: files


def _resumed(files: Mapping[str, bytes] | None, data: TrainingData, total: int) -> tuple[int, bytes]:
    """(rounds done, model text) of a checkpoint. Raises UnusableState for one that is not of this training."""
    if files is None:
        return 0, b""
    try:
        numbers, text = json.loads(files[_STATE_FILE]), files[MODEL_FILE]
        done = int(numbers["round"])
        # LightGBM ends the whole process on some texts that were cut short.
        if numbers["sha256"] != hashlib.sha256(text).hexdigest():
            raise ValueError("its text is not the one that was saved")
        if not text:
            raise ValueError("it is empty")
        booster = lgb.Booster(model_str=text.decode("utf-8"))
        found = (booster.num_feature(), booster.num_model_per_iteration())
    except (KeyError, TypeError, ValueError, lgb.basic.LightGBMError) as error:
        raise UnusableState(f"the state of gbt cannot be read: {error!r}") from error
    expected = (data.train_x.shape[1], 1 if data.n_classes == 2 else data.n_classes)
    if found != expected or done % SEGMENT or not 0 < done <= total:
        raise UnusableState(
            f"the state of gbt is of another training: round {done}, (features, trees a round) {found}; "
            f"expected a multiple of {SEGMENT} up to {total}, {expected}"
        )
    return done, text


def load(folder: Path, preprocess: Mapping[str, Json]) -> Gbt:
    """Read back what `files` gave."""
    return Gbt(lgb.Booster(model_str=(folder / MODEL_FILE).read_text(encoding="utf-8")))
