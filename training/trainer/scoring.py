"""Apply a trained artifact to a data set."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cis490.episodes.format import Scaling
from training.trainer import metrics, report
from training.trainer.channels import Signal
from training.trainer.data import Episode, digest_of, load_episodes
from training.trainer.errors import BadData
from training.trainer.job import scored_windows, suspicion
from training.trainer.models import module_of
from training.trainer.options import MODELS, Json
from training.trainer.windows import Windows, cut_windows, window_feature_names, window_series


def score_artifact(artifact: Path, data: Path) -> dict[str, Json]:
    """Measures of a trained artifact on all episodes of `data`, not rounded. Raises TrainerError.

    `episodes_seen_in_training` counts those that trained or validated this very artifact: with any, the measures
    say how well it remembers.
    """
    config, prepared, split = (
        report.read_json(artifact / name) for name in (report.CONFIG, report.PREPROCESS, report.SPLIT)
    )
    measured_then = report.read_json(artifact / report.METRICS)
    try:
        mode, model, seed = cast(str, config["mode"]), cast(str, config["model"]), cast(int, config["seed"])
        threshold, temperature = (
            float(cast(float, measured_then[name])) for name in ("threshold", "temperature")
        )
        signals = [
            Signal(channel["name"], channel["unit"], "counter" if channel["kind"] == "counter" else "gauge")
            for channel in cast(list[dict[str, str]], prepared["channels"])
        ]
        model_files = dict(cast(Mapping[str, str], prepared["model_files"]))
        window_s, stride_s = cast(float, prepared["window_s"]), cast(float, prepared["stride_s"])
        scaling: Scaling = "plain" if prepared["scaling"] == "plain" else "relative"
        sides = cast(Mapping[str, Mapping[str, list[str]]], split["sides"])
        seen = {name for side in ("train", "validation") for name in sides[side]["episodes"]}
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"{artifact}: not an artifact of this trainer ({error!r}); train it again") from error
    if model not in MODELS:
        raise BadData(
            f"{artifact}: its model {model!r} is not known here; install the package that offers it"
        )
    _check_model_files(artifact, model_files)
    try:
        trained = module_of(model).load(artifact, prepared)
    except (OSError, KeyError, ValueError) as error:
        raise BadData(f"{artifact}: its model cannot be read ({error}); pass a complete artifact") from error
    episodes = load_episodes(data, mode, signals, scaling=scaling)
    windows = cut_windows(episodes, window_s, stride_s)
    inputs = _inputs(artifact, prepared, episodes, windows, window_s)
    scores = suspicion(trained, inputs, model)
    scored = scored_windows(episodes, windows, scores, stride_s)
    measured = metrics.measure(scored, threshold, temperature, seed)
    return {
        "model": model,
        "mode": mode,
        "dataset_id": digest_of(episodes),
        "episodes_seen_in_training": sum(episode.key.episode_id in seen for episode in episodes),
        **measured,
    }


def _check_model_files(artifact: Path, digests: Mapping[str, str]) -> None:
    """Raises BadData for a model that is not the one that was trained. Changed numbers would be scored as if nothing
    had happened, and on a text that was cut short LightGBM ends the process."""
    for name, digest in sorted(digests.items()):
        try:
            found = hashlib.sha256((artifact / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BadData(
                f"{artifact / name}: cannot be read: {error.strerror}; fetch the artifact again"
            ) from error
        if found != digest:
            raise BadData(
                f"{artifact / name}: its sha256 is {found[:12]}..., expected {digest[:12]}... as {report.PREPROCESS} "
                "says; it was changed after the training: fetch the artifact again"
            )


def _inputs(
    artifact: Path, prepared: Mapping[str, Json], episodes: list[Episode], windows: Windows, window_s: float
) -> NDArray[np.float32]:
    """What the model reads, made as `preprocess.json` says. Raises BadData."""
    try:
        if prepared["inputs"] == "series":
            return window_series(episodes, windows, window_s, int(cast(int, prepared["hz"])))
        position = {name: column for column, name in enumerate(window_feature_names(episodes))}
        columns = [position[name] for name in cast(list[str], prepared["features"])]
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(
            f"{artifact / report.PREPROCESS}: does not say which inputs the model reads ({error!r}); train it again"
        ) from error
    return windows.features[:, np.array(columns, dtype=np.intp)]
