"""One training job from data to files. `run` prepares the process and turns errors into exit codes."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from training.trainer import leakage, metrics, report
from training.trainer.data import Episode, digest_of, load_episodes
from training.trainer.device import device_identity, library_versions
from training.trainer.errors import BadConfig, BadData
from training.trainer.features import varying_columns
from training.trainer.metrics_calibration import fit_temperature
from training.trainer.metrics_ranking import threshold_at_fpr
from training.trainer.metrics_scored import SCORE_DIGITS, Floats, Indices, Scored
from training.trainer.model_card import model_card
from training.trainer.models import (
    Context,
    Inputs,
    ModelModule,
    Trained,
    TrainingData,
    UnusableState,
    module_of,
)
from training.trainer.options import MODELS, Json
from training.trainer.plots import plots
from training.trainer.progress import Progress
from training.trainer.session import Surroundings
from training.trainer.spec import Job
from training.trainer.split_checks import describe
from training.trainer.split_keys import EpisodeKey, Split
from training.trainer.splits import make_split, side_rows
from training.trainer.windows import Windows, cut_windows, grid_hz, window_feature_names, window_series


@dataclass(frozen=True)
class Prepared:
    """Windows and what a model reads of them. `inputs` float32 (windows, features kept) or (windows, channels,
    samples); `features` are the columns kept, empty for series; `hz` is the grid of the series, 0 without."""

    episodes: Sequence[Episode]
    windows: Windows
    rows: Mapping[str, Indices]
    inputs: NDArray[np.float32]
    reads: Inputs
    features: Sequence[str]
    hz: int

    @property
    def keys(self) -> list[EpisodeKey]:
        """What splits know of the episodes."""
        return [episode.key for episode in self.episodes]

    def side(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Inputs and classes of a side."""
        rows = self.rows[name]
        return self.inputs[rows], self.windows.suspicious[rows].astype(np.int64)


def train_job(job: Job, data: Path, around: Surroundings) -> tuple[Mapping[str, bytes], dict[str, Json]]:
    """Train one job: (files of the artifact, headline measures of the test side). Raises TrainerError."""
    module = module_of(job.model)  # first: a missing library should not cost the time to read the data
    around.check_stop()
    episodes = load_episodes(data, job.mode, check_stop=around.check_stop)
    keys = [episode.key for episode in episodes]
    window_s, stride_s = seconds(job, "window_s"), seconds(job, "stride_s")
    split = make_split(keys, job.split_recipe, job.train_hosts, job.seed, window_s)
    windows = cut_windows(episodes, window_s, stride_s, around.check_stop)
    rows = side_rows(split, windows, keys)
    check_labels(job.split_recipe, windows, rows)
    columns = varying_columns(windows.features[rows["train"]])
    if not len(columns):
        raise BadData(
            f"{data}: every feature is constant on the training side; the recording holds no signal"
        )
    names = window_feature_names(episodes)
    checks = leakage.examine(keys, split, windows, rows, names, window_s)
    broken = leakage.sentences(checks, "fatal")
    if broken:
        raise BadData(f"{job.split_recipe}: {' '.join(broken)} Nothing was trained")
    for sentence in leakage.sentences(checks, "warn"):
        around.progress.warn(sentence)
    prepared = _prepared(module.reads(job.hyper), episodes, windows, rows, columns, window_s, around)
    trained = fit_or_resume(
        job,
        module,
        TrainingData(*prepared.side("train"), *prepared.side("validation")),
        around,
        digest_of(episodes),
    )
    return _artifact(job, prepared, split, leakage.to_json(split, checks), trained, around.progress)


def seconds(job: Job, name: str) -> float:
    """An option of the job in seconds."""
    return float(cast(float, job.hyper[name]))


def check_labels(recipe: str, windows: Windows, rows: Mapping[str, Indices]) -> None:
    """Raises BadData for a side whose windows are of one label only."""
    for name, side in rows.items():
        n_suspicious = int(windows.suspicious[side].sum())
        if n_suspicious in (0, len(side)):
            shown = "training" if name == "train" else name
            raise BadData(
                f"{recipe}: the {shown} side has {n_suspicious} suspicious of {len(side)} windows, "
                "expected some of each; choose a smaller window_s or record longer episodes"
            )


def _prepared(
    reads: Inputs,
    episodes: Sequence[Episode],
    windows: Windows,
    rows: Mapping[str, Indices],
    columns: Indices,
    window_s: float,
    around: Surroundings,
) -> Prepared:
    if reads == "series":
        hz = grid_hz(episodes)
        series = window_series(episodes, windows, window_s, hz, around.check_stop)
        return Prepared(episodes, windows, rows, series, reads, (), hz)
    names = window_feature_names(episodes)
    kept = [names[column] for column in columns]
    return Prepared(episodes, windows, rows, windows.features[:, columns], reads, kept, 0)


