"""One process of a fleet, which is started again when it was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
"""Longest wait for something that is to happen on a busy machine; a test that needs it has failed."""


@dataclass
class Service:
    """One process that is started again when it was killed."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    prefix: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0
    may_end_with: Sequence[int] = ()
    """Exit codes after which a service manager would start it again."""
    log_from: int = 0
    """Where its last start begins in the log."""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        self.log_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [*self.prefix, sys.executable, "-m", *self.argv]
            self.process = subprocess.Popen(command, cwd=ROOT, env=dict(self.env), stderr=log, stdout=log)

    def has_said(self, words: str) -> bool:
        """Whether these words stand in its log since its last start."""
        return words.encode() in self.log.read_bytes()[self.log_from :]

    def tend(self) -> None:
        """Start it again if it was killed. AssertionError with its last words for any other end."""
        if self.process is None or (code := self.process.poll()) is None:
            return
        expected = (-signal.SIGKILL, *self.may_end_with)
        assert code in expected, f"{self.name} ended with {code}:\n{self.log.read_text()[-2000:]}"
        self.kills += code == -signal.SIGKILL
        self.start()

    def kill(self) -> None:
        """kill -9; the next `tend` starts it again."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    def restart(self) -> None:
        """SIGTERM and a new start; a failpoint may kill it on its way out."""
        code = self.stop()
        assert code in (0, -signal.SIGKILL), (
            f"{self.name} stopped with {code}:\n{self.log.read_text()[-2000:]}"
        )
        self.kills += code != 0
        self.start()
