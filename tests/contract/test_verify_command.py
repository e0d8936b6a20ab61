"""`cis490-jobs verify`, `show`, `status` and `cancel` with verification runs, against a real receiver."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.factories.command import Result, run
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from training.fleet import bundle
from training.fleet.client import FleetClient, Unreachable
from training.fleet.exits import Stop
from training.fleet.verification import wait

MANIFEST = 'name = "t"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
JOB = "gbt-realistic"
HEADER = "episode_id,start_s,suspicious,score\n"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        yield running


class Trainer:
    """A worker in the hands of the test: trains whatever the receiver hands out."""

    def __init__(self, receiver: LiveReceiver, folder: Path) -> None:
        self.receiver, self._folder, self._count = receiver, folder, 0

    def claim(self) -> str:
        capability = {"os": "linux", "arch": "x86_64", "has_cuda": False}
        return str(self.receiver.worker("POST", "/v1/job/claim", {"capability": capability}).body["job_id"])

    def train(self, score: float = 0.75) -> str:
        """The next job; its artifact scores one window with `score`. Returns the artifact's id."""
        self._count += 1
        out = self._folder / f"out-{self._count}"
        out.mkdir()
        (out / "predictions.csv").write_text(HEADER + f"e1,0.000,1,{score:.6f}\n")
        (out / "metrics.json").write_text(json.dumps({"test": {"roc_auc": round(score, 6)}}))
        info = bundle.pack(out, self._folder / f"{self._count}.tar.zst")
        data = (self._folder / f"{self._count}.tar.zst").read_bytes()
        job_id = self.claim()
        self.receiver.worker("PUT", f"/v1/model/{job_id}", data, **{"X-Content-SHA256": info.sha256})
        done = self.receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": info.sha256})
        assert done.status == 200, done
        return info.sha256


@pytest.fixture
def trainer(receiver: LiveReceiver, tmp_path: Path) -> Trainer:
    made = Trainer(receiver, tmp_path)
    made.train()
    return made


