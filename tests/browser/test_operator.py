"""Acting from the pages in a real browser: by keyboard alone, and without JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.person import log_in, tab_to
from tests.factories.live_receiver import LiveReceiver, live_receiver
from tests.factories.seeded_fleet import SMALL_MANIFEST, seed_reports, seed_small

JOB = "gru-realistic"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LiveReceiver]:
    """One that may be changed."""
    with live_receiver(tmp_path, SMALL_MANIFEST) as receiver:
        seed_small(receiver.queue)
        seed_reports(receiver)
        yield receiver


def status_of(lab: LiveReceiver, name: str = JOB) -> str:
    (found,) = (job["status"] for job in lab.send("GET", "/v1/jobs").body["jobs"] if job["name"] == name)
    return str(found)


@pytest.mark.parametrize("javascript", [True, False])
def test_a_job_is_cancelled_and_put_back_by_keyboard(
    javascript: bool, lab: LiveReceiver, open_page: OpenPage
) -> None:
    page = open_page(javascript=javascript).page
    log_in(page, lab, f"/job/{JOB}")
    for verb, button, becomes in (
        ("cancel", "Cancel the job", "cancelled"),
        ("requeue", "Put it back", "pending"),
    ):
        tab_to(page, f'a[href="/job/{JOB}/{verb}"]')
        page.keyboard.press("Enter")
        page.wait_for_url(f"{lab.url}/job/{JOB}/{verb}")
        tab_to(page, "main button")
        assert page.locator("main button").inner_text() == button
        page.keyboard.press("Enter")
        page.wait_for_url(f"{lab.url}/job/{JOB}")
        assert status_of(lab) == becomes
        assert page.locator(".message").count() == 1


def test_a_question_can_be_answered_with_no(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page().page
    log_in(page, lab, f"/job/{JOB}/cancel")
    tab_to(page, "main a.button")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{lab.url}/job/{JOB}")
    assert status_of(lab) == "pending"


def test_a_host_is_drained_with_a_reason_by_keyboard(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page().page
    log_in(page, lab, "/host/gpu-2")
    tab_to(page, 'a[href="/host/gpu-2/drain"]')
    page.keyboard.press("Enter")
    page.wait_for_url("**/drain")
    tab_to(page, "#reason")
    page.keyboard.type("its disk is being replaced")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{lab.url}/host/gpu-2")
    assert "its disk is being replaced" in page.locator("main").inner_text()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    "path",
    ["/", "/host/gpu-2", f"/job/{JOB}/cancel", "/host/gpu-2/drain", "/fleet/pause", "/logout", "/nothing"],
)
def test_what_the_operator_sees_is_accessible(
    path: str, dark: bool, lab: LiveReceiver, open_page: OpenPage, axe_clean: Callable[[Any], None]
) -> None:
    opened = open_page(dark=dark, narrow=dark)
    log_in(opened.page, lab)
    opened.page.goto(lab.url + path)
    axe_clean(opened.page)
    wide, window = opened.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window


def test_the_first_tab_leads_past_the_navigation(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(f"{lab.url}/jobs").page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").is_visible()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_whatever_has_the_focus_shows_it(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(f"{lab.url}/jobs").page
    for _ in range(25):
        page.keyboard.press("Tab")
        style = page.evaluate(
            "(([a, b]) => [a.outlineStyle, a.outlineWidth])([getComputedStyle(document.activeElement)])"
        )
        assert style != ["none", "0px"], page.evaluate("document.activeElement.outerHTML")


def test_a_wrong_token_is_told_beside_the_field(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(f"{lab.url}/login").page
    page.fill("#token", "guess")
    page.keyboard.press("Enter")
    page.wait_for_selector("#login-error")
    assert page.get_attribute("#token", "aria-describedby") == "login-error"


def test_a_session_is_no_secret_to_the_receiver_alone(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page().page
    log_in(page, lab)
    assert page.evaluate("document.cookie") == ""
