"""Charts of the pages: SVG inside the page, drawn here, with a table of the data under each. Pure.

The page's Content-Security-Policy allows no style of its own inside a picture, so there are classes and presentation
attributes only; colours, dashes and sizes of text stand in static/style.css, for light, dark and forced colours. A
chart scales with the room it has; its text grows against that, so that it can still be read on a telephone. Lines are
told apart by dashes and by a name at each, not by colour alone. static/charts.js adds a read-out under the pointer or
the arrow keys: it takes its words from the table. Layout (`ticks`, `Plot`, paths) is shared with `cis490.charts`, which
draws the pictures inside artifacts.

Every function returns a `<figure>` as Markup. Figures come from workers: none is taken to be finite, sorted or small.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup, escape

from cis490.charts import Axis, Plot, path_of, ticks, two
from training.dashboard.chart_points import Point, between, clean, domain, simplified, spread, union

WIDTH, HEIGHT = 600, 300
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 36, 64
"""Room for text at its largest, 21 units a line."""
CHAR_UNITS = 12.5
"""Estimated width of a character at its largest."""
CAPITAL_UNITS = 17.0
LABEL_UNITS = 23
MAX_ROWS = 60
MAX_LANES, LANE_CHARS = 10, 14
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `label` stands in legend and table, `short` (up to 8 characters) at the line's end; a y of None is a
    gap. `style` picks colour and dashes, 1 to 6; 0: a grey reference line, which is not in the table."""

    label: str
    points: Sequence[Point]
    short: str = ""
    style: int = 1
    steps: bool = False
    dots: bool = False
    upright: bool = False
    """The line may rise straight up: of points with one x all are drawn, not the last alone."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point to look at, such as the threshold in use; it belongs to the series of this style. One without a label is
    not in the legend."""

    label: str
    x: float
    y: float
    style: int = 1


@dataclass(frozen=True, slots=True)
class Span:
    """A bar of a timeline: from when to when, in UTC seconds, in the lane of this name. `tone` picks the colour (good,
    bad, go, warn, quiet), `kind` is the word and `mark` the shape that say the same; `cells` its row in the table."""

    lane: str
    from_at: float
    to_at: float
    label: str
    kind: str
    mark: str
    tone: str
    cells: Sequence[str]


@dataclass(frozen=True, slots=True)
class Words:
    """What is said about a chart: `name` is unique in the page (letters, digits, -); `description` says in a sentence
    what is to be seen, for those who do not see it; `note` is small print; `empty` stands where nothing is drawn."""

    name: str
    title: str
    description: str
    note: str = ""
    empty: str = "Nothing to draw yet."


@dataclass(frozen=True, slots=True)
class Side:
    """An axis: its label, its ends where they are fixed, the words of its figures, its ticks where they are fixed."""

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    text: Callable[[float], str] | None = None
    at: Sequence[float] | None = None