def once(act: Callable[[], object]) -> Callable[[float], None]:
    """Done the first time that the command waits; it must not wait again."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        assert len(waits) == 1, "nothing more will happen"
        act()

    return sleep


def verify(
    trainer: Trainer, *options: str, sleep: Callable[[float], None] | None = None, **more: Any
) -> Result:
    waits = sleep or once(lambda: pytest.fail("there was nothing to wait for"))
    return run(trainer.receiver.url, "verify", JOB, *options, token=TOKEN, sleep=waits, **more)


@pytest.mark.parametrize(
    ("score", "verdict", "code"),
    [(0.75, "bit-identical", 0), (0.7502, "close", 10), (0.2, "different", 11)],
)
def test_the_verdict_and_the_exit_code_come_from_the_two_artifacts(
    trainer: Trainer, score: float, verdict: str, code: int
) -> None:
    found = verify(trainer, "--json", sleep=once(lambda: trainer.train(score)))
    assert (found.code, found.json["verdict"]) == (code, verdict), found
    assert found.json["shadow_name"] == f"{JOB}.verify-1"
    assert found.json["host"] == "a"


def test_the_screen_names_the_largest_differences_and_the_files(trainer: Trainer) -> None:
    found = verify(trainer, sleep=once(lambda: trainer.train(0.7502)))
    assert " ".join(found.out.split()).startswith(
        f"{JOB}: close, scores of the same windows differ by up to 0.0002 (<= 0.001) artifact"
    )
    assert f"{JOB}.verify-1 on a" in found.out
    assert "at most 0.0002 (test.roc_auc)" in found.out
    assert "metrics.json, predictions.csv" in found.out
    assert f"{JOB}.verify-1: waits: " in found.err


def test_a_result_that_differs_is_told_in_capitals(trainer: Trainer) -> None:
    found = verify(trainer, sleep=once(lambda: trainer.train(0.2)))
    text = " ".join(found.out.split())
    assert f"{JOB}: DIFFERENT, scores of the same windows differ by up to 0.55 (> 0.001)" in text


def test_no_wait_starts_it_and_the_same_command_waits_for_that_run_later(trainer: Trainer) -> None:
    begun = verify(trainer, "--no-wait")
    told = f"{JOB}.verify-1: trains {JOB} once more on a, after everything else that waits"
    assert (begun.code, " ".join(begun.out.split()).startswith(told)) == (0, True)
    found = verify(trainer, sleep=once(trainer.train))
    assert (found.code, f"{JOB}.verify-1 on a" in found.out) == (0, True)


def test_a_run_that_has_ended_is_reported_again_and_again_starts_another(trainer: Trainer) -> None:
    verify(trainer, sleep=once(trainer.train))
    reported = verify(trainer)
    assert reported.code == 0
    assert f"cis490-jobs verify {JOB} --again" in reported.out
    another = verify(trainer, "--again", "--json", sleep=once(lambda: trainer.train(0.2)))
    assert (another.code, another.json["shadow_name"]) == (11, f"{JOB}.verify-2")
    assert verify(trainer, "--json").json["shadow_name"] == f"{JOB}.verify-2", "the newest one counts"


def test_a_run_of_an_earlier_artifact_is_not_reported_for_the_new_one(trainer: Trainer) -> None:
    verify(trainer, sleep=once(trainer.train))
    run(trainer.receiver.url, "requeue", JOB, "--force", token=TOKEN)
    trainer.train(0.9)
    found = verify(trainer, "--json", sleep=once(lambda: trainer.train(0.9)))
    assert (found.json["verdict"], found.json["shadow_name"]) == ("bit-identical", f"{JOB}.verify-2")


def test_a_second_training_that_fails_is_told_with_its_error(trainer: Trainer) -> None:
    def fail() -> None:
        job_id = trainer.claim()
        body = {"error": "num_leaves is too small", "fail_class": "bad_config"}
        trainer.receiver.worker("POST", f"/v1/job/{job_id}/fail", body)

    found = verify(trainer, sleep=once(fail))
    assert found.code == 12
    assert f"{JOB}.verify-1 has failed: num_leaves is too small" in found.err
    assert "--again" in found.err
    listed = run(trainer.receiver.url, "status", token=TOKEN).out
    assert "FAILED" not in listed, "a run that failed is no failed job"


def test_ctrl_c_leaves_it_running(trainer: Trainer) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    found = verify(trainer, sleep=once(interrupt))
    assert (found.code, "goes on without this command" in found.err) == (130, True)
    assert verify(trainer, sleep=once(trainer.train)).code == 0


class Away(FleetClient):
    """Cannot reach the receiver for so many questions."""

    left = 0

    def job(self, job_id: str) -> dict[str, Any]:
        if self.left:
            self.left -= 1
            raise Unreachable("no answer")
        return super().job(job_id)


def waited_for(trainer: Trainer, questions: int) -> Mapping[str, Any] | Stop:
    """A run that ends while the receiver is away for so many questions, a minute apart."""
    client, clock = Away(trainer.receiver.url, operator_token=TOKEN), [0.0]
    run = client.job(str(client.verify(client.jobs()[0]["job_id"])["shadow_job_id"]))
    trainer.train()
    client.left = questions

    def sleep(seconds: float) -> None:
        clock[0] += 60.0

    try:
        return wait(client, run, io.StringIO(), lambda: clock[0], sleep)
    except Stop as stop:
        return stop
    finally:
        client.close()


def test_a_receiver_that_is_away_for_a_while_is_waited_for(trainer: Trainer) -> None:
    """A run may take hours; a restart of the receiver takes seconds, and the run outlives it."""
    found = waited_for(trainer, 3)
    assert not isinstance(found, Stop)
    assert found["status"] == "completed"


def test_one_that_stays_away_ends_the_waiting_and_the_command_to_wait_again_is_told(trainer: Trainer) -> None:
    found = waited_for(trainer, 1000)
    assert isinstance(found, Stop)
    assert found.code == 3
    assert f"{JOB}.verify-1 goes on without this command" in found.lines[0]
    assert "no answer" in found.lines[0]
    assert "cis490-jobs verify" in found.lines[1]


def test_what_cannot_be_verified_is_exit_13_with_the_reason(trainer: Trainer) -> None:
    run(trainer.receiver.url, "requeue", JOB, "--force", token=TOKEN)
    found = verify(trainer)
    assert (found.code, f"{JOB} is pending: only what is completed can be verified" in found.err) == (
        13,
        True,
    )


def test_an_artifact_that_is_gone_is_exit_13(trainer: Trainer) -> None:
    def lose() -> None:
        trainer.train(0.2)
        for path in trainer.receiver.store_root.rglob("bundle.tar.zst"):
            path.unlink()

    found = verify(trainer, sleep=once(lose))
    assert (found.code, "no artifact" in found.err) == (13, True)


def test_without_the_operator_token_nothing_is_started(trainer: Trainer) -> None:
    found = run(trainer.receiver.url, "verify", JOB, token="wrong")
    assert found.code == 1
    assert "CIS490_OPERATOR_TOKEN" in found.err
    assert trainer.receiver.queue.list_jobs(kind="shadow") == []


def test_status_shows_runs_on_a_line_of_their_own(trainer: Trainer) -> None:
    verify(trainer, "--no-wait")
    shown = run(trainer.receiver.url, "status", token=TOKEN).out.splitlines()
    assert shown[1] == "1 done   of 1 job"
    assert f"verification runs: 1 ({JOB}.verify-1)" in shown
    piped = run(trainer.receiver.url, "status", token=TOKEN, terminal=False).out
    assert f"verification\t{JOB}.verify-1\tpending" in piped
    assert JOB in run(trainer.receiver.url, "list", token=TOKEN).out
    assert "verify-1" not in run(trainer.receiver.url, "list", token=TOKEN).out


def test_a_run_is_shown_and_cancelled_by_its_name_and_the_jobs_name_means_the_job(trainer: Trainer) -> None:
    verify(trainer, "--no-wait")
    url, name = trainer.receiver.url, f"{JOB}.verify-1"
    shown = run(url, "show", name, token=TOKEN).out
    assert shown.startswith(f"{name}  pending")
    assert "verifies      artifact" in shown
    assert run(url, "show", JOB, token=TOKEN).out.startswith(f"{JOB}  completed")
    assert f"{name} can start on a" in run(url, "why", name, token=TOKEN).out.replace("\n", " ")
    assert run(url, "cancel", name, token=TOKEN).code == 0
    assert "verify" in run(url, "show", name, token=TOKEN).out.splitlines()[-1]
    digest = hashlib.sha256(name.encode()).hexdigest()
    assert run(url, "show", digest, token=TOKEN).code == 2


def test_a_result_of_another_trainer_is_not_compared(trainer: Trainer) -> None:
    """The receiver's checkout was updated while the run waited."""
    trainer.receiver.queue.reference = trainer.receiver.queue.reference.__class__(None, "e" * 64)
    run(trainer.receiver.url, "requeue", JOB, "--force", token=TOKEN)
    trainer.train()

    def update_then_train() -> None:
        trainer.receiver.queue.reference = trainer.receiver.queue.reference.__class__(None, "f" * 64)
        trainer.train(0.2)

    found = verify(trainer, sleep=once(update_then_train))
    assert (found.code, "was trained by another trainer" in found.err) == (13, True)
