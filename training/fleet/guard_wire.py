"""What the worker daemon and the guard of a trainer say to each other: one JSON object a line.

To the guard: `start` (once, first), then `confirm` (a later end of the lease), `terminate`, `kill`.
To the daemon: `started`, or `cannot_start`, or `late` (the lease had run out before the trainer was there);
`alive` once a second; `frozen`, `thawed`; at last `ended` with what is known of the trainer. A pipe that closes
says that the other side is dead. Times are those of `SystemClock`, which all processes of a machine share.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from training.fleet.guard_rules import EndReason, Limits

GRACE_S = 30.0
"""From SIGTERM to SIGKILL: time to finish a step (and, once trainers can, to write a checkpoint)."""
MARK = "CIS490_ATTEMPT"
"""Environment variable by which the processes of an attempt are known: the guard, the trainer, what that starts."""
SECRETS = ("CIS490_OPERATOR_TOKEN", "CIS490_OPERATOR_TOKEN_PREVIOUS")
"""Variables that no process which a worker starts has any business with; an operator's shell may have left them."""

Word = Literal["started", "cannot_start", "late", "alive", "frozen", "thawed", "ended"]


@dataclass(frozen=True, slots=True)
class TrainerCommand:
    """What to start and which limits it has."""

    argv: Sequence[str]
    """Program (absolute path) and arguments."""
    progress_file: str
    mark: str
    """Value of `MARK`: names the attempt."""
    cwd: str
    limits: Limits = field(default_factory=Limits)
    grace_s: float = GRACE_S
    lease_s: float = math.inf
    """Infinite: no lease, the trainer is never frozen."""
    deadline_s: float = math.inf
    """End of the lease as confirmed so far."""
    end_file: str | None = None
    """Where to leave the result for a daemon that is not there any more."""
    log_folder: str | None = None
    """Where to write what the trainer prints, in segments (`training.fleet.segments`); None: nowhere."""


@dataclass(frozen=True, slots=True)
class TrainerEnd:
    """A trainer process that has ended, as its guard saw it. Exactly one of `exit_code`, `signal_number` is set."""

    exit_code: int | None
    signal_number: int | None = None
    ended_by: EndReason | None = None
    limit_s: float | None = None
    """The limit that was reached, when `ended_by` is a limit."""
    oom_killed: bool = False
    """Whether the kernel's out-of-memory killer was at work; asked only about a SIGKILL that was not ours."""
    duration_s: float = 0.0
    """Without the time that it was frozen or asleep."""
    frozen_s: float = 0.0
    peak_rss_mib: float | None = None
    """Of the whole tree, and so is `cpu_s`."""
    cpu_s: float | None = None
    stderr: str = ""
    """The last 8 KiB as UTF-8; what is none is replaced."""
    boot: str | None = None
    """In which boot of the machine it ended; None where the system does not tell."""


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """What the operating system tells of a process that has ended; None where it does not tell."""

    exit_code: int | None
    signal_number: int | None
    """Set instead of `exit_code` when a signal ended it."""
    peak_rss_mib: float | None
    cpu_s: float | None


def line(**words: object) -> bytes:
    """One message. A time that is infinite travels as Python writes it."""
    return json.dumps(words, separators=(",", ":")).encode() + b"\n"


def start_line(command: TrainerCommand) -> bytes:
    """The first message to a guard."""
    return line(do="start", command=asdict(command))


def parse(raw: bytes) -> dict[str, Any] | None:
    """A message; None for what is none (half a line of a process that was killed)."""
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def command_of(message: Mapping[str, Any]) -> TrainerCommand:
    """Of a `start` message, which our own daemon made: KeyError and TypeError are defects."""
    value = dict(message["command"])
    return TrainerCommand(**{**value, "limits": Limits(**value["limits"])})


def end_of(value: Mapping[str, Any]) -> TrainerEnd:
    """Of an `ended` message or an end file. Raises TypeError for anything else."""
    return TrainerEnd(**value)


class Lines:
    """Cuts what comes out of a pipe or a growing file into lines; the start of one that is too long is forgotten."""

    MAX_BYTES = 256 * 1024

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self.MAX_BYTES:
            self._rest = b""
        return lines


NEWEST_BYTES = 256 * 1024


def read_newest(path: str, at: int) -> tuple[bytes, int]:
    """What a growing file holds from byte `at` on, and where to go on; of very much only the end.

    So a look takes a moment, however fast the trainer writes: whoever reads to the end of a file that grows faster
    never comes back, to freeze a trainer or to end it. Raises OSError.
    """
    with open(path, "rb") as file:
        file.seek(max(at, os.fstat(file.fileno()).st_size - NEWEST_BYTES))
        data = file.read(NEWEST_BYTES)
        return data, file.tell()


def boot_id(path: str = "/proc/sys/kernel/random/boot_id") -> str | None:
    """Names the machine's current boot; Linux only."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None
