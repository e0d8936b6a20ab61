"""What the pages make of figures and histories."""

from __future__ import annotations

import pytest

from training.dashboard import words
from training.dashboard.events_page import _cell
from training.dashboard.fleet_page import gpus
from training.dashboard.host_page import pictures
from training.dashboard.strip import spans, strip


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 00 min"),
     (47 * 3600 + 300, "47 h 05 min"), (48 * 3600, "2 d 0 h"), (None, "–")],
)  # fmt: skip
def test_a_duration_in_words(seconds: float | None, said: str) -> None:
    assert words.span(seconds) == said


def test_a_moment_is_told_from_now_and_a_clock_that_is_ahead_makes_no_nonsense() -> None:
    assert words.ago(100.0, 112.0) == "12 s ago"
    assert words.ago(100.5, 100.0) == "0 s ago"
    assert words.ago(700.0, 100.0) == "in 10 min"
    assert words.ago(None, 100.0) == "never"


@pytest.mark.parametrize("at", [-1e18, 1e300, 0.0])
def test_a_moment_that_is_none_breaks_no_page(at: float) -> None:
    assert words.utc(at).endswith("UTC")


def test_unknown_is_a_dash_and_never_zero() -> None:
    assert {
        words.number(None),
        words.gib(None),
        words.percent(None),
        words.size(None),
        words.short(None),
    } == {"–"}


def test_what_is_done_of_a_job_lies_between_nothing_and_all() -> None:
    assert words.done_share({"step": 12, "total": 40}) == 0.3
    assert words.done_share({"step": 50, "total": 40}) == 1.0
    assert words.done_share({"step": 5, "total": 0}) is None
    assert words.done_share({"event": "started"}) is None
    assert words.done_share(None) is None


def test_every_state_has_a_shape_and_a_colour_of_its_own_kind() -> None:
    for state in ("running", "failed", "LOST", "PAUSED", "drained", "completed", "idle", "pending"):
        assert words.mark(state)
        assert words.tone(state) in {"go", "good", "bad", "warn", "quiet"}
    assert words.mark("something new") == "○"


def test_a_cell_of_the_csv_is_no_formula() -> None:
    assert _cell("detail", "=1+1") == "'=1+1"
    assert _cell("detail", "@x") == "'@x"
    assert _cell("name", "gbt") == "gbt"
    assert _cell("seq", 7) == "7"


def test_a_strip_has_one_path_for_each_state_and_its_sums_in_words() -> None:
    found = strip("iirrl.", 300.0, words.span)
    assert found.width == 6
    assert found.paths == (("idle", 4, "M0 14h2"), ("running", 16, "M2 8h2"), ("lost", 16, "M4 8h1"))
    assert found.label == "running 10 min, idle 10 min, lost 5 min, unknown 5 min"


def test_a_host_that_flaps_all_day_makes_a_strip_of_bounded_size() -> None:
    found = strip("rl" * 144, 300.0, words.span)
    assert sum(len(path) for _, _, path in found.paths) < 3000


def test_an_unknown_letter_is_unknown_and_no_error() -> None:
    assert strip("rx", 300.0, words.span).label == "running 5 min, unknown 5 min"
    assert strip("", 300.0, words.span).label == "nothing known"


def test_spans_have_their_times() -> None:
    assert [(one.state, one.from_at, one.took_s) for one in spans("rri", 300.0, 900.0)] == [
        ("running", 900.0, 600.0), ("idle", 1500.0, 300.0),
    ]  # fmt: skip


def test_a_gpus_bar_needs_both_figures() -> None:
    row = {
        "capability": {"gpus": [{"name": "A", "vram_gib": 8.0}]},
        "usage": {"gpus": [{"vram_used_gib": 2.0}]},
    }
    assert gpus(row)[0]["vram_share"] == 0.25
    assert gpus({**row, "usage": None})[0]["vram_share"] is None
    assert gpus({"capability": {}, "usage": {"gpus": [{"vram_used_gib": 2.0}]}})[0]["vram_share"] is None
    assert gpus({}) == []


def test_a_hosts_day_is_drawn_where_something_was_measured() -> None:
    points = [{"at": 300.0 * at, "cpu_percent": 10.0 + at, "vram_used_gib": None} for at in range(24)]
    (only,) = pictures("gpu-1", points, 300.0)
    assert "How busy" in only
    assert pictures("gpu-1", [{"at": 0.0}], 300.0) == pictures("gpu-1", [], 300.0) == []
