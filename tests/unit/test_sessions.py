"""Sessions and wrong tokens, as a store with a clock: no receiver needed."""

from __future__ import annotations

from itertools import count

import pytest

from cis490.clock import ManualClock
from training.dashboard.session import (
    MAX_MESSAGES,
    MAX_SESSIONS,
    MAX_WRONG,
    SESSION_S,
    WRONG_WINDOW_S,
    Sessions,
    local_path,
    same,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Sessions:
    numbers = count()
    return Sessions(clock.now_s, lambda: f"random-{next(numbers)}")


def test_a_session_is_found_by_its_id_alone(store: Sessions) -> None:
    given, session = store.start()
    assert store.get(given) is session
    assert store.get(given + "x") is None
    assert store.get("") is None
    assert store.get("\udcff") is None, "a cookie may hold anything"


def test_the_id_the_form_token_and_other_sessions_differ(store: Sessions) -> None:
    first, second = store.start(), store.start()
    assert len({first[0], second[0], first[1].csrf, second[1].csrf}) == 4


def test_sessions_end_after_their_time_and_do_not_pile_up(store: Sessions, clock: ManualClock) -> None:
    early, _ = store.start()
    clock.advance(SESSION_S / 2)
    late, _ = store.start()
    clock.advance(SESSION_S / 2)
    assert store.get(early) is None
    assert store.get(late) is not None
    assert len(store) == 1


def test_one_session_too_many_ends_the_oldest(store: Sessions) -> None:
    given = [store.start()[0] for _ in range(MAX_SESSIONS + 1)]
    assert store.get(given[0]) is None
    assert all(store.get(one) for one in given[1:])


def test_wrong_tokens_of_long_ago_count_no_more(store: Sessions, clock: ManualClock) -> None:
    for _ in range(MAX_WRONG - 1):
        store.wrong()
    assert store.wait_s() == 0.0
    clock.advance(WRONG_WINDOW_S)
    store.wrong()
    assert store.wait_s() == 0.0, "nine of them are old"
    for _ in range(MAX_WRONG - 1):
        store.wrong()
    assert store.wait_s() == WRONG_WINDOW_S
    clock.advance(WRONG_WINDOW_S / 2)
    assert store.wait_s() == WRONG_WINDOW_S / 2


def test_messages_are_taken_once_and_bounded(store: Sessions) -> None:
    _, session = store.start()
    for at in range(MAX_MESSAGES + 3):
        session.say(str(at))
    assert session.take_messages() == ("3", "4", "5", "6", "7")
    assert session.take_messages() == ()


def test_secrets_are_compared_whole() -> None:
    assert same("token", "token")
    assert not same("token", "toke")
    assert not same("", "token")
    assert not same("tökén\udcff", "token")


@pytest.mark.parametrize("path", ["/", "/job/x?a=b", "/host/a.b/drain?reason=x%20y"])
def test_a_path_of_ours_is_kept(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path", ["", "x", "//x", "/\\x", "https://x", "/a\\b", "/a\nb", "/a\x7f", "/" + "x" * 2000]
)
def test_what_might_lead_elsewhere_leads_to_the_start(path: str) -> None:
    assert local_path(path) == "/"
