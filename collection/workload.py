"""The process whose tree is recorded: runs a background task and, from the onset on, one profile.

Started by `record`, which talks to it in JSON lines: it reads its specification, prepares files, says ready, reads
the start time, works until the end and reports when the onset really was. Everything is imported and prepared
before the start, so that the onset shows the profile and not Python loading modules.
"""

import json
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from collection.profiles import PROFILES, Profile
from collection.sandbox import BudgetSpent, Limits, Sandbox, fork, make_folder, remove_folder

MIB: Final = 1024 * 1024
FOREGROUND_BYTES: Final = 44 * MIB
BACKGROUND_BYTES: Final = 20 * MIB
"""Together at most 64 MiB of writes an episode."""

BACKGROUND_STRETCH: Final = 3.0
"""A background task waits three times as long between its steps as the same profile in the foreground."""

_LATEST_START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What to run; travels as one JSON line."""

    profile: str
    parameters: Mapping[str, int]
    background: str
    background_parameters: Mapping[str, int]
    baseline_ms: int
    onset_ms: int
    seed: int
    duration_s: float
    scratch: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def assert_ordinary_priority() -> None:
    """CPU time of a niced process is counted apart: one niced label would give itself away."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if nice != 0:
        raise SystemExit(
            f"workload: the priority is nice {nice}, expected 0; start the recording without nice"
        )


def run(spec: WorkloadSpec) -> int:
    """One episode; returns the exit status. Speaks on standard input and output as the module says."""
    assert_ordinary_priority()
    parent = Path(spec.scratch)
    folders = [make_folder(parent), make_folder(parent)]
    try:
        return _run(spec, *folders)
    finally:
        for folder in folders:
            remove_folder(folder)


def _run(spec: WorkloadSpec, front: Path, back: Path) -> int:
    foreground = PROFILES[spec.profile]
    background = PROFILES.get(spec.background)
    wall_s = _LATEST_START_S + spec.duration_s
    front_box = Sandbox(front, Limits(FOREGROUND_BYTES, children=3, starts=400, wall_s=wall_s))
    back_box = Sandbox(
        back, Limits(BACKGROUND_BYTES, children=1, starts=50, wall_s=wall_s), stretch=BACKGROUND_STRETCH
    )
    foreground.prepare(front_box, spec.parameters, random.Random(spec.seed))
    if background:
        background.prepare(back_box, spec.background_parameters, random.Random(spec.seed + 1))
    print("ready", flush=True)
    start = float(sys.stdin.readline())
    end = start + spec.duration_s
    _sleep_until(start - 0.1)
    children = []
    if background:
        work = _Work(background, back_box, spec.background_parameters, spec.seed + 2, end, ramp_s=0.0)
        children.append(fork(work, end - time.monotonic()))
    _sleep_until(start + spec.baseline_ms / 1000)
    onset = time.monotonic()
    work = _Work(foreground, front_box, spec.parameters, spec.seed + 3, end, ramp_s=spec.onset_ms / 1000)
    children.append(fork(work, end - onset))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print(json.dumps({"onset_us": round((onset - start) * 1e6)}), flush=True)
    return 0 if not any(codes) else 1


@dataclass(frozen=True, slots=True)
class _Work:
    """The body of a profile's process."""

    profile: Profile
    box: Sandbox
    parameters: Mapping[str, int]
    seed: int
    end: float
    ramp_s: float

    def __call__(self) -> None:
        self.box.deadline = self.end
        self.box.ramp(self.ramp_s)
        try:
            self.profile.run(self.box, self.parameters, random.Random(self.seed))
        except BudgetSpent as spent:
            print(f"workload: {self.profile.name}: stops early: {spent}", file=sys.stderr)
            self.box.pause(max(0.0, self.end - time.monotonic()))
        finally:
            self.box.close()


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


if __name__ == "__main__":
    raise SystemExit(run(WorkloadSpec(**json.loads(sys.stdin.readline()))))
