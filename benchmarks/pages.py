"""How fast the pages are, drawn by the receiver and shown in Chromium: a small fleet, and 1,000 jobs on 100 hosts.

`python -m benchmarks.pages [--runs 7]`. Without Chromium or playwright only the receiver's part is measured. First
contentful paint is the browser's own figure of a page opened for the second time in a new context, with an empty cache;
"a point" is the time from sending a heartbeat until the page shows what it told.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.factories.live_receiver import LiveReceiver, live_receiver
from tests.factories.seeded_fleet import SMALL_MANIFEST, big_manifest, seed_big, seed_reports, seed_small

SMALL = ("/", "/jobs", "/job/mlp-realistic", "/host/gpu-1", "/models", "/events", "/health", "/login")
BIG = ("/", "/jobs", "/jobs?page=10", "/job/cnn-0500", "/host/host-007", "/models", "/events")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PAINT = """new Promise(found => new PerformanceObserver(list => {
    for (const one of list.getEntries()) if (one.name === 'first-contentful-paint') found(one.startTime)
}).observe({type: 'paint', buffered: true}))"""
HEADERS = {"Accept": "text/html", "Accept-Encoding": "gzip"}


def ask(receiver: LiveReceiver, path: str, runs: int) -> tuple[float, int, int]:
    """Median milliseconds until the whole page is there, its bytes on the wire, and unpacked."""
    took_ms, raw = [], b""
    receiver.send("GET", path, headers=HEADERS)
    for _ in range(runs):
        begun = time.perf_counter()
        raw = receiver.send("GET", path, headers=HEADERS).raw
        took_ms.append(1e3 * (time.perf_counter() - begun))
    is_packed = raw[:2] == b"\x1f\x8b"
    return statistics.median(took_ms), len(raw), len(gzip.decompress(raw) if is_packed else raw)


def paint_ms(browser: Any, url: str, runs: int) -> tuple[float, int]:
    """Median first contentful paint in ms, and the number of requests of one load."""
    found, requests = [], 0
    for _ in range(runs):
        context = browser.new_context()
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(url, wait_until="load")
        found.append(float(page.evaluate(PAINT)))
        requests = len(asked)
        context.close()
    return statistics.median(found), requests


def point_ms(browser: Any, receiver: LiveReceiver, runs: int) -> float:
    """Median ms from a heartbeat's sending until its progress is on the fleet page."""
    row = next(row for row in receiver.queue.list_jobs("running") if row.claimed_by)
    page = browser.new_page()
    page.goto(f"{receiver.url}/")
    page.wait_for_selector("html[data-stream=live]")
    took_ms = []
    for step in range(100, 100 + runs):
        page.wait_for_timeout(1500)  # apart, as heartbeats are
        told = {"event": "progress", "step": step, "total": 400, "unit": "epoch", "loss": 0.1}
        body = {"progress": told, "points": [{**told, "at_s": float(step)}]}
        begun = time.perf_counter()
        receiver.worker("POST", f"/v1/job/{row.job_id}/heartbeat", body, host=str(row.claimed_by))
        page.wait_for_selector(f"text=epoch {step}/400")
        took_ms.append(1e3 * (time.perf_counter() - begun))
    page.close()
    return statistics.median(took_ms)


def measure(name: str, receiver: LiveReceiver, paths: tuple[str, ...], browser: Any, runs: int) -> None:
    print(
        f"\n{name}\n{'page':24}{'answer ms':>10}{'wire kB':>9}{'HTML kB':>9}{'paint ms':>10}{'requests':>10}"
    )
    for path in paths:
        took_ms, wire, html = ask(receiver, path, runs)
        shown = ""
        if browser is not None:
            painted, requests = paint_ms(browser, receiver.url + path, runs)
            shown = f"{painted:10.0f}{requests:10}"
        print(f"{path:24}{took_ms:10.0f}{wire / 1e3:9.1f}{html / 1e3:9.1f}{shown}", flush=True)
    if browser is not None:
        print(f"a point on the fleet page after {point_ms(browser, receiver, runs):.0f} ms")


def with_browser(call: Callable[[Any], None]) -> None:
    """Call with Debian's Chromium, or with None where it cannot be driven."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright import sync_api
    except ModuleNotFoundError:
        call(None)
        return
    if chromium is None:
        call(None)
        return
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        call(browser)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs

    def both(browser: Any) -> None:
        with tempfile.TemporaryDirectory() as folder, live_receiver(Path(folder), SMALL_MANIFEST) as receiver:
            seed_small(receiver.queue)
            seed_reports(receiver)
            measure("4 hosts, 14 jobs", receiver, SMALL, browser, runs)
        with tempfile.TemporaryDirectory() as folder, live_receiver(Path(folder), big_manifest()) as receiver:
            seed_big(receiver.queue)
            measure("100 hosts, 1,000 jobs", receiver, BIG, browser, runs)

    with_browser(both)


if __name__ == "__main__":
    main()
