"""A job's page in a browser: live curve and log, read-out by keys, readable for everybody."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.chart_pixels import SCALE, contrast_of
from tests.browser.conftest import NARROW, WIDE, OpenPage
from tests.factories.job_lab import JobLab, job_lab
from tests.factories.processes import wait_until

JOBS = ("mlp-oracle", "gbt-realistic", "gru-oracle", "leaky-mlp")
LOOKS: dict[str, dict[str, bool]] = {
    "light wide": {},
    "dark wide": {"dark": True},
    "light narrow": {"narrow": True},
    "dark narrow": {"dark": True, "narrow": True},
}
TEXT_CONTRAST, LINE_CONTRAST = 4.5, 3.0
"""Of WCAG 2.2, 1.4.3 and 1.4.11."""
LEAST_TEXT_PX = 9.5
"""Height of the letters' box where a chart is narrow."""


AT_END = """(() => {
    const box = document.querySelector('.log-text');
    return box.scrollHeight - box.scrollTop - box.clientHeight < 3;
})()"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobLab]:
    with job_lab(tmp_path_factory.mktemp("jobs")) as found:
        yield found


@pytest.fixture
def sharp_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """`sharp_page(url, dark, narrow, forced)`: a page with so many device pixels that thin strokes are not blended."""
    contexts = []

    def opened(url: str, *, dark: bool = False, narrow: bool = False, forced: bool = False) -> Any:
        context = chromium.new_context(
            viewport=NARROW if narrow else WIDE, color_scheme="dark" if dark else "light", device_scale_factor=SCALE,
            forced_colors="active" if forced else "none", reduced_motion="reduce",
        )  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.goto(url, wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()


def is_live(page: Any) -> None:
    """The page hears the stream."""
    page.locator("html[data-stream=live]").wait_for(state="attached")


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", JOBS)
def test_it_is_accessible_and_no_wider_than_the_screen(
    name: str, look: str, jobs: JobLab, open_page: OpenPage, axe_clean: Callable[[Any], None]
) -> None:
    opened = open_page(f"{jobs.url}/job/{name}", **LOOKS[look])
    for details in opened.page.locator("details").all():
        details.evaluate("one => { one.open = true }")
    axe_clean(opened.page)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= opened.page.viewport_size["width"]
    assert opened.console == []


def of_each_kind(page: Any) -> list[Any]:
    """A text of each class in each chart; of the confusion, whose grounds differ, all."""
    found: dict[tuple[str, str, int], Any] = {}
    for number, one in enumerate(page.locator("figure.chart > svg text").all()):
        figure, kind = one.evaluate("one => [one.closest('figure').id, one.className.baseVal]")
        if one.is_visible():
            found.setdefault((figure, kind, number if figure == "confusion" else 0), one)
    return list(found.values())


@pytest.mark.parametrize("look", [*LOOKS, "forced colours"])
def test_all_text_and_every_line_of_a_chart_stands_out_from_its_ground(
    look: str, jobs: JobLab, sharp_page: Callable[..., Any]
) -> None:
    options = {"forced": True} if look == "forced colours" else LOOKS[look]
    page = sharp_page(f"{jobs.url}/job/gbt-realistic?with=mlp-oracle", **options)
    texts = of_each_kind(page)
    assert len(texts) > 12
    weak = [(one.text_content(), found) for one in texts if (found := contrast_of(page, one)) < TEXT_CONTRAST]
    assert weak == []
    lines = page.locator("figure.chart .key").all()
    assert len(lines) >= 8
    pale = [(one.inner_html(), found) for one in lines if (found := contrast_of(page, one)) < LINE_CONTRAST]
    assert pale == []


def test_the_text_of_a_chart_can_be_read_on_a_telephone(jobs: JobLab, open_page: OpenPage) -> None:
    page = open_page(f"{jobs.url}/job/gbt-realistic", narrow=True).page
    heights = page.evaluate(
        "[...document.querySelectorAll('figure.chart > svg text')]"
        ".map(one => one.getBoundingClientRect().height).filter(Boolean)"
    )
    assert len(heights) > 30
    assert min(heights) >= LEAST_TEXT_PX


def test_a_new_point_is_drawn_without_a_reload(jobs: JobLab, open_page: OpenPage) -> None:
    opened = open_page(f"{jobs.url}/job/mlp-oracle")
    is_live(opened.page)
    opened.page.evaluate("window.stays = true")
    jobs.tell(20)
    opened.page.locator("#learning", has_text="After epoch 20").wait_for()
    opened.page.locator("#state", has_text="epoch 20/400").wait_for()
    assert opened.page.locator("#learning tbody tr").last.locator("th").text_content() == "20"
    assert opened.page.evaluate("window.stays"), "the same document"


def test_what_somebody_opened_and_focused_survives_a_new_point(jobs: JobLab, open_page: OpenPage) -> None:
    page = open_page(f"{jobs.url}/job/mlp-oracle").page
    is_live(page)
    page.locator("#learning summary").click()
    page.locator("#loss > svg").focus()
    page.keyboard.press("Home")
    before = page.locator("#loss .readout").text_content()
    assert "epoch 1 " in before
    jobs.tell(30)
    page.locator("#learning", has_text="After epoch 30").wait_for()
    page.locator("#loss .readout-marks").wait_for(state="attached")
    assert page.locator("#loss .readout").text_content() == before
    assert page.evaluate("document.activeElement === document.querySelector('#loss > svg')")
    assert page.locator("#learning details.chart-data").get_attribute("open") is not None


def test_arrow_keys_and_pointer_read_the_chart_in_the_words_of_its_table(
    jobs: JobLab, open_page: OpenPage
) -> None:
    page = open_page(f"{jobs.url}/job/gbt-realistic").page
    chart = page.locator("#roc > svg")
    chart.focus()
    said = page.locator("#roc .readout")
    assert "false positive rate 1" in said.text_content()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    row = page.locator("#roc tbody tr").nth(1)
    assert row.locator("th").text_content() in said.text_content()
    assert row.locator("td").first.text_content() in said.text_content()
    assert page.locator("#roc .readout-dot").count() == 1
    page.keyboard.press("Escape")
    assert said.text_content() == ""
    chart.hover()
    assert "false positive rate" in said.text_content()


def test_the_log_grows_by_itself_and_its_end_stays_in_sight(jobs: JobLab, open_page: OpenPage) -> None:
    page = open_page(f"{jobs.url}/job/mlp-oracle").page
    is_live(page)
    assert page.locator(".log-follow").is_checked()
    jobs.say("".join(f"grown {number}\n" for number in range(200)))
    page.locator(".log-text", has_text="grown 199").wait_for()
    wait_until(lambda: page.evaluate(AT_END), "the end of the log in sight")
    page.locator(".log-text").hover()
    page.mouse.wheel(0, -400)
    page.locator(".log-follow:not(:checked)").wait_for()
    jobs.say("and \x1b[31mred\x1b[0m on\r10 %\r20 %\nlast\n")
    page.locator(".log-text", has_text="20 %\nlast\n").wait_for()
    assert not page.evaluate(AT_END), "whoever reads further up is left alone"


def test_the_script_and_the_page_clean_a_log_alike(jobs: JobLab, open_page: OpenPage) -> None:
    from tests.unit.test_page_parts import DIRTY

    page = open_page(f"{jobs.url}/job/mlp-oracle").page
    source = page.locator("script[src*='log.js']").get_attribute("src")
    for raw, shown in DIRTY.values():
        assert (
            page.evaluate("async ([source, raw]) => (await import(source)).clean(raw)", [source, raw])
            == shown
        )


def test_the_log_is_searched_with_the_keyboard(jobs: JobLab, open_page: OpenPage) -> None:
    jobs.say("needle one\nhay\nNeedle two\nhay\nneedle three\n")
    page = open_page(f"{jobs.url}/job/mlp-oracle").page
    page.locator(".log-search").focus()
    page.keyboard.type("needle")
    count = page.locator(".log-count")
    assert count.text_content() == "3 of 3"
    page.keyboard.press("Enter")
    assert count.text_content() == "1 of 3"
    page.keyboard.press("Shift+Enter")
    assert count.text_content() == "3 of 3"
    page.locator(".log-previous").click()
    assert count.text_content() == "2 of 3"
    assert page.evaluate("[...CSS.highlights.get('log-current')].map(String)") == ["Needle"]
    page.locator(".log-search").fill("nothing like it")
    assert count.text_content() == "nothing found"


def test_a_new_attempt_takes_the_log_over(
    tmp_path_factory: pytest.TempPathFactory, open_page: OpenPage
) -> None:
    with job_lab(tmp_path_factory.mktemp("again")) as lab:
        page = open_page(f"{lab.url}/job/mlp-oracle").page
        is_live(page)
        lab.receiver.worker("POST", f"/v1/job/{lab.running}/fail", {"error": "x"}, host="b")
        got = lab.receiver.worker("POST", "/v1/job/claim", {"capability": {}}, host="a").body
        assert got["job_id"] == lab.running
        body = {"offset": 0, "text": "third try\n"}
        assert lab.receiver.worker("POST", f"/v1/job/{lab.running}/log", body, host="a").status == 200
        page.locator(".log-text", has_text=re.compile(r"^third try\n$")).wait_for()
        assert page.locator(".log-epoch").text_content() == "3"


def test_without_javascript_there_is_the_log_the_curve_and_its_table(
    jobs: JobLab, open_page: OpenPage
) -> None:
    page = open_page(f"{jobs.url}/job/mlp-oracle", javascript=False).page
    assert "loading 120 episodes" in page.locator(".log-text").text_content()
    assert page.locator(".log-tools").is_hidden()
    page.locator("#learning summary").click()
    assert page.locator("#learning tbody tr").first.is_visible()
    page.get_by_role("link", name="log", exact=True).click()
    assert "log scale" in page.locator("#loss > svg").text_content()
