"""A trainer behind its guard, as real processes: what happens to whom when one of them is stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cis490.clock import ManualClock, SystemClock
from tests.factories.processes import is_alive, pid_in, state_of, wait_until
from training.fleet import guarded_run
from training.fleet.capability import CODE_ROOT
from training.fleet.guard_posix import Member, tree_of
from training.fleet.guard_wire import MARK, TrainerCommand, boot_id, end_of, line, parse
from training.fleet.guarded_run import CannotStart, GuardedRun, GuardLost, kill_marked
from training.fleet.outcome import RunResult, fail_class

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, process groups and PR_SET_PDEATHSIG")

CLOCK = SystemClock()
FAMILY = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def busy(name):
    part = folder / (name + ".part")
    part.write_text(str(os.getpid()))
    part.rename(folder / name)
    while True: pass
if os.fork() == 0:
    busy("child")
if os.fork() == 0:
    os.setsid()
    busy("stray")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: busy("orphan")
    os._exit(0)
busy("trainer")
"""
"""A trainer with a child in its group, one that left it, and one whose parent has ended as well."""
NAMES = ("trainer", "child", "stray", "orphan")
PAUSE = "import signal; signal.pause()"

Start = Callable[..., GuardedRun]


@pytest.fixture(autouse=True)
def nobody_is_left(tmp_path: Path) -> Iterator[None]:
    """Also when the test failed, because what it tests is broken."""
    yield
    kill_marked(MARK, frozenset({f"mark-of-{tmp_path}"}))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program behind a guard; ends it if the test did not."""
    runs: list[GuardedRun] = []

    def begin(code: str, *, clock: Any = CLOCK, **more: Any) -> GuardedRun:
        runs.append(GuardedRun(command_for(code, tmp_path, **more), clock=clock))
        return runs[-1]

    yield begin
    for run in runs:
        run.end_now()


def command_for(code: str, folder: Path, **more: Any) -> TrainerCommand:
    argv = more.pop("argv", [sys.executable, "-c", code, str(folder)])
    return TrainerCommand(argv, str(folder / "progress"), f"mark-of-{folder}", str(CODE_ROOT), **more)


def result_of(run: GuardedRun) -> RunResult:
    wait_until(lambda: run.wait(0.05) == "ended", "the trainer's end")
    return run.result()


def family(folder: Path) -> list[int]:
    return [pid_in(folder / name) for name in NAMES]


def ticks(pids: list[int]) -> list[int]:
    """CPU time of each process, in clock ticks."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return [int(stat[11]) + int(stat[12]) for stat in stats]


def all_gone(*pids: int) -> Callable[[], bool]:
    return lambda: not any(map(is_alive, pids))


# -- from start to end -------------------------------------------------------------------------------------


def test_the_result_comes_through_the_guard(start: Start, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; pathlib.Path(sys.argv[1], 'progress').write_text("
        """'{"event": "result", "metric": {"auc": 0.5}}\\n'); sys.exit('last words')"""
    )
    result = result_of(start(code, end_file=str(tmp_path / "end.json")))
    assert (result.exit_code, result.stderr, result.metrics) == (1, "last words\n", {"auc": 0.5})
    left = end_of(parse((tmp_path / "end.json").read_bytes()) or {})
    assert (left.exit_code, left.boot) == (1, boot_id())


def test_progress_is_seen_while_the_trainer_runs(start: Start, tmp_path: Path) -> None:
    (tmp_path / "progress").write_text('{"event": "start", "total": 10, "unit": "round"}\n{"step": 4}\n')
    run = start(PAUSE)
    wait_until(lambda: run.wait(0.05) == "running", "the start")
    assert run.progress is not None
    assert (run.progress.step, run.progress.unit) == (4, "round")
    with pytest.raises(RuntimeError, match="has not ended yet"):
        run.result()


def test_a_program_that_cannot_be_started_says_so(start: Start) -> None:
    run = start("", argv=["/no/such/python"])
    with pytest.raises(CannotStart, match="cannot start /no/such/python: No such file or directory"):
        wait_until(lambda: run.wait(0.05) == "ended", "the refusal")
    assert not is_alive(run.guard_pid)


def test_outside_its_lease_nothing_is_started(start: Start, tmp_path: Path) -> None:
    run = start(FAMILY, lease_s=2.0, deadline_s=CLOCK.now_s() + 0.4)  # less than the margin
    wait_until(lambda: run.wait(0.05) == "late", "the refusal")
    assert not (tmp_path / "trainer").exists()


def test_signals_to_the_guard_end_nothing(start: Start, tmp_path: Path) -> None:
    run = start(FAMILY)
    pids = family(tmp_path)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(run.guard_pid, number)
    run.terminate()
    assert result_of(run).signal_number == signal.SIGTERM  # which the trainer itself did not ignore
    wait_until(all_gone(*pids), "the end of the family")


def test_whatever_the_trainer_left_behind_ends_with_it(start: Start, tmp_path: Path) -> None:
    run = start(FAMILY)
    trainer, *others = family(tmp_path)
    os.kill(trainer, signal.SIGTERM)
    result_of(run)
    assert all_gone(*others)()


# -- the lease ---------------------------------------------------------------------------------------------


def test_the_whole_tree_stands_still_at_the_leases_end_and_goes_on_when_it_is_confirmed(
    start: Start, tmp_path: Path
) -> None:
    deadline_s = CLOCK.now_s() + 4.0
    run = start(FAMILY, lease_s=4.0, deadline_s=deadline_s)
    pids = family(tmp_path)
    wait_until(lambda: run.wait(0.05) == "frozen", "the freeze")
    assert CLOCK.now_s() < deadline_s
    before = ticks(pids)
    time.sleep(0.3)  # four busy processes would have got 60 ticks of two cores
    assert ticks(pids) == before
    run.confirm(CLOCK.now_s() + 600)
    wait_until(lambda: run.wait(0.05) == "running", "the thaw")
    wait_until(lambda: all(now > then for now, then in zip(ticks(pids), before, strict=True)), "their work")
    assert run.frozen_s > 0.2
    run.end_now()
    wait_until(all_gone(*pids, run.guard_pid), "the end of the family")


def test_a_trainer_that_floods_its_progress_file_is_frozen_all_the_same(start: Start) -> None:
    """Nobody may read a file to its end that grows faster than it is read."""
    code = (
        "import sys, time; end = time.monotonic() + 8; file = open(sys.argv[1] + '/progress', 'w')\n"
        "while time.monotonic() < end: file.write('{\"step\": 1}\\n')"
    )
    began_s = CLOCK.now_s()
    run = start(code, lease_s=4.0, deadline_s=began_s + 4.0)
    wait_until(lambda: run.wait(0.05) == "frozen", "the freeze")
    assert CLOCK.now_s() - began_s < 6.0
    assert run.progress is not None


def test_a_daemon_that_is_stopped_does_not_keep_the_guard_from_freezing(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, lease_s=2.0, for_s=3.0)
    pids = family(tmp_path)
    daemon.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: all(state_of(pid) == "T" for pid in pids), "the freeze of the whole family")
    before = ticks(pids)
    time.sleep(0.2)
    assert ticks(pids) == before
    daemon.process.kill()
    daemon.process.wait()
    wait_until(all_gone(*pids, daemon.guard_pid), "the end of the frozen family")