def lines(
    words: Words,
    series: Sequence[Series],
    x: Side,
    y: Side,
    *,
    marks: Sequence[Mark] = (),
    letters: bool = False,
    rows_at: Sequence[float] | None = None,
    square: bool = False,
) -> Markup:
    """Lines over two axes.

    letters: each line carries its letter somewhere along it (as in the legend) instead of `short` at its end: for lines
    that all end in one point.
    rows_at: the x of the table's rows, where the lines share none of their own: y is read off each line there.
    """
    drawn, left_out = _drawn(series, y.log)
    seen = [one for one in drawn if any(value is not None for _, value in one.points)]
    if not any(one.style for one in seen):
        return _figure(words, Markup('<p class="empty">{}</p>').format(words.empty), Markup(""), Markup(""))
    x_axis = _axis(x, [px for one in seen for px, _ in one.points], tight=True)
    y_axis = _axis(y, [py for one in seen for _, py in one.points if py is not None], tight=False)
    ends = [] if letters else [one for one in seen if one.short and one.style]
    right = max([RIGHT, *(20 + _units(one.short[:8]) for one in ends)])
    height = 430 if square else HEIGHT
    plot = Plot(x_axis, y_axis, LEFT, TOP, WIDTH - LEFT - right, height - TOP - BOTTOM)
    parts = [*_grid(plot, x, y)]
    for one in seen:
        parts += _line(plot, one, y.log)
    for mark in marks:
        px, py = _at(plot, mark.x, mark.y, y.log)
        parts.append(f'<circle class="mark s{mark.style}" cx="{two(px)}" cy="{two(py)}" r="6"/>')
    if letters:
        parts += _letters(plot, [one for one in seen if one.style], y.log)
    parts += _end_labels(plot, ends, y.log)
    note = words.note
    if left_out:
        values = "1 value is" if left_out == 1 else f"{left_out} values are"
        note = f"{note} {values} not shown: {_NOT_SHOWN[y.log]}.".strip()
    picture = _svg(words, WIDTH, height, parts, plot)
    table = _table(words.title, [one for one in seen if one.style], plot, x, y, rows_at)
    return _figure(replace(words, note=note), picture, _legend(seen, marks, letters), table)


def _units(text: str) -> float:
    """Room for a name in bold at its largest: capitals are wider."""
    return sum(CAPITAL_UNITS if char.isupper() else CHAR_UNITS for char in text)


_NOT_SHOWN = {False: "no number that can be drawn", True: "not above 0, which a log scale needs"}


def confusion(
    words: Words, cells: Sequence[tuple[str, Sequence[tuple[str, int, float]]]], column_label: str
) -> Markup:
    """Rows of (label, [(outcome, windows, share of the label)]): a grid, darker where the share is larger."""
    if not cells or not cells[0][1]:
        return _figure(words, Markup('<p class="empty">{}</p>').format(words.empty), Markup(""), Markup(""))
    left, top, row_units = 150, 62, 84
    columns = [outcome for outcome, _, _ in cells[0][1]]
    width = (WIDTH - left - 10) / len(columns)
    parts = [_text(left + width * len(columns) / 2, 18, column_label, "title", "middle")]
    parts += [
        _text(left + width * (n + 0.5), 50, outcome, "tick", "middle") for n, outcome in enumerate(columns)
    ]
    for row, (label, found) in enumerate(cells):
        y = top + row * row_units
        parts.append(_text(left - 10, y + row_units / 2 + 6, label, "tick", "end"))
        for n, (_, windows, share) in enumerate(found):
            opacity = two(0.05 + 0.3 * min(1.0, max(0.0, share if math.isfinite(share) else 0.0)))
            cell_x = left + width * n
            parts.append(
                f'<rect class="cell" x="{two(cell_x)}" y="{two(y)}" width="{two(width)}" height="{row_units}" '
                f'fill-opacity="{opacity}"/>'
            )
            parts.append(_text(cell_x + width / 2, y + 38, f"{windows}", "large", "middle"))
            parts.append(_text(cell_x + width / 2, y + 66, f"{share:.1%}", "", "middle"))
    height = top + row_units * len(cells) + 10
    rows = [
        [label, outcome, str(windows), f"{share:.1%}"]
        for label, found in cells
        for outcome, windows, share in found
    ]
    table = _details(words.title, ["label", "outcome", "windows", "share of the label"], rows, "")
    return _figure(words, _svg(words, WIDTH, height, parts, None), Markup(""), table)


