"""Stands in for the trainer in tests of the worker: `python -m tests.factories.stub_trainer`, same command line.

What it does stands in the job's `hyper`: `progress` (lines to write), `say` (text for stderr), `wait_for`
(a file that it waits for), `grandchild` (a file to write the pid of a process into, which it starts),
`on_term` ("ignore", "finish", or the exit code; default 75), `exit` (default 0), `pid` (a file for its own),
`found` (a file that gets the names it finds in its folder for checkpoints, a line each start), `save` (a name
to write there), `device` (a file that gets the device it was told to use, as JSON).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

DESCRIPTION = {
    "protocol": 1,
    "trainer_digest": "e" * 64,
    "models": {"gbt": {"implemented": True}, "cnn": {"implemented": False}},
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--describe", action="store_true")
    for name in ("--spec", "--data", "--out", "--progress-file", "--checkpoint-dir"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device")
    args = parser.parse_args()
    if args.describe:
        print(json.dumps(DESCRIPTION))
        return 0
    do: dict[str, Any] = json.loads(args.spec.read_text())["hyper"]
    asked = _take_sigterm(do.get("on_term", 75))
    if "found" in do:
        with Path(do["found"]).open("a") as found:
            found.write(",".join(sorted(path.name for path in args.checkpoint_dir.iterdir())) + "\n")
    if "device" in do:
        Path(do["device"]).write_text(json.dumps(args.device))
    if "save" in do:
        (args.checkpoint_dir / do["save"]).write_text("half way")
    if "grandchild" in do:
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        _write(Path(do["grandchild"]), str(child.pid))
    with args.progress_file.open("w", buffering=1) as progress:
        for line in do.get("progress", []):
            progress.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    if "pid" in do:
        _write(Path(do["pid"]), str(os.getpid()))
    while "wait_for" in do and not Path(do["wait_for"]).exists() and not asked:
        time.sleep(0.01)
    (args.out / "model.txt").write_text("trained on " + ",".join(sorted(p.name for p in args.data.iterdir())))
    sys.stderr.write(do.get("say", ""))
    return int(do.get("exit", 0))


def _take_sigterm(wish: object) -> list[int]:
    asked: list[int] = []

    def on_term(number: int, frame: FrameType | None) -> None:
        if wish == "finish":
            asked.append(number)
        elif wish != "ignore":
            sys.exit(int(str(wish)))

    signal.signal(signal.SIGTERM, on_term)
    return asked


def _write(path: Path, text: str) -> None:
    """In one step: whoever waits for the file finds it whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.rename(path)


if __name__ == "__main__":
    sys.exit(main())
