"""What systemd is told, read from a real datagram socket as systemd reads it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.sd_notify import MOST_S, Systemd, systemd

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10.0)
        yield listener


def told(listener: socket.socket) -> list[str]:
    return listener.recv(4096).decode().split("\n")


def test_it_tells_readiness_signs_of_life_and_the_end_with_a_status_each(heard: socket.socket) -> None:
    manager = systemd({"NOTIFY_SOCKET": heard.getsockname()})
    manager.ready("serving")
    manager.alive("3 jobs\nrun")
    manager.stopping()
    assert told(heard) == ["READY=1", "STATUS=serving"]
    assert told(heard) == ["WATCHDOG=1", "STATUS=3 jobs run"], (
        "one line: a second one would be another command"
    )
    assert told(heard) == ["STOPPING=1"]


def test_an_abstract_address_is_spoken_to() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # the kernel chooses an abstract name
        listener.settimeout(10.0)
        name = listener.getsockname()[1:].decode()
        systemd({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert told(listener) == ["READY=1"]


def test_what_systemd_set_is_taken_out_of_the_environment_so_that_no_child_speaks_for_the_service() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "17", "HOME": "/"}
    assert systemd(environ, pid=17).watchdog_s == 30.0
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("watched", "microseconds"), [("18", "30000000"), ("17", "0"), ("17", "soon"), ("17", ""), ("17", "-5")]
)
def test_a_watch_that_is_meant_for_another_process_or_makes_no_sense_is_none(
    watched: str, microseconds: str
) -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": microseconds, "WATCHDOG_PID": watched}
    assert systemd(environ, pid=17).watchdog_s is None


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_outside_systemd_nothing_is_told(environ: dict[str, str]) -> None:
    manager = systemd(dict(environ))
    manager.ready()
    assert manager == Systemd()


def test_a_manager_that_is_gone_does_not_hurt_the_service(tmp_path: Path) -> None:
    systemd({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).alive()


@pytest.mark.parametrize(
    ("watchdog_s", "every_s"), [(180.0, 60.0), (3.0, 1.0), (3600.0, MOST_S), (None, MOST_S)]
)
def test_signs_of_life_come_three_times_as_often_as_systemd_asks(
    watchdog_s: float | None, every_s: float
) -> None:
    assert Systemd("/run/x", watchdog_s).every_s == every_s
