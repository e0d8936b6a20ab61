"""Small charts as SVG: lines and steps, bars, a grid of counts. Standard library only.

The same input gives the same bytes. Each chart has a `<title>` and a `<desc>` for those who cannot see it, tells its
lines apart by dashes as well as by colour, brings its own background, and follows the reader's preference for light
or dark. No font is embedded: widths are estimated, with room to spare.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

Style = Literal["main", "second", "reference"]

_WIDTH = 640
_LEFT, _RIGHT = 76, 24
_CHAR_PX = 6.7
"""Estimated width of a character at 12 px."""
_LINE_PX = 17
_TITLE_CHARS, _NOTE_CHARS, _KEY_CHARS = 62, 88, 74

# Text on its ground has a contrast of at least 6 : 1 in both schemes (WCAG 2.2 asks for 4.5).
_CSS = """
text{font:12px system-ui,sans-serif;fill:#1f2328}
.title{font-size:16px;font-weight:600}
.note,.tick{fill:#515a64}
.ground{fill:#fff}
.grid{stroke:#d1d9e0;stroke-width:1}
.axis{stroke:#59636e;stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.main{stroke:#0550ae}
.second{stroke:#a04100;stroke-dasharray:7 4}
.reference{stroke:#59636e;stroke-width:1.5;stroke-dasharray:2 4}
.dot{fill:#fff;stroke:#0550ae;stroke-width:2}
.dot.second{stroke:#a04100;stroke-dasharray:none}
.mark{fill:#cf222e;stroke:#fff;stroke-width:1.5}
.fill{fill:#0550ae}
.fill.second{fill:#a04100;stroke:none}
.cell{stroke:#59636e;fill:#0550ae}
.large{font-size:20px;font-weight:600}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.note,.tick{fill:#a8b1bb}
.ground{fill:#0d1117}
.grid{stroke:#30363d}
.axis{stroke:#9198a1}
.main{stroke:#58a6ff}
.second{stroke:#f0883e}
.reference{stroke:#9198a1}
.dot{fill:#0d1117;stroke:#58a6ff}
.dot.second{stroke:#f0883e}
.mark{fill:#ff7b72;stroke:#0d1117}
.fill{fill:#58a6ff}
.fill.second{fill:#f0883e}
.cell{stroke:#9198a1;fill:#58a6ff}
}
"""


@dataclass(frozen=True)
class Head:
    """What stands above a chart. `name` is unique in a page that holds several charts (letters, digits, -);
    `description` says in words what is to be seen; `note` is a line of small print."""

    name: str
    title: str
    description: str
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """`low` < `high` in the unit that the label names."""

    label: str
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """Points (x, y) in order of x. With `steps`, y jumps at the later x, as in a curve that is known at its points
    only; with `dots`, each point is marked."""

    label: str
    points: Sequence[tuple[float, float]]
    style: Style = "main"
    steps: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """One point that the reader should look at."""

    label: str
    x: float
    y: float


@dataclass(frozen=True)
class Bar:
    """`value` from 0 to 1; `text` stands beside the bar."""

    label: str
    value: float
    text: str
    style: Style = "main"


@dataclass(frozen=True)
class Cell:
    """`share` from 0 to 1 makes the ground darker; `text` is large, `small` below it."""

    text: str
    small: str
    share: float


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`, about so many."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.7)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def line_chart(
    head: Head, x: Axis, y: Axis, lines: Sequence[Line], marks: Sequence[Mark] = (), height: int = 330
) -> bytes:
    """Lines over two axes, with a legend below. Points beyond an axis are drawn at its end."""
    drawing = _Drawing(head)
    plot = Plot(x, y, _LEFT, drawing.top + 6, _WIDTH - _LEFT - _RIGHT, height)
    _axes(drawing, plot)
    for line in lines:
        points = [plot.at(*point) for point in line.points]
        if not points:
            continue
        drawing.add(f'<path class="line {line.style}" d="{path_of(points, line.steps)}"/>')
        if line.dots:
            for px, py in points:
                drawing.add(f'<circle class="dot {line.style}" cx="{two(px)}" cy="{two(py)}" r="3.5"/>')
    for mark in marks:
        px, py = plot.at(mark.x, mark.y)
        drawing.add(f'<circle class="mark" cx="{two(px)}" cy="{two(py)}" r="5.5"/>')
    drawing.bottom = plot.top + plot.height + 52
    for line in lines:
        drawing.key(line.label, f'<path class="line {line.style}" d="M0 0H26"/>')
    for mark in marks:
        drawing.key(mark.label, '<circle class="mark" cx="13" cy="0" r="5.5"/>')
    return drawing.svg()


def bar_chart(head: Head, axis: Axis, groups: Sequence[tuple[str, Sequence[Bar]]]) -> bytes:
    """Horizontal bars in named groups, each with its text beside it."""
    drawing = _Drawing(head)
    bars = [bar for _, group in groups for bar in group]
    left = 20 + min(220.0, _CHAR_PX * max((len(bar.label) for bar in bars), default=0)) + 10
    room = max((len(bar.text) for bar in bars), default=0) * _CHAR_PX + 16
    rows_px = sum(24 + 22 * len(group) for _, group in groups)
    plot = Plot(axis, Axis("", 0, 1), left, drawing.top, _WIDTH - left - room, rows_px)
    _vertical_grid(drawing, plot)
    at = float(plot.top)
    for name, group in groups:
        drawing.text(20, at + 16, name, "note")
        at += 24
        for bar in group:
            start, end = plot.at(axis.low, 0)[0], plot.at(bar.value, 0)[0]
            drawing.text(left - 8, at + 12, _cut(bar.label, 32), anchor="end")
            kind = "fill second" if bar.style == "second" else "fill"
            drawing.add(
                f'<rect class="{kind}" x="{two(start)}" y="{two(at)}" width="{two(max(end - start, 1))}" height="16"/>'
            )
            drawing.text(end + 6, at + 12, bar.text)
            at += 22
    drawing.bottom = plot.top + plot.height + 48
    return drawing.svg()


def grid_chart(
    head: Head, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], column_label: str
) -> bytes:
    """A table of counts, darker where the share is larger."""
    drawing = _Drawing(head)
    left = 20 + _CHAR_PX * max(len(name) for name, _ in rows) + 12
    width = (_WIDTH - _RIGHT - left) / len(columns)
    drawing.text(left + width * len(columns) / 2, drawing.top + 10, column_label, "note", "middle")
    for number, name in enumerate(columns):
        drawing.text(left + width * (number + 0.5), drawing.top + 30, name, anchor="middle")
    at = drawing.top + 40.0
    for name, cells in rows:
        drawing.text(left - 12, at + 46, name, anchor="end")
        for number, cell in enumerate(cells):
            x = left + width * number
            opacity = two(0.04 + 0.36 * min(1.0, max(0.0, cell.share)))
            drawing.add(
                f'<rect class="cell" fill-opacity="{opacity}" x="{two(x)}" y="{two(at)}" width="{two(width)}" '
                'height="84"/>'
            )
            drawing.text(x + width / 2, at + 42, cell.text, "large", "middle")
            drawing.text(x + width / 2, at + 62, cell.small, anchor="middle")
        at += 84
    drawing.bottom = at + 8
    return drawing.svg()


@dataclass(frozen=True)
class Plot:
    """The area between the axes, in pixels."""

    x: Axis
    y: Axis
    left: float
    top: float
    width: float
    height: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across = (min(max(x, self.x.low), self.x.high) - self.x.low) / (self.x.high - self.x.low)
        up = (min(max(y, self.y.low), self.y.high) - self.y.low) / (self.y.high - self.y.low)
        return self.left + across * self.width, self.top + (1 - up) * self.height


class _Drawing:
    """Collects elements; `bottom` is where the next row below the chart goes."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._elements: list[str] = []
        self.bottom = 0.0
        at = 12.0
        for line in textwrap.wrap(head.title, _TITLE_CHARS):
            at += 20
            self.text(20, at - 4, line, "title")
        for line in textwrap.wrap(head.note, _NOTE_CHARS):
            at += _LINE_PX
            self.text(20, at, line, "note")
        self.top = at + 16

    def add(self, element: str) -> None:
        """One more element on top of the others."""
        self._elements.append(element)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Text with its base line at y."""
        kind = f' class="{kind}"' if kind else ""
        end = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.add(f'<text{kind} x="{two(x)}" y="{two(y)}"{end}>{escape(text)}</text>')

    def key(self, label: str, symbol: str) -> None:
        """A row of the legend; the symbol is drawn in 26 x 0 pixels."""
        self.add(f'<g transform="translate({_LEFT} {two(self.bottom + _LINE_PX - 4)})">{symbol}</g>')
        for line in textwrap.wrap(label, _KEY_CHARS):
            self.bottom += _LINE_PX
            self.text(_LEFT + 36, self.bottom, line)

    def svg(self) -> bytes:
        """The file."""
        height = math.ceil(self.bottom + 14)
        name = self._head.name
        label = quoteattr(f"{name}-title {name}-desc")
        return "\n".join(
            (
                (
                    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
                    f'height="{height}" role="img" aria-labelledby={label}>'
                ),
                f"<title id={quoteattr(name + '-title')}>{escape(self._head.title)}</title>",
                f"<desc id={quoteattr(name + '-desc')}>{escape(self._head.description)}</desc>",
                f"<style>{_CSS}</style>",
                f'<rect class="ground" width="{_WIDTH}" height="{height}"/>',
                *self._elements,
                "</svg>\n",
            )
        ).encode()


def _axes(drawing: _Drawing, plot: Plot) -> None:
    _vertical_grid(drawing, plot)
    right = plot.left + plot.width
    shown = ticks(plot.y.low, plot.y.high)
    for value in shown:
        y = plot.at(plot.x.low, value)[1]
        drawing.add(f'<path class="grid" d="M{two(plot.left)} {two(y)}H{two(right)}"/>')
        drawing.text(plot.left - 8, y + 4, _number(value), "tick", "end")
    bottom = plot.top + plot.height
    drawing.add(
        f'<path class="axis" fill="none" d="M{two(plot.left)} {two(plot.top)}V{two(bottom)}H{two(right)}"/>'
    )
    middle = plot.top + plot.height / 2
    drawing.add(
        f'<text x="0" y="0" text-anchor="middle" transform="translate(24 {two(middle)}) rotate(-90)">'
        f"{escape(plot.y.label)}</text>"
    )


def _vertical_grid(drawing: _Drawing, plot: Plot) -> None:
    bottom = plot.top + plot.height
    for value in ticks(plot.x.low, plot.x.high):
        x = plot.at(value, plot.y.low)[0]
        drawing.add(f'<path class="grid" d="M{two(x)} {two(plot.top)}V{two(bottom)}"/>')
        drawing.text(x, bottom + 18, _number(value), "tick", "middle")
    drawing.text(plot.left + plot.width / 2, bottom + 40, plot.x.label, anchor="middle")


def path_of(points: Sequence[tuple[float, float]], steps: bool) -> str:
    """The `d` of a path through these pixels; there is at least one."""
    x, y = points[0]
    parts = [f"M{two(x)} {two(y)}"]
    for x, y in points[1:]:
        parts.append(f"H{two(x)}V{two(y)}" if steps else f"L{two(x)} {two(y)}")
    return "".join(parts)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def two(value: float) -> str:
    """A coordinate, with at most two decimals."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _number(value: float) -> str:
    return f"{value:g}"
