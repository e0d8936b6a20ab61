"""Pages that follow the fleet: what changes appears, what the person does stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import OpenPage
from tests.factories.live_receiver import LiveReceiver, live_receiver
from tests.factories.processes import wait_until
from tests.factories.seeded_fleet import SMALL_MANIFEST, seed_reports, seed_small
from training.fleet.event_routes import MAX_STREAMS

HEARTBEAT = {"event": "progress", "total": 40, "unit": "epoch", "loss": 0.3}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LiveReceiver]:
    """One that may be changed."""
    with live_receiver(tmp_path, SMALL_MANIFEST) as receiver:
        seed_small(receiver.queue)
        seed_reports(receiver)
        yield receiver


def running_on(lab: LiveReceiver, host: str) -> str:
    (found,) = (
        job["job_id"]
        for job in lab.send("GET", "/v1/jobs?status=running").body["jobs"]
        if job["claimed_by"] == host
    )
    return str(found)


def beat(lab: LiveReceiver, host: str, step: int) -> None:
    progress = {**HEARTBEAT, "step": step}
    answer = lab.worker(
        "POST", f"/v1/job/{running_on(lab, host)}/heartbeat",
        {"progress": progress, "points": [{**progress, "at_s": float(step)}]}, host=host,
    )  # fmt: skip
    assert answer.status == 200


def is_live(page: Any) -> None:
    page.wait_for_selector("html[data-stream=live]")


@pytest.mark.parametrize("path", ["/", "/jobs", "/host/gpu-1"])
def test_progress_appears_without_a_reload(path: str, lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(lab.url + path).page
    is_live(page)
    page.evaluate("window.sameDocument = true")
    beat(lab, "gpu-1", 17)
    page.wait_for_selector("text=epoch 17/40")
    assert page.evaluate("window.sameDocument")


def test_a_change_of_state_appears_on_the_fleet_and_in_the_events(
    lab: LiveReceiver, open_page: OpenPage
) -> None:
    fleet, events = open_page(f"{lab.url}/").page, open_page(f"{lab.url}/events").page
    is_live(fleet)
    is_live(events)
    lab.operator("/v1/host/gpu-2/drain", {"reason": "its lid is open"})
    fleet.wait_for_selector("text=its lid is open")
    events.wait_for_selector("text=its lid is open")
    lab.operator("/v1/fleet/pause", {"reason": "storm"})
    fleet.wait_for_selector("#operate >> text=storm")


def test_focus_selection_open_parts_and_typed_words_outlast_an_update(
    lab: LiveReceiver, open_page: OpenPage
) -> None:
    page = open_page(f"{lab.url}/jobs").page
    is_live(page)
    page.fill("#q", "half a wo")
    page.locator('a[href="/job/tcn-oracle"]').focus()
    page.evaluate("window.scrollTo(0, 100)")
    scrolled = page.evaluate("window.scrollY")
    page.evaluate("window.row = document.activeElement.closest('tr')")
    beat(lab, "gpu-1", 18)
    page.wait_for_selector("text=epoch 18/40")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "/job/tcn-oracle"
    assert page.evaluate("document.activeElement.closest('tr') === window.row"), "the very same element"
    assert page.input_value("#q") == "half a wo"
    assert page.evaluate("window.scrollY") == scrolled


def test_an_opened_table_stays_open(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(f"{lab.url}/").page
    is_live(page)
    page.locator("#strip-table > summary").click()
    beat(lab, "gpu-1", 20)
    page.wait_for_selector("text=epoch 20/40")
    assert page.evaluate("document.querySelector('#strip-table').open")


def test_a_row_that_comes_or_goes_takes_no_other_with_it(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(f"{lab.url}/").page
    is_live(page)
    job_id = running_on(lab, "gpu-1")
    assert page.locator("#running tbody tr").count() == 2
    page.evaluate("document.querySelectorAll('#running tbody tr').forEach(row => { row.seen = true })")
    lab.worker("POST", f"/v1/job/{job_id}/release", {}, host="gpu-1")
    page.wait_for_selector("#running tbody tr >> nth=1", state="detached")
    assert page.evaluate("document.querySelector('#running tbody tr').seen"), (
        "the other row is the one it was"
    )


def test_when_the_stream_is_down_the_page_says_how_old_it_is(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(f"{lab.url}/").page
    is_live(page)
    assert page.locator("#stream").is_hidden()
    lab.coordinator.events.close_threadsafe()
    page.wait_for_selector("#stream:not([hidden])")
    told = page.locator("#stream").inner_text()
    assert "Not live" in told
    assert "Last update" in told
    assert page.locator("#stream [role=status]").count() == 1, "said once, not with every second"


def test_a_receiver_that_is_started_again_is_found_again_by_itself(
    tmp_path: Path, open_page: OpenPage
) -> None:
    with live_receiver(tmp_path, SMALL_MANIFEST) as first:
        seed_small(first.queue)
        page = open_page(f"{first.url}/").page
        is_live(page)
    page.wait_for_selector("#stream:not([hidden])")
    with live_receiver(tmp_path, SMALL_MANIFEST, port=first.port) as again:
        again.operator("/v1/fleet/pause", {"reason": "after the restart"})
        page.wait_for_selector("#operate >> text=after the restart")
        is_live(page)
        assert page.locator("#stream").is_hidden()


def test_a_page_that_gets_no_stream_is_fetched_from_time_to_time_and_says_how_old_it_is(
    lab: LiveReceiver, open_page: OpenPage
) -> None:
    lab.coordinator.event_streams = MAX_STREAMS
    page = open_page(f"{lab.url}/").page
    page.wait_for_selector("html[data-stream=down]")
    beat(lab, "gpu-1", 25)
    page.wait_for_selector("text=epoch 25/40")
    assert page.locator("#stream [data-age]").inner_text() in {"0 s", "1 s"}
    lab.coordinator.event_streams = 0
    is_live(page)


def test_a_page_that_cannot_be_fetched_gives_its_stream_up_as_well(
    lab: LiveReceiver, open_page: OpenPage
) -> None:
    """A link that is cut says nothing: the browser would take the dead stream for a quiet one."""
    page = open_page(f"{lab.url}/").page
    is_live(page)
    page.route(f"{lab.url}/", lambda route: route.abort())
    beat(lab, "gpu-1", 26)
    page.wait_for_selector("html[data-stream=down]")
    page.unroute(f"{lab.url}/")
    page.wait_for_selector("text=epoch 26/40")
    is_live(page)


def test_messages_for_a_screen_reader_are_few(lab: LiveReceiver, open_page: OpenPage) -> None:
    page = open_page(f"{lab.url}/").page
    is_live(page)
    page.evaluate(
        "window.said = []; const announce = document.getElementById('announce');"
        "new MutationObserver(() => window.said.push(announce.textContent))"
        ".observe(announce, {childList: true, characterData: true, subtree: true})"
    )
    for step in (20, 21, 22):
        beat(lab, "gpu-1", step)
        page.wait_for_selector(f"text=epoch {step}/40")
    assert page.evaluate("window.said") == [], "progress is not read out"
    job_id = running_on(lab, "gpu-1")
    lab.worker("POST", f"/v1/job/{job_id}/release", {}, host="gpu-1")
    page.wait_for_selector("#announce:not(:empty)", state="attached")
    assert "1 running" in page.evaluate("window.said")[0]


def test_a_page_that_follows_events_asks_for_its_own_address_alone(
    lab: LiveReceiver, open_page: OpenPage
) -> None:
    opened = open_page(f"{lab.url}/")
    is_live(opened.page)
    opened.forget()
    beat(lab, "gpu-1", 23)
    opened.page.wait_for_selector("text=epoch 23/40")
    assert set(opened.requests) == {f"{lab.url}/"}
    assert opened.console == []


def test_a_tab_that_nobody_sees_holds_no_stream_and_is_fresh_when_it_is_seen_again(
    lab: LiveReceiver, open_page: OpenPage
) -> None:
    opened = open_page(f"{lab.url}/")
    page = opened.page
    is_live(page)
    turn = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    turn += " document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(turn, True)
    opened.forget()
    beat(lab, "gpu-1", 24)
    wait_until(lambda: lab.coordinator.event_streams == 0, "the stream to end")
    assert opened.requests == []
    page.evaluate(turn, False)
    page.wait_for_selector("text=epoch 24/40")
