"""The four jobs of the demo, trained as the example manifest states them, then scored on the held-out recording.

    python -m benchmarks.heldout [--datasets datasets] [--folder DIR]

The held-out set was recorded on another simulated host, with parameters drawn from another seed, after
profiles, splits, features and defaults were fixed; nothing was tuned on it. Prints one JSON line per model:
measures on the test side of its own split (`test`) and on the held-out set (`heldout`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cis490.episodes.dataset import unpack

JOBS = [(model, mode) for model in ("gbt", "mlp") for mode in ("realistic", "oracle")]
SHOWN = (
    "roc_auc_active", "roc_auc_active_ci95", "roc_auc", "roc_auc_ci95", "roc_auc_of_mere_activity", "pr_auc",
    "base_rate", "accuracy", "false_alarms_per_host_hour", "windows", "episodes",
)  # fmt: skip


def open_set(datasets: Path, name: str, folder: Path) -> Path:
    """Unpack a shipped data set, verified against the id beside it."""
    pin = json.loads((datasets / f"{name}.json").read_text(encoding="utf-8"))
    unpack(datasets / pin["file"], folder / name, pin["dataset_id"])
    return folder / name


def train(model: str, mode: str, data: Path, out: Path) -> dict[str, Any]:
    command = ["--model", model, "--mode", mode, "--seed", "0", "--data", str(data), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "training.trainer.run", *command], check=True, capture_output=True)
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return found


def score(artifact: Path, data: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "training.trainer.score",
        "--artifact",
        str(artifact),
        "--data",
        str(data),
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(printed)
    return found


def shown(measured: dict[str, Any]) -> dict[str, Any]:
    flat = measured.get("test", measured)
    return {key: flat[key] for key in SHOWN if key in flat}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=Path, default=Path("datasets"))
    parser.add_argument("--folder", type=Path, help="keep the artifacts here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        main_set = open_set(args.datasets, "lab-v1", Path(scratch))
        heldout = open_set(args.datasets, "lab-v1-heldout", Path(scratch))
        for model, mode in JOBS:
            out = folder / f"{model}-{mode}"
            measured = train(model, mode, main_set, out)
            line = {"job": out.name, "test": shown(measured), "heldout": shown(score(out, heldout))}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
