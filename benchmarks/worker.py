"""What a job costs beyond its trainer: the same trainer in the fleet and on its own, in turns.

    python -m benchmarks.worker [--jobs 15] [--trainers gbt,stub] [--datasets datasets] [--folder DIR]

A real receiver and a real worker process. Each round queues two jobs by a reload, and then runs the same trainer
directly (`python -m MODULE` on the same data). A job's time is that from its claim to the next one's claim, both as
the receiver committed them: it holds everything that a host does between two trainings. `gbt` trains ten trees on
the shipped data set; `stub` writes a few bytes and ends, so that the trainer's own scatter does not hide the rest.

Prints a JSON line per trainer: median and 90th percentile of the overhead (fleet less bare, within a round), of
both sides, and the medians of the parts as the worker's log tells them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from cis490.episodes.dataset import unpack
from training.fleet.client import FleetClient, FleetError

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "token-of-this-benchmark"
MODULES = {"gbt": "training.trainer.run", "stub": "tests.factories.stub_trainer"}
HYPER = {"gbt": "{ rounds = 10 }", "stub": "{}"}
POLL_S = 0.01
LIMIT_S = 120.0
PARTS = (
    ("guard_start", "job.claimed", "job.started"),
    ("trainer", "job.started", "job.ended"),
    ("pack", "job.ended", "job.packed"),
    ("upload", "job.packed", "job.uploaded"),
    ("complete", "job.uploaded", "job.completed"),
    ("next_claim", "job.completed", "job.claimed"),
)


class Bench:
    """One receiver, one worker, and the jobs so far."""

    def __init__(self, folder: Path, trainer: str, pin: dict[str, Any], datasets: Path) -> None:
        self.folder = folder
        self.trainer = trainer
        self.client = FleetClient(f"unix:{folder}/r.sock", operator_token=TOKEN)
        self._head = (
            f'[policy]\ntrainer = "any"\n[dataset]\nid = "{pin["dataset_id"]}"\n'
            f'file = "{datasets.resolve() / pin["file"]}"\n[[hosts]]\nname = "bench"\n'
        )
        self._jobs = ""
        self.write()

    def write(self) -> None:
        """The manifest with the jobs so far."""
        (self.folder / "manifest.toml").write_text(self._head + self._jobs, encoding="utf-8")

    def queue(self, number: int) -> tuple[str, str]:
        """Two new jobs at once; their ids, in the order in which they will be claimed."""
        for seed, priority in ((2 * number, 1), (2 * number + 1, 0)):
            self._jobs += (
                f'[[jobs]]\nname = "job-{seed}"\nmodel = "gbt"\nmode = "realistic"\nhyper = {HYPER[self.trainer]}\n'
                f'split_recipe = "variant_disjoint"\ntrain_hosts = []\nseed = {seed}\npriority = {priority}\n'
            )
        self.write()
        self.client.reload()
        ids = {job["name"]: str(job["job_id"]) for job in self.client.jobs()}
        return ids[f"job-{2 * number}"], ids[f"job-{2 * number + 1}"]

    def job(self, job_id: str) -> dict[str, Any]:
        """The job once it is over."""
        end = time.monotonic() + LIMIT_S
        while (job := self.client.job(job_id))["status"] not in ("completed", "failed"):
            if time.monotonic() > end:
                sys.exit(f"job {job_id[:12]} is still {job['status']} after {LIMIT_S:g} s")
            time.sleep(POLL_S)
        if job["status"] == "failed":
            sys.exit(f"job {job_id[:12]} failed: {job['last_error']}")
        return job

    def bare(self, spec: dict[str, Any], data: Path) -> float:
        """Seconds that the trainer takes on its own."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            (Path(scratch) / "job.json").write_text(json.dumps(spec), encoding="utf-8")
            (Path(scratch) / "out").mkdir()
            command = [sys.executable, "-m", MODULES[self.trainer], "--spec", f"{scratch}/job.json"]
            command += [
                "--data",
                str(data),
                "--out",
                f"{scratch}/out",
                "--progress-file",
                f"{scratch}/progress",
            ]
            started_s = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            return time.perf_counter() - started_s


