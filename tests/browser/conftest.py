"""Real Chromium (Debian's) over a real receiver. `make test-all` runs these; without a browser they are skipped.

Fixtures: `lab` (a small seeded fleet), `big_lab` (100 hosts, 1,000 jobs), `open_page` (a new page in light or dark,
narrow or wide, with or without JavaScript, which records its requests), `axe_clean` (no accessibility violations).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.factories.live_receiver import LiveReceiver, live_receiver
from tests.factories.seeded_fleet import SMALL_MANIFEST, big_manifest, seed_big, seed_reports, seed_small

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--font-render-hinting=none",
]  # fmt: skip
NARROW, WIDE = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One browser for all tests of a process."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-all")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian: apt-get install -y chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page and what it asked the network for."""

    page: Any
    requests: list[str] = field(default_factory=list)
    transferred_bytes: int = 0
    console: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Let the events that the browser has sent arrive."""
        self.page.wait_for_timeout(50)

    def forget(self) -> None:
        """Count from here."""
        self.requests.clear()
        self.console.clear()
        self.transferred_bytes = 0


OpenPage = Callable[..., Opened]


@pytest.fixture
def open_page(chromium: Any) -> Iterator[OpenPage]:
    """`open_page(url, dark=False, narrow=False, javascript=True)`: loads it in a context of its own."""
    contexts = []

    def opened(
        url: str | None = None, *, dark: bool = False, narrow: bool = False, javascript: bool = True
    ) -> Opened:
        context = chromium.new_context(
            viewport=NARROW if narrow else WIDE, color_scheme="dark" if dark else "light",
            java_script_enabled=javascript, reduced_motion="reduce", timezone_id="UTC", locale="en-GB",
        )  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        found = Opened(page)
        network = context.new_cdp_session(page)
        network.send("Network.enable")

        def finished(message: dict[str, Any]) -> None:
            found.transferred_bytes += int(message["encodedDataLength"])

        network.on("Network.loadingFinished", finished)
        page.on("request", lambda request: found.requests.append(request.url))
        page.on("console", lambda message: found.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: found.console.append(f"error: {error}"))
        if url is not None:
            page.goto(url, wait_until="load")
            found.settle()
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def axe_script() -> str:
    axe = pytest.importorskip(
        "axe_playwright_python", reason="axe-playwright-python is not installed: make test-all"
    )
    return (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def axe_clean(axe_script: str) -> Callable[[Any], None]:
    """`axe_clean(page)`: fails with every violation that axe-core finds."""

    def check(page: Any) -> None:
        page.evaluate(axe_script)  # evaluated by the debugger: the page's own policy does not apply
        found = page.evaluate("axe.run(document, {resultTypes: ['violations', 'incomplete']})")
        told = [
            f"{one['id']} ({one['impact']}): {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for one in found["violations"]
            for node in one["nodes"]
        ]
        assert told == []

    return check


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    """Four hosts and fourteen jobs in every state."""
    with live_receiver(tmp_path_factory.mktemp("lab"), SMALL_MANIFEST) as receiver:
        seed_small(receiver.queue)
        seed_reports(receiver)
        yield receiver


@pytest.fixture(scope="module")
def big_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    """A hundred hosts and a thousand jobs."""
    with live_receiver(tmp_path_factory.mktemp("big"), big_manifest()) as receiver:
        seed_big(receiver.queue)
        yield receiver
