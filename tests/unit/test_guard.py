"""How a trainer is held: real processes, limits on a clock that the test moves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cis490.clock import ManualClock
from tests.factories.processes import is_alive, pid_in, state_of, wait_until
from training.fleet.capability import CODE_ROOT
from training.fleet.guard import TrainerRun, count_oom_kills
from training.fleet.guard_rules import Limits
from training.fleet.guard_wire import MARK, NEWEST_BYTES, TrainerCommand, read_newest
from training.fleet.guarded_run import kill_marked, metrics_in
from training.fleet.http_io import decoded
from training.fleet.outcome import (
    FAIL_CLASS_OF,
    ProgressReader,
    RunResult,
    clean,
    error_text,
    fail_class,
    fail_request,
    result_of,
)
from training.fleet.wire import MAX_BODY_BYTES, MAX_ERROR_CHARS, HeartbeatRequest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the process part here is that of Unix")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG and /proc are Linux")

Start = Callable[..., TrainerRun]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def start(tmp_path: Path, clock: ManualClock) -> Iterator[Start]:
    """Starts the stub trainer, which does what `do` says; ends it if the test did not."""
    runs: list[TrainerRun] = []
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()

    def begin(do: dict[str, Any], **command: Any) -> TrainerRun:
        (tmp_path / "job.json").write_text(json.dumps({"hyper": do}))
        paths = {"--spec": "job.json", "--data": "data", "--out": "out", "--progress-file": "progress"}
        argv = [sys.executable, "-m", "tests.factories.stub_trainer"]
        for flag, name in paths.items():
            argv += [flag, str(tmp_path / name)]
        oom_kills = command.pop("oom_kills", None)
        limits = Limits(**{name: command.pop(name) for name in Limits.__slots__ if name in command})
        given = command_for(argv, tmp_path, limits=limits, **command)
        runs.append(TrainerRun(given, clock=clock, oom_kills=oom_kills))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()
        end_of(run)


def command_for(argv: list[str], folder: Path, **more: Any) -> TrainerCommand:
    return TrainerCommand(argv, str(folder / "progress"), f"mark-{folder.name}", str(CODE_ROOT), **more)


def end_of(run: TrainerRun) -> RunResult:
    wait_until(lambda: run.poll() == "ended", "the trainer's end")
    return result_of(run.end(), {})


# -- a run from start to end -------------------------------------------------------------------------------


def test_a_run_that_succeeds_tells_what_it_used(start: Start, clock: ManualClock, tmp_path: Path) -> None:
    run = start({"progress": [{"event": "result", "metric": {"roc_auc": 0.9}}]})
    clock.advance(7.5)
    result = end_of(run)
    assert (result.exit_code, result.succeeded, result.duration_s) == (0, True, 7.5)
    assert metrics_in(tmp_path / "progress") == {"roc_auc": 0.9}
    assert result.peak_rss_mib is not None
    assert 3 < result.peak_rss_mib < 500
    assert result.cpu_s is not None
    assert result.cpu_s > 0


def test_a_failing_run_tells_its_last_words(start: Start) -> None:
    result = end_of(start({"exit": 65, "say": "Traceback ...\nrun: lab-a/1.episode is cut short\n"}))
    assert not result.succeeded
    assert fail_class(result) == "bad_data"
    assert error_text(result).splitlines()[0] == "run: lab-a/1.episode is cut short (exit code 65)"


def test_there_is_no_end_before_the_end(start: Start, tmp_path: Path) -> None:
    run = start({"wait_for": str(tmp_path / "go")})
    assert run.poll() == "running"
    with pytest.raises(RuntimeError, match="has not ended yet"):
        run.end()


def test_only_the_end_of_a_long_stderr_is_kept(start: Start) -> None:
    result = end_of(start({"exit": 1, "say": "x" * 300_000 + "\nthe end\n"}))
    assert len(result.stderr) <= 8 * 1024
    assert result.stderr.endswith("the end\n")


def test_a_program_that_cannot_be_started_says_so(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/python"):
        TrainerRun(command_for(["/no/such/python"], tmp_path), clock=clock)


def test_the_trainer_does_not_get_the_operators_token(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN", "secret")
    code = "import os, sys; sys.exit('CIS490_OPERATOR_TOKEN' in os.environ)"
    command = command_for([sys.executable, "-c", code], tmp_path)
    assert end_of(TrainerRun(command, clock=clock)).exit_code == 0


# -- ending it ---------------------------------------------------------------------------------------------


def test_terminate_lets_the_trainer_end_itself(start: Start, tmp_path: Path) -> None:
    run = start({"wait_for": str(tmp_path / "never"), "pid": str(tmp_path / "pid")})
    pid_in(tmp_path / "pid")
    run.terminate()
    result = end_of(run)
    assert (result.exit_code, result.ended_by) == (75, "asked")


def test_a_trainer_that_will_not_end_is_killed_after_the_grace(
    start: Start, tmp_path: Path, clock: ManualClock
) -> None:
    run = start(
        {"wait_for": str(tmp_path / "never"), "on_term": "ignore", "pid": str(tmp_path / "pid")}, grace_s=10
    )
    pid_in(tmp_path / "pid")
    run.terminate()
    clock.advance(9)
    assert run.poll() == "ending"
    clock.advance(1)
    result = end_of(run)
    assert result.signal_number == signal.SIGKILL
    assert not result.oom_killed  # it was us


def test_whatever_the_trainer_started_ends_with_it(start: Start, tmp_path: Path) -> None:
    run = start({"grandchild": str(tmp_path / "grandchild")})
    grandchild = pid_in(tmp_path / "grandchild")
    assert end_of(run).succeeded
    wait_until(lambda: not is_alive(grandchild), "the grandchild's end")


def test_kill_ends_the_tree_at_once(start: Start, tmp_path: Path) -> None:
    do = {
        "wait_for": str(tmp_path / "never"),
        "on_term": "ignore",
        "grandchild": str(tmp_path / "grandchild"),
    }
    run = start(do)
    grandchild = pid_in(tmp_path / "grandchild")
    run.kill()
    run.kill()
    end_of(run)
    run.kill()  # and after the end: nothing, whoever has that pid now
    wait_until(lambda: not is_alive(grandchild), "the grandchild's end")


@linux_only
def test_marked_processes_are_found_wherever_they_moved_to() -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with (
        subprocess.Popen(command, env={**os.environ, MARK: "job-1"}, start_new_session=True) as ours,
        subprocess.Popen(command, env={**os.environ, MARK: "job-2"}) as other,
    ):
        wait_until(lambda: b"job-1" in Path(f"/proc/{ours.pid}/environ").read_bytes(), "the environment")
        assert kill_marked(MARK, frozenset({"job-1"})) == [ours.pid]
        assert ours.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        assert kill_marked(MARK, frozenset()) == []
        other.kill()


# -- limits ------------------------------------------------------------------------------------------------


def test_a_run_over_its_timeout_is_ended(start: Start, tmp_path: Path, clock: ManualClock) -> None:
    run = start({"wait_for": str(tmp_path / "never"), "pid": str(tmp_path / "pid")}, timeout_s=50)
    pid_in(tmp_path / "pid")
    for _ in range(5):
        clock.advance(10)
        assert run.poll() == "running"
    clock.advance(1)
    assert run.poll() in ("ending", "ended")
    result = end_of(run)
    assert fail_class(result) == "timeout"
    assert "it ran longer than timeout_s = 50" in error_text(result)


def test_a_run_without_progress_is_stalled_and_progress_keeps_it_going(
    start: Start, tmp_path: Path, clock: ManualClock
) -> None:
    run = start({"wait_for": str(tmp_path / "never"), "pid": str(tmp_path / "pid")}, stall_s=20)
    pid_in(tmp_path / "pid")
    for step in range(4):
        with (tmp_path / "progress").open("a") as progress:
            progress.write(json.dumps({"step": step}) + "\n")
        for _ in range(2):
            assert run.poll() == "running"
            clock.advance(9)
    for _ in range(3):
        run.poll()
        clock.advance(1)
    assert run.poll() in ("ending", "ended")
    assert fail_class(end_of(run)) == "stalled"


def test_time_asleep_counts_against_no_limit(start: Start, tmp_path: Path, clock: ManualClock) -> None:
    """A closed laptop: the clock went on, the trainer could not."""
    run = start({"wait_for": str(tmp_path / "go")}, stall_s=60, timeout_s=100)
    clock.advance(8 * 3600)
    assert run.poll() == "running"
    (tmp_path / "go").touch()
    assert end_of(run).succeeded


@linux_only
def test_a_trainer_outside_its_lease_is_frozen_and_goes_on_inside_it(
    start: Start, tmp_path: Path, clock: ManualClock
) -> None:
    run = start({"wait_for": str(tmp_path / "go")}, lease_s=60, deadline_s=clock.now_s() + 60)
    clock.advance(58)
    assert run.poll() == "running"
    clock.advance(1)
    assert run.poll() == "frozen"
    wait_until(lambda: state_of(run.pid) == "T", "the stop")
    (tmp_path / "go").touch()
    clock.advance(3600)
    assert run.poll() == "frozen"
    run.confirm(clock.now_s() - 1)  # an answer that came too late itself
    assert run.poll() == "frozen"
    run.confirm(clock.now_s() + 60)
    assert run.poll() in ("running", "ended")
    end_of(run)
    assert (run.end().exit_code, run.end().frozen_s) == (0, 3600)


@linux_only
def test_time_frozen_counts_against_neither_timeout_nor_stall(
    start: Start, tmp_path: Path, clock: ManualClock
) -> None:
    do = {"wait_for": str(tmp_path / "go"), "pid": str(tmp_path / "pid")}
    run = start(do, lease_s=8, deadline_s=clock.now_s() + 8, timeout_s=20, stall_s=20)
    pid_in(tmp_path / "pid")
    clock.advance(7)
    assert run.poll() == "frozen"
    for _ in range(100):
        clock.advance(5)
        assert run.poll() == "frozen"
    run.confirm(clock.now_s() + 100)
    clock.advance(5)
    assert run.poll() == "running"
    (tmp_path / "go").touch()
    end_of(run)
    assert run.end().duration_s == 7
    assert run.end().exit_code == 0


@linux_only
@pytest.mark.parametrize(("is_inside", "expected"), [(True, (75, None)), (False, (None, signal.SIGKILL))])
def test_a_frozen_trainer_may_end_itself_inside_its_lease_only(
    start: Start, tmp_path: Path, clock: ManualClock, is_inside: bool, expected: tuple[int | None, int | None]
) -> None:
    do = {"wait_for": str(tmp_path / "never"), "pid": str(tmp_path / "pid")}
    run = start(do, lease_s=60, deadline_s=clock.now_s() + 60)
    pid_in(tmp_path / "pid")
    clock.advance(60)
    assert run.poll() == "frozen"
    if is_inside:
        run.confirm(clock.now_s() + 60)
    run.terminate()
    result = end_of(run)
    assert (result.exit_code, result.signal_number) == expected
    assert result.ended_by == "asked"


@linux_only
def test_a_trainer_that_is_ending_is_killed_when_its_lease_runs_out(
    start: Start, tmp_path: Path, clock: ManualClock
) -> None:
    do = {"wait_for": str(tmp_path / "never"), "on_term": "ignore", "pid": str(tmp_path / "pid")}
    run = start(do, lease_s=20, deadline_s=clock.now_s() + 20, grace_s=3600)
    pid_in(tmp_path / "pid")
    run.terminate()
    clock.advance(19)
    assert end_of(run).signal_number == signal.SIGKILL


@linux_only
def test_a_trainer_that_is_frozen_for_too_long_is_given_up(
    start: Start, tmp_path: Path, clock: ManualClock
) -> None:
    run = start(
        {"wait_for": str(tmp_path / "never")}, lease_s=60, deadline_s=clock.now_s() + 60, max_frozen_s=100
    )
    clock.advance(60)
    assert run.poll() == "frozen"
    clock.advance(101)
    result = end_of(run)
    assert (result.ended_by, result.limit_s, result.signal_number) == ("frozen", 100, signal.SIGKILL)
    assert "frozen for more than 100 s" in error_text(result)


@linux_only
def test_a_process_that_somebody_wakes_is_frozen_again(
    start: Start, tmp_path: Path, clock: ManualClock
) -> None:
    run = start({"wait_for": str(tmp_path / "never")}, lease_s=60, deadline_s=clock.now_s() + 60)
    clock.advance(60)
    assert run.poll() == "frozen"
    wait_until(lambda: state_of(run.pid) == "T", "the stop")
    os.kill(run.pid, signal.SIGCONT)
    wait_until(lambda: state_of(run.pid) != "T", "the wake-up")
    clock.advance(2)
    run.poll()
    wait_until(lambda: state_of(run.pid) == "T", "the second stop")


# -- what an end means -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (64, "bad_config"),
        (65, "bad_data"),
        (66, "missing"),
        (69, "no_cuda"),
        (71, "oom"),
        (75, "preempted"),
        (78, "bad_config"),
        (1, "program"),
        (70, "program"),
        (73, "program"),
        (255, "program"),
    ],
)
def test_the_exit_code_gives_the_class(code: int, expected: str) -> None:
    assert fail_class(RunResult(code)) == expected
    assert (code in FAIL_CLASS_OF) is (expected != "program")


@pytest.mark.parametrize(
    ("before", "after", "is_oom"),
    [(3, 4, True), (3, 3, False), (None, None, True)],
    ids=["counted", "not", "unknown"],
)
def test_a_kill_from_outside_is_oom_only_if_the_kernel_ran_out(
    start: Start, tmp_path: Path, before: int | None, after: int | None, is_oom: bool
) -> None:
    counts = iter((before, after))
    run = start({"wait_for": str(tmp_path / "never")}, oom_kills=lambda: next(counts))
    os.kill(run.pid, signal.SIGKILL)
    result = end_of(run)
    assert fail_class(result) == ("oom" if is_oom else "program")
    assert "killed by SIGKILL" in error_text(result)
    assert fail_request(result).exit_code == 137


def test_a_crash_is_the_programs_fault(start: Start, tmp_path: Path) -> None:
    run = start({"wait_for": str(tmp_path / "never"), "pid": str(tmp_path / "pid")})
    os.kill(pid_in(tmp_path / "pid"), signal.SIGSEGV)
    result = end_of(run)
    assert fail_class(result) == "program"
    assert error_text(result) == "the trainer printed nothing on stderr (killed by SIGSEGV)"


def test_the_kernels_count_of_oom_kills_is_read(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 5\noom_kill 12\noom_kill_other 3\n")
    assert count_oom_kills(str(vmstat)) == 12
    vmstat.write_text("nr_free_pages 5\n")
    assert count_oom_kills(str(vmstat)) is None
    assert count_oom_kills(str(tmp_path / "none")) is None


def test_the_error_text_holds_a_long_tail_within_the_limit() -> None:
    result = RunResult(
        1, stderr="\n".join(f"line {n} {'y' * 50}" for n in range(1000)) + "\nValueError: no\n    ~~~^\n"
    )
    text = error_text(result)
    assert text.startswith("ValueError: no (exit code 1)\n\n")
    assert len(text) <= MAX_ERROR_CHARS


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    assert clean(b"\x1b[31mred\x1b[0m\r\n10%\r20%\x07\xff\x00\ttab\n") == "red\n10%\n20%�\ttab\n"


def test_windows_codes_are_shown_as_windows_writes_them() -> None:
    assert "0xC0000005" in error_text(RunResult(0xC0000005))


# -- progress lines ----------------------------------------------------------------------------------------


def test_a_line_counts_when_its_end_is_there() -> None:
    reader = ProgressReader()
    assert not reader.feed(b'{"event": "progress", "step"')
    before = reader.latest
    assert before is None
    assert reader.feed(b': 5, "total": 9, "loss": 0.5}\n{"st')
    assert reader.latest is not None
    assert (reader.latest.step, reader.latest.total, reader.latest.loss) == (5, 9, 0.5)


def test_what_would_make_the_receiver_refuse_a_heartbeat_is_left_out() -> None:
    reader = ProgressReader()
    huge = "9" * 400
    reader.feed(
        b'{"event": 7, "step": 1, "total": "many", "loss": NaN, "unit": {}, '
        b'"metric": {"a": Infinity, "b": true, "c": "x", "d": 0.5, "e": %s}}\n' % huge.encode()
    )
    assert reader.latest is not None
    assert (reader.latest.event, reader.latest.total, reader.latest.loss) == ("progress", None, None)
    assert reader.latest.metric == {"d": 0.5}


@pytest.mark.parametrize(
    "line",
    [
        b'{"event": "start", "unit": "\\ud800"}',
        b'{"event": "\\udfff", "step": 1}',
        b'{"event": "result", "metric": {"\\ud800": 1}}',
        b'{"step": 1, "event": "%s"}' % (b"x" * MAX_BODY_BYTES),
    ],
)
def test_the_receiver_reads_the_heartbeat_of_whatever_text_a_trainer_writes(line: bytes) -> None:
    """Else it would refuse each of them, and the lease would end over a line of progress."""
    reader = ProgressReader()
    reader.feed(line + b"\n")
    assert reader.latest is not None
    body = json.dumps({"progress": asdict(reader.latest)}).encode()
    assert len(body) < MAX_BODY_BYTES
    assert decoded(body, HeartbeatRequest).progress is not None


def test_a_look_at_a_file_takes_its_end_only_however_much_was_written(tmp_path: Path) -> None:
    last = b'{"event": "result", "metric": {"auc": 0.5}}\n'
    with open(tmp_path / "progress", "wb") as file:
        file.truncate(2**33)
        file.seek(2**33)
        file.write(last)
    data, at = read_newest(str(tmp_path / "progress"), 5)
    assert (len(data), at) == (NEWEST_BYTES, 2**33 + len(last))
    assert data.endswith(last)
    assert read_newest(str(tmp_path / "progress"), at) == (b"", at)


def test_rubbish_is_no_sign_of_life_and_harms_nothing() -> None:
    reader = ProgressReader()
    assert not reader.feed(b"not json\n[1]\n\xff\xfe\n" + b"[" * 50_000 + b"\n" + b"x" * 200_000)
    assert reader.feed(b'\n{"step": 2}\n')
    assert reader.latest is not None
    assert reader.latest.step == 2


def test_a_warning_keeps_the_run_alive_but_not_hides_its_step() -> None:
    reader = ProgressReader()
    reader.feed(b'{"step": 3, "total": 9}\n')
    assert reader.feed(b'{"event": "warn", "text": "few episodes"}\n')
    assert reader.latest is not None
    assert reader.latest.step == 3


def test_at_most_so_many_metrics_travel() -> None:
    reader = ProgressReader()
    reader.feed(json.dumps({"event": "result", "metric": {f"m{n}": n for n in range(500)}}).encode() + b"\n")
    assert len(reader.metrics) == 32


def test_intervals_are_metrics_too_but_never_ride_on_a_heartbeat() -> None:
    reader = ProgressReader()
    metric = {
        "auc": 0.9,
        "auc_ci95": [0.8, 1],
        "one": [1],
        "three": [1, 2, 3],
        "odd": ["a", 1],
        "far": [0, 1e999],
    }
    reader.feed(json.dumps({"event": "result", "metric": metric}).encode() + b"\n")
    assert reader.metrics == {"auc": 0.9, "auc_ci95": [0.8, 1.0]}
    assert reader.latest is not None
    assert reader.latest.metric == {"auc": 0.9}
