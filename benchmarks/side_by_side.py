"""Several trainings at once, and an end to them when somebody presses Ctrl-C."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def side_by_side(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `jobs` threads. When the block ends, by Ctrl-C or an error too, what has not begun never begins."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def positive(word: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected 1 or more")
    return number
