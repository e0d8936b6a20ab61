"""A job's page over HTTP: what it shows of each state, without any JavaScript, and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories.job_lab import JobLab, job_lab
from tests.factories.page_client import Person, text_of

PATHS = ("/job/mlp-oracle", "/job/gbt-realistic", "/job/gru-oracle", "/job/leaky-mlp", "/job/cnn-oracle")


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


def section(text: str, name: str) -> str:
    """The HTML of one section."""
    found = re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL)
    assert found is not None, name
    return found[0]


@pytest.mark.parametrize("path", PATHS)
def test_every_state_has_a_page_its_json_and_nothing_that_its_policy_refuses(
    path: str, person: Person
) -> None:
    text = page(person, path)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    twin = person.get(path + ".json").body
    assert twin["job"]["name"] == path.removeprefix("/job/")
    assert set(twin) >= {"job", "next", "progress", "log", "eligibility", "artifact", "used"}


def test_a_running_job_shows_state_curve_log_attempts_and_use(person: Person) -> None:
    text = page(person, "/job/mlp-oracle")
    assert "epoch 12/400" in section(text, "state")
    learning = section(text, "learning")
    assert "After epoch 12 the training loss is" in learning
    assert learning.count("<tr data-x=") == 12
    assert "7.3 GiB" in section(text, "used")
    assert "1.9 GiB" in section(text, "used")
    assert section(text, "attempts").count('data-key="attempt-') == 2
    assert "cis490-jobs logs mlp-oracle -f" in section(text, "state")


def test_the_log_is_harmless_and_there_without_javascript(person: Person) -> None:
    log = section(page(person, "/job/mlp-oracle"), "log")
    assert "loading 120 episodes\n100 %\n&lt;script&gt;alert(&#39;log&#39;)&lt;/script&gt;" in log
    assert "\x1b" not in log


def test_the_error_of_an_earlier_attempt_is_shown_harmless(person: Person) -> None:
    text = page(person, "/job/mlp-oracle")
    assert "ValueError: feature_17 holds NaN &lt;b&gt;" in section(text, "state")
    assert "Error of an earlier attempt" in section(text, "state")


def test_the_attempts_are_drawn_over_time_by_host_and_outcome(person: Person) -> None:
    drawn = section(page(person, "/job/mlp-oracle"), "attempts")
    assert 'class="span bad"' in drawn
    assert 'class="span go"' in drawn
    assert "2 attempts on a, b. The last: running on b." in drawn
    assert "<svg" not in section(page(person, "/job/gru-oracle"), "attempts")


def test_an_earlier_attempt_and_its_log_are_a_link_away(person: Person) -> None:
    text = page(person, "/job/mlp-oracle?attempt=1")
    assert "After epoch 5 the training loss is 1." in section(text, "learning")
    assert "first try" in section(text, "log")


def test_a_curve_can_be_laid_over_another_attempt_or_job(person: Person) -> None:
    assert "attempt 1: training" in section(page(person, "/job/mlp-oracle?with=1"), "learning")
    assert "mlp-oracle: training" in section(page(person, "/job/gbt-realistic?with=mlp-oracle"), "learning")


def test_laying_over_what_is_not_there_says_so_and_shows_the_rest(person: Person) -> None:
    learning = section(page(person, "/job/mlp-oracle?with=mlp-oracel"), "learning")
    assert "did you mean mlp-oracle?" in learning
    assert "After epoch 12" in learning


def test_the_scale_is_a_link(person: Person) -> None:
    linear, log = page(person, "/job/mlp-oracle"), page(person, "/job/mlp-oracle?scale=log")
    assert "scale=log#learning" in linear
    assert "log scale" in section(log, "learning")
    assert "log scale" not in section(linear, "learning")


@pytest.mark.parametrize(
    "query", ["attempt=99", "attempt=x", "offset=-1", "offset=x", "offset=999999999", "scale=x"]
)
def test_a_query_that_makes_no_sense_shows_the_page_all_the_same(query: str, person: Person) -> None:
    assert "mlp-oracle" in page(person, f"/job/mlp-oracle?{query}")


def test_a_long_log_is_paged(lab: JobLab, person: Person) -> None:
    lab.say("".join(f"line {number:06}\n" for number in range(6000)))
    end = section(page(person, "/job/mlp-oracle"), "log")
    assert "line 005999" in end
    assert "line 000000" not in end
    earlier = re.search(r'href="(/job/[^"]+)#log" rel="prev"', end)
    assert earlier is not None
    before = section(page(person, earlier[1].replace("&amp;", "&")), "log")
    assert "line 005999" not in before
    assert 'rel="next"' in before
    assert "The end" in before
    first = section(page(person, "/job/mlp-oracle?offset=0"), "log")
    assert "line 000000" in first


def test_a_job_that_waits_says_why_host_by_host_and_what_would_help(lab: JobLab, person: Person) -> None:
    why = section(page(person, "/job/gru-oracle"), "why")
    assert why.count("<tr data-key=") == 2
    assert "min vram gib" in why
    found = lab.receiver.send("GET", f"/v1/job/{job_id(lab, 'gru-oracle')}/eligibility").body
    for suggestion in found["suggestions"]:
        assert escaped(suggestion["text"]) in why
    for check in found["hosts"][0]["checks"]:
        assert check["ok"] or escaped(check["message"]) in why


def test_a_result_has_its_figures_with_intervals_and_its_charts(person: Person) -> None:
    result = section(page(person, "/job/gbt-realistic"), "result")
    assert "0.9 to 0.97" in result
    assert all(
        f'<figure class="chart" id="{name}">' in result for name in ("roc", "pr", "confusion", "calibration")
    )
    assert "cis490-jobs pull gbt-realistic" in result


def test_an_artifact_that_cannot_be_looked_into_leaves_the_page_whole(person: Person) -> None:
    text = page(person, "/job/leaky-mlp")
    assert "cannot be looked into" in section(text, "result")
    assert "leaky" in section(text, "state")
    assert "no results to quote" in section(text, "state")


def test_an_unknown_name_is_a_page_that_knows_better(person: Person) -> None:
    answer = person.get("/job/mlp-oracel", Accept="text/html")
    assert answer.status == 404
    assert '<a href="/job/mlp-oracle"' in text_of(answer)
    assert person.get("/job/mlp-oracel.json").status == 404


def test_a_prefix_and_an_id_name_the_job_too(lab: JobLab, person: Person) -> None:
    assert "<h1>mlp-oracle</h1>" in page(person, "/job/mlp-o")
    assert "<h1>mlp-oracle</h1>" in page(person, f"/job/{lab.running}")


def test_only_the_operator_is_offered_what_changes_something(person: Person) -> None:
    before = section(page(person, "/job/mlp-oracle"), "state")
    assert "/job/mlp-oracle/cancel" not in before
    assert "Log in to act on it" in before
    assert person.log_in().status == 303
    after = section(page(person, "/job/mlp-oracle"), "state")
    assert 'href="/job/mlp-oracle/cancel"' in after
    assert 'href="/job/mlp-oracle/pause"' in after
    done = section(page(person, "/job/gbt-realistic"), "state")
    assert all(f'href="/job/gbt-realistic/{verb}"' in done for verb in ("requeue", "verify"))


def test_a_verification_run_and_its_job_lead_to_each_other(tmp_path: Path) -> None:
    with job_lab(tmp_path) as lab:
        started = lab.receiver.operator(f"/v1/job/{job_id(lab, 'gbt-realistic')}/verify").body
        person = Person(lab.receiver)
        runs = section(page(person, "/job/gbt-realistic"), "verifications")
        assert f'href="/job/{started["name"]}"' in runs
        back = section(page(person, f"/job/{started['name']}"), "verifications")
        assert 'href="/job/gbt-realistic"' in back


def job_id(lab: JobLab, name: str) -> str:
    return str(lab.receiver.send("GET", f"/v1/resolve?job={name}").body["job_id"])


def escaped(text: str) -> str:
    """As it stands in HTML."""
    return (
        text.replace("&", "&amp;")
        .replace('"', "&#34;")
        .replace("'", "&#39;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
