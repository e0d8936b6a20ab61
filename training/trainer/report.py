"""What a training run leaves behind, as a mapping of file name to bytes.

Nothing here depends on when, where or by which checkout it was written: no time, host name, path or version.
Two runs of one job on one data set give the same bytes. Provenance travels beside the artifact, not inside.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from training.trainer.channels import BASELINE_S, VISIBLE, Signal
from training.trainer.data import Episode, Windows
from training.trainer.errors import BadData, CannotWrite
from training.trainer.metrics import SCORE_DIGITS, Floats
from training.trainer.options import MODELS, Json
from training.trainer.spec import Job

METRICS, CONFIG, PREPROCESS, SPLIT = "metrics.json", "config.json", "preprocess.json", "split.json"
MODEL_CARD, PREDICTIONS = "model_card.md", "predictions.csv"
FLOAT_DIGITS = 6
SCHEMA = 1

_MAY_WRITE = (METRICS, CONFIG, PREPROCESS, SPLIT, MODEL_CARD, PREDICTIONS)
_MODEL_FILES = ("model.lgb.txt", "model.safetensors", "arch.json")


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
    return {
        "schema": SCHEMA,
        "model": job.model,
        "mode": job.mode,
        "hyper": hyper,
        "split_recipe": job.split_recipe,
        "train_hosts": hosts,
        "seed": job.seed,
        "dataset_id": dataset_id,
    }


def preprocess(
    signals: Sequence[Signal],
    features: Sequence[str],
    window_s: float,
    stride_s: float,
    of_model: Mapping[str, Json],
) -> dict[str, Json]:
    """How episodes become the model's inputs: what `score` needs to do the same again."""
    channels: list[Json] = [
        {"name": signal.name, "unit": signal.unit, "kind": signal.kind} for signal in signals
    ]
    names: list[Json] = [*features]
    return {
        "schema": SCHEMA,
        "baseline_s": BASELINE_S,
        "window_s": window_s,
        "stride_s": stride_s,
        "channels": channels,
        "features": names,
        **of_model,
    }


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
        for name in (*_MAY_WRITE, *_MODEL_FILES):
            (out / name).unlink(missing_ok=True)
        for name, content in sorted(files.items()):
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


def model_card(
    job: Job, episodes: Sequence[Episode], split: Mapping[str, Json], measured: Mapping[str, Json]
) -> bytes:
    """A page for the person who wonders what this model is and how far to trust it."""
    simulated = sorted({episode.key.host for episode in episodes if episode.simulated})
    hosts = sorted({episode.key.host for episode in episodes})
    help_text = MODELS[job.model].help
    what = (
        f"{help_text[:1].upper()}{help_text[1:]}. It says of each window of {job.hyper['window_s']:g} s "
        "how likely the host behaves suspiciously."
    )
    lines = [
        f"# {job.model}-{job.mode}",
        "",
        what,
        "",
        "## What it sees",
        "",
        f"Mode `{job.mode}`: the {len(episodes[0].signals)} channels whose names begin with "
        + ", ".join(f"`{prefix}`" for prefix in VISIBLE[job.mode])
        + f". Each is taken relative to the first {BASELINE_S:g} s of its episode.",
        "",
        "## Data",
        "",
        f"{len(episodes)} episodes of {len(hosts)} hosts ({', '.join(hosts)}).",
    ]
    if simulated:
        named = f"Simulated hosts (shaped parts of one machine): {', '.join(simulated)}."
        lines += ["", f"{named} Results between them say less than results between real machines."]
    lines += ["", *_split_lines(job, split), "", "## Results on the test side", ""]
    lines += ["| measure | value |", "|---|---|"]
    lines += [f"| {name} | {_shown(measured[name])} |" for name in sorted(measured) if name != "at_threshold"]
    at_threshold = measured["at_threshold"]
    assert isinstance(at_threshold, dict)
    lines += ["", "At the threshold fixed on the validation side:", "", "| measure | value |", "|---|---|"]
    lines += [f"| {name} | {_shown(value)} |" for name, value in sorted(at_threshold.items())]
    lines += ["", "## Limits", "", _LIMITS, ""]
    return "\n".join(lines).encode()


_LIMITS = (
    "Suspicious behaviour is played by harmless stand-ins, not by malware. Windows of one episode "
    "resemble each other, so the interval is taken over whole episodes. `roc_auc_active` leaves out the quiet "
    "baseline, which any detector of mere activity gets right; `roc_auc` is to be read against "
    "`roc_auc_of_mere_activity`, `pr_auc` against `base_rate`."
)


def _split_lines(job: Job, split: Mapping[str, Json]) -> list[str]:
    sides = split["sides"]
    assert isinstance(sides, dict)
    lines = [f"Split `{job.split_recipe}`, seed {job.seed}; held out for the test: {split['held_out']}.", ""]
    lines += ["| side | episodes | suspicious | hosts |", "|---|---|---|---|"]
    for name, side in sides.items():
        assert isinstance(side, dict) and isinstance(side["hosts"], list)
        hosts = ", ".join(str(host) for host in side["hosts"])
        lines.append(f"| {name} | {side['n_episodes']} | {side['n_suspicious']} | {hosts} |")
    return lines


def _shown(value: Json) -> str:
    if value is None:
        return "not defined"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return " to ".join(_shown(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in sorted(value.items())) or "none"
    return str(value)


def rounded_scores(scores: Floats) -> Floats:
    """Scores as they stand in predictions.csv; everything is measured on these."""
    cut: Floats = np.round(scores, SCORE_DIGITS)
    return cut
