"""Requests that last end when their sender no longer counts."""

from __future__ import annotations

from training.fleet.open_requests import OpenRequests
from training.fleet.peers import OPEN, Peer

ADA, EVE = Peer("host", "ada", "workers", "1"), Peer("host", "eve", "workers", "2")


def test_only_those_that_no_longer_count_are_ended() -> None:
    gone: set[str] = set()
    ended: list[str] = []
    open_requests = OpenRequests(lambda peer: peer.name not in gone)
    with (
        open_requests.enter(ADA, lambda: ended.append("ada")),
        open_requests.enter(EVE, lambda: ended.append("eve")),
    ):
        assert open_requests.look() == 0
        gone.add("eve")
        assert open_requests.look() == 1
        assert open_requests.look() == 0, "each is told once"
    assert ended == ["eve"]
    assert len(open_requests) == 0


def test_who_was_revoked_between_the_door_and_here_is_ended_at_once() -> None:
    ended: list[str] = []
    with OpenRequests(lambda peer: False).enter(EVE, lambda: ended.append("eve")):
        assert ended == ["eve"]


def test_of_senders_without_a_certificate_nothing_is_kept() -> None:
    open_requests = OpenRequests(lambda peer: False)
    with open_requests.enter(OPEN, lambda: 1 / 0):
        assert len(open_requests) == 0
        assert open_requests.look() == 0
