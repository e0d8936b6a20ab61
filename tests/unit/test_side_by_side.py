"""What `make results` and `make bench-tsc` do at once."""

from __future__ import annotations

import argparse
import threading

import pytest

from benchmarks.side_by_side import positive, side_by_side


def test_when_somebody_interrupts_what_has_not_begun_never_begins() -> None:
    begun, started, go_on = list[int](), threading.Event(), threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        started.set()
        go_on.wait(5)

    def interrupted() -> None:
        with side_by_side(1) as pool:
            futures = [pool.submit(work, number) for number in range(3)]
            futures[-1].add_done_callback(lambda _: go_on.set())  # a cancelled one is done
            started.wait(5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert begun == [0]


def test_the_number_of_trainings_at_once_is_one_or_more() -> None:
    assert positive("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match="expected 1 or more"):
        positive("0")
