"""The program `training.fleet.ca` in a test's folder, run in this process, at a time the test likes."""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cis490.pki.authority import Authority, open_authority
from training.fleet import ca

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass
class Machine:
    """The receiver's machine: its folders, and the program run in this process."""

    root: Path
    capsys: pytest.CaptureFixture[str]
    now: datetime = NOW

    @property
    def ca(self) -> Path:
        return self.root / "ca"

    @property
    def proxy(self) -> Path:
        return self.root / "proxy"

    @property
    def authority(self) -> Authority:
        return open_authority(self.ca)

    def run(self, verb: str, *options: object, stdin: str = "", fails: bool = False) -> str:
        """What it printed: to standard output, or where it `fails` to standard error."""
        argv = [verb, "--dir", str(self.ca), *map(str, options)]
        code = ca.main(argv, now=lambda: self.now, stdin=io.StringIO(stdin), log2_work=4)
        out, err = self.capsys.readouterr()
        assert (code, bool(err)) == ((1, True) if fails else (0, False)), out + err
        return err if fails else out

    def init(self, *options: object, fails: bool = False) -> str:
        return self.run("init", "--name", "lab.test", "--address", "192.168.1.7", *options, fails=fails)

    def server(self, *options: object, fails: bool = False) -> str:
        return self.run("server", "--out", self.proxy, *options, fails=fails)


def contents(folder: Path) -> dict[str, bytes]:
    """Each file and what is in it; the lock file aside."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "lock"}


def modes(folder: Path) -> set[int]:
    """Of the files in it."""
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
