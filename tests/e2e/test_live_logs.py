"""What a trainer prints can be read while it runs and after it failed: real receiver, worker, guard and trainer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cis490.episodes.dataset import pack
from tests.factories.command import run
from tests.factories.episodes import write_dataset
from tests.factories.processes import wait_until
from training.fleet.client import FleetClient, FleetError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
ROOT = Path(__file__).resolve().parents[2]


class Lab:
    """A receiver and a worker as processes, and a trainer that prints what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = FleetClient(self.url, timeout_s=5.0)
        self._processes: list[subprocess.Popen[bytes]] = []
        dataset_id = pack(write_dataset(folder / "episodes"), folder / "data.tar.zst")
        (folder / "manifest.toml").write_text(
            f'name = "t"\n[dataset]\nid = "{dataset_id}"\nfile = "{folder / "data.tar.zst"}"\n'
            '[policy]\ntrainer = "any"\nmax_failures = 1\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n'
        )
        (folder / "say").touch()
        self.receiver = self.start_receiver()
        self.worker = self._start(
            "training.fleet.worker", "--receiver-url", self.url, "--host", "lab-a",
            "--state-dir", str(folder / "state"), "--poll-s", "0.1",
            "--trainer-module", "tests.factories.printing_trainer",
        )  # fmt: skip

    def start_receiver(self) -> subprocess.Popen[bytes]:
        at = self.folder
        options = {
            "--listen-addr": f"127.0.0.1:{self.port}", "--manifest": at / "manifest.toml", "--db": at / "queue.db",
            "--store-root": at / "models", "--incoming-root": at / "incoming", "--heartbeat-s": 0.5,
            "--index-path": at / "models/index.jsonl", "--stale-after-s": 60,
        }  # fmt: skip
        return self._start(
            "training.fleet.receiver", *(str(word) for pair in options.items() for word in pair)
        )

    def _start(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "CIS490_TEST_SAY": str(self.folder)}
        with (self.folder / "processes.log").open("ab") as log:
            command = [sys.executable, "-m", module, *options]
            self._processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=log))
        return self._processes[-1]

    def say(self, text: str) -> None:
        with (self.folder / "say").open("a", encoding="utf-8") as file:
            file.write(text)

    def end(self, code: int) -> None:
        (self.folder / "end.part").write_text(str(code))
        (self.folder / "end.part").rename(self.folder / "end")

    def ask(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The answer; an empty one while the receiver is away."""
        try:
            return call()
        except FleetError:
            return {}

    def job_id(self) -> str:
        jobs = self.ask(lambda: {"jobs": self.client.jobs()}).get("jobs", [])
        return str(jobs[0]["job_id"]) if jobs else ""

    def log(self) -> dict[str, Any]:
        job_id = self.job_id()
        return self.ask(lambda: self.client.log(job_id)) if job_id else {}

    def reads(self, words: str) -> bool:
        return words in str(self.log().get("text"))

    def status(self) -> str:
        jobs = self.ask(lambda: {"jobs": self.client.jobs()}).get("jobs", [])
        return str(jobs[0]["status"]) if jobs else ""

    def close(self) -> None:
        for one in self._processes:
            one.kill()
            one.wait(20)
        self.client.close()
        print((self.folder / "processes.log").read_text("utf-8"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.close()


def test_a_running_trainers_words_can_be_read_and_after_it_failed_still(lab: Lab) -> None:
    lab.say("first wörd\nout:on standard output\n")
    wait_until(lambda: lab.reads("first wörd\n") and lab.reads("on standard output\n"), "the first words")
    assert lab.log()["live"] is True
    assert "[worker] " in lab.log()["text"]

    lab.receiver.send_signal(signal.SIGKILL)
    lab.receiver.wait(20)
    lab.say("said while the receiver was dead\n")
    lab.receiver = lab.start_receiver()
    wait_until(lambda: lab.reads("said while the receiver was dead\n"), "the log to go on")

    lab.say('progress:{"event": "progress", "step": 3, "total": 9, "loss": 0.5}\nthe last words\n')
    lab.end(65)
    wait_until(lambda: lab.status() == "failed", "the end of the attempt")
    found = lab.log()
    assert found["live"] is False
    said = ("first wörd\n", "on standard output\n", "receiver was dead\n", "the last words\n")
    assert [found["text"].count(words) for words in said] == [1, 1, 1, 1]
    assert found["text"].index("receiver was dead") < found["text"].index("the last words")
    assert "[worker] the trainer has ended: exit code 65" in found["text"]

    told = lab.client.progress(lab.job_id())
    assert [(point["step"], point["loss"]) for point in told["points"]] == [(3, 0.5)]
    assert told["peak"]["job_rss_gib"] > 0.001

    printed = run(lab.url, "logs", "gbt-oracle")
    assert (printed.code, printed.out) == (0, found["text"])
    assert run(lab.url, "logs", "gbt-oracle", "--tail", "1").out.startswith("[worker] the trainer has ended")
    assert json.loads(run(lab.url, "logs", "gbt-oracle", "--json").out)["text"] == found["text"]
