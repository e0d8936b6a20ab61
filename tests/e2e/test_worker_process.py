"""The worker as the process that an operator starts, stops and kills. The trainer is a stub, the receiver a fake."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cis490.digest import sha256_bytes
from tests.factories.fake_receiver import TIMEOUT_S, TOKEN, FakeReceiver, lease
from tests.factories.processes import is_alive, pid_in, state_of, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc, and PR_SET_PDEATHSIG")

ROOT = Path(__file__).resolve().parents[2]
DATASET = "d" * 64


class Process:
    """A running worker; its log goes to a file."""

    def __init__(self, receiver: FakeReceiver, folder: Path, *options: str) -> None:
        self.log = folder / "worker.log"
        command = [
            sys.executable, "-m", "training.fleet.worker", "--receiver-url", receiver.url, "--host", "lab-a",
            "--state-dir", str(folder / "state"), "--poll-s", "0.1",
            "--trainer-module", "tests.factories.stub_trainer", *options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def code(self) -> int:
        return self.process.wait(TIMEOUT_S)

    def says(self, words: str) -> bool:
        return words in self.log.read_text("utf-8")


Start = Callable[..., Process]


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with FakeReceiver() as fake:
        yield fake


@pytest.fixture
def start(receiver: FakeReceiver, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker in the test's folder, where the data set is already; ends all of them afterwards."""
    (tmp_path / "state/datasets" / DATASET).mkdir(parents=True)
    started: list[Process] = []

    def begin(*options: str) -> Process:
        started.append(Process(receiver, tmp_path, *options))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait(TIMEOUT_S)
    for one in started[:1]:
        print(one.log.read_text("utf-8"))  # shown when the test fails


def waiting(folder: Path, **more: Any) -> dict[str, Any]:
    """Makes the stub trainer write its pid and its child's, and wait for the file `go`."""
    names = {"pid": "trainer", "grandchild": "grandchild", "wait_for": "go"}
    return {"hyper": {key: str(folder / name) for key, name in names.items()} | more}


def guards_of(folder: Path) -> list[int]:
    """The guards of workers in this folder; their environment names it, like that of all that they started."""
    mark = sha256_bytes(str((folder / "state").resolve()).encode()).encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                b"guard_main" in (process / "cmdline").read_bytes()
                and mark in (process / "environ").read_bytes()
            ):
                found.append(int(process.name))
    return found


def leftovers(folder: Path) -> list[str]:
    state = folder / "state"
    return [path.name for name in ("leases", "spool", "jobs") for path in (state / name).iterdir()]


def test_sigterm_gives_the_job_back_and_leaves_no_process(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(**waiting(tmp_path)))
    worker = start()
    trainer, grandchild = pid_in(tmp_path / "trainer"), pid_in(tmp_path / "grandchild")
    worker.signal(signal.SIGTERM)
    assert worker.code() == 0
    assert receiver.verbs() == ["claim", "release"]
    release = receiver.of("release")[0]
    assert release.body["reason"] == "the worker was stopped"
    assert release.headers["X-Lease-Token"] == f"{TOKEN}-1"
    assert not is_alive(trainer)
    wait_until(lambda: not is_alive(grandchild), "the grandchild's end")
    assert leftovers(tmp_path) == []
    assert worker.says("event=job.claimed")
    assert not worker.says(TOKEN)


def test_a_trainer_that_is_done_when_sigterm_comes_is_delivered(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(**waiting(tmp_path, on_term="finish")))
    worker = start()
    pid_in(tmp_path / "trainer")
    worker.signal(signal.SIGTERM)
    assert worker.code() == 0
    assert receiver.verbs() == ["claim", "model", "complete"]


def test_a_second_signal_does_not_wait(receiver: FakeReceiver, start: Start, tmp_path: Path) -> None:
    receiver.jobs.append(lease(**waiting(tmp_path, on_term="ignore")))
    worker = start()
    trainer, grandchild = pid_in(tmp_path / "trainer"), pid_in(tmp_path / "grandchild")
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGINT)
    assert worker.code() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    wait_until(lambda: not is_alive(trainer) and not is_alive(grandchild), "the end of the tree")


