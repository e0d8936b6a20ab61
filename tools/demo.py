"""The fleet on one machine: `python -m tools.demo`, or `make demo`.

Starts a receiver and a worker as processes of their own, waits until every job that fits this machine is trained,
and shows what came out. Everything it writes lies in one folder (`demo/`), which the next run replaces.
`--serve` starts the receiver alone on what the last run left, for `cis490-jobs`.

Exit codes: 0 trained, 1 something failed (the message says what, and shows the log), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cis490.files import is_safe_name
from tools.demo_parts import ROOT, DemoError, Folder, prepare, refuse_if_running, running_receiver, start
from tools.demo_report import Row, after_lines, artifact_lines, next_lines, text, waiting_lines
from tools.demo_watch import PASSING, POLL_S, Narrator, Watch
from training.fleet.client import FleetError
from training.fleet.manifest import TrainingManifestError, load

EXAMPLE = ROOT / "etc" / "training_manifest.toml.example"
DATASET = ROOT / "datasets" / "lab-v1.json"
"""Names the data set that ships with the repository: {"dataset_id": ..., "episodes": ..., "file": ...}."""
MODELS = ("gbt", "mlp")
"""What the demo's only host may run: the models that need neither a GPU nor torch."""
SERVE_PORT = 8445
"""Where `cis490-jobs` looks when it is not told otherwise."""


def write_manifest(folder: Folder, host: str) -> int:
    """The example's jobs for this one host and the repository's data set; returns how many jobs there are."""
    example = EXAMPLE.read_text(encoding="utf-8")
    jobs = example[example.index("\n[[jobs]]\n") :]
    try:
        pin: Row = json.loads(DATASET.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DemoError(f"{DATASET} is not there: the demo trains on the data set of this checkout") from None
    header = (
        "# Made by the demo: the jobs of etc/training_manifest.toml.example on this machine alone.\n"
        'name = "cis490-demo"\n\n'
        f"[dataset]\nid = {quoted(text(pin, 'dataset_id'))}\n"
        f"file = {quoted(str(DATASET.parent / text(pin, 'file')))}\n\n"
        f"[[hosts]]\nname = {quoted(host)}\nallow_jobs = [{', '.join(map(quoted, MODELS))}]\n"
    )
    folder.manifest.write_text(header + jobs, encoding="utf-8")
    try:
        return len(load(folder.manifest).jobs)
    except TrainingManifestError as error:
        raise DemoError(f"the demo's manifest has faults; this checkout is not whole:\n{error}") from None


def quoted(word: str) -> str:
    """`word` as a TOML string; JSON's escapes are among TOML's."""
    return json.dumps(word, ensure_ascii=False)


def train(folder: Folder, port: int, limit_s: float, narrator: Narrator) -> bool:
    """Run the fleet until every job that fits is over; whether all of them are trained."""
    host = socket.gethostname()
    if not is_safe_name(host):
        host = "this-machine"
    n_jobs = write_manifest(folder, host)
    narrator.event(
        "manifest", f"{folder.shown(folder.manifest)}: {n_jobs} jobs; {host} may run {', '.join(MODELS)}"
    )
    with running_receiver(folder, port) as (client, receiver, url):
        narrator.event("receiver", f"{url} (log: {folder.shown(receiver.log)})")
        worker = start(
            folder, "worker", "training.fleet.worker",
            "--receiver-url", url, "--host", host, "--state-dir", str(folder.path / "worker"), "--poll-s", "1",
        )  # fmt: skip
        try:
            narrator.event("worker", f"{host} (log: {folder.shown(worker.log)})")
            watch = Watch(client, host, (receiver, worker), narrator, limit_s)
            watch.until_known()
            jobs = watch.until_over()
        finally:
            narrator.now("")
            worker.stop()
        narrator.event(
            "all jobs over", f"{sum(job['status'] == 'completed' for job in jobs)} of {len(jobs)} trained"
        )
        print("\n".join(artifact_lines(jobs, folder.models, folder.shown)))
        print("\n".join(waiting_lines(client, host, PASSING)))
    for job in jobs:
        if job["status"] != "completed":
            print(f"\n{text(job, 'name')} {text(job, 'status')}: {text(job, 'last_error')}")
    print(f"\nTotal time: {narrator.elapsed_s():.1f} s")
    return all(job["status"] == "completed" for job in jobs)


def serve(folder: Folder, port: int) -> NoReturn:
    """The receiver alone, on what the last demo left, until Ctrl-C (KeyboardInterrupt)."""
    if not folder.marker.is_file() or not folder.manifest.is_file():
        raise DemoError(f"there is no finished demo in {folder.shown()}.\n  Type: make demo")
    refuse_if_running(folder)
    with running_receiver(folder, port or SERVE_PORT) as (_, part, url):
        print(f"The receiver serves {folder.shown()} on {url}; Ctrl-C ends it.\n")
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
        "--folder", type=Path, default=ROOT / "demo", help="where everything goes (default: demo/)"
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
    parser.add_argument("--serve", action="store_true", help="start the receiver alone, on the finished demo")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit codes stand at the top of this file."""
    args = arguments().parse_args(argv)
    folder = Folder(args.folder.resolve())
    signal.signal(signal.SIGTERM, _interrupt)
    narrator = Narrator()
    try:
        if args.serve:
            serve(folder, args.port)  # ends by Ctrl-C
        prepare(folder, keep=args.keep)
        good = train(folder, args.port, args.limit_s, narrator)
    except (DemoError, FleetError, OSError) as error:
        print(f"\nThe demo stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped, with everything that was started here.", file=sys.stderr)
        return 0 if args.serve else 130
    if good:
        print("\n".join(after_lines()))
    return 0 if good else 1


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
