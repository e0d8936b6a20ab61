"""The fleet on one machine: `python -m tools.demo`, or `make demo`.

Starts a receiver and a worker as processes of their own, waits until every job that fits this machine is trained,
and shows what came out. Everything it writes lies in one folder (`demo/`), which the next run replaces.
`--full` (`make demo-full`) trains all fourteen jobs, the deep models too, on two workers, in `demo-full/`.
`--serve` starts the receiver alone on what the last run left, for `cis490-jobs`.

Exit codes: 0 trained, 1 something failed (the message says what, and shows the log), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cis490.files import is_safe_name
from tools.demo_manifest import GPU_KEYS, Host, manifest
from tools.demo_parts import (
    ROOT,
    DemoError,
    Folder,
    Part,
    prepare,
    refuse_if_running,
    running_receiver,
    start,
)
from tools.demo_report import (
    Row,
    after_lines,
    artifact_lines,
    failure_lines,
    gap_lines,
    next_lines,
    text,
    waiting_lines,
)
from tools.demo_watch import PASSING, POLL_S, Narrator, Watch
from training.fleet.capability import detect
from training.fleet.client import FleetError
from training.fleet.eligibility import HostView, Requirement, Rules, fits
from training.fleet.manifest import TrainingManifestError, load
from training.fleet.types import Capability, JobSpec

EXAMPLE = ROOT / "etc" / "training_manifest.toml.example"
DATASET = ROOT / "datasets" / "lab-v1.json"
"""Names the data set that ships with the repository: {"dataset_id": ..., "episodes": ..., "file": ...}."""
MODELS = ("gbt", "mlp")
"""What the short demo's only host may run: seconds each, without a GPU and without torch."""
WORKERS = 2
"""Of the full demo; one on a machine with a single core. A training uses one core."""
SERVE_PORT = 8445
"""Where `cis490-jobs` looks when it is not told otherwise."""