@contextmanager
def process(log: Path, *command: str) -> Iterator[None]:
    """A module of ours in the background; its log goes to a file."""
    with log.open("w") as stderr:
        started = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT, stderr=stderr, env=os.environ | {"CIS490_OPERATOR_TOKEN": TOKEN},
        )  # fmt: skip
        try:
            yield
        finally:
            started.send_signal(signal.SIGTERM)
            started.wait(60)


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait, and end with a sentence when it takes too long."""
    end = time.monotonic() + LIMIT_S
    while not is_so():
        if time.monotonic() > end:
            sys.exit(f"waited {LIMIT_S:g} s for {what}")
        time.sleep(POLL_S)


def is_healthy(client: FleetClient) -> bool:
    """Whether the receiver answers."""
    try:
        return bool(client.health()["status"] == "ok")
    except FleetError:
        return False


def measure(folder: Path, trainer: str, rounds: int, datasets: Path) -> dict[str, Any]:
    """One trainer's line."""
    pin = json.loads((datasets / "lab-v1.json").read_text(encoding="utf-8"))
    data = folder / "data"
    unpack(datasets / pin["file"], data, pin["dataset_id"])
    bench = Bench(folder, trainer, pin, datasets)
    receiver = [
        "training.fleet.receiver", "--listen-addr", f"unix:{folder}/r.sock", "--manifest", f"{folder}/manifest.toml",
        "--db", f"{folder}/q.db", "--store-root", f"{folder}/models", "--incoming-root", f"{folder}/incoming",
        "--index-path", f"{folder}/models/index.jsonl",
    ]  # fmt: skip
    worker = [
        "training.fleet.worker", "--receiver-url", f"unix:{folder}/r.sock", "--state-dir", f"{folder}/state",
        "--host", "bench", "--trainer-module", MODULES[trainer],
    ]  # fmt: skip
    fleet: list[float] = []
    bare: list[float] = []
    with process(folder / "receiver.log", *receiver):
        until(lambda: is_healthy(bench.client), "the receiver")
        with process(folder / "worker.log", *worker):
            for number in range(-1, rounds):  # the first round fetches the data set and is left out
                first, second = (bench.job(job_id) for job_id in bench.queue(number + 1))
                took_s = bare_s = 0.0
                if number >= 0:
                    took_s = float(second["claimed_at"]) - float(first["claimed_at"])
                    bare_s = bench.bare(first["spec"], data)
                    fleet.append(took_s)
                    bare.append(bare_s)
    return {
        "trainer": trainer,
        "jobs": rounds,
        "overhead_ms": quantiles([one - two for one, two in zip(fleet, bare, strict=True)]),
        "fleet_ms": quantiles(fleet),
        "bare_ms": quantiles(bare),
        "parts_ms": parts((folder / "worker.log").read_text("utf-8")),
    }


def quantiles(values_s: list[float]) -> dict[str, float]:
    """Median and 90th percentile in milliseconds."""
    cuts = statistics.quantiles(values_s, n=10, method="inclusive")
    return {"median": round(1000 * statistics.median(values_s), 1), "p90": round(1000 * cuts[-1], 1)}


def parts(log: str) -> dict[str, float]:
    """Median milliseconds between the events of each job, the first two jobs left out."""
    events = [
        (datetime.fromisoformat(at).timestamp(), name)
        for at, name in re.findall(r"(?m)^at=(\S+) .*?event=(job\.\S+)", log)
    ]
    found: dict[str, list[float]] = {name: [] for name, _, _ in PARTS}
    for (then_s, before), (now_s, after) in itertools.pairwise(events):
        for name, start, end in PARTS:
            if (before, after) == (start, end):
                found[name].append(now_s - then_s)
    # A claim that waited for the next round's reload is not a part of a job.
    found["next_claim"] = found["next_claim"][2::2]
    return {name: round(1000 * statistics.median(values[2:] or values), 1) for name, values in found.items()}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=15)
    parser.add_argument("--trainers", default="gbt,stub", help="comma-separated: gbt, stub")
    parser.add_argument("--datasets", type=Path, default=ROOT / "datasets")
    parser.add_argument("--folder", type=Path, help="keep logs and databases in folders below")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for trainer in args.trainers.split(","):
            folder = (args.folder or Path(scratch)) / trainer
            folder.mkdir(parents=True)
            print(json.dumps(measure(folder, trainer, args.jobs, args.datasets)), flush=True)


if __name__ == "__main__":
    main()
