"""What holds for every page: in light and dark, narrow and wide, with a small fleet and with a large one.

`CIS490_SCREENSHOTS=folder` keeps a picture of each page as the tests saw it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser.conftest import Opened, OpenPage
from tests.factories.live_receiver import LiveReceiver

PAGES = {
    "fleet": "/",
    "jobs": "/jobs",
    "job-running": "/job/mlp-realistic",
    "job-completed": "/job/gbt-realistic",
    "job-failed": "/job/gbt-oracle",
    "job-stuck": "/job/gru-realistic",
    "host-busy": "/host/gpu-1",
    "host-drained": "/host/win-2",
    "models": "/models",
    "events": "/events",
    "health": "/health",
    "login": "/login",
}
BIG_PAGES = {
    "big-fleet": "/",
    "big-jobs": "/jobs",
    "big-job-waiting": "/job/cnn-0500",
    "big-host": "/host/host-007",
    "big-models": "/models",
    "big-events": "/events",
}
MOST_BYTES, MOST_REQUESTS = 150_000, 7
LOOKS = {"light-wide": {}, "dark-wide": {"dark": True}, "light-narrow": {"narrow": True}}
LOOKS["dark-narrow"] = {"dark": True, "narrow": True}


def keep_picture(opened: Opened, name: str) -> None:
    if folder := os.environ.get("CIS490_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        opened.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def is_of(page: Any, origin: str) -> Callable[[str], bool]:
    return lambda url: urlsplit(url).netloc == urlsplit(origin).netloc or url.startswith("data:")


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_small_fits_its_window_and_asks_no_other_origin(
    name: str, look: str, lab: LiveReceiver, open_page: OpenPage, axe_clean: Callable[[Any], None]
) -> None:
    opened = open_page(lab.url + PAGES[name], **LOOKS[look])
    keep_picture(opened, f"{name}-{look}")
    assert opened.console == []
    wide, window = opened.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window
    assert all(map(is_of(opened.page, lab.url), opened.requests))
    assert len(opened.requests) <= MOST_REQUESTS
    assert opened.transferred_bytes <= MOST_BYTES
    axe_clean(opened.page)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_windows_of_any_width(name: str, lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(lab.url + PAGES[name]).page
    for width in (320, 480, 740, 900, 1024, 1180, 1500):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width


@pytest.mark.parametrize("name", BIG_PAGES)
def test_a_page_over_a_thousand_jobs_and_a_hundred_hosts_stays_small_and_accessible(
    name: str, big_lab: LiveReceiver, open_page: OpenPage, axe_clean: Callable[[Any], None]
) -> None:
    opened = open_page(big_lab.url + BIG_PAGES[name])
    keep_picture(opened, name)
    assert len(opened.requests) <= MOST_REQUESTS
    assert opened.transferred_bytes <= MOST_BYTES
    assert opened.console == []
    axe_clean(opened.page)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_the_same_without_javascript(name: str, lab: LiveReceiver, open_page: OpenPage) -> None:
    plain = open_page(lab.url + PAGES[name], javascript=False)
    heading = plain.page.locator("main h1")
    assert heading.count() == 1
    assert heading.inner_text().strip()
    answer = lab.send("GET", ("/index" if PAGES[name] == "/" else PAGES[name]) + ".json")
    if name != "login":
        assert answer.status == 200
        assert isinstance(answer.body, dict)


def test_every_page_has_its_policy_and_no_inline_code(lab: LiveReceiver) -> None:
    for path in PAGES.values():
        answer = lab.send("GET", path)
        assert answer.status == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        text = answer.raw.decode() if answer.headers.get("content-encoding") is None else ""
        assert " style=" not in text
        assert "<style" not in text
        assert "onclick" not in text