def test_an_idle_worker_that_waits_at_the_receiver_stops_at_once(
    receiver: FakeReceiver, start: Start
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hold(seen: object) -> tuple[int, dict[str, Any]]:
        asked.set()
        answer.wait(TIMEOUT_S)
        return 200, {"job": None}

    receiver.answer["claim"] = hold
    worker = start()
    assert asked.wait(TIMEOUT_S)
    worker.signal(signal.SIGTERM)
    assert worker.code() == 0
    answer.set()


def test_kill_leaves_no_process_and_the_next_worker_gives_the_job_back(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(**waiting(tmp_path)))
    worker = start()
    trainer, grandchild = pid_in(tmp_path / "trainer"), pid_in(tmp_path / "grandchild")
    worker.signal(signal.SIGKILL)
    assert worker.code() == -signal.SIGKILL
    wait_until(lambda: not is_alive(trainer) and not is_alive(grandchild), "the end of the tree")
    wait_until(lambda: guards_of(tmp_path) == [], "the guard's end")
    start()
    receiver.wait_for("claim", 2)
    assert receiver.verbs()[:3] == ["claim", "release", "claim"]
    assert leftovers(tmp_path) == []


@linux_only
def test_a_guard_that_is_stopped_is_found_and_killed_by_the_next_worker(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(**waiting(tmp_path)))
    worker = start()
    trainer, grandchild = pid_in(tmp_path / "trainer"), pid_in(tmp_path / "grandchild")
    (guard,) = guards_of(tmp_path)
    os.kill(guard, signal.SIGSTOP)
    worker.signal(signal.SIGKILL)
    assert worker.code() == -signal.SIGKILL
    start()
    receiver.wait_for("claim", 2)
    assert receiver.verbs()[:3] == ["claim", "release", "claim"]
    wait_until(lambda: not any(map(is_alive, (guard, trainer, grandchild))), "the end of the tree")


@linux_only
def test_kill_of_the_guard_leaves_no_process_and_the_job_is_tried_again(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(**waiting(tmp_path)))
    worker = start()
    trainer, grandchild = pid_in(tmp_path / "trainer"), pid_in(tmp_path / "grandchild")
    receiver.jobs.append(lease(epoch=2))
    (guard,) = guards_of(tmp_path)
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: not is_alive(trainer) and not is_alive(grandchild), "the end of the tree")
    receiver.wait_for("complete")
    assert receiver.verbs()[:3] == ["claim", "release", "claim"]
    assert receiver.of("release")[0].body["reason"].startswith("the trainer's guard was killed")
    assert worker.process.poll() is None


@linux_only
def test_an_outage_longer_than_the_lease_freezes_the_trainer_and_its_end_thaws_it(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(heartbeat_s=0.2, **waiting(tmp_path)) | {"lease_s": 2.0})
    worker = start()
    trainer = pid_in(tmp_path / "trainer")
    receiver.down = True
    wait_until(lambda: worker.says("event=job.frozen"), "the freeze")
    assert state_of(trainer) == "T"
    (tmp_path / "go").touch()
    receiver.down = False
    receiver.wait_for("complete")
    assert worker.says("event=job.thawed")
    assert receiver.of("complete")[0].body["duration_s"] < 15


@linux_only
def test_a_trainer_that_was_frozen_for_too_long_is_given_back(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(heartbeat_s=0.2, **waiting(tmp_path)) | {"lease_s": 2.0})
    worker = start("--max-frozen-s", "1")
    trainer, grandchild = pid_in(tmp_path / "trainer"), pid_in(tmp_path / "grandchild")
    receiver.answer["heartbeat"] = lambda seen: (503, {"error": "busy"})
    receiver.wait_for("release")
    assert receiver.of("release")[0].body["reason"] == (
        "the trainer was ended because it was frozen for more than 1 s, waiting for the receiver"
    )
    assert worker.process.poll() is None
    wait_until(lambda: not is_alive(trainer) and not is_alive(grandchild), "the end of the tree")