def timeline(words: Words, spans: Sequence[Span], header: Sequence[str]) -> Markup:
    """Bars over time in lanes, of the MAX_LANES lanes with the latest spans; there is at least one span. Every span
    stands in the table."""
    lanes = list(dict.fromkeys(span.lane for span in reversed(spans)))[:MAX_LANES][::-1]
    shown = [span for span in spans if span.lane in lanes]
    x = time_side(min(span.from_at for span in shown), max(span.to_at for span in shown))
    left = 16 + CHAR_UNITS * min(LANE_CHARS, max(map(len, lanes)))
    top, lane_units, bar_units = 14, 46, 16
    wide = WIDTH - left - RIGHT
    plot = Plot(_axis(x, [], tight=True), Axis("", 0, 1), left, top, wide, lane_units * len(lanes))
    parts = [*_x_grid(plot, x), _axes(plot)]
    free_from = dict.fromkeys(lanes, 0.0)
    places: list[tuple[float, float]] = []
    for n, lane in enumerate(lanes):
        name = lane if len(lane) <= LANE_CHARS else f"{lane[: LANE_CHARS - 1]}…"
        parts.append(_text(left - 8, top + lane_units * n + 30, name, "tick", "end", ".35em"))
    for span in shown:
        y = top + lane_units * lanes.index(span.lane) + 24
        start, end = plot.at(span.from_at, 0)[0], plot.at(span.to_at, 0)[0]
        start = min(start, plot.left + plot.width - 3)
        width = max(3.0, end - start)
        parts.append(
            f'<rect class="span {span.tone}" x="{two(start)}" y="{y}" width="{two(width)}" height="{bar_units}"/>'
        )
        places.append((start + width / 2, y + bar_units / 2))
        needs = CHAR_UNITS * len(span.label)
        at = min(start, plot.left + plot.width + RIGHT - needs)
        if at >= free_from[span.lane]:
            parts.append(_text(at, y - 6, span.label, "label"))
            free_from[span.lane] = at + needs
    rows = [
        Markup('<tr data-x="{}"><th scope="row">{}</th>{}<td data-y="{}">{}</td></tr>').format(
            two(px), span.cells[0], Markup("").join(map(_cell, span.cells[1:-1])), two(py), span.cells[-1]
        )
        for span, (px, py) in zip(shown, places, strict=True)
    ]
    kinds = {span.kind: span for span in shown}
    legend = Markup("").join(
        Markup(
            '<li><svg class="key" viewBox="0 0 36 12" width="36" height="12" aria-hidden="true">'
            '<rect class="span {}" width="36" height="12"/></svg> {} {}</li>'
        ).format(span.tone, span.mark, kind)
        for kind, span in kinds.items()
    )
    picture = _svg(words, WIDTH, plot.top + plot.height + BOTTOM, parts, plot)
    table = _details(words.title, header, rows, "")
    return _figure(words, picture, Markup('<ul class="legend">{}</ul>').format(legend), table)


TIME_STEPS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600 * n for n in (1, 2, 3, 4, 6, 12, 24)),
)


