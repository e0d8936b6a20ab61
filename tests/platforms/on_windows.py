"""What a guard does with Job Objects; Windows' Python runs this under Wine, by pytest. `test_wine.py` starts it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

assert sys.platform == "win32"

from training.fleet import guard_windows  # noqa: E402 - after the line that tells the type checker
from training.fleet.guard_windows import ProcessTree  # noqa: E402

PATIENCE_S = 60.0
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
COUNTER = """
import sys
for number in range(10**9):
    with open(sys.argv[1], "w") as file:
        file.write(str(number))
"""
Start = Callable[..., ProcessTree]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[ProcessTree] = []

    def begin(code: str, *arguments: str) -> ProcessTree:
        argv = [sys.executable, "-S", "-E", "-c", code, *arguments]
        tree = ProcessTree(argv, str(tmp_path), os.environ)
        started.append(tree)
        return tree

    yield begin
    for tree in started:
        tree.kill()
        tree.wait_end()
        tree.stdout.close()
        tree.stderr.close()


def test_what_a_trainer_starts_is_in_the_job_however_early_it_starts_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The `python.exe` of a virtual environment starts the interpreter at once."""
    assign = guard_windows._kernel32.AssignProcessToJobObject

    class Late:
        def __getattr__(self, name: str) -> object:
            return getattr(kernel32, name)

        def AssignProcessToJobObject(self, job: int, process: int) -> int:  # noqa: N802 - Windows' name
            time.sleep(
                3.0
            )  # a busy machine: long enough for a Python that is not suspended to start its child
            return int(assign(job, process))

    kernel32 = guard_windows._kernel32
    monkeypatch.setattr(guard_windows, "_kernel32", Late())
    tree = start(PARENT)
    child = int(tree.stdout.readline())
    assert {tree.pid, child} <= tree._members()


def test_a_kill_ends_the_whole_tree(start: Start) -> None:
    tree = start(PARENT)
    child = int(tree.stdout.readline())
    assert is_alive(child)
    tree.kill()
    tree.wait_end()
    wait_until(lambda: not is_alive(child))


def test_a_frozen_tree_does_nothing_until_it_is_thawed(start: Start, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    tree = start(COUNTER, str(counter))
    wait_until(lambda: number_in(counter) > 0)
    tree.freeze()
    time.sleep(0.3)  # what the disk still had to take
    frozen_at = number_in(counter)
    time.sleep(1.0)
    assert number_in(counter) == frozen_at
    tree.thaw()
    wait_until(lambda: number_in(counter) > frozen_at)


def test_the_end_tells_the_exit_code(start: Start) -> None:
    tree = start("import sys; sys.exit(71)")
    tree.wait_end()
    end = tree.reap()
    assert end.exit_code == 71
    assert end.signal_number is None


def test_output_comes_through_the_pipes(start: Start) -> None:
    tree = start("import sys; print('to stdout'); print('to stderr', file=sys.stderr)")
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.append(tree.stderr.read()))
    reader.start()
    assert tree.stdout.read().strip() == b"to stdout"
    reader.join(PATIENCE_S)
    assert said[0].strip() == b"to stderr"


def test_a_tree_ends_with_the_process_that_holds_the_job(tmp_path: Path) -> None:
    """As when the guard is killed: its handles are closed, and with the last one the job ends."""
    holder = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from training.fleet.guard_windows import ProcessTree\n"
        "tree = ProcessTree([sys.executable, '-S', '-E', '-c', sys.argv[2]], sys.argv[3], os.environ)\n"
        "print(tree.pid, int(tree.stdout.readline()), flush=True); time.sleep(600)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    guard = subprocess.Popen(
        [sys.executable, "-c", holder, root, PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert guard.stdout is not None
    trainer, child = map(int, guard.stdout.readline().split())
    assert is_alive(trainer)
    assert is_alive(child)
    guard.kill()
    guard.wait(PATIENCE_S)
    guard.stdout.close()
    wait_until(lambda: not is_alive(trainer) and not is_alive(child))


def number_in(path: Path) -> int:
    try:
        return int(path.read_text() or 0)
    except (OSError, ValueError):
        return 0


def is_alive(pid: int) -> bool:
    synchronize, still_running = 0x0010_0000, 0x102  # WAIT_TIMEOUT
    handle = ctypes.windll.kernel32.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    try:
        return int(ctypes.windll.kernel32.WaitForSingleObject(handle, 0)) == still_running
    finally:
        ctypes.windll.kernel32.CloseHandle(handle)


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
