"""One holder at a time, and none left over from the dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cis490.locks import Held, hold


def test_a_second_holder_is_refused_and_told_the_pid(tmp_path: Path) -> None:
    with hold(tmp_path / "lock"), pytest.raises(Held) as refused, hold(tmp_path / "lock"):
        pass
    assert refused.value.pid == str(os.getpid())


def test_the_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path / "lock"):
            pass


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from cis490.locks import hold\n"
        "with hold(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Held), hold(tmp_path / "lock"):
        pass
    holder.kill()
    holder.communicate()
    with hold(tmp_path / "lock"):
        pass
