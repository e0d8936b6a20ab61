"""The models page in a browser: ticking and comparing, by keyboard and without JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.conftest import OpenPage
from tests.factories.job_lab import JobLab, job_lab

LOOKS: dict[str, dict[str, bool]] = {
    "light wide": {},
    "dark wide": {"dark": True},
    "light narrow": {"narrow": True},
    "dark narrow": {"dark": True, "narrow": True},
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobLab]:
    with job_lab(tmp_path_factory.mktemp("jobs")) as found:
        yield found


def compared(jobs: JobLab) -> str:
    """The address of the comparison of all models, one of which cannot be looked into."""
    boards = jobs.receiver.send("GET", "/models.json").body["boards"]
    ids = [model["job_id"][:12] for board in boards for model in board["models"]]
    return f"{jobs.url}/models?" + "&".join(f"tick-{one}=1" for one in ids)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("what", ["boards", "compared", "card"])
def test_it_is_accessible_and_no_wider_than_the_screen(
    what: str, look: str, jobs: JobLab, open_page: OpenPage, axe_clean: Callable[[Any], None]
) -> None:
    address = {
        "boards": f"{jobs.url}/models",
        "compared": compared(jobs),
        "card": f"{jobs.url}/models?card={jobs.gbt}",
    }[what]
    opened = open_page(address, **LOOKS[look])
    for details in opened.page.locator("details").all():
        details.evaluate("one => { one.open = true }")
    axe_clean(opened.page)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= opened.page.viewport_size["width"]
    assert opened.console == []


@pytest.mark.parametrize("javascript", [True, False])
def test_models_are_ticked_and_compared_with_the_keyboard_alone(
    javascript: bool, jobs: JobLab, open_page: OpenPage
) -> None:
    page = open_page(f"{jobs.url}/models", javascript=javascript).page
    for name in ("gbt-realistic", "gbt-oracle"):
        page.get_by_label(f"Compare {name}").focus()
        page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.wait_for_url("**/models?tick-*")
    assert page.locator("#roc .badge").all_text_contents() == ["A", "B"]
    assert page.locator("#confusion-0").is_visible()
    assert page.get_by_label("Compare gbt-oracle").is_checked()


def test_badges_do_not_lie_on_each_other(jobs: JobLab, open_page: OpenPage) -> None:
    page = open_page(compared(jobs)).page
    boxes = [one.bounding_box() for one in page.locator("#roc .badge circle").all()]
    assert len(boxes) == 2
    first, second = ((box["x"], box["y"]) for box in boxes)
    assert max(abs(first[0] - second[0]), abs(first[1] - second[1])) > boxes[0]["width"]


def test_a_file_of_an_artifact_is_shown_as_text_and_runs_nothing(jobs: JobLab, open_page: OpenPage) -> None:
    opened = open_page(f"{jobs.url}/v1/model/{jobs.gbt}/file/plots/roc.svg")
    assert "<script>alert(1)</script>" in opened.page.locator("pre").text_content()
