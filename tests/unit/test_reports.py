"""What a worker tells beside its lease: bounded on its way, sampled where the machine shows it, kept in small rings."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cis490.clock import ManualClock
from training.fleet import usage as usage_module
from training.fleet.capability import ChildResult
from training.fleet.host_history import MAX_HOSTS, STEP_S, STEPS, HostHistory, state_of
from training.fleet.outcome import MAX_UNTAKEN, ProgressReader
from training.fleet.point_buffer import MAX_BATCH_BYTES, MAX_KEPT, PointBuffer
from training.fleet.reports import (
    MAX_POINTS,
    GpuUsage,
    ProgressPoint,
    Usage,
    points_fault,
    thinned,
    usage_fault,
    usage_json,
)
from training.fleet.segments import read
from training.fleet.trainer_log import LAST_BYTES, RATE_BYTES, TrainerLog
from training.fleet.usage import UsageMeter, cpu_percent, parse_apps, parse_gpus, parse_nvml
from training.fleet.wire import Progress


class TestPoints:
    def test_they_stay_until_a_heartbeat_with_them_was_confirmed(self) -> None:
        buffer = PointBuffer()
        assert buffer.add([Progress(step=1)], 1.0) is True
        assert [one["step"] for one in buffer.batch()] == [1]
        assert buffer.add([Progress(step=2)], 2.0) is False
        assert [one["step"] for one in buffer.batch()] == [1, 2]  # the first batch was never answered
        buffer.add([Progress(step=3)], 3.0)
        buffer.confirm(2)
        assert [(one["step"], one["at_s"]) for one in buffer.batch()] == [(3, 3.0)]
        buffer.confirm(1)
        assert buffer.batch() == []

    def test_more_than_fit_are_thinned_and_the_newest_stays(self) -> None:
        buffer = PointBuffer()
        buffer.add([Progress(step=step) for step in range(10 * MAX_KEPT)], 1.0)
        assert len(buffer) <= MAX_KEPT
        steps = [one["step"] for one in buffer.batch()]
        assert len(steps) <= MAX_POINTS
        assert (steps[0], steps[-1]) == (0, 10 * MAX_KEPT - 1)
        assert steps == sorted(steps)

    def test_a_heartbeat_stays_below_what_old_receivers_take(self) -> None:
        buffer = PointBuffer()
        metric = {"é" * 60 + str(number): 0.123456789 for number in range(32)}
        buffer.add([Progress(step=step, metric=metric) for step in range(300)], 1.0)
        assert 0 < len(json.dumps(buffer.batch())) <= MAX_BATCH_BYTES

    @settings(max_examples=50, deadline=None)
    @given(values=st.lists(st.integers(), max_size=60), most=st.integers(0, 70))
    def test_thinning_keeps_order_and_both_ends(self, values: list[int], most: int) -> None:
        indexed = list(enumerate(values))
        found = thinned(indexed, most)
        assert len(found) == min(most, len(values))
        assert found == sorted(set(found))
        if most >= 2 and values:
            assert (found[0], found[-1]) == (indexed[0], indexed[-1])

    def test_the_reader_collects_lines_with_a_step(self) -> None:
        reader = ProgressReader()
        reader.feed(b'{"event": "start", "total": 9, "unit": "epoch"}\n{"event": "warn", "text": "x"}\n')
        reader.feed(
            b'{"event": "progress", "step": 1, "loss": 0.5}\n{"event": "result", "metric": {"a": 1}}\n'
        )
        assert [(one.step, one.loss, one.unit) for one in reader.take_points()] == [(1, 0.5, "epoch")]
        assert reader.take_points() == []

    def test_a_trainer_that_reports_without_end_fills_no_memory(self) -> None:
        reader = ProgressReader()
        for step in range(3 * MAX_UNTAKEN):
            reader.feed(b'{"event": "progress", "step": %d}\n' % step)
        points = reader.take_points()
        assert len(points) <= MAX_UNTAKEN
        assert points[-1].step == 3 * MAX_UNTAKEN - 1

    def test_what_a_worker_sends_is_what_a_receiver_takes(self) -> None:
        reader = ProgressReader()
        wild = {
            "event": "e" * 90,
            "step": 10**30,
            "unit": "u" * 90,
            "metric": {"m" * 90: 1, "n": 1e400, "k": True},
        }
        sane = {"event": "progress", "step": 2**52, "metric": {str(number): 1.0 for number in range(90)}}
        reader.feed((json.dumps(wild) + "\n" + json.dumps(sane) + "\n").encode())
        points = [ProgressPoint(**asdict(one)) for one in reader.take_points()]
        assert len(points) == 1
        assert points_fault(points) is None


class TestUsage:
    def test_what_is_unknown_is_left_out(self) -> None:
        told = Usage(cpu_percent=12.34567, gpus=[GpuUsage(util_percent=5.0)])
        assert usage_json(told) == {"cpu_percent": 12.346, "gpus": [{"util_percent": 5.0}]}
        assert usage_json(Usage()) == {}

    @pytest.mark.parametrize(
        "wrong",
        [
            Usage(cpu_percent=math.nan), Usage(job_vram_gib=-0.1), Usage(gpus=[GpuUsage(util_percent=101.0)]),
            Usage(ram_used_gib=math.inf), Usage(gpus=[GpuUsage()] * 65),
        ],
    )  # fmt: skip
    def test_what_no_machine_does_is_a_fault(self, wrong: Usage) -> None:
        assert usage_fault(wrong)

    def test_the_share_of_the_processor_lies_between_two_looks(self) -> None:
        assert cpu_percent((100.0, 1000.0), (150.0, 1200.0)) == 25.0
        assert cpu_percent((100.0, 1000.0), (100.0, 1000.0)) is None
        assert cpu_percent(None, (1.0, 2.0)) is None
        assert cpu_percent((100.0, 1000.0), (900.0, 1100.0)) == 100.0

    def test_nvidia_smi_is_read_figure_by_figure(self) -> None:
        text = "GPU-a, 87, 14438, 61\nGPU-b, [N/A], 12, [Not Supported]\n\nsomething else\n"
        assert parse_gpus(ChildResult(0, text)) == [
            GpuUsage(87.0, 14.1, 61.0),
            GpuUsage(None, 0.012, None),
        ]
        assert parse_gpus(ChildResult(6, "No devices were found\n")) == []
        assert parse_gpus(ChildResult(9, "", "driver mismatch")) is None
        assert parse_gpus(ChildResult(None, problem="gave no answer within 5 s")) is None
        assert parse_apps(ChildResult(0, "17, 1024\n18, [N/A]\n17, 512 MiB\nx, y\n")) == {17: 1.5}
        assert parse_apps(ChildResult(1, "17, 1024\n")) == {}

    def test_nvml_is_asked_in_a_child_and_its_answer_is_not_trusted(self) -> None:
        nvml = SimpleNamespace(
            NVMLError=RuntimeError, NVML_TEMPERATURE_GPU=0, nvmlDeviceGetCount=lambda: 1,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetUtilizationRates=lambda device: SimpleNamespace(gpu=50),
            nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used=2**31),
            nvmlDeviceGetTemperature=lambda device, kind: (_ for _ in ()).throw(RuntimeError("no")),
            nvmlDeviceGetComputeRunningProcesses=lambda device: [
                SimpleNamespace(pid=7, usedGpuMemory=2**30), SimpleNamespace(pid=8, usedGpuMemory=None),
            ],
        )  # fmt: skip
        text = json.dumps(usage_module.nvml_usage(nvml))
        found = parse_nvml(ChildResult(0, text))
        assert found is not None
        assert (found.gpus, found.by_pid) == ([GpuUsage(50.0, 2.0, None)], {7: 1.0})
        strange = ('{"gpus": [{"heat": 1}], "by_pid": {}}', '{"gpus": [], "by_pid": {"x": 1}}')
        for wrong in ("", "[]", '{"gpus": 7}', *strange):
            assert parse_nvml(ChildResult(0, wrong)) is None

    @pytest.mark.skipif(sys.platform != "linux", reason="/proc")
    def test_this_machine_and_this_process_tree(self, tmp_path: Path) -> None:
        meter = UsageMeter(tmp_path, run=lambda argv, timeout_s: ChildResult(9))
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            found = meter.ask(child.pid, wait_s=20.0)
        finally:
            child.communicate(b"\n")
        assert found is not None
        assert usage_fault(found) is None
        assert found.job_rss_gib is not None
        assert 0.001 < found.job_rss_gib < 1.0
        assert found.ram_used_gib is not None
        assert found.disk_free_gib is not None

    def test_a_driver_that_hangs_is_not_waited_for_and_not_asked_twice_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go_on, calls = threading.Event(), []

        def hang(argv: object, timeout_s: float) -> ChildResult:
            calls.append(argv)
            go_on.wait(20)
            return ChildResult(None, problem="gave no answer within 5 s")

        monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
        meter = UsageMeter(tmp_path, run=hang)
        assert meter.ask(wait_s=0.01) is None
        assert meter.ask() is None
        go_on.set()
        found = meter.ask(wait_s=20.0)
        assert found is not None
        assert found.gpus is None
        assert meter.ask(wait_s=20.0) is not None
        assert len(calls) == 1  # it failed: left alone for a while

    def test_a_sample_that_is_old_is_not_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A driver that hangs from the second question on leaves the first answer, for a while."""
        clock, go_on, asked = ManualClock(), threading.Event(), []

        def answer(argv: object, timeout_s: float) -> ChildResult:
            asked.append(argv)
            assert len(asked) == 1 or go_on.wait(20)
            return ChildResult(0, "")

        monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
        meter = UsageMeter(tmp_path, run=answer, now_s=clock.now_s)
        assert meter.ask(wait_s=20.0) is not None
        assert meter.ask(wait_s=0.01) is not None
        clock.advance(usage_module.FRESH_S + 1)
        assert meter.ask() is None
        go_on.set()
        assert meter.ask(wait_s=20.0) is not None

    def test_no_torch_is_imported(self) -> None:
        code = "import sys, training.fleet.usage; sys.exit('torch' in sys.modules or 'psutil' in sys.modules)"
        root = str(Path(__file__).resolve().parents[2])
        env = {**os.environ, "PYTHONPATH": root}
        assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
        assert importlib.util.find_spec("training.fleet.usage") is not None


