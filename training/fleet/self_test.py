"""What is looked at before a machine joins: can it work at all? Each line says what was found and what mends it.

The findings are those of `doctor`, which looks at the same things later.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from training.fleet import doctor
from training.fleet.capability import Survey
from training.fleet.doctor import WORKER_UNIT, Check, Finding

AREA = "join"
WORKER_NEEDS = ("numpy", "compression.zstd|backports.zstd", "cryptography")
PERSON_NEEDS = ("cryptography",)
MOST_SKEW_S = 5.0
WRONG_CLOCK_S = 600.0
"""From here on a certificate made this moment would not count yet on the other machine."""


def checks(state_dir: Path, survey: Callable[[], Survey] | None) -> Mapping[str, Check]:
    """Of a machine that is to train. `survey` None: the trainer is not looked at."""
    found: dict[str, Check] = {
        "python": lambda: doctor.python(AREA),
        "libraries": lambda: doctor.libraries(AREA, WORKER_NEEDS, "worker,enrolled,train"),
        "disk": lambda: [_room(state_dir)],
    }
    if survey is not None:
        found["trainer"] = lambda: trainer(AREA, survey())
    return found


def checks_for_person() -> Mapping[str, Check]:
    """Of a machine that an operator types at."""
    return {
        "python": lambda: doctor.python(AREA),
        "libraries": lambda: doctor.libraries(AREA, PERSON_NEEDS, "cli"),
    }


def trainer(area: str, found: Survey) -> Iterator[Finding]:
    """What this machine can train."""
    able = found.capability
    if not able.models:
        text = "; ".join(found.notes) or "the trainer here offers no model"
        yield Finding(
            area, "trainer", "FAIL", text, "python -m training.trainer.run --describe   shows the error"
        )
        return
    gpu = "CUDA" if able.has_cuda else "no CUDA"
    text = f"{able.cores} cores, {able.ram_gib or 0:g} GiB RAM, {gpu}; models: {', '.join(able.models)}"
    yield Finding(area, "trainer", "OK", text)
    if found.notes:
        text = "; ".join(found.notes)
        yield Finding(
            area, "trainer", "WARN", text, "python -m training.fleet.capability   shows all that was found"
        )


def clock(skew_s: float | None) -> Iterator[Finding]:
    """`skew_s`: by how much the receiver's clock is ahead; None when it was not told. Pure."""
    if skew_s is None:
        return
    if abs(skew_s) <= MOST_SKEW_S:
        yield Finding(AREA, "clock", "OK", "this clock and the receiver's agree within a few seconds")
        return
    way = "ahead of" if skew_s > 0 else "behind"
    text = f"the receiver's clock is {abs(skew_s):.0f} s {way} this one"
    fix = "timedatectl   on both machines, then on the wrong one: sudo timedatectl set-ntp true"
    if sys.platform == "win32":
        fix = "w32tm /resync   as administrator; on Linux: timedatectl"
    if abs(skew_s) < WRONG_CLOCK_S:
        yield Finding(AREA, "clock", "WARN", text, fix)
    else:
        yield Finding(AREA, "clock", "FAIL", f"{text}: certificates would be judged by a wrong date", fix)


def lines(finding: Finding) -> list[str]:
    """For a person."""
    mark = {"OK": "[ok]", "WARN": "[warn]", "FAIL": "[fail]"}[finding.state]
    text = f"  {mark:<6} {finding.found}"
    return [text, f"         fix: {finding.fix}"] if finding.fix and finding.state != "OK" else [text]


def _room(state_dir: Path) -> Finding:
    at = state_dir
    while not at.exists() and at != at.parent:
        at = at.parent
    return doctor.room(AREA, "disk", at, WORKER_UNIT)