# -- kill -9 -----------------------------------------------------------------------------------------------


class Daemon:
    """Another process that holds a family of processes, as the worker would; it can be killed."""

    def __init__(self, folder: Path, lease_s: float = 600.0, for_s: float = 600.0) -> None:
        code = (
            "import json, sys, signal\nfrom cis490.clock import SystemClock\n"
            "from training.fleet.guard_wire import TrainerCommand\n"
            "from training.fleet.guarded_run import GuardedRun\n"
            "argv, folder, lease_s, for_s = json.loads(sys.argv[1])\nclock = SystemClock()\n"
            "command = TrainerCommand(argv, folder + '/progress', 'mark-of-' + folder, '.', lease_s=lease_s,\n"
            "    deadline_s=clock.now_s() + for_s, end_file=folder + '/end.json')\n"
            "run = GuardedRun(command, clock=clock)\n"
            "print(run.guard_pid, flush=True)\nsignal.pause()\n"
        )
        argv = [sys.executable, "-c", FAMILY, str(folder)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps([argv, str(folder), lease_s, for_s])],
            cwd=CODE_ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            self.guard_pid = int(stdout.readline())


def test_kill_of_the_daemon_leaves_no_process_after_a_second(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    pids = family(tmp_path)
    assert all(map(is_alive, [*pids, daemon.guard_pid]))
    daemon.process.kill()
    killed_s = time.monotonic()
    wait_until(all_gone(*pids, daemon.guard_pid), "the end of the family")
    assert time.monotonic() - killed_s < 1.0
    daemon.process.wait()
    left = end_of(parse((tmp_path / "end.json").read_bytes()) or {})
    assert (left.signal_number, left.ended_by) == (signal.SIGKILL, "asked")


def test_kill_of_the_guard_leaves_no_process_after_a_second(start: Start, tmp_path: Path) -> None:
    run = start(FAMILY)
    pids = family(tmp_path)
    os.kill(run.guard_pid, signal.SIGKILL)
    killed_s = time.monotonic()
    with pytest.raises(GuardLost, match="guard was killed"):
        wait_until(lambda: run.wait(0.05) == "ended", "the news")
    wait_until(all_gone(*pids), "the end of the family")
    assert time.monotonic() - killed_s < 1.0


def test_the_kernel_ends_the_trainer_with_its_guard(start: Start, tmp_path: Path) -> None:
    """Whatever the daemon does about it, which may be stopped itself."""
    run = start(FAMILY)
    trainer = pid_in(tmp_path / "trainer")
    os.kill(run.guard_pid, signal.SIGKILL)
    wait_until(all_gone(trainer), "the trainer's end")


def test_a_guard_that_cannot_end_its_trainer_does_not_hold_the_worker_for_ever(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer that hangs in a driver outlives SIGKILL; its guard goes on saying that it lives."""
    deaf = f"import time\nfor _ in range(100): print({line(event='alive').decode()!r}, flush=True); time.sleep(0.05)"

    def start_deaf(command: TrainerCommand) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", deaf], stdin=pipe, stdout=pipe, bufsize=0)

    monkeypatch.setattr(guarded_run, "_start", start_deaf)
    monkeypatch.setattr(guarded_run, "KILL_S", 0.5)
    run = start(PAUSE)
    began_s = CLOCK.now_s()
    run.end_now()
    assert CLOCK.now_s() - began_s < 3.0
    assert not is_alive(run.guard_pid)


def test_a_worker_that_was_started_with_sigchld_ignored_learns_how_its_trainers_end(start: Start) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        run = start("raise SystemExit(7)")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert result_of(run).exit_code == 7


def test_a_guard_that_is_stopped_does_not_hold_the_job_for_ever(start: Start, tmp_path: Path) -> None:
    clock = ManualClock()
    run = start(FAMILY, clock=clock)
    pids = family(tmp_path)
    os.kill(run.guard_pid, signal.SIGSTOP)
    run.wait(0.3)
    clock.advance(3600)  # the daemon slept: no reason to blame the guard
    run.poll()
    for _ in range(58):
        clock.advance(1)
        assert run.poll() == "running"
    clock.advance(5)
    run.poll()
    clock.advance(5)
    with pytest.raises(GuardLost, match="was silent for 60 s"):
        run.poll()
    wait_until(all_gone(*pids, run.guard_pid), "the end of the family")


# -- what it used ------------------------------------------------------------------------------------------


def test_memory_and_time_of_the_whole_tree_count(start: Start, tmp_path: Path) -> None:
    code = (
        "import os, sys, time, pathlib\nfolder = pathlib.Path(sys.argv[1])\n"
        "for n in range(2):\n"
        "  if os.fork() == 0:\n"
        "    os.setsid(); held = bytearray(b'x' * 60_000_000); end = time.process_time() + 0.2\n"
        "    while time.process_time() < end: pass\n"
        "    (folder / f'ready{n}').touch(); time.sleep(600)\n"
        "while not (folder / 'go').exists(): time.sleep(0.01)\n"
    )
    run = start(code)
    wait_until(lambda: all((tmp_path / f"ready{n}").exists() for n in range(2)), "two children of 60 MB")
    time.sleep(1.3)  # the tree's memory is looked at once a second
    (tmp_path / "go").touch()
    result = result_of(run)
    assert result.exit_code == 0
    assert result.peak_rss_mib is not None
    assert 115 < result.peak_rss_mib < 300
    assert result.cpu_s is not None
    assert result.cpu_s > 0.4


def test_out_of_memory_in_a_control_group_is_told_from_a_crash(start: Start, tmp_path: Path) -> None:
    group = Path(f"/sys/fs/cgroup/memory/cis490-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(100 * 2**20))
    except OSError as error:
        pytest.skip(f"needs root and control groups of version 1 with a memory controller: {error}")
    try:
        code = (
            "import os, sys\nopen(sys.argv[1] + '/joined', 'w').close()\n"
            f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "held = []\nwhile True: held.append(bytearray(b'x' * 2**20))\n"
        )
        result = result_of(start(code))
    finally:
        group.rmdir()
    assert result.signal_number == signal.SIGKILL
    assert fail_class(result) == "oom"
    assert result.peak_rss_mib is not None
    assert 80 < result.peak_rss_mib < 130


def test_the_trainer_goes_before_its_guard_when_memory_runs_out(start: Start, tmp_path: Path) -> None:
    run = start(FAMILY)
    trainer = pid_in(tmp_path / "trainer")
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (trainer, run.guard_pid)]
    assert scores[0] > scores[1]


def test_a_kill_from_outside_is_reported(start: Start, tmp_path: Path) -> None:
    run = start(FAMILY)
    os.kill(pid_in(tmp_path / "trainer"), signal.SIGKILL)
    result = result_of(run)
    assert (result.signal_number, result.ended_by) == (signal.SIGKILL, None)


# -- who belongs to a tree ---------------------------------------------------------------------------------


def member(pid: int, parent: int, group: int = 1, session: int = 1, state: str = "S") -> Member:
    return Member(pid, state, parent, group, session, 0)


def test_a_tree_is_its_group_its_session_its_descendants_and_whom_the_guard_adopted() -> None:
    found = [
        member(5, 1),  # the guard
        member(10, 5, 10, 10),  # the trainer
        member(11, 10, 10, 10),
        member(12, 11, 12, 12),  # a session of its own
        member(13, 1, 13, 10),  # a group of its own, and an orphan
        member(14, 5, 14, 14),  # adopted
        member(15, 14, 15, 15),
        member(16, 12, 12, 12, "Z"),
        member(20, 1),  # a stranger
    ]
    assert [one.pid for one in tree_of(found, 10, adopter=5)] == [10, 11, 12, 13, 14, 15]
    assert [one.pid for one in tree_of(found, 10)] == [10, 11, 12, 13]