@linux_only
def test_a_frozen_trainer_whose_job_was_given_away_is_killed(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(heartbeat_s=0.2, **waiting(tmp_path)) | {"lease_s": 2.0})
    worker = start()
    trainer, grandchild = pid_in(tmp_path / "trainer"), pid_in(tmp_path / "grandchild")
    receiver.down = True
    wait_until(lambda: worker.says("event=job.frozen"), "the freeze")
    receiver.answer["heartbeat"] = lambda seen: (410, {"error": "gone", "reason": "given to lab-b"})
    receiver.down = False
    wait_until(lambda: not is_alive(trainer) and not is_alive(grandchild), "the end of the tree")
    assert not worker.says("event=job.thawed")


def test_a_lost_lease_ends_the_trainer_and_the_work_is_dropped(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(heartbeat_s=0.05, **waiting(tmp_path, on_term="ignore")))
    start()
    trainer, grandchild = pid_in(tmp_path / "trainer"), pid_in(tmp_path / "grandchild")
    receiver.answer["heartbeat"] = lambda seen: (410, {"error": "gone", "reason": "the job was cancelled"})
    wait_until(lambda: not is_alive(trainer) and not is_alive(grandchild), "the end of the tree")
    receiver.wait_for("claim", 2)
    assert receiver.verbs()[:2] == ["claim", "claim"]
    assert leftovers(tmp_path) == []


def test_training_goes_on_through_an_outage_and_the_result_is_delivered_after_it(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease(heartbeat_s=0.05, **waiting(tmp_path)))
    start()
    trainer = pid_in(tmp_path / "trainer")
    receiver.down = True
    receiver.wait_for_hang_ups(3)
    assert is_alive(trainer)
    (tmp_path / "go").touch()
    receiver.wait_until(lambda: any(one.verb == "model" for one in receiver.hung_up), "an upload in vain")
    receiver.down = False
    receiver.wait_for("complete")
    asked = [verb for verb in receiver.verbs() if verb != "upload"]  # how far an interrupted one had got
    assert asked[:3] == ["claim", "model", "complete"]


def test_a_result_outlives_its_worker_and_is_delivered_before_the_next_claim(
    receiver: FakeReceiver, start: Start, tmp_path: Path
) -> None:
    receiver.jobs.append(lease())
    receiver.answer["model"] = lambda seen: (503, {"error": "the disk is being checked"})
    worker = start()
    receiver.wait_for("model")
    worker.signal(signal.SIGTERM)
    assert worker.code() == 0
    assert "release" not in receiver.verbs()
    kept = receiver.of("model")[0].headers["X-Content-SHA256"]
    receiver.answer.clear()
    receiver.seen.clear()
    start()
    receiver.wait_for("claim")
    assert receiver.verbs()[:3] == ["model", "complete", "claim"]
    assert receiver.of("complete")[0].body["artifact_id"] == kept
    assert receiver.of("model")[0].headers["X-Lease-Token"] == f"{TOKEN}-1"


def test_a_second_worker_is_refused_with_the_pid_of_the_first(receiver: FakeReceiver, start: Start) -> None:
    first = start()
    receiver.wait_for("claim")
    second = start()
    wait_until(lambda: second.process.poll() is not None, "the second worker's refusal")
    assert second.code() == 69
    assert second.says(f"another worker (pid {first.process.pid}) uses the state folder")
    assert first.process.poll() is None


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--receiver-url", "localhost"], 78, "--receiver-url: receiver address 'localhost' cannot be used"),
        (["--poll-s", "x"], 78, "--poll-s: found 'x'"),
        (["--state-dir", "/proc/nothing"], 73, "state folder /proc/nothing cannot be used"),
        (["--what"], 2, "unrecognized arguments: --what"),
    ],
)
def test_a_setting_that_cannot_be_used_ends_the_worker_with_a_sentence(
    tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    command = [sys.executable, "-m", "training.fleet.worker", "--state-dir", str(tmp_path), *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert ended.returncode == code
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_worker_loads_no_server_no_database_and_no_torch() -> None:
    code = (
        "import sys, training.fleet.worker\n"
        "bad = {'starlette', 'msgspec', 'sqlite3', 'torch', 'numpy', 'lightgbm', 'uvicorn'} & set(sys.modules)\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
