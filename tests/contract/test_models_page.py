"""The models page over HTTP: leaderboards, ticked models side by side, one artifact's origin and card."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.factories.job_lab import JobLab, job_lab
from tests.factories.live_receiver import live_receiver
from tests.factories.page_client import Person, text_of


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobLab]:
    with job_lab(tmp_path_factory.mktemp("lab")) as found:
        yield found


@pytest.fixture
def person(lab: JobLab) -> Person:
    return Person(lab.receiver)


def page(person: Person, path: str) -> str:
    answer = person.get(path)
    assert answer.status == 200, answer.raw[:500]
    return text_of(answer)


def ticks(text: str) -> dict[str, str]:
    """Name of a model -> what its tick sends."""
    return {
        name: key
        for key, name in re.findall(
            r'name="(tick-[0-9a-f]{12})" value="1" aria-label="Compare ([^"]+)"', text
        )
    }


def test_each_mode_has_its_board_and_leaky_splits_come_last_and_say_so(person: Person) -> None:
    text = page(person, "/models")
    boards = person.get("/models.json").body["boards"]
    assert [(one["mode"], one["leaky"]) for one in boards] == [
        ("realistic", False), ("oracle", False), ("realistic", True),
    ]  # fmt: skip
    assert '0.940 <span class="quiet">0.900–0.970</span>' in text
    assert "+0.050" in text, "the gap, on active windows"
    assert text.index("no results to quote") > text.index("gbt-oracle")
    assert "41 s" in text


def test_ticking_is_a_form_that_needs_no_javascript(person: Person) -> None:
    text = page(person, "/models")
    assert '<form method="get" action="/models">' in text
    assert set(ticks(text)) == {"gbt-realistic", "gbt-oracle", "leaky-mlp"}
    assert " checked" not in text


def test_ticked_models_stand_side_by_side(person: Person) -> None:
    keys = ticks(page(person, "/models"))
    text = page(person, f"/models?{keys['gbt-realistic']}=1&{keys['gbt-oracle']}=1")
    assert text.count(" checked>") == 2
    for name in ("roc", "pr", "confusion-0", "confusion-1", "calibration-0"):
        assert f'<figure class="chart" id="{name}">' in text
    assert "<b>A</b> gbt-realistic" in text
    assert "+0.040" in text, "ROC-AUC of the second against the first"
    assert '<th scope="row">num rounds</th><td>200</td><td>300</td>' in text


def test_models_of_different_tests_are_not_called_comparable(person: Person) -> None:
    keys = ticks(page(person, "/models"))
    text = page(person, f"/models?{keys['gbt-realistic']}=1&{keys['leaky-mlp']}=1")
    assert "not tested on the same data" in text
    assert "leaky-mlp: artifact" in text, "why there is nothing to draw of it"


def test_one_artifact_leads_to_its_job_attempt_host_data_and_code(lab: JobLab, person: Person) -> None:
    text = page(person, f"/models?card={lab.gbt}")
    card = text[text.index('id="card"') : text.index('id="boards"')]
    for wanted in (
        'href="/job/gbt-realistic"', "/job/gbt-realistic?attempt=1", 'href="/host/a"', "Data set", "Code", lab.gbt,
        "The same in oracle mode", f"/models?card={lab.oracle}", "cis490-jobs pull gbt-realistic",
        "cis490-jobs verify gbt-realistic", f"/v1/model/{lab.gbt}/file/plots/roc.csv",
    ):  # fmt: skip
        assert wanted in card, wanted
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in card, "the model card is text"
    assert "<script>alert" not in card


@pytest.mark.parametrize(("card", "status"), [("0" * 64, 404), ("x", 400), ("../" * 30, 404), ("%00", 400)])
def test_a_card_that_is_not_there_is_a_page_that_says_so(card: str, status: int, person: Person) -> None:
    answer = person.get(f"/models?card={card}", Accept="text/html")
    assert (answer.status, "<h1>" in text_of(answer)) == (status, True)


def test_ticks_that_name_nothing_are_left_alone(person: Person) -> None:
    assert "Compared" not in page(person, "/models?tick-000000000000=1&tick-=1&all=x")


def test_without_models_the_page_says_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    with live_receiver(tmp_path_factory.mktemp("empty"), 'name = "empty"\n') as receiver:
        text = page(Person(receiver), "/models")
    assert "No job is completed yet" in text
    assert "cis490-jobs status" in text