def time_side(from_at: float, to_at: float) -> Side:
    """An x axis of UTC seconds, one long at least: whole seconds, minutes, hours or days that suit the span."""
    to_at = max(to_at, from_at + 1.0)
    took_s = to_at - from_at
    step_s = next(
        (step for step in TIME_STEPS_S if took_s / step <= 6), DAY_S * math.ceil(took_s / DAY_S / 6)
    )
    first = math.ceil(from_at / step_s) * step_s
    at = [first + n * step_s for n in range(int((to_at - first) // step_s) + 1)] if to_at >= first else []
    form = "%m-%d" if step_s >= DAY_S else "%H:%M" if step_s >= 60 else "%H:%M:%S"
    return Side("time (UTC)", from_at, to_at, text=lambda at: _clock(at, form), at=at)


def _clock(at: float, form: str) -> str:
    return datetime.datetime.fromtimestamp(min(max(at, 0.0), 4e9), datetime.UTC).strftime(form)


# -- data


def _drawn(series: Sequence[Series], log: bool) -> tuple[list[Series], int]:
    left_out, out = 0, []
    for one in series:
        points, dropped = clean(one.points, above_0=log, upright=one.upright)
        left_out += dropped
        out.append(replace(one, points=points))
    return out, left_out


def _axis(side: Side, values: Sequence[float], *, tight: bool) -> Axis:
    low, high = domain(values, side.low, side.high, tight=tight, log=side.log)
    return Axis(side.label, low, high)


def _at(plot: Plot, x: float, y: float, log: bool) -> tuple[float, float]:
    return plot.at(x, math.log10(max(y, 1e-300)) if log else y)


# -- parts of a picture


def _x_grid(plot: Plot, x: Side) -> Iterable[str]:
    bottom = plot.top + plot.height
    x_at = list(x.at if x.at is not None else ticks(plot.x.low, plot.x.high, 4))
    for number, (value, text) in enumerate(zip(x_at, _tick_texts(x_at, x.text), strict=True)):
        px = plot.at(value, plot.y.low)[0]
        yield f'<path class="grid" d="M{two(px)} {two(plot.top)}V{two(bottom)}"/>'
        yield _text(px, bottom + 4, text, "tick odd" if number % 2 else "tick", "middle", "1.1em")
    yield _text(plot.left + plot.width, bottom + 6, x.label, "title", "end", "2.4em")


def _axes(plot: Plot) -> str:
    right, bottom = plot.left + plot.width, plot.top + plot.height
    return f'<path class="axis" d="M{two(plot.left)} {two(plot.top)}V{two(bottom)}H{two(right)}"/>'


def _grid(plot: Plot, x: Side, y: Side) -> Iterable[str]:
    yield from _x_grid(plot, x)
    y_at = _log_ticks(plot.y.low, plot.y.high) if y.log else list(y.at or ticks(plot.y.low, plot.y.high, 4))
    shown = [10.0**value for value in y_at] if y.log else y_at
    for value, text in zip(y_at, _tick_texts(shown, y.text), strict=True):
        py = plot.at(plot.x.low, value)[1]
        yield f'<path class="grid" d="M{two(plot.left)} {two(py)}H{two(plot.left + plot.width)}"/>'
        yield _text(plot.left - 8, py, text, "tick", "end", ".35em")
    yield _axes(plot)
    yield _text(4, 20, y.label + (", log scale" if y.log else ""), "title")


def _log_ticks(low: float, high: float) -> list[float]:
    """Logarithms of round numbers from 10**low to 10**high: 1, 2, 5 where there is room, else some powers of ten."""
    first, last = math.floor(low), math.ceil(high)
    every = max(1, math.ceil((last - first) / 6))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    found = [power + math.log10(factor) for power in range(first, last + 1, every) for factor in factors]
    inside = [value for value in found if low - 1e-9 <= value <= high + 1e-9]
    if len(inside) >= 3:
        return inside
    return [math.log10(value) for value in ticks(10.0**low, 10.0**high, 4) if value > 0]


def _tick_texts(values: Sequence[float], text: Callable[[float], str] | None) -> list[str]:
    """The figures at the ticks, with as many digits as tell them apart."""
    if text is not None:
        return [text(value) for value in values]
    found: list[str] = []
    for digits in range(3, 16):
        found = [figure(value, digits) for value in values]
        if len(set(found)) == len(set(values)):
            break
    return found


def figure(value: float, digits: int = 6) -> str:
    """0.211, 1200, 3e-5: so many significant digits and no more characters than needed."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    text = f"{value:.{digits}g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def _line(plot: Plot, one: Series, log: bool) -> Iterable[str]:
    kind = f"line s{one.style}" if one.style else "line reference"
    for run in between(one.points):
        pixels = [_at(plot, x, y, log) for x, y in run]
        if one.steps:
            turns = [corner for a, b in pairwise(pixels) for corner in (a, (b[0], a[1]))]
            pixels = turns + pixels[-1:]
        if len(pixels) == 1 and not one.dots:
            yield f'<circle class="dot s{one.style}" cx="{two(pixels[0][0])}" cy="{two(pixels[0][1])}" r="3.5"/>'
        elif len(pixels) > 1:
            yield f'<path class="{kind}" d="{path_of(simplified(pixels), False)}"/>'
        if one.dots:
            for px, py in pixels:
                yield f'<circle class="dot s{one.style}" cx="{two(px)}" cy="{two(py)}" r="4.5"/>'


def _end_labels(plot: Plot, ends: Sequence[Series], log: bool) -> Iterable[str]:
    last = [next((x, y) for x, y in reversed(one.points) if y is not None) for one in ends]
    wanted = [_at(plot, x, y, log)[1] for x, y in last]
    placed = spread(wanted, LABEL_UNITS, plot.top + 8, plot.top + plot.height)
    for one, y in zip(ends, placed, strict=True):
        yield _text(plot.left + plot.width + 8, y, one.short[:8], f"end s{one.style}", "start", ".35em")


def _letters(plot: Plot, series: Sequence[Series], log: bool) -> Iterable[str]:
    """A circle with the letter, for each line at another part of its way, so that no two circles meet."""
    for number, one in enumerate(series):
        pixels = [_at(plot, x, y, log) for run in between(one.points) for x, y in run]
        px, py = _along(_right_of(pixels, plot.left + 18), (number + 1) / (len(series) + 1))
        yield f'<g class="badge s{one.style}"><circle cx="{two(px)}" cy="{two(py)}" r="11"/>'
        yield _text(px, py, _letter(number), "", "middle", ".35em") + "</g>"


def _letter(number: int) -> str:
    return LETTERS[number % len(LETTERS)]


def _right_of(pixels: Sequence[tuple[float, float]], edge: float) -> Sequence[tuple[float, float]]:
    """The part of a line where a letter covers no figure of the axis."""
    for n, (a, b) in enumerate(pairwise(pixels)):
        if a[0] <= edge < b[0]:
            return [(edge, a[1] + (b[1] - a[1]) * (edge - a[0]) / (b[0] - a[0])), *pixels[n + 1 :]]
    return pixels


def _along(pixels: Sequence[tuple[float, float]], share: float) -> tuple[float, float]:
    """The point after this share of the way along the pixels."""
    way = sum(math.dist(a, b) for a, b in pairwise(pixels)) * share
    for a, b in pairwise(pixels):
        step = math.dist(a, b)
        if step >= way and step > 0:
            return a[0] + (b[0] - a[0]) * way / step, a[1] + (b[1] - a[1]) * way / step
        way -= step
    return pixels[-1]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start", dy: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    end = f' text-anchor="{anchor}"' if anchor != "start" else ""
    down = f' dy="{dy}"' if dy else ""
    return f'<text{named} x="{two(x)}" y="{two(y)}"{end}{down}>{escape(text)}</text>'


# -- around the picture


def _svg(words: Words, width: float, height: float, parts: Iterable[str], plot: Plot | None) -> Markup:
    """`data-plot` is where the read-out draws its line: left, top, width, height."""
    area = "" if plot is None else f"{two(plot.left)} {two(plot.top)} {two(plot.width)} {two(plot.height)}"
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" role="img" '
        'aria-labelledby="{n}-title {n}-desc" {more}><title id="{n}-title">{title}</title>'
        '<desc id="{n}-desc">{desc}</desc>{parts}</svg>'
    ).format(
        w=width, h=height, n=words.name, title=words.title, desc=words.description, parts=Markup("".join(parts)),
        more=Markup('data-plot="{}" tabindex="0"').format(area) if area else "",
    )  # fmt: skip


def _figure(words: Words, picture: Markup, legend: Markup, table: Markup) -> Markup:
    note = Markup('<p class="note">{}</p>').format(words.note) if words.note else ""
    return Markup(
        '<figure class="chart" id="{n}"><figcaption>{title}</figcaption>{picture}{readout}{legend}{note}{table}'
        "</figure>"
    ).format(
        n=words.name, title=words.title, picture=picture, legend=legend, note=note, table=table,
        readout=_READOUT if legend else "",
    )  # fmt: skip


_READOUT = Markup('<p class="readout" aria-live="polite" data-kept=""></p>')
"""charts.js writes into it; live.js leaves it alone."""


def _legend(series: Sequence[Series], marks: Sequence[Mark], letters: bool) -> Markup:
    rows, number = [], 0
    for one in series:
        kind = f"s{one.style}" if one.style else "reference"
        letter = ""
        if letters and one.style:
            letter, number = _letter(number), number + 1
        rows.append(
            Markup(
                '<li><svg class="key" viewBox="0 0 36 12" width="36" height="12" aria-hidden="true">'
                '<path class="line {k}" d="M1 6H35"/></svg>{letter} {label}</li>'
            ).format(k=kind, label=one.label, letter=Markup(" <b>{}</b>").format(letter) if letter else "")
        )
    rows += [
        Markup(
            '<li><svg class="key" viewBox="0 0 36 12" width="36" height="12" aria-hidden="true">'
            '<circle class="mark s{k}" cx="18" cy="6" r="5"/></svg> {label}</li>'
        ).format(k=mark.style, label=mark.label)
        for mark in marks
        if mark.label
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(rows))


def _table(
    title: str, series: Sequence[Series], plot: Plot, x: Side, y: Side, rows_at: Sequence[float] | None
) -> Markup:
    """The data, thinned evenly to at most MAX_ROWS rows; each row knows its place in the picture, for the read-out."""
    exact = [dict(one.points) for one in series]
    every = union([one.points for one in series]) if rows_at is None else list(rows_at)
    chosen = thinned(every, MAX_ROWS)
    rows: list[Markup] = []
    x_text, y_text = x.text or figure, y.text or figure
    for at in chosen:
        cells = []
        for one, known in zip(series, exact, strict=True):
            value = known.get(at) if rows_at is None else _read_off(one, at)
            if value is None:
                cells.append(Markup("<td></td>"))
            else:
                py = two(_at(plot, at, value, y.log)[1])
                cells.append(Markup('<td data-y="{}">{}</td>').format(py, y_text(value)))
        px = two(plot.at(at, plot.y.low)[0])
        rows.append(
            Markup('<tr data-x="{}"><th scope="row">{}</th>{}</tr>').format(
                px, x_text(at), Markup("").join(cells)
            )
        )
    note = ""
    if rows_at is not None:
        note = "Read off the lines at these places."
    elif len(chosen) < len(every):
        note = f"{len(chosen)} of {len(every)} points, evenly chosen."
    return _details(title, [x.label, *(one.label for one in series)], rows, note)


def _cell(text: str) -> Markup:
    return Markup("<td>{}</td>").format(text)


def thinned(values: Sequence[float], most: int) -> list[float]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(n * (len(values) - 1) / (most - 1))] for n in range(most)]


def _read_off(one: Series, at: float) -> float | None:
    """The line's y at this x, the highest where it rises straight up: with `steps` that of the last corner before it,
    else on the straight line between."""
    known = [(x, y) for x, y in one.points if y is not None]
    if not known or at < known[0][0] or at > known[-1][0]:
        return None
    if here := [y for x, y in known if x == at]:
        return max(here)
    before = max((n for n, (x, _) in enumerate(known) if x <= at), default=0)
    x0, y0 = known[before]
    if one.steps:
        return y0
    x1, y1 = known[before + 1]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)


def _details(title: str, header: Sequence[str], rows: Sequence[Markup | Sequence[str]], note: str) -> Markup:
    made = [
        row if isinstance(row, Markup) else Markup("<tr>{}</tr>").format(Markup("").join(map(_cell, row)))
        for row in rows
    ]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in header)
    said = Markup('<p class="note">{}</p>').format(note) if note else ""
    return Markup(
        '<details class="chart-data" data-key="data"><summary>Data as a table</summary>{}<div class="scroll" '
        'tabindex="0" role="region" aria-label="{}"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
        "</details>"
    ).format(said, f"Data: {title}", head, Markup("").join(made))
