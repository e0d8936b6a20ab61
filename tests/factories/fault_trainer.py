"""A trainer for the fault tests: `python -m tests.factories.fault_trainer`, same command line as the real one.

It works in small steps and stamps each into a run log that all trainers of a fleet share, so that a test can tell
afterwards which attempt really ran when: a frozen or dead trainer makes no steps. What it does stands in the file that
`CIS490_FAULT_PLAN` names: {job name: {steps, step_s, size_bytes, exit, child}}; "" is the default for all jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from training.fleet.guard_wire import MARK

PLAN_VARIABLE = "CIS490_FAULT_PLAN"
LOG_VARIABLE = "CIS490_FAULT_LOG"
DESCRIPTION = {"protocol": 1, "trainer_digest": "e" * 64, "models": {"gbt": {"implemented": True}}}


@dataclass(frozen=True)
class Orders:
    """What a trainer is to do; the defaults make a job of about a third of a second."""

    steps: int = 6
    step_s: float = 0.05
    size_bytes: int = 3000
    exit: int = 0
    child: bool = False
    """Start a process that outlives its parent unless somebody ends it."""


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
    spec = json.loads(args.spec.read_text())
    orders = orders_of(Path(os.environ[PLAN_VARIABLE]), spec["name"])
    epoch = os.environ[MARK].partition("@")[0].rpartition("-")[2]
    log = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def stamp(kind: str) -> None:
        # One write call: lines of several trainers never mix.
        at_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.write(log, f"{kind} {os.getpid()} {spec['name']} {epoch} {at_s:.6f}\n".encode())

    signal.signal(signal.SIGTERM, _preempted)
    if orders.child:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    stamp("start")
    with args.progress_file.open("w", buffering=1) as progress:
        for step in range(orders.steps):
            time.sleep(orders.step_s)
            stamp("step")
            progress.write(json.dumps({"step": step + 1, "total": orders.steps}) + "\n")
    if orders.exit:
        sys.stderr.write(f"told to end with {orders.exit}\n")
        return orders.exit
    (args.out / "model.txt").write_bytes(random.Random(spec["name"]).randbytes(orders.size_bytes))
    stamp("end")
    return 0


def orders_of(plan: Path, job: str) -> Orders:
    table: dict[str, dict[str, int]] = json.loads(plan.read_text())
    return Orders(**{**table.get("", {}), **table.get(job, {})})  # type: ignore[arg-type]


def _preempted(number: int, frame: FrameType | None) -> None:
    sys.exit(75)


if __name__ == "__main__":
    sys.exit(main())
