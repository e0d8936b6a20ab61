"""Apply a trained artifact to a data set."""

from pathlib import Path
from typing import cast

import numpy as np

from training.trainer import metrics, report
from training.trainer.channels import Signal
from training.trainer.data import cut_windows, digest_of, load_episodes, window_feature_names
from training.trainer.errors import BadData
from training.trainer.job import scored_windows
from training.trainer.models import module_of
from training.trainer.options import Json


def score_artifact(artifact: Path, data: Path) -> dict[str, Json]:
    """Measures of a trained artifact on all episodes of `data`, not rounded. Raises TrainerError."""
    config, prepared = (
        report.read_json(artifact / report.CONFIG),
        report.read_json(artifact / report.PREPROCESS),
    )
    measured_then = report.read_json(artifact / report.METRICS)
    try:
        mode, model, seed = cast(str, config["mode"]), cast(str, config["model"]), cast(int, config["seed"])
        threshold = float(cast(float, measured_then["threshold"]))
        signals = [
            Signal(channel["name"], channel["unit"], "counter" if channel["kind"] == "counter" else "gauge")
            for channel in cast(list[dict[str, str]], prepared["channels"])
        ]
        window_s, stride_s = cast(float, prepared["window_s"]), cast(float, prepared["stride_s"])
        kept = cast(list[str], prepared["features"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"{artifact}: not an artifact of this trainer ({error!r}); train it again") from error
    try:
        trained = module_of(model).load(artifact, prepared)
    except OSError as error:
        raise BadData(f"{artifact}: its model cannot be read ({error}); pass a complete artifact") from error
    episodes = load_episodes(data, mode, signals)
    windows = cut_windows(episodes, window_s, stride_s)
    position = {name: column for column, name in enumerate(window_feature_names(episodes))}
    columns = np.array([position[name] for name in kept], dtype=np.intp)
    scores = report.rounded_scores(trained.predict(windows.features[:, columns]))
    measured = metrics.measure(scored_windows(episodes, windows, scores, stride_s), threshold, seed)
    return {"model": model, "mode": mode, "dataset_id": digest_of(episodes), **measured}