def fit_or_resume(
    job: Job, module: ModelModule, data: TrainingData, around: Surroundings, dataset_id: str
) -> Trained:
    """Train, from the newest checkpoint of this very training where there is one that the model accepts."""
    training = {
        **report.config(job, dataset_id),
        "device": device_identity(around.device),
        "libraries": library_versions(MODELS[job.model].needs.libraries),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    session = around.open_session(training)
    context = Context(job.seed, session, around.device, around.threads)
    try:
        return module.fit(data, job.hyper, context)
    except UnusableState as error:
        session.refuse(str(error))
        return module.fit(data, job.hyper, context)


def suspicion(trained: Trained, inputs: NDArray[np.float32], model: str) -> Floats:
    """Probability of suspicious for each window as it stands in predictions.csv; everything is measured on
    that. Raises BadConfig when the model gives something else than probabilities."""
    probabilities = trained.predict(inputs)
    if probabilities.shape != (len(inputs), 2) or not np.isfinite(probabilities).all():
        raise BadConfig(
            f"{model} gives scores that are not two finite probabilities for each window (shape "
            f"{probabilities.shape}); a smaller learning_rate may help, if it is a neural network"
        )
    scores: Floats = np.clip(np.asarray(probabilities[:, 1], dtype=np.float64), 0.0, 1.0)
    return np.round(scores, SCORE_DIGITS)


def scored_windows(episodes: Sequence[Episode], windows: Windows, scores: Floats, stride_s: float) -> Scored:
    """Windows with their scores, as the measures want them."""
    return Scored(
        suspicious=windows.suspicious,
        scores=scores,
        active=windows.active,
        episode=windows.episode,
        end_s=windows.end_s,
        stride_s=stride_s,
        family={index: episode.key.family for index, episode in enumerate(episodes)},
        onset_s={index: episode.onset_s for index, episode in enumerate(episodes)},
    )


def _artifact(
    job: Job,
    prepared: Prepared,
    split: Split,
    leaks: dict[str, Json],
    trained: Trained,
    progress: Progress,
) -> tuple[Mapping[str, bytes], dict[str, Json]]:
    """(files, headline): everything is measured on the rounded scores, at what validation fixed."""

    def scored(name: str) -> Scored:
        side = prepared.windows.take(prepared.rows[name])
        scores = suspicion(trained, prepared.inputs[prepared.rows[name]], job.model)
        return scored_windows(prepared.episodes, side, scores, seconds(job, "stride_s"))

    validation, test = scored("validation"), scored("test")
    if len(np.unique(np.concatenate([validation.scores, test.scores]))) == 1:
        progress.warn(
            "the model gives every window the same score: it has learned nothing that tells them apart; another "
            "learning_rate, or for trees a smaller min_data_in_leaf, may help"
        )
    allowed_fpr = metrics.threshold_fpr(validation)
    threshold = threshold_at_fpr(validation.suspicious, validation.scores, allowed_fpr)
    if not (validation.scores[validation.suspicious] >= threshold).any():
        progress.warn(
            f"at {allowed_fpr:.1%} false positives nothing is detected on the validation side, so the alarm "
            "threshold lies above its scores; read the measures that need no threshold, or add episodes"
        )
    temperature = round(fit_temperature(validation.suspicious, validation.scores), report.FLOAT_DIGITS)
    train_rows = prepared.rows["train"]
    measured = report.rounded(
        {
            "schema": report.SCHEMA,
            "model": job.model,
            "mode": job.mode,
            "split_recipe": job.split_recipe,
            "split_is_leaky": split.is_leaky,
            "threshold": threshold,
            "threshold_fpr": allowed_fpr,
            "temperature": temperature,
            "train": {
                "windows": len(train_rows),
                "episodes": len(np.unique(prepared.windows.episode[train_rows])),
                "base_rate": float(prepared.windows.suspicious[train_rows].mean()),
            },
            "validation": metrics.measure(validation, threshold, temperature, job.seed),
            "test": metrics.measure(test, threshold, temperature, job.seed),
        }
    )
    assert isinstance(measured, dict) and isinstance(measured["test"], dict)
    described = describe(split, prepared.keys)
    test_windows = prepared.windows.take(prepared.rows["test"])
    model = trained.files()
    inputs = report.preprocess(
        prepared.episodes[0],
        prepared.reads,
        prepared.features,
        seconds(job, "window_s"),
        seconds(job, "stride_s"),
        prepared.hz,
        {**trained.preprocess(), "model_files": report.model_files(model)},
    )
    files = {
        **model,
        report.METRICS: report.json_bytes(measured),
        report.CONFIG: report.json_bytes(report.config(job, digest_of(prepared.episodes))),
        report.PREPROCESS: report.json_bytes(inputs),
        report.SPLIT: report.json_bytes(described),
        report.LEAKAGE: report.json_bytes(leaks),
        report.MODEL_CARD: model_card(job, prepared.episodes, described, measured, leaks),
        report.PREDICTIONS: report.predictions(prepared.episodes, test_windows, test.scores),
        **plots(job, test, threshold, temperature, prepared.keys),
    }
    return files, metrics.headline(measured["test"])
