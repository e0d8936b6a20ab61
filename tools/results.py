"""Train every job of the example manifest under three splits and write docs/results.md: `make results`.

    python -m tools.results [--jobs N] [--out DIR] [--only WORD]

Each training is a process of its own, the trainer as the worker starts it, on the data set that ships with the
repository, on the CPU. What is finished stays in DIR (default: results/jobs/), and a second run with the same
trainer, libraries and data set does what is missing. Linux and macOS only. Exit codes: 0 written, 1 a training
failed (nothing is written; its last line says why), 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import positive, side_by_side
from cis490.episodes.dataset import unpack
from cis490.files import atomic_write
from tools.results_table import MEASURED, SPLITS, digits
from training.fleet.manifest import load
from training.trainer.digest import trainer_digest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "etc" / "training_manifest.toml.example"
DATASET = ROOT / "datasets" / "lab-v1.json"
LIBRARIES = ("numpy", "lightgbm", "torch")
KEPT_MEASURES = (
    "roc_auc_active", "roc_auc_active_ci95", "roc_auc", "roc_auc_ci95", "pr_auc", "base_rate", "fpr_at_tpr90",
    "windows", "episodes",
)  # fmt: skip


class TrainingFailed(Exception):
    """The trainer's last line."""


@dataclass(frozen=True)
class Training:
    """A job of the manifest under one split."""

    model: str
    mode: str
    hyper: dict[str, Any]
    seed: int
    split: str

    @property
    def name(self) -> str:
        return f"{self.model}-{self.mode}-{self.split}"

    def spec(self) -> dict[str, Any]:
        """What the trainer reads."""
        return {
            "model": self.model,
            "mode": self.mode,
            "hyper": self.hyper,
            "seed": self.seed,
            "split_recipe": self.split,
            "train_hosts": [],
        }


def trainings(only: str) -> Iterator[Training]:
    """Each job under each split, as far as the name holds `only`."""
    for split in SPLITS:
        for job in load(EXAMPLE).jobs:
            training = Training(job.model, job.mode, dict(job.hyper), job.seed, split)
            if only in training.name:
                yield training


def measured(training: Training, data: Path, out: Path, made_with: dict[str, Any]) -> dict[str, Any]:
    """The row of one training: the finished one in `out` if it was made with the same, or a new one. `made_with`: what
    it depends on beside its spec. Raises TrainingFailed."""
    kept = out / f"{training.name}.json"
    if kept.is_file():
        row: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if row.get("made_with") == made_with and row["spec"] == training.spec():
            return row
    folder = out / training.name
    spec = out / f"{training.name}.spec.json"
    spec.write_text(json.dumps(training.spec()), encoding="utf-8")
    cpu_s = run(
        [sys.executable, "-m", "training.trainer.run", "--spec", str(spec), "--data", str(data), "--out", str(folder),
         "--device", "cpu"],
        out / f"{training.name}.log",
    )  # fmt: skip
    test = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    row = {
        "model": training.model,
        "mode": training.mode,
        "split": training.split,
        "test": {name: test.get(name) for name in KEPT_MEASURES},
        "cpu_s": round(cpu_s, 1),
        "made_with": made_with,
        "spec": training.spec(),
    }
    atomic_write(kept, json.dumps(row).encode())
    return row


def run(command: Sequence[str], log: Path) -> float:
    """CPU seconds of a process, start to end, its output in `log`. Raises TrainingFailed."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)  # what one child used; getrusage adds up all of them
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        last = (log.read_text(encoding="utf-8", errors="replace").strip() or "no message").splitlines()[-1]
        raise TrainingFailed(f"{last} (exit code {process.returncode}; all of it: {log})")
    return usage.ru_utime + usage.ru_stime


def versions() -> dict[str, str]:
    found = {"Python": ".".join(map(str, sys.version_info[:2]))}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise SystemExit(
                f"{sys.executable} has no {name}, which some jobs need; type: make results"
            ) from None
    return found


def open_dataset(out: Path) -> tuple[Path, str]:
    """The repository's data set, unpacked below `out` and verified, with its id."""
    pin = json.loads(DATASET.read_text(encoding="utf-8"))
    dataset_id: str = pin["dataset_id"]
    folder = out / f"data-{dataset_id[:12]}"
    if not folder.is_dir():
        unpack(DATASET.parent / pin["file"], folder, dataset_id)
    return folder, dataset_id


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=positive, default=2, help="trainings at once (default 2)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results" / "jobs", help="what is finished is kept there"
    )
    parser.add_argument(
        "--only", default="", help="trainings whose name holds this word; docs/ stays as it is"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, write; the exit codes stand at the top of this file."""
    parser = arguments()
    args = parser.parse_args(argv)
    wanted = list(trainings(args.only))
    if not wanted:
        parser.error(
            f"--only: found {args.only!r}, expected a part of a name such as {next(trainings('')).name}"
        )
    try:
        return write(wanted, args)
    except KeyboardInterrupt:
        print(
            f"\nInterrupted; what is finished is kept in {args.out}. Type the same again to go on.",
            file=sys.stderr,
        )
        return 130


def write(wanted: Sequence[Training], args: argparse.Namespace) -> int:
    """Train what is missing and write the page. Returns the exit code."""
    args.out.mkdir(parents=True, exist_ok=True)
    used = versions()
    data, dataset_id = open_dataset(args.out)
    made_with = {"trainer": trainer_digest(ROOT), "dataset_id": dataset_id, "versions": used}
    rows: dict[str, dict[str, Any]] = {}
    failed = 0
    started_s = time.monotonic()
    with side_by_side(args.jobs) as pool:
        futures = {
            pool.submit(measured, training, data, args.out, made_with): training for training in wanted
        }
        for done, future in enumerate(as_completed(futures), 1):
            training = futures[future]
            try:
                row = rows[training.name] = future.result()
                auc, cpu_s = row["test"]["roc_auc_active"], row["cpu_s"]
                what = f"ROC-AUC (active) {digits(auc)}, {cpu_s:.1f} CPU s"
            except TrainingFailed as error:
                failed += 1
                what = f"failed: {error}"
            to_go_s = (time.monotonic() - started_s) / done * (len(wanted) - done)
            print(
                f"{done:3}/{len(wanted)}  {training.name:<38} {what}; about {to_go_s:.0f} s to go", flush=True
            )
    if failed or args.only:
        print(f"{failed} of {len(wanted)} failed; docs/ stays as it is.", file=sys.stderr)
        return 1 if failed else 0
    found = {
        "dataset_id": dataset_id,
        "versions": used,
        "rows": [
            {key: rows[t.name][key] for key in ("model", "mode", "split", "test", "cpu_s")} for t in wanted
        ],
    }
    atomic_write(MEASURED, (json.dumps(found, indent=1) + "\n").encode())
    return subprocess.run([sys.executable, "-m", "tools.docs"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
