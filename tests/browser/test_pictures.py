"""The pictures in `docs/img/`: taken by these tests, so that they show what the program shows.

`CIS490_PICTURES=docs/img make test-browser ARGS='-k pictures'` writes them anew. Without it each page is loaded and cut
the same way, and thrown away.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.browser.conftest import OpenPage
from tests.factories.live_receiver import LiveReceiver

MOST_BYTES_OF_ONE = 250_000


def take(page: Any, name: str, height_px: float) -> None:
    """The upper `height_px` of the page."""
    page.set_viewport_size({"width": 1180, "height": int(height_px)})
    data = page.screenshot(clip={"x": 0, "y": 0, "width": 1180, "height": int(height_px)})
    assert 5_000 < len(data) < MOST_BYTES_OF_ONE
    if folder := os.environ.get("CIS490_PICTURES"):
        Path(folder, f"page-{name}.png").write_bytes(data)


def top_of(page: Any, heading: str) -> float:
    """Where a section begins, in pixels from the top of the page."""
    box = page.get_by_role("heading", name=heading, exact=True).bounding_box()
    assert box is not None
    return float(box["y"]) - 20.0


def test_the_fleet(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(lab.url + "/").page
    page.set_viewport_size({"width": 1180, "height": 900})
    take(page, "fleet", top_of(page, "Operate"))


def test_a_job_that_runs_in_the_dark(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(lab.url + "/job/mlp-realistic", dark=True).page
    page.set_viewport_size({"width": 1180, "height": 900})
    take(page, "job", top_of(page, "Asked for and used"))


def test_a_job_that_waits(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(lab.url + "/job/gru-realistic").page
    page.set_viewport_size({"width": 1180, "height": 900})
    take(page, "why", top_of(page, "How it learns"))