class TestTrainerLog:
    def text(self, folder: Path) -> bytes:
        return read(folder, 0, 2**30).data

    def test_both_streams_end_up_in_it(self, tmp_path: Path) -> None:
        log = TrainerLog(str(tmp_path), ManualClock())
        log.add(b"one\n")
        log.add(b"two\n")
        log.close()
        assert self.text(tmp_path) == b"one\ntwo\n"

    def test_too_much_in_a_second_is_left_out_but_never_the_last_words(self, tmp_path: Path) -> None:
        clock = ManualClock()
        log = TrainerLog(str(tmp_path), clock)
        for _ in range(3 * RATE_BYTES // 8192):
            log.add(b"x" * 8191 + b"\n")
        log.add(b"the last words\n")
        log.close()
        found = self.text(tmp_path)
        assert found.endswith(b"the last words\n")
        assert b"bytes left out: the trainer printed too fast\n" in found
        assert len(found) < RATE_BYTES + 2 * LAST_BYTES

    def test_after_a_loud_second_it_goes_on(self, tmp_path: Path) -> None:
        clock = ManualClock()
        log = TrainerLog(str(tmp_path), clock)
        for _ in range(2 * RATE_BYTES // 8192):
            log.add(b"x" * 8192)
        clock.advance(1.0)
        log.add(b"calm again\n")
        assert self.text(tmp_path).endswith(b"calm again\n")

    def test_a_disk_that_fails_costs_the_log_alone(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text("a file where a folder is wanted")
        log = TrainerLog(str(tmp_path / "log"), ManualClock())
        log.add(b"one\n")
        log.close()

    def test_it_is_bounded(self, tmp_path: Path) -> None:
        clock = ManualClock()
        log = TrainerLog(str(tmp_path), clock)
        for _ in range(10):
            clock.advance(1.0)
            for _ in range(RATE_BYTES // 8192):
                log.add(b"x" * 8192)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 * 1024 * 1024


class TestHostHistory:
    def test_a_step_shows_the_weightiest_state_and_the_mean_use(self) -> None:
        history = HostHistory()
        for state in "iri":
            history.look("a", state, 1000.0)
        history.use(
            "a", {"cpu_percent": 10.0, "gpus": [{"util_percent": 50.0, "vram_used_gib": 2.0}]}, 1000.0
        )
        history.use(
            "a", {"cpu_percent": 30.0, "gpus": [{"util_percent": 90.0, "vram_used_gib": 1.0}]}, 1001.0
        )
        newest = history.points("a", 1000.0)[-1]
        assert newest == {
            "at": 900.0, "state": "running", "gpu_util_percent": 70.0, "vram_used_gib": 2.0, "ram_used_gib": None,
            "cpu_percent": 20.0,
        }  # fmt: skip

    def test_a_day_and_no_more_is_kept(self) -> None:
        history = HostHistory()
        for step in range(2 * STEPS):
            history.look("a", "r" if step % 2 else "i", step * STEP_S)
        now = (2 * STEPS - 1) * STEP_S
        assert history.strips(now) == {"a": "ir" * (STEPS // 2)}
        assert history.strips(now + STEPS * STEP_S) == {"a": "." * STEPS}

    def test_silence_leaves_a_gap(self) -> None:
        history = HostHistory()
        history.look("a", "i", 0.0)
        history.look("a", "r", 3 * STEP_S)
        assert history.strips(4 * STEP_S)["a"].endswith("i..r.")

    @pytest.mark.parametrize("jump", [-10 * STEP_S, -(10**9), 10**9])
    def test_a_clock_that_jumps_breaks_nothing(self, jump: float) -> None:
        history = HostHistory()
        history.look("a", "i", 2e9)
        history.look("a", "r", 2e9 + jump)
        strip = history.strips(2e9 + jump)["a"]
        assert (len(strip), strip[-1]) == (STEPS, "r")

    def test_since_when_the_state_has_lasted(self) -> None:
        history = HostHistory()
        for step, state in enumerate("iirrr"):
            history.look("a", state, step * STEP_S)
        assert history.since("a", 4 * STEP_S) == 2 * STEP_S
        assert history.since("b", 4 * STEP_S) is None

    def test_it_comes_back_from_a_file_and_damage_is_refused(self) -> None:
        history = HostHistory()
        history.look("a", "r", 1000.0)
        history.use("a", {"cpu_percent": 10.0}, 1000.0)
        again = HostHistory()
        again.load(history.dump())
        assert again.points("a", 1000.0) == history.points("a", 1000.0)
        for damaged in (b"", b"x", history.dump()[:-9]):
            with pytest.raises(ValueError, match="history"):
                again.load(damaged)
        assert again.points("a", 1000.0) == history.points("a", 1000.0)

    def test_a_thousand_hosts_take_little(self) -> None:
        history = HostHistory()
        for number in range(MAX_HOSTS + 50):
            history.look(f"host-{number}", "i", 1000.0)
        assert len(history.strips(1000.0)) == MAX_HOSTS
        history.keep_only(["host-1"])
        assert list(history.strips(1000.0)) == ["host-1"]

    @pytest.mark.parametrize(
        ("row", "letter"),
        [
            ({"live": False, "busy": 1}, "l"), ({"live": True, "busy": 1, "drained_reason": "x"}, "r"),
            ({"live": True, "busy": 0, "drained_reason": "x"}, "d"),
            ({"live": True, "busy": 0, "paused_reason": "x"}, "p"), ({"live": True, "busy": 0}, "i"),
        ],
    )  # fmt: skip
    def test_the_letter_of_a_host(self, row: dict[str, object], letter: str) -> None:
        assert state_of(row) == letter
