"""The charts of the pages: well-formed, nothing the page's policy refuses, all data in the table, whatever is drawn."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from training.dashboard import job_charts
from training.dashboard.chart_points import clean, domain, simplified, spread
from training.dashboard.charts import (
    MAX_LANES,
    MAX_ROWS,
    Mark,
    Series,
    Side,
    Span,
    Words,
    confusion,
    figure,
    lines,
    time_side,
    timeline,
)

SVG = "{http://www.w3.org/2000/svg}"
WORDS = Words(
    "c", 'A "title" & <more>', "What is to be seen & where.", note="small <print>", empty="Nothing <yet>."
)
FALLING = [(float(n), 1.0 / n) for n in range(1, 11)]
STEP, LOSS = Side("step"), Side("loss")


def root_of(chart: Markup) -> ET.Element:
    return ET.fromstring(str(chart))


def picture_of(chart: Markup) -> ET.Element:
    found = root_of(chart).find(f"{SVG}svg")
    assert found is not None
    return found


def rows_of(chart: Markup) -> list[list[str]]:
    body = root_of(chart).find(".//tbody")
    return [["".join(cell.itertext()) for cell in row] for row in ([] if body is None else body)]


def two_lines() -> Markup:
    second = [(x, y * 2) for x, y in FALLING]
    series = [Series("train <a>", FALLING, "train"), Series("validation", second, "val", 2, dots=True)]
    return lines(WORDS, series, STEP, LOSS, marks=[Mark("here & now", 5, 0.5)])


def lettered() -> Markup:
    series = [
        Series(name, [(0.0, 0.0), (0.1, 0.9), (1.0, 1.0)], style=n) for n, name in enumerate("abc", start=1)
    ]
    reference = Series("knows nothing", [(0, 0), (1, 1)], style=0)
    return lines(
        WORDS, [*series, reference], STEP, LOSS, letters=True, rows_at=[0.0, 0.05, 0.1, 1.0], square=True
    )


def log_scale() -> Markup:
    return lines(WORDS, [Series("train", FALLING, "train", steps=True)], STEP, Side("loss", log=True))


def cells() -> Markup:
    grid = [
        ("benign", [("no alarm", 90, 0.9), ("alarm", 10, 0.1)]),
        ("bad", [("no alarm", 1, 0.5), ("alarm", 1, 0.5)]),
    ]
    return confusion(WORDS, grid, "at <some> threshold")


def attempts() -> Markup:
    at = 1_795_340_000.0
    spans = [
        Span(lane, at + begun, at + ended, f"{mark}{n}", kind, mark, tone, [str(n), lane, "then", kind])
        for n, (lane, begun, ended, kind, mark, tone) in enumerate(
            [
                ("a<b>", 0, 100, "failed", "✖", "bad"),
                ("a<b>", 101, 102, "failed", "✖", "bad"),
                ("a-host-of-a-very-long-name", 120, 5000, "completed", "✔", "good"),
            ],
            start=1,
        )
    ]
    return timeline(WORDS, spans, ["attempt", "host", "from", "outcome"])


CHARTS = pytest.mark.parametrize("make", [two_lines, lettered, log_scale, cells, attempts])


@CHARTS
def test_a_chart_is_well_formed_and_the_same_each_time(make) -> None:  # type: ignore[no-untyped-def]
    assert make() == make()
    assert root_of(make()).tag == "figure"


@CHARTS
def test_nothing_in_it_needs_more_than_the_pages_policy_allows(make) -> None:  # type: ignore[no-untyped-def]
    assert not re.search(r"<style|style=|<script|\son\w+=|href|url\(", str(make()))


@CHARTS
def test_it_can_be_read_without_seeing_it(make) -> None:  # type: ignore[no-untyped-def]
    picture = picture_of(make())
    title, description = picture.find(f"{SVG}title"), picture.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert (title.text, description.text) == (WORDS.title, WORDS.description)
    assert (picture.get("role"), picture.get("viewBox") is not None) == ("img", True)
    assert (picture.get("aria-labelledby") or "").split() == [title.get("id"), description.get("id")]


@CHARTS
def test_nothing_is_drawn_outside_of_it(make) -> None:  # type: ignore[no-untyped-def]
    picture = picture_of(make())
    width, height = map(float, (picture.get("viewBox") or "").split()[2:])
    for element in picture.iter():
        for name, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(element.get(name) or 0) <= limit, ET.tostring(element)


def test_every_figure_stands_in_the_table() -> None:
    assert rows_of(two_lines()) == [[figure(x), figure(y), figure(2 * y)] for x, y in FALLING]
    assert "evenly chosen" not in two_lines()


def test_a_bar_stands_for_each_attempt_in_the_lane_of_its_host_as_long_as_it_took() -> None:
    bars = [one for one in picture_of(attempts()).iter(f"{SVG}rect") if "span" in (one.get("class") or "")]
    assert [one.get("class") for one in bars] == ["span bad", "span bad", "span good"]
    assert bars[0].get("y") == bars[1].get("y") != bars[2].get("y")
    assert float(bars[1].get("width") or 0) == 3, "however short, it is seen"
    assert float(bars[2].get("width") or 0) > 40 * float(bars[0].get("width") or 0)


def test_a_label_in_a_timeline_covers_no_other_but_each_attempt_stands_in_the_table() -> None:
    labels = [one.text for one in picture_of(attempts()).iter(f"{SVG}text") if one.get("class") == "label"]
    assert labels == ["✖1", "✔3"]
    assert [row[0] for row in rows_of(attempts())] == ["1", "2", "3"]


def test_a_long_table_is_thinned_and_says_so() -> None:
    points = [(float(n), float(n % 7)) for n in range(1000)]
    chart = lines(WORDS, [Series("a", points)], STEP, LOSS)
    rows = rows_of(chart)
    assert (len(rows), rows[0][0], rows[-1][0]) == (MAX_ROWS, "0", "999")
    assert f"{MAX_ROWS} of 1000 points, evenly chosen." in chart


def test_where_lines_share_no_x_the_table_reads_them_off() -> None:
    assert rows_of(lettered())[1] == ["0.05", "0.45", "0.45", "0.45"]


def test_each_row_knows_where_it_stands_in_the_picture() -> None:
    body = root_of(two_lines()).find(".//tbody")
    assert body is not None
    left, _, width, _ = map(float, (picture_of(two_lines()).get("data-plot") or "").split())
    xs = [float(row.get("data-x") or "nan") for row in body]
    assert [xs[0], xs[-1]] == pytest.approx([left, left + width], abs=0.01)
    assert xs == sorted(xs)


def test_lines_are_told_apart_by_their_names_at_their_ends() -> None:
    ends = [
        text.text for text in picture_of(two_lines()).iter(f"{SVG}text") if "end" in (text.get("class") or "")
    ]
    assert ends == ["train", "val"]


def test_letters_do_not_lie_on_each_other() -> None:
    badges = [one for one in picture_of(lettered()).iter(f"{SVG}circle") if one.get("r") == "11"]
    places = [(float(one.get("cx") or 0), float(one.get("cy") or 0)) for one in badges]
    assert len(places) == 3
    assert min(math.dist(a, b) for a in places for b in places if a != b) > 30


def test_a_letter_covers_no_figure_of_the_axis() -> None:
    up = Series("a", [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)], upright=True)
    chart = picture_of(lines(WORDS, [up, up], Side("x", 0, 1), Side("y", 0, 1), letters=True))
    badges = [one for one in chart.iter(f"{SVG}circle") if one.get("r") == "11"]
    ends = [float(one.get("x") or 0) for one in chart.iter(f"{SVG}text") if one.get("text-anchor") == "end"]
    assert min(float(one.get("cx") or 0) for one in badges) - 15 > min(ends)


@pytest.mark.parametrize("points", [[], [(1.0, None)], [(math.nan, 1.0)], [(1.0, math.inf)]])
def test_with_nothing_to_draw_it_says_so(points: list[tuple[float, float | None]]) -> None:
    chart = lines(WORDS, [Series("a", points)], STEP, LOSS)
    assert "Nothing &lt;yet&gt;." in chart
    assert "<svg" not in chart


def test_a_curve_that_rises_straight_up_is_drawn_so_and_read_off_at_its_height() -> None:
    """A diagonal would pass over a corner and promise what no threshold reaches."""
    unit = Side("share", 0, 1)
    up = [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]
    chart = lines(WORDS, [Series("a", up, upright=True)], unit, unit, rows_at=[0.0, 0.25, 0.5])
    drawn = next(
        one.get("d") or "" for one in picture_of(chart).iter(f"{SVG}path") if "s1" in (one.get("class") or "")
    )
    assert len(re.findall(r"[ML]", drawn)) == len(up)
    assert re.findall(r'<td data-y="[^"]*">([^<]*)<', chart) == ["0.5", "0.5", "1"]


def test_precision_holds_up_to_the_recall_that_its_threshold_reaches() -> None:
    """On a straight line between two thresholds lie precisions that neither has."""
    chart = job_charts.pr({"a": {"points": [[0.5, 1.0], [0.8, 0.4], [1.0, 0.2]], "at_threshold": None}})
    assert dict(rows_of(chart))["0.5"] == "1"
    assert dict(rows_of(chart))["0.7"] == "0.4"


def test_one_point_is_a_dot() -> None:
    picture = picture_of(lines(WORDS, [Series("a", [(3.0, 0.5)])], STEP, LOSS))
    assert len([one for one in picture.iter(f"{SVG}circle") if "dot" in (one.get("class") or "")]) == 1


def test_a_gap_is_not_bridged() -> None:
    points = [(0.0, 1.0), (1.0, 1.0), (2.0, None), (3.0, 1.0), (4.0, 1.0)]
    picture = picture_of(lines(WORDS, [Series("a", points)], STEP, LOSS))
    assert len([one for one in picture.iter(f"{SVG}path") if "line s1" in (one.get("class") or "")]) == 2


def test_what_a_log_scale_cannot_show_is_left_out_and_counted() -> None:
    points = [(0.0, 0.0), (1.0, -1.0), (2.0, 0.1), (3.0, 10.0)]
    chart = lines(WORDS, [Series("a", points)], STEP, Side("loss", log=True))
    assert "2 values are not shown: not above 0, which a log scale needs." in chart
    assert "loss, log scale" in chart


def test_ticks_that_lie_close_have_as_many_digits_as_they_need() -> None:
    points = [(0.0, 0.123401), (1.0, 0.123405)]
    picture = picture_of(lines(WORDS, [Series("a", points)], STEP, LOSS))
    texts = [one.text for one in picture.iter(f"{SVG}text") if one.get("text-anchor") == "end"]
    assert len(texts) == len(set(texts)) > 2


def test_a_day_has_whole_hours() -> None:
    side = time_side(1_795_340_000.0, 1_795_340_000.0 + 86400)
    assert side.at is not None
    assert side.text is not None
    assert [side.text(at) for at in side.at] == ["12:00", "16:00", "20:00", "00:00", "04:00", "08:00"]


@pytest.mark.parametrize(
    ("took_s", "shown"),
    [
        (0.0, ["00:00:00", "00:00:01"]),
        (20.0, ["00:00:00", "00:00:05", "00:00:10", "00:00:15", "00:00:20"]),
        (1500.0, ["00:00", "00:05", "00:10", "00:15", "00:20", "00:25"]),
        (86400.0 * 9, ["11-23", "11-25", "11-27", "11-29", "12-01"]),
    ],
)
def test_a_time_axis_has_round_times_of_any_span(took_s: float, shown: list[str]) -> None:
    side = time_side(1_795_305_600.0, 1_795_305_600.0 + took_s)
    assert side.at is not None
    assert side.text is not None
    assert [side.text(at) for at in side.at] == shown


@given(
    st.lists(
        st.tuples(st.sampled_from([f"host-{n}" for n in range(15)]), st.floats(0, 4e9), st.floats(0, 4e9)),
        min_size=1,
        max_size=60,
    )
)
def test_any_timeline_lies_inside_its_picture(found: list[tuple[str, float, float]]) -> None:
    spans = [
        Span(lane, min(a, b), max(a, b), f"✖{n}", "failed", "✖", "bad", [str(n), lane])
        for n, (lane, a, b) in enumerate(found)
    ]
    picture = picture_of(timeline(WORDS, spans, ["attempt", "host"]))
    bars = list(picture.iter(f"{SVG}rect"))
    assert len({one.get("y") for one in bars}) <= MAX_LANES
    for one in bars:
        assert (
            0 <= float(one.get("x") or -1) <= float(one.get("x") or 0) + float(one.get("width") or 0) <= 600
        )


anything = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(anything, st.none() | anything), max_size=30), st.booleans(), st.booleans())
def test_whatever_a_worker_sends_is_drawn_inside_the_picture_or_left_out(
    points: list[tuple[float, float | None]], log: bool, letters: bool
) -> None:
    chart = lines(WORDS, [Series("a", points, "a")], STEP, Side("loss", log=log), letters=letters)
    root = root_of(chart)
    for element in root.iter():
        for name in ("x", "y", "cx", "cy"):
            assert -1 <= float(element.get(name) or 0) <= 600
        assert not re.search(r"nan|inf", element.get("d") or "")


@given(st.lists(st.floats(-1e4, 1e4), max_size=8))
def test_labels_keep_their_distance_and_their_order(wanted: list[float]) -> None:
    placed = spread(wanted, 20, 0, 300)
    inside = sorted(placed)
    assert all(b - a >= 20 - 1e-6 for a, b in pairwise(inside))
    assert max(placed, default=0) <= 300


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 300)), min_size=2, max_size=60))
def test_a_simplified_line_keeps_its_ends_and_its_shape(pixels: list[tuple[float, float]]) -> None:
    pixels = sorted(pixels)
    short = simplified(pixels)
    assert (short[0], short[-1]) == (pixels[0], pixels[-1])
    assert set(short) <= set(pixels)
    for point in pixels:
        assert min(distance(point, a, b) for a, b in pairwise(short)) <= 0.3 + 1e-6


def distance(point: tuple[float, float], start: tuple[float, float], end: tuple[float, float]) -> float:
    """From a point to the piece between start and end."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    way = dx * dx + dy * dy
    share = 0.0 if way == 0 else ((point[0] - start[0]) * dx + (point[1] - start[1]) * dy) / way
    share = min(1.0, max(0.0, share))
    return math.dist(point, (start[0] + share * dx, start[1] + share * dy))


