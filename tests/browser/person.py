"""What a person does in these tests: log in, press keys until something has the focus."""

from __future__ import annotations

from typing import Any

from tests.factories.live_receiver import TOKEN, LiveReceiver

MOST_TABS = 80


def log_in(page: Any, lab: LiveReceiver, wanted: str = "/") -> None:
    """By keyboard: the field has the focus after a few tabs, Enter sends the form."""
    page.goto(f"{lab.url}/login?next={wanted}")
    tab_to(page, "#token")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url(lab.url + wanted)


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until `selector` has the focus, as somebody without a mouse does."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{MOST_TABS} tabs do not reach {selector} on {page.url}")
