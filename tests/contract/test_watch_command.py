"""`watch` and `events` against a real receiver: lines in a pipe, a live screen in a real pseudo-terminal."""

from __future__ import annotations

import hashlib
import os
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.factories.command import run
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from training.fleet import exits
from training.fleet.render import View
from training.fleet.render_watch import event_line, footer, watched_job

MANIFEST = """
name = "two"
[[jobs]]
model = "gbt"
mode = "oracle"
priority = 1
[[jobs]]
model = "mlp"
mode = "oracle"
"""
ROOT = Path(__file__).resolve().parents[2]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        running.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}}, host="pi")
        yield running


def job_id(receiver: LiveReceiver, name: str = "gbt-oracle") -> str:
    return str(receiver.send("GET", f"/v1/resolve?job={name}").body["job_id"])


def fail(receiver: LiveReceiver) -> None:
    """The job fails so that no retry can help."""
    body = {"error": "no such option", "fail_class": "bad_config", "exit_code": 78}
    assert receiver.worker("POST", f"/v1/job/{job_id(receiver)}/fail", body, host="pi").status == 200


def complete(receiver: LiveReceiver) -> None:
    path = f"/v1/model/{job_id(receiver)}"
    digest = hashlib.sha256(b"model").hexdigest()
    receiver.worker("PUT", path, b"model", host="pi", **{"X-Content-SHA256": digest})
    done = receiver.worker("POST", f"/v1/job/{job_id(receiver)}/complete", {"artifact_id": digest}, host="pi")
    assert done.status == 200


def cancel(receiver: LiveReceiver) -> None:
    assert receiver.operator(f"/v1/job/{job_id(receiver)}/cancel").status == 200


