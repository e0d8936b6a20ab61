"""Charts as SVG: well-formed, the same bytes each time, readable by everybody."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis490.charts import (
    Axis,
    Bar,
    Cell,
    Head,
    Line,
    Mark,
    bar_chart,
    grid_chart,
    line_chart,
    ticks,
)

SVG = "{http://www.w3.org/2000/svg}"
HEAD = Head("c", 'A "title" & <more>', "What is to be seen & where.", "small print")
UNIT = Axis("share", 0, 1)


def lines() -> bytes:
    return line_chart(
        HEAD,
        Axis("x & y", 0, 10),
        UNIT,
        [
            Line("one", [(0, 0), (5, 0.5), (10, 1)], dots=True),
            Line("two", [(0, 0), (5, 0.5), (10, 1)], "second", steps=True),
            Line("nothing", [], "reference"),
        ],
        [Mark("here", 5, 0.5)],
    )


def bars() -> bytes:
    return bar_chart(HEAD, UNIT, [("good", [Bar("web", 0.5, "50 %")]), ("none", [])])


def grid() -> bytes:
    return grid_chart(HEAD, ("no", "yes"), [("a", [Cell("1", "x", 0.5), Cell("2", "y", 2.0)])], "columns")


CHARTS = pytest.mark.parametrize("make", [lines, bars, grid])


def root_of(svg: bytes) -> ET.Element:
    return ET.fromstring(svg)


def texts(svg: bytes) -> list[str]:
    return [element.text or "" for element in root_of(svg).iter(f"{SVG}text")]


@CHARTS
def test_a_chart_is_well_formed_and_the_same_each_time(make) -> None:  # type: ignore[no-untyped-def]
    assert make() == make()
    assert root_of(make()).tag == f"{SVG}svg"


@CHARTS
def test_a_chart_can_be_read_without_seeing_it(make) -> None:  # type: ignore[no-untyped-def]
    root = root_of(make())
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert (title.text, description.text) == (HEAD.title, HEAD.description)
    assert root.get("role") == "img"
    assert (root.get("aria-labelledby") or "").split() == [title.get("id"), description.get("id")]


@CHARTS
def test_title_and_small_print_stand_on_the_chart(make) -> None:  # type: ignore[no-untyped-def]
    assert {HEAD.title, HEAD.note} <= set(texts(make()))


@CHARTS
def test_nothing_is_drawn_outside_of_the_chart(make) -> None:  # type: ignore[no-untyped-def]
    root = root_of(make())
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    for element in root.iter():
        for name, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            value = float(element.get(name) or 0)
            assert 0 <= value <= limit, ET.tostring(element)


@CHARTS
def test_a_chart_brings_its_ground_and_asks_for_nothing_from_elsewhere(make) -> None:  # type: ignore[no-untyped-def]
    text = make().decode()
    assert 'class="ground"' in text
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"href|url\(|@import|<script|<image|font-face", text)


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    colour = "".join(c * 2 for c in colour) if len(colour) == 3 else colour
    channels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def blend(over: str, share: float, ground: str) -> str:
    ground = "".join(c * 2 for c in ground) if len(ground) == 3 else ground
    mixed = [
        round(share * int(over[i : i + 2], 16) + (1 - share) * int(ground[i : i + 2], 16)) for i in (0, 2, 4)
    ]
    return "".join(f"{value:02x}" for value in mixed)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_their_ground(scheme: str) -> None:
    style = lines().decode().split("<style>")[1].split("</style>")[0]
    light, dark = style.split("@media (prefers-color-scheme:dark){")
    css = light if scheme == "light" else dark
    found = {name.strip(): rule for name, rule in re.findall(r"^([^{}\n]+)\{([^}]*)\}", css, re.MULTILINE)}

    def colour(selector: str, what: str = "fill") -> str:
        match = re.search(rf"{what}:#([0-9a-f]{{3,6}})", found[selector])
        assert match is not None, (selector, found)
        return match[1]

    ground = colour(".ground")
    assert contrast(colour("text"), ground) >= 7
    assert contrast(colour(".note,.tick"), ground) >= 6
    for line in (".main", ".second", ".reference", ".axis"):
        assert contrast(colour(line, "stroke"), ground) >= 4.5, line
    assert contrast(colour("text"), blend(colour(".cell"), 0.4, ground)) >= 4.5


def test_steps_go_across_and_then_up() -> None:
    paths = [p.get("d") or "" for p in root_of(lines()).iter(f"{SVG}path")]
    stepped = next(path for path in paths if "H" in path and path.count("V") == 2)
    assert re.fullmatch(r"M[\d.]+ [\d.]+(H[\d.]+V[\d.]+)+", stepped)


def test_a_point_beyond_an_axis_is_drawn_at_its_end() -> None:
    beyond = line_chart(HEAD, UNIT, UNIT, [Line("l", [(0, 0), (7, 9)])])
    within = line_chart(HEAD, UNIT, UNIT, [Line("l", [(0, 0), (1, 1)])])
    assert beyond == within


def test_lines_are_told_apart_without_colour() -> None:
    style = lines().decode()
    assert re.search(r"\.second\{[^}]*stroke-dasharray:7 4", style)
    assert re.search(r"\.reference\{[^}]*stroke-dasharray:2 4", style)


def test_the_legend_names_every_line_and_mark() -> None:
    assert {"one", "two", "nothing", "here"} <= set(texts(lines()))


def test_a_long_label_is_wrapped_and_a_long_bar_name_cut() -> None:
    long = "word " * 40
    assert max(len(text) for text in texts(line_chart(HEAD, UNIT, UNIT, [Line(long, [(0, 0)])]))) < 80
    named = texts(bar_chart(HEAD, UNIT, [("g", [Bar("n" * 90, 1.0, "all")])]))
    assert next(text for text in named if text.startswith("nn")) == "n" * 31 + "…"


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_within_the_axis_and_neither_few_nor_many(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 9
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in found)


def test_ticks_by_hand() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(0, 12) == [0, 2, 4, 6, 8, 10, 12]
