"""The jobs of the example manifest, trained with their defaults, then scored on the held-out recording.

    python -m benchmarks.heldout [--datasets datasets] [--folder DIR] [--models gbt,mlp,...]

The held-out set was recorded on another simulated host, with parameters drawn from another seed, after profiles,
splits and features were fixed; nothing is tuned on it. Prints one JSON line per job: measures on the test side of its
own split (`test`) and on the held-out set (`heldout`), and at the end the table of docs/data.md. Without torch the
models that need it are left out, which is said. A minute for the models without torch, a few more with it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.tsc_table import aligned
from cis490.episodes.dataset import unpack
from tools.results_table import digits
from training.trainer.options import MODELS

MODES = ("realistic", "oracle")
SHOWN = (
    "roc_auc_active", "roc_auc_active_ci95", "roc_auc", "roc_auc_ci95", "roc_auc_of_mere_activity", "pr_auc",
    "base_rate", "windows", "episodes",
)  # fmt: skip
HEADER = ("job", "set", "active ROC-AUC (95 %)", "ROC-AUC (95 %)", "of mere activity", "PR-AUC", "base rate")


def open_set(datasets: Path, name: str, folder: Path) -> Path:
    """Unpack a shipped data set, verified against the id beside it."""
    pin = json.loads((datasets / f"{name}.json").read_text(encoding="utf-8"))
    unpack(datasets / pin["file"], folder / name, pin["dataset_id"])
    return folder / name


def train(model: str, mode: str, data: Path, out: Path) -> dict[str, Any]:
    """Train on the CPU; what `metrics.json` says."""
    ran(
        "run", "--model", model, "--mode", mode, "--seed", "0", "--device", "cpu", "--data", data, "--out", out
    )  # fmt: skip
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return found


def score(artifact: Path, data: Path) -> dict[str, Any]:
    """The measures of a trained model on another data set."""
    found: dict[str, Any] = json.loads(ran("score", "--artifact", artifact, "--data", data))
    return found


def ran(program: str, *options: str | Path) -> str:
    """Standard output of a program of the trainer; ends this one with its last sentence when it fails."""
    command = [sys.executable, "-m", f"training.trainer.{program}", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit((done.stderr.strip() or f"{command}: no message").splitlines()[-1])
    return done.stdout


def trainable(models: Sequence[str]) -> list[str]:
    """Those whose libraries are here; names the others on standard error."""
    found = []
    for model in models:
        missing = [library for library in MODELS[model].needs.libraries if find_spec(library) is None]
        if missing:
            print(f"{model} is left out: this Python has no {', '.join(missing)}", file=sys.stderr)
        else:
            found.append(model)
    return found


def shown(measured: dict[str, Any]) -> dict[str, Any]:
    """What is printed of a `metrics.json`, or of what `score` says."""
    flat = measured.get("test", measured)
    return {key: flat[key] for key in SHOWN}


def cells(job: str, which: str, row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table in docs/data.md."""
    aucs = [
        f"{digits(row[key])} ({' to '.join(map(digits, row[f'{key}_ci95'] or (None, None)))})"
        for key in ("roc_auc_active", "roc_auc")
    ]
    return (
        job,
        which,
        *aucs,
        *(digits(row[key]) for key in ("roc_auc_of_mere_activity", "pr_auc", "base_rate")),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=Path, default=Path("datasets"))
    parser.add_argument("--folder", type=Path, help="keep the artifacts here")
    parser.add_argument("--models", default=",".join(MODELS), help="default: all seven")
    args = parser.parse_args()
    models = args.models.split(",")
    if unknown := [model for model in models if model not in MODELS]:
        parser.error(f"--models: found {', '.join(unknown)}; expected some of {', '.join(MODELS)}")
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        main_set = open_set(args.datasets, "lab-v1", Path(scratch))
        heldout = open_set(args.datasets, "lab-v1-heldout", Path(scratch))
        for model, mode in product(trainable(models), MODES):
            out = folder / f"{model}-{mode}"
            measured = train(model, mode, main_set, out)
            line: dict[str, Any] = {
                "job": out.name,
                "test": shown(measured),
                "heldout": shown(score(out, heldout)),
            }
            print(json.dumps(line), flush=True)
            rows += [cells(out.name, "test", line["test"]), cells("", "held-out", line["heldout"])]
    print("\n" + aligned(HEADER, rows))


if __name__ == "__main__":
    main()