def write_manifest(folder: Folder, host: Host, *, without_gpu: bool) -> int:
    """The example's jobs for this one host and the repository's data set; returns how many jobs there are."""
    try:
        pin: Row = json.loads(DATASET.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DemoError(f"{DATASET} is not there: the demo trains on the data set of this checkout") from None
    packed = str(DATASET.parent / text(pin, "file"))
    example = EXAMPLE.read_text(encoding="utf-8")
    made = manifest(example, text(pin, "dataset_id"), packed, host, without_gpu=without_gpu)
    folder.manifest.write_text(made, encoding="utf-8")
    try:
        return len(load(folder.manifest).jobs)
    except TrainingManifestError as error:
        raise DemoError(f"the demo's manifest has faults; this checkout is not whole:\n{error}") from None


def this_host(*, full: bool) -> Host:
    """This machine as the manifest names it."""
    name = socket.gethostname()
    if not is_safe_name(name):
        name = "this-machine"
    if not full:
        return Host(name, MODELS)
    return Host(name, (), min(WORKERS, os.cpu_count() or 1))


def require_torch() -> None:
    """Raises DemoError where the deep models could not train."""
    if find_spec("torch") is None:
        raise DemoError(
            f"{sys.executable} has no torch, which eight of the jobs need.\n"
            f'  Type: make demo-full; without make: {sys.executable} -m pip install "torch>=2.6"'
        )


def lacks_gpu(found: Capability, jobs: Iterable[JobSpec], narrator: Narrator) -> bool:
    """Whether there is no GPU here that is large enough for every job, judged as the receiver judges; says so."""
    gpus = ", ".join(gpu.name for gpu in found.gpus or ()) or "a GPU"
    here = HostView("here", capability=Capability(has_cuda=found.has_cuda, vram_gib=found.vram_gib))
    wishes = [
        Requirement(job.model, require_cuda=job.require_cuda, min_vram_gib=job.min_vram_gib) for job in jobs
    ]
    if not found.has_cuda:
        what = "none that torch can use"
    elif not all(fits(wish, here, Rules()) for wish in wishes):
        what = f"{gpus}: too small for what the example asks for; the deep models train on it all the same"
    else:
        narrator.event("GPU", f"{gpus}: the deep models train on it")
        return False
    narrator.event("GPU", f"{what}; {' and '.join(GPU_KEYS)} of the transformer jobs are left out here")
    return True


def train(folder: Folder, port: int, limit_s: float, narrator: Narrator, *, full: bool) -> bool:
    """Run the fleet until every job that fits is over; whether all of them are trained."""
    host = this_host(full=full)
    without_gpu = False
    if full:
        narrator.now("          looking for a GPU ...")
        without_gpu = lacks_gpu(detect(), load(EXAMPLE).jobs, narrator)
    n_jobs = write_manifest(folder, host, without_gpu=without_gpu)
    may = ", ".join(host.models) or "all of them"
    narrator.event(
        "manifest",
        f"{folder.shown(folder.manifest)}: {n_jobs} jobs; {host.name} may run {may}, {host.slots} at once",
    )
    with running_receiver(folder, port) as (client, receiver, url):
        narrator.event("receiver", f"{url} (log: {folder.shown(receiver.log)})")
        with contextlib.ExitStack() as stack:
            stack.callback(narrator.now, "")
            workers = [_start_worker(folder, url, host, n) for n in range(1, host.slots + 1)]
            for worker in workers:
                stack.callback(worker.stop)
                narrator.event(worker.name, f"{host.name} (log: {folder.shown(worker.log)})")
            watch = Watch(client, host.name, (receiver, *workers), narrator, limit_s)
            watch.until_known()
            jobs = watch.until_over()
        narrator.event(
            "all jobs over", f"{sum(job['status'] == 'completed' for job in jobs)} of {len(jobs)} trained"
        )
        print("\n".join(artifact_lines(jobs, folder.models, folder.shown)))
        print("\n".join(gap_lines(jobs, folder.models)))
        print("\n".join(waiting_lines(client, host.name, PASSING)))
    print("\n".join(failure_lines(jobs)))
    if full and len(jobs) < n_jobs:
        print(f"\nOnly {len(jobs)} of {n_jobs} jobs fit this machine, so this is not the full demo.")
    print(f"\nTotal time: {narrator.elapsed_s():.1f} s")
    return all(job["status"] == "completed" for job in jobs) and (not full or len(jobs) == n_jobs)


def _start_worker(folder: Folder, url: str, host: Host, n: int) -> Part:
    """Worker n of the host: one training at a time, a state folder and a log of its own."""
    name = "worker" if host.slots == 1 else f"worker-{n}"
    return start(
        folder, name, "training.fleet.worker",
        "--receiver-url", url, "--host", host.name, "--state-dir", str(folder.path / name), "--poll-s", "1",
    )  # fmt: skip


def serve(folder: Folder, port: int) -> NoReturn:
    """The receiver alone, on what the last demo left, until Ctrl-C (KeyboardInterrupt)."""
    if not folder.marker.is_file() or not folder.manifest.is_file():
        raise DemoError(
            f"there is no finished demo in {folder.shown()}.\n  Type: make demo, or make demo-full"
        )
    refuse_if_running(folder)
    with running_receiver(folder, port or SERVE_PORT) as (_, part, url):
        print(f"The receiver serves {folder.shown()}. Open {url}/ in a browser; Ctrl-C ends it.\n")
        print("\n".join(next_lines(url, SERVE_PORT, folder.shown(), folder.shown(folder.token))), flush=True)
        while True:
            part.must_live()
            time.sleep(POLL_S)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo", description="Train real models on this machine."
    )
    parser.add_argument(
        "--folder", type=Path, help="where everything goes (default: demo/; --full: demo-full/)"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="the receiver's port (default: any free one; --serve: 8445)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="go on with the last demo's queue instead of a new one"
    )
    parser.add_argument(
        "--limit-s", type=float, default=900.0, help="give up after so long (default: %(default)g)"
    )
    parser.add_argument(
        "--full", action="store_true", help="all fourteen jobs on two workers; needs torch (make demo-full)"
    )
    parser.add_argument("--serve", action="store_true", help="start the receiver alone, on the finished demo")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit codes stand at the top of this file."""
    args = arguments().parse_args(argv)
    folder = Folder((args.folder or ROOT / ("demo-full" if args.full else "demo")).resolve())
    signal.signal(signal.SIGTERM, _interrupt)
    narrator = Narrator()
    try:
        if args.serve:
            serve(folder, args.port)  # ends by Ctrl-C
        if args.full:
            require_torch()  # before the last demo is deleted
        prepare(folder, keep=args.keep)
        good = train(folder, args.port, args.limit_s, narrator, full=args.full)
    except (DemoError, FleetError, OSError) as error:
        print(f"\nThe demo stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped, with everything that was started here.", file=sys.stderr)
        return 0 if args.serve else 130
    if good:
        print("\n".join(after_lines(full=args.full)))
    return 0 if good else 1


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
