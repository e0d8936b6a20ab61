"""Progress of long work: the wording, and when it is shown. Every clock is the test's own."""

from __future__ import annotations

import importlib.util
import io
import re
import subprocess
import sys
from typing import Any

import pytest

from cis490 import progress
from cis490.progress import Every, Meter, bar, left_s, sentence, size, span

MIB = 1024 * 1024
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def shown(out: io.StringIO, step_s: float, *, close: bool = True, **options: Any) -> str:
    """Ten steps of a MiB and fifty rows each, `step_s` apart."""
    clock = Clock()
    meter = Meter("importing", out, total=10 * MIB, now_s=clock, columns=lambda: 100, **options)
    for _ in range(10):
        clock.now_s += step_s
        meter.items += 50
        meter.advance(MIB)
    if close:
        meter.close()
    return out.getvalue()


@pytest.fixture
def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_has_rich", lambda: False)


class TestWording:
    @pytest.mark.parametrize(
        ("size_bytes", "text"),
        [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (4 * MIB, "4.0 MiB"), (5e12, "4656.6 GiB")],
    )
    def test_a_size_has_a_binary_unit(self, size_bytes: float, text: str) -> None:
        assert size(size_bytes) == text

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
    )
    def test_a_time_has_its_two_largest_units(self, seconds: float, text: str) -> None:
        assert span(seconds) == text

    def test_bytes_have_share_rate_and_time_left(self) -> None:
        assert sentence(1.5 * MIB, 4 * MIB, 3.0) == "1.5 MiB of 4.0 MiB (38 %), 512.0 KiB/s, 5 s left"

    def test_without_a_total_there_is_only_what_came(self) -> None:
        assert sentence(1.5 * MIB, 0, 3.0) == "1.5 MiB, 512.0 KiB/s"
        assert bar(5, 0) == ""

    def test_items_are_told_with_their_own_rate(self) -> None:
        assert sentence(30, 100, 12.0, items=150, unit="rows") == "30 %, 150 rows, 12 rows/s, 28 s left"

    def test_nobody_guesses_before_anything_came(self) -> None:
        assert left_s(0, 100, 5.0) is None
        assert sentence(0, 4 * MIB, 0.0) == "0 B of 4.0 MiB (0 %), 0 B/s"

    def test_more_than_all_is_all(self) -> None:
        assert bar(20, 10, 4) == "[####]"
        assert "(100 %)" in sentence(20, 10, 1.0)


class TestElsewhere:
    def test_a_line_is_written_every_ten_seconds(self) -> None:
        assert shown(io.StringIO(), 4.0, unit="rows").splitlines() == [
            "importing: 30 %, 150 rows, 12 rows/s, 28 s left",
            "importing: 60 %, 300 rows, 12 rows/s, 16 s left",
            "importing: 90 %, 450 rows, 12 rows/s, 4 s left",
        ]

    def test_short_work_is_silent(self) -> None:
        assert shown(io.StringIO(), 0.9) == ""

    def test_no_escape_sequence_is_written_and_rich_not_imported(self) -> None:
        program = (
            "import sys; from cis490.progress import Meter; clock = iter(range(0, 1000, 20))\n"
            "meter = Meter('x', sys.stdout, now_s=lambda: next(clock)); meter(1, 2); meter(2, 2); meter.close()\n"
            "print('rich' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"
        assert "\x1b" not in done.stdout


class TestOnATerminal:
    @pytest.mark.usefixtures("without_rich")
    def test_one_line_is_drawn_again_with_a_bar(self) -> None:
        drawn = shown(Terminal(), 1.0, close=False).split("\r\x1b[K")[1:]
        assert (
            drawn[4] == "importing [############............] 5.0 MiB of 10.0 MiB (50 %), 1.0 MiB/s, 5 s left"
        )
        assert not [line for line in drawn if "\n" in line or len(line) > 99]

    @pytest.mark.usefixtures("without_rich")
    def test_the_line_is_cleared_at_the_end(self) -> None:
        assert shown(Terminal(), 1.0).endswith("\r\x1b[K")

    @pytest.mark.usefixtures("without_rich")
    def test_it_is_drawn_at_most_five_times_a_second(self) -> None:
        assert shown(Terminal(), 0.05, close=False).count("\r") <= 3

    def test_what_is_done_in_a_moment_shows_nothing(self) -> None:
        assert shown(Terminal(), 0.01) == ""

    @pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="rich is not installed")
    def test_rich_draws_the_same_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        text = ESCAPE.sub("", shown(Terminal(), 1.0))
        assert "5.0 MiB of 10.0 MiB (50 %), 1.0 MiB/s, 5 s left" in text


def test_every_says_when_it_is_time_again() -> None:
    every = Every(10.0, 0.0)
    assert [every.due(now_s) for now_s in (5.0, 10.0, 15.0, 19.9, 20.0)] == [False, True, False, False, True]
