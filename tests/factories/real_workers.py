"""Workers as real processes, one state folder for all of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Start = Callable[..., subprocess.Popen[bytes]]
"""Starts a worker with these further options."""


@contextmanager
def real_workers(receiver_url: str, folder: Path, timeout_s: float, *always: str) -> Iterator[Start]:
    """Starts workers of the host lab-a, with their state in `folder`/state and the options `always`; ends all of
    them afterwards, and prints their log, which is shown when the test fails."""
    started: list[subprocess.Popen[bytes]] = []
    log_file = folder / "worker.log"

    def begin(*options: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "training.fleet.worker", "--receiver-url", receiver_url, "--host", "lab-a",
            "--state-dir", str(folder / "state"), "--poll-s", "0.1", *always, *options,
        ]  # fmt: skip
        with log_file.open("ab") as log:
            started.append(subprocess.Popen(command, stderr=log))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        one.wait(timeout_s)
    print(log_file.read_text("utf-8"))
