"""What the real programs tell a service manager, and when they fall silent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
WATCHDOG_S = 0.6
PATIENCE_S = 30.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The end of the line at which systemd sits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE_S)
        yield listener


def start(manager: socket.socket, module: str, *options: str) -> subprocess.Popen[bytes]:
    environ = os.environ | {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
    }
    return subprocess.Popen([sys.executable, "-m", module, *options], env=environ, stderr=subprocess.DEVNULL)


def state(manager: socket.socket) -> str:
    return manager.recv(4096).decode().partition("\n")[0]


def last_words(manager: socket.socket) -> str:
    """What came last, after signs of life that were on their way."""
    while (said := state(manager)) == "WATCHDOG=1":
        pass
    return said


def receiver(manager: socket.socket, folder: Path) -> subprocess.Popen[bytes]:
    (folder / "m.toml").write_text('name = "t"\n')
    return start(
        manager, "training.fleet.receiver", "--manifest", str(folder / "m.toml"), "--db", str(folder / "q.db"),
        "--store-root", str(folder / "models"), "--incoming-root", str(folder / "incoming"),
        "--index-path", str(folder / "models/index.jsonl"), "--listen-addr", f"unix:{folder}/r.sock",
    )  # fmt: skip


def worker(manager: socket.socket, folder: Path) -> subprocess.Popen[bytes]:
    return start(
        manager, "training.fleet.worker", "--receiver-url", f"unix:{folder}/nobody.sock", "--host", "a",
        "--state-dir", str(folder / "state"), "--trainer-module", "tests.factories.stub_trainer",
    )  # fmt: skip


def test_the_receiver_is_ready_when_it_listens_lives_while_it_moves_and_says_when_it_ends(
    manager: socket.socket, tmp_path: Path
) -> None:
    process = receiver(manager, tmp_path)
    try:
        assert state(manager) == "READY=1"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/r.sock")
        assert [state(manager), state(manager)] == ["WATCHDOG=1"] * 2
        process.send_signal(signal.SIGTERM)
        assert last_words(manager) == "STOPPING=1"
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_the_worker_is_ready_and_lives_also_without_a_receiver(
    manager: socket.socket, tmp_path: Path
) -> None:
    """Its start must not wait for another machine, nor may an outage get it restarted."""
    process = worker(manager, tmp_path)
    try:
        assert state(manager) == "READY=1"
        assert [state(manager), state(manager)] == ["WATCHDOG=1"] * 2
        process.send_signal(signal.SIGTERM)
        assert last_words(manager) == "STOPPING=1"
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_a_program_that_cannot_start_never_says_that_it_is_ready(
    manager: socket.socket, tmp_path: Path
) -> None:
    process = receiver(manager, tmp_path)
    try:
        assert state(manager) == "READY=1"
        assert receiver(manager, tmp_path).wait(PATIENCE_S) == 69, "the database is taken"
        process.send_signal(signal.SIGTERM)
        assert last_words(manager) == "STOPPING=1"
    finally:
        process.kill()
        process.wait()
