"""When a trainer is frozen, thawed and killed: a pure function of times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.fleet.guard_rules import Action, Limits, Moment, decide, margin_s

RUNNING = Moment(now_s=100.0, freeze_at_s=200.0, started_s=50.0, alive_s=90.0)
NONE = Limits()

times = st.floats(0, 1e9)
maybe_times = st.none() | times
limits = st.builds(Limits, *[st.none() | st.floats(1, 1e6)] * 3)
moments = st.builds(Moment, times, times, times, times, maybe_times, maybe_times)


@pytest.mark.parametrize(
    ("lease_s", "expected"), [(600, 12), (60, 1.2), (30, 1), (4, 1), (2, 0.5), (0.4, 0.1)]
)
def test_the_margin_grows_with_the_lease_and_leaves_most_of_it(lease_s: float, expected: float) -> None:
    assert margin_s(lease_s) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "rules", "expected"),
    [
        ({}, NONE, "nothing"),
        ({"now_s": 200.0}, NONE, "freeze"),
        ({"now_s": 200.0, "frozen_since_s": 200.0}, NONE, "nothing"),
        ({"frozen_since_s": 99.0}, NONE, "thaw"),
        ({"now_s": 200.0, "kill_at_s": 230.0}, NONE, "kill"),
        ({"kill_at_s": 130.0}, NONE, "nothing"),
        ({"kill_at_s": 100.0}, NONE, "kill"),
        ({"kill_at_s": 130.0, "frozen_since_s": 99.0}, NONE, "thaw"),
        ({}, Limits(timeout_s=49), "timeout"),
        ({}, Limits(timeout_s=50), "nothing"),
        ({}, Limits(stall_s=9), "stalled"),
        ({}, Limits(timeout_s=1, stall_s=1), "timeout"),
        ({"kill_at_s": 130.0}, Limits(timeout_s=1), "nothing"),
        ({"now_s": 300.0, "frozen_since_s": 200.0}, Limits(1, 1, 99), "frozen"),
        ({"now_s": 300.0, "frozen_since_s": 200.0}, Limits(1, 1, 100), "nothing"),
    ],
)
def test_each_moment_has_its_action(change: dict[str, float], rules: Limits, expected: Action) -> None:
    assert decide(replace(RUNNING, **change), rules) == expected


@given(moments, limits)
def test_nothing_runs_outside_the_lease(at: Moment, rules: Limits) -> None:
    if at.now_s >= at.freeze_at_s:
        expected = {"kill"} if at.kill_at_s is not None else {"freeze", "frozen", "nothing"}
        assert decide(at, rules) in expected
        assert at.frozen_since_s is not None or decide(at, rules) in ("freeze", "kill")


@given(moments)
def test_without_limits_nothing_is_ended_that_was_not_asked_to_end(at: Moment) -> None:
    assert decide(replace(at, kill_at_s=None), NONE) in ("nothing", "freeze", "thaw")
