"""What a training run leaves behind, as a mapping of file name to bytes.

Nothing here depends on when, where or by which checkout it was written: no time, host name, path or version.
Two runs of one job on one data set give the same bytes. Provenance travels beside the artifact, not inside.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.trainer.channels import BASELINE_S
from training.trainer.data import Episode
from training.trainer.errors import BadData, CannotWrite
from training.trainer.metrics_scored import SCORE_DIGITS, Floats
from training.trainer.models import Inputs
from training.trainer.options import LEAKY_RECIPES, MODELS, Json
from training.trainer.spec import Job
from training.trainer.windows import Windows

METRICS, CONFIG, PREPROCESS, SPLIT = "metrics.json", "config.json", "preprocess.json", "split.json"
MODEL_CARD, PREDICTIONS, LEAKAGE = "model_card.md", "predictions.csv", "leakage.json"
FLOAT_DIGITS = 6
SCHEMA = 1

_MAY_WRITE = (METRICS, CONFIG, PREPROCESS, SPLIT, LEAKAGE, MODEL_CARD, PREDICTIONS)
_OF_MODELS = ("model.*", "arch.json", "plots/*.svg", "plots/*.csv")
"""Patterns of the files that only some runs write."""


def rounded(value: Json) -> Json:
    """All floats of a value cut to FLOAT_DIGITS decimals, so that the last bits of an addition do not
    show."""
    if isinstance(value, float):
        return round(value, FLOAT_DIGITS) + 0.0  # no "-0.0"
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


def json_bytes(value: Json) -> bytes:
    """Readable JSON with sorted keys. NaN and infinity are a defect of the caller (ValueError)."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def config(job: Job, dataset_id: str) -> dict[str, Json]:
    """The job with every option spelled out, and the data it saw."""
    hosts: list[Json] = [*job.train_hosts]
    hyper: dict[str, Json] = {k: list(v) if isinstance(v, list) else v for k, v in job.hyper.items()}
    plugin = MODELS[job.model].plugin
    return {
        **({"plugin": plugin} if plugin else {}),
        "schema": SCHEMA,
        "model": job.model,
        "mode": job.mode,
        "hyper": hyper,
        "split_recipe": job.split_recipe,
        "split_is_leaky": job.split_recipe in LEAKY_RECIPES,
        "train_hosts": hosts,
        "seed": job.seed,
        "dataset_id": dataset_id,
    }


def preprocess(
    episode: Episode,
    reads: Inputs,
    features: Sequence[str],
    window_s: float,
    stride_s: float,
    hz: int,
    of_model: Mapping[str, Json],
) -> dict[str, Json]:
    """How episodes become the model's inputs: what `score` needs to do the same again. `episode` is any of the
    data set; `features` are the columns of `summary` inputs, `hz` the grid of `series`."""
    channels: list[Json] = [
        {"name": signal.name, "unit": signal.unit, "kind": signal.kind} for signal in episode.signals
    ]
    names: list[Json] = [*features]
    of_inputs: dict[str, Json] = {"features": names} if reads == "summary" else {"hz": hz}
    return {
        "schema": SCHEMA,
        "inputs": reads,
        "scaling": episode.scaling,
        "baseline_s": BASELINE_S if episode.scaling == "relative" else None,
        "window_s": window_s,
        "stride_s": stride_s,
        "channels": channels,
        **of_inputs,
        **of_model,
    }


def model_files(files: Mapping[str, bytes]) -> dict[str, Json]:
    """The sha256 (hex) of each file of a model, for `preprocess.json`: `score` loads nothing else."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


def predictions(episodes: Sequence[Episode], windows: Windows, scores: Floats) -> bytes:
    """One CSV row per window."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("episode_id", "host", "family", "variant", "start_s", "end_s", "suspicious", "score"))
    for row, score in enumerate(scores):
        key = episodes[int(windows.episode[row])].key
        writer.writerow(
            (
                key.episode_id,
                key.host,
                key.family,
                key.variant,
                f"{windows.start_s[row]:.3f}",
                f"{windows.end_s[row]:.3f}",
                int(windows.suspicious[row]),
                f"{score:.{SCORE_DIGITS}f}",
            )
        )
    return text.getvalue().encode()


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into `out`, which is made if need be. What an earlier run left there under a name of
    ours goes first, so that two models never mix. Raises CannotWrite."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        stale = [path for pattern in _OF_MODELS for path in out.glob(pattern) if path.is_file()]
        for path in (*(out / name for name in _MAY_WRITE), *stale):
            path.unlink(missing_ok=True)
        for name, content in sorted(files.items()):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes(content)
    except OSError as error:
        raise CannotWrite(f"{out}: the results cannot be written: {error}") from error


def read_json(path: Path) -> dict[str, Json]:
    """A JSON object of an artifact. Raises BadData."""
    try:
        value: Json = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadData(
            f"{path}: cannot be read as JSON ({error}); pass the folder of a trained artifact"
        ) from error
    if not isinstance(value, dict):
        raise BadData(f"{path}: found a {type(value).__name__}, expected a JSON object")
    return value