def test_a_straight_line_is_two_points() -> None:
    assert simplified([(float(n), 2.0 * n) for n in range(100)]) == [(0.0, 0.0), (99.0, 198.0)]


def test_a_line_that_swings_ever_less_is_simplified_in_a_single_pass() -> None:
    """An artifact may hold such a curve. Looking for its farthest corner again and again takes minutes."""
    looked_at = 0

    class Counted(list[tuple[float, float]]):
        def __getitem__(self, at: Any) -> Any:
            nonlocal looked_at
            looked_at += 1
            return super().__getitem__(at)

        def __iter__(self) -> Iterator[tuple[float, float]]:
            nonlocal looked_at
            looked_at += len(self)
            return super().__iter__()

    swings = Counted((n / 4, 150 + 150 * (-1) ** n * (1 - n / 2000)) for n in range(2000))
    assert simplified(swings)[-1] == swings[-1]
    assert looked_at < 10 * len(swings)


def test_of_two_values_at_one_step_the_later_counts() -> None:
    assert clean([(2.0, 5.0), (1.0, 1.0), (2.0, 3.0)]) == ([(1.0, 1.0), (2.0, 3.0)], 0)


@pytest.mark.parametrize("values", [[0.0], [5.0], [-3.0], [1e-12], [1e30], [7.0, 7.0]])
def test_an_axis_always_has_a_length(values: list[float]) -> None:
    low, high = domain(values, None, None, tight=False, log=False)
    assert low < high
    assert low <= min(values) <= max(values) <= high
