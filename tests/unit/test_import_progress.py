"""The progress bar of an import, with a clock of its own."""

import io

from collection.importing.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def advanced(out: io.StringIO, step_s: float) -> Bar:
    """Ten steps of a hundred bytes and fifty rows."""
    clock = Clock()
    bar = Bar(1000, out, clock, lambda: 70)
    for _ in range(10):
        clock.now_s += step_s
        bar.rows += 50
        bar.advance(100)
    return bar


def test_a_terminal_shows_share_rows_rate_and_time_left_on_one_line() -> None:
    out = Terminal()
    advanced(out, 1.0)
    assert "\n" not in out.getvalue()
    drawn = out.getvalue().split("\r\x1b[K")[1:]
    assert drawn[4] == "importing [############............]  50%  250 rows, 50 rows/s, 5 s left"[:69]
    assert max(map(len, drawn)) <= 69


def test_the_line_is_cleared_at_the_end() -> None:
    out = Terminal()
    advanced(out, 1.0).close()
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_terminal_is_not_drawn_more_often_than_ten_times_a_second() -> None:
    out = Terminal()
    advanced(out, 0.05)
    assert out.getvalue().count("\r") <= 5


def test_elsewhere_a_line_is_written_every_ten_seconds() -> None:
    out = io.StringIO()
    advanced(out, 4.0).close()
    assert out.getvalue().splitlines() == [
        "importing  30%  150 rows, 12 rows/s, 28 s left",
        "importing  60%  300 rows, 12 rows/s, 16 s left",
        "importing  90%  450 rows, 12 rows/s, 4 s left",
    ]


def test_an_import_without_any_byte_divides_by_nothing() -> None:
    clock = Clock()
    bar = Bar(0, Terminal(), clock)
    clock.now_s += 1
    bar.advance(0)
