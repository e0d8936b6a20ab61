"""The harness itself: what it says of a page is what the browser saw."""

from __future__ import annotations

from tests.browser.conftest import OpenPage
from tests.factories.live_receiver import LiveReceiver


def test_a_page_is_loaded_from_the_real_receiver_and_its_requests_are_counted(
    lab: LiveReceiver, open_page: OpenPage
) -> None:
    opened = open_page(f"{lab.url}/v1/health")
    assert opened.requests[0] == f"{lab.url}/v1/health"
    assert opened.transferred_bytes > 0
    assert "ok" in opened.page.content()
