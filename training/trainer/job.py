"""One training job from data to files. `run` prepares the process and turns errors into exit codes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from training.trainer import metrics, report
from training.trainer.data import (
    Episode,
    Windows,
    cut_windows,
    digest_of,
    load_episodes,
    window_feature_names,
)
from training.trainer.errors import BadData
from training.trainer.features import varying_columns
from training.trainer.models import Step, Trained, TrainingData, module_of
from training.trainer.options import Json
from training.trainer.progress import Progress
from training.trainer.spec import Job
from training.trainer.splits import Split, describe, make_split


def train_job(
    job: Job, data: Path, threads: int, progress: Progress, check_stop: Callable[[], None]
) -> tuple[Mapping[str, bytes], dict[str, Json]]:
    """Train one job: (files of the artifact, headline measures of the test side).

    `check_stop` is called between steps and may raise Preempted. Raises TrainerError.
    """
    module = module_of(job.model)  # first: a missing library should not cost the time to read the data
    check_stop()
    episodes = load_episodes(data, job.mode, check_stop=check_stop)
    keys = [episode.key for episode in episodes]
    split = make_split(keys, job.split_recipe, job.train_hosts, job.seed)
    window_s, stride_s = float(cast(float, job.hyper["window_s"])), float(cast(float, job.hyper["stride_s"]))
    windows = cut_windows(episodes, window_s, stride_s, check_stop)
    train, validation, test = (windows.of(side) for side in (split.train, split.validation, split.test))
    _check_labels(job, train, validation, test)
    columns = varying_columns(train.features)
    if not len(columns):
        raise BadData(
            f"{data}: every feature is constant on the training side; the recording holds no signal"
        )
    total = int(cast(int, job.hyper["rounds" if module.UNIT == "round" else "epochs"]))
    progress.start(total, module.UNIT)

    def on_step(step: Step) -> None:
        progress.step(step.step, step.total, step.loss, {"validation_loss": step.validation_loss})
        check_stop()

    trained = module.fit(
        TrainingData(
            train.features[:, columns],
            train.suspicious,
            validation.features[:, columns],
            validation.suspicious,
        ),
        job.hyper,
        job.seed,
        threads,
        on_step,
    )

    def scored(side: Windows) -> metrics.Scored:
        scores = report.rounded_scores(trained.predict(side.features[:, columns]))
        return scored_windows(episodes, side, scores, stride_s)

    on_validation, on_test = scored(validation), scored(test)
    threshold = metrics.threshold_at_fpr(
        on_validation.suspicious, on_validation.scores, metrics.VALIDATION_FPR
    )
    measured: dict[str, Json] = {
        "schema": report.SCHEMA,
        "model": job.model,
        "mode": job.mode,
        "threshold": threshold,
        "train": {
            "windows": len(train),
            "episodes": len(split.train),
            "base_rate": float(train.suspicious.mean()),
        },
        "validation": metrics.measure(on_validation, threshold, job.seed),
        "test": metrics.measure(on_test, threshold, job.seed),
    }
    names = window_feature_names(episodes)
    kept = [names[column] for column in columns]
    return _artifact(
        job, episodes, split, trained, kept, measured, report.predictions(episodes, test, on_test.scores)
    )


def scored_windows(
    episodes: Sequence[Episode], windows: Windows, scores: metrics.Floats, stride_s: float
) -> metrics.Scored:
    """Windows with their scores, as the measures want them."""
    return metrics.Scored(
        suspicious=windows.suspicious,
        scores=scores,
        active=windows.active,
        episode=windows.episode,
        end_s=windows.end_s,
        stride_s=stride_s,
        family={index: episode.key.family for index, episode in enumerate(episodes)},
        onset_s={index: episode.onset_s for index, episode in enumerate(episodes)},
    )


def _check_labels(job: Job, train: Windows, validation: Windows, test: Windows) -> None:
    for name, side in (("training", train), ("validation", validation), ("test", test)):
        n_suspicious = int(side.suspicious.sum())
        if n_suspicious in (0, len(side)):
            raise BadData(
                f"{job.split_recipe}: the {name} side has {n_suspicious} suspicious of {len(side)} windows, "
                "expected some of each; choose a smaller window_s or record longer episodes"
            )


def _artifact(
    job: Job,
    episodes: Sequence[Episode],
    split: Split,
    trained: Trained,
    features: Sequence[str],
    measured: dict[str, Json],
    predictions: bytes,
) -> tuple[Mapping[str, bytes], dict[str, Json]]:
    described = describe(split, [episode.key for episode in episodes])
    shown = report.rounded(measured)
    assert isinstance(shown, dict) and isinstance(shown["test"], dict)
    prepared = report.preprocess(
        episodes[0].signals,
        features,
        float(cast(float, job.hyper["window_s"])),
        float(cast(float, job.hyper["stride_s"])),
        trained.preprocess(),
    )
    files = {
        **trained.files(),
        report.METRICS: report.json_bytes(shown),
        report.CONFIG: report.json_bytes(report.config(job, digest_of(episodes))),
        report.PREPROCESS: report.json_bytes(prepared),
        report.SPLIT: report.json_bytes(described),
        report.MODEL_CARD: report.model_card(job, episodes, described, shown["test"]),
        report.PREDICTIONS: predictions,
    }
    return files, metrics.headline(shown["test"])
