"""The receiver as a process: open streams of events do not hold up its end, and its restart loses none of them."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.test_receiver_process import start, until_listening
from training.fleet.client import FleetClient
from training.fleet.types import Capability

GRACE_S = 8.0
"""Less than the 10 s after which the server would cut off what does not end."""


def _ended(process: subprocess.Popen[str]) -> str:
    """SIGTERM, and what was said until the orderly end."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert time.monotonic() - began < GRACE_S
    assert "event=receiver.stopped" in said
    assert "ASGI" not in said
    return said


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a receiver that listens; none outlives its test."""
    processes: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        processes.append(start(tmp_path))
        until_listening(processes[-1])
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_a_signal_in_the_moment_before_the_server_runs_is_not_lost(
    starting: Callable[[], subprocess.Popen[str]],
) -> None:
    _ended(starting())


def test_sigterm_ends_open_streams_in_order(
    tmp_path: Path, starting: Callable[[], subprocess.Popen[str]]
) -> None:
    process = starting()
    client = FleetClient(f"unix:{tmp_path}/r.sock")
    streams = [client.events(after=0) for _ in range(20)]
    assert [[next(stream).kind, next(stream).kind] for stream in streams] == [["hello", "job"]] * 20
    _ended(process)
    assert [list(stream) for stream in streams] == [[]] * 20, "each stream had a proper end"


@pytest.mark.slow
def test_a_listener_goes_on_after_a_restart_where_it_was(
    tmp_path: Path, starting: Callable[[], subprocess.Popen[str]]
) -> None:
    first = starting()
    following = FleetClient(f"unix:{tmp_path}/r.sock").follow(after=1, sleep=lambda _: time.sleep(0.05))
    assert next(following).kind == "hello"
    _ended(first)
    starting()
    claimed = FleetClient(f"unix:{tmp_path}/r.sock", host="a").claim(Capability(cores=1), request_id="r")
    assert claimed is not None
    events = (event for event in following if event.kind == "job")
    assert (next(events).data["event"], claimed.name) == ("claim", "gbt-oracle")
    following.close()