def command(receiver: LiveReceiver | Way, *argv: str) -> tuple[list[str], dict[str, str]]:
    env = os.environ | {"CIS490_RECEIVER_URL": receiver.url, "CIS490_OPERATOR_TOKEN": TOKEN, "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    return [sys.executable, "-m", "training.fleet.cli", *argv], env


@contextmanager
def piped(receiver: LiveReceiver | Way, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """The command with its output in a pipe; ended at the end."""
    line, env = command(receiver, *argv)
    with subprocess.Popen(
        line, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as found:
        try:
            yield found
        finally:
            found.kill()


def until_heard(receiver: LiveReceiver) -> None:
    """Somebody reads the stream of events."""
    deadline = time.monotonic() + 20
    while not receiver.coordinator.event_streams:
        assert time.monotonic() < deadline, "nobody listens to the events"
        time.sleep(0.01)


class TestInAPipe:
    def test_each_event_is_one_line(self, receiver: LiveReceiver) -> None:
        with piped(receiver, "watch") as watching:
            until_heard(receiver)
            receiver.operator("/v1/host/pi/drain", {"reason": "a new fan"})
            assert watching.stdout is not None
            line = watching.stdout.readline()
        assert re.fullmatch(
            r'20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ event=drain host=pi actor=operator detail="a new fan" seq=\d+\n',
            line,
        )

    @pytest.mark.parametrize(
        ("end", "code"),
        [(complete, exits.OK), (fail, exits.JOB_FAILED), (cancel, exits.JOB_CANCELLED)],
    )
    def test_the_exit_status_is_the_jobs(
        self, receiver: LiveReceiver, end: Callable[[LiveReceiver], None], code: int
    ) -> None:
        with piped(receiver, "watch", "gbt-o", "--exit-status") as watching:
            until_heard(receiver)
            receiver.operator(f"/v1/job/{job_id(receiver, 'mlp-oracle')}/cancel")
            end(receiver)
            out, _ = watching.communicate(timeout=30)
        assert watching.returncode == code
        assert out.count("job=gbt-oracle") == 1
        assert "mlp-oracle" not in out

    def test_a_job_that_has_ended_already_ends_it_at_once(self, receiver: LiveReceiver) -> None:
        cancel(receiver)
        assert (
            run(receiver.url, "watch", "gbt-oracle", "--exit-status", terminal=False).code
            == exits.JOB_CANCELLED
        )
        assert run(receiver.url, "watch", "gbt-oracle", terminal=False).code == exits.OK

    def test_without_a_job_there_is_no_status_to_exit_with(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            run("http://127.0.0.1:9", "watch", "--exit-status")
        assert stop.value.code == exits.USAGE
        assert "--exit-status needs a JOB" in capsys.readouterr().err

    def test_it_says_that_the_receiver_went_away_and_goes_on_when_it_is_back(
        self, receiver: LiveReceiver
    ) -> None:
        way = Way(receiver.port)
        with way, piped(way, "watch") as watching:
            until_heard(receiver)
            receiver.operator("/v1/host/pi/drain", {"reason": "before"})
            assert watching.stdout is not None
            assert watching.stderr is not None
            assert "before" in watching.stdout.readline()
            way.cut()
            assert "; trying again in " in watching.stderr.readline()
            receiver.operator("/v1/host/pi/drain", {"reason": "meanwhile"})
            assert "meanwhile" in watching.stdout.readline(), "what was missed is told"


class TestOnATerminal:
    def test_the_screen_is_redrawn_when_something_changes_and_q_ends_it(self, receiver: LiveReceiver) -> None:
        line, env = command(receiver, "watch")
        with Terminal(line, env) as terminal:
            terminal.until("live; q ends")
            terminal.until("1 starting   1 pending")
            until_heard(receiver)
            receiver.operator("/v1/host/pi/drain", {"reason": "a new fan"})
            terminal.until("pi is given no more jobs: a new fan")
            terminal.until("draining")
            terminal.press("q")
            assert terminal.ended() == 0
        assert "Traceback" not in terminal.text

    def test_one_job_is_watched_until_it_has_ended(self, receiver: LiveReceiver) -> None:
        line, env = command(receiver, "watch", "gbt-oracle", "--exit-status")
        with Terminal(line, env) as terminal:
            terminal.until("gbt-oracle  claimed on pi, 1 attempt")
            until_heard(receiver)
            cancel(receiver)
            assert terminal.ended() == exits.JOB_CANCELLED
            assert "gbt-oracle  cancelled" in terminal.text

    def test_ctrl_c_ends_it_like_q(self, receiver: LiveReceiver) -> None:
        line, env = command(receiver, "watch")
        with Terminal(line, env) as terminal:
            terminal.until("live; q ends")
            terminal.press("\x03")
            assert terminal.ended() == 0
        assert "Traceback" not in terminal.text


class TestEvents:
    def test_the_trail_is_a_table_of_sentences(self, receiver: LiveReceiver) -> None:
        lines = run(receiver.url, "events", "--limit", "1").out.splitlines()
        assert lines[0].split() == ["WHEN", "WHO", "WHAT"]
        assert lines[1].endswith("gbt-oracle was claimed by pi, attempt 1")

    def test_in_a_pipe_it_has_ten_columns(self, receiver: LiveReceiver) -> None:
        rows = [line.split("\t") for line in run(receiver.url, "events", terminal=False).out.splitlines()]
        assert {len(row) for row in rows} == {10}
        assert rows[-1][3:6] == ["claim", "gbt-oracle", "pi"]

    def test_it_keeps_one_job_or_one_host(self, receiver: LiveReceiver) -> None:
        found = run(receiver.url, "events", "--job", "mlp-o", "--json").json["events"]
        assert {row["name"] for row in found} == {"mlp-oracle"}
        found = run(receiver.url, "events", "--host", "p", "--json").json["events"]
        assert {row["host"] for row in found} == {"pi"}

    def test_followed_it_goes_on_after_what_was(self, receiver: LiveReceiver) -> None:
        with piped(receiver, "events", "-f", "--host", "pi", "--json") as following:
            assert following.stdout is not None
            first = following.stdout.readline()
            until_heard(receiver)
            receiver.operator("/v1/host/pi/drain", {"reason": "x"})
            second = following.stdout.readline()
        assert '"event": "claim"' in first
        assert '"event": "drain"' in second


class TestWords:
    def test_a_value_with_spaces_is_quoted_and_an_absent_one_left_out(self) -> None:
        line = event_line(
            {"at": 0.0, "event": "drain", "host": "pi", "detail": 'two words "quoted"', "seq": 3}
        )
        assert line == '1970-01-01T00:00:00Z event=drain host=pi detail="two words \\"quoted\\"" seq=3'

    def test_an_event_cannot_bring_a_second_line(self) -> None:
        assert "\n" not in event_line({"at": 0.0, "event": "x", "detail": "a\nat=1 event=forged"})

    def test_the_last_line_says_how_old_the_screen_is(self) -> None:
        text = footer(View(1000.0, 80), 940.0, 930.0, "connection refused")
        assert (
            text
            == "the receiver has been away for 1 min; this is 1 min old; asking again; q ends (connection refused)"
        )

    def test_a_failed_job_shows_its_error_and_the_next_command(self) -> None:
        row = {"name": "a", "status": "failed", "attempts": 3, "last_error": "CUDA out of memory\nmore"}
        assert watched_job(View(0.0, 80), row) == [
            "a  FAILED, 3 attempts",
            "  CUDA out of memory",
            "  next: cis490-jobs show a",
        ]


class Way:
    """A way to a port of this machine that can be cut: whoever goes it has to come anew."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = socket.create_server(("127.0.0.1", 0))
        self._both: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._open.getsockname()[1]}"

    def __enter__(self) -> Way:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._open.shutdown(socket.SHUT_RDWR)
        self._open.close()

    def cut(self) -> None:
        for end in self._both:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._open.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._both += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), source:
            while found := source.recv(65536):
                target.sendall(found)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


class Terminal:
    """A program in a pseudo-terminal of 80 columns and 24 lines; what it wrote, without escape sequences."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        import fcntl
        import pty
        import termios

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        # A terminal of its own, else Ctrl-C would reach nobody; and where the tests themselves run in the
        # background, a shell has made them ignore Ctrl-C.
        own_terminal = ["env", "--default-signal=INT", "setsid", "--ctty", "--wait", *argv]
        self._process = subprocess.Popen(
            own_terminal, env=env, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.text = ""
        self._from = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def until(self, wanted: str, limit_s: float = 30.0) -> None:
        """Wait until this stands there, after what was waited for before."""
        deadline = time.monotonic() + limit_s
        while (at := self.text.find(wanted, self._from)) < 0:
            assert time.monotonic() < deadline, (
                f"{wanted!r} never came; there was:\n{self.text[self._from :]}"
            )
            self._read(0.1)
        self._from = at

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def ended(self, limit_s: float = 30.0) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + limit_s
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on; there was:\n{self.text}"
            self._read(0.05)
        while self._read(0.0):
            pass
        return self._process.returncode

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._master], [], [], wait_s)[0]:
            return False
        try:
            found = os.read(self._master, 65536)
        except OSError:
            return False
        self.text += ESCAPE.sub("", found.decode("utf-8", "replace"))
        return bool(found)


def test_nothing_is_left_running() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watch-")]
