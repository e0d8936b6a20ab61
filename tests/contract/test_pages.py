"""The pages over HTTP: what they show, as HTML and as JSON, and what hostile or absent data does to them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.factories.live_receiver import LiveReceiver, live_receiver
from tests.factories.page_client import Person, text_of
from tests.factories.seeded_fleet import SMALL_MANIFEST, seed_small
from training.fleet import hosts

PAGES = ("/", "/jobs", "/host/gpu-1", "/host/gpu-2", "/host/win-2", "/events", "/health", "/login", "/logout")
TWINS = {"/": "/index.json", "/jobs": "/jobs.json", "/host/gpu-1": "/host/gpu-1.json", "/events": "/events.json",
         "/health": "/health.json"}  # fmt: skip
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path_factory.mktemp("lab"), SMALL_MANIFEST) as receiver:
        seed_small(receiver.queue)
        yield receiver


@pytest.fixture
def person(lab: LiveReceiver) -> Person:
    return Person(lab)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_answers_in_html_with_every_security_header(path: str, person: Person) -> None:
    answer = person.get(path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'self'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"} <= set(
        policy
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_inline_style_or_script_which_its_policy_would_refuse(
    path: str, person: Person
) -> None:
    text = text_of(person.get(path))
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", text)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_asks_for_nothing_but_files_of_ours(path: str, person: Person) -> None:
    text = text_of(person.get(path))
    asked = re.findall(r'<(?:link|script|img)[^>]*(?:href|src)="([^"]+)"', text)
    assert asked
    assert all(re.fullmatch(r"/static/[\w.]+\?v=[0-9a-f]{12}", one) for one in asked)


@pytest.mark.parametrize("path", TWINS)
def test_a_page_says_where_its_json_is_and_it_is_there(path: str, person: Person) -> None:
    assert f'href="{TWINS[path]}"' in text_of(person.get(path))
    answer = person.get(TWINS[path])
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert isinstance(answer.body, dict)


def test_a_page_is_packed_for_who_can_unpack_it(person: Person) -> None:
    plain, packed = person.get("/jobs"), person.get("/jobs", **{"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.raw) < len(plain.raw) / 3
    assert "content-encoding" not in plain.headers


def test_a_static_file_may_be_kept_for_ever_under_its_digest_and_not_without(person: Person) -> None:
    (kept,) = re.findall(r'href="(/static/style\.css[^"]+)"', text_of(person.get("/")))
    assert person.get(kept).headers["cache-control"] == "public, max-age=31536000, immutable"
    assert person.get("/static/style.css").headers["cache-control"] == "no-cache"
    assert person.get("/static/style.css?v=000000000000").headers["cache-control"] == "no-cache"
    assert person.get("/static/..%2fpages.py").status == 404
    assert person.get("/static/nothing.css").status == 404


# -- what each page shows


def test_the_fleet_page_has_the_sentence_the_hosts_and_what_runs(person: Person) -> None:
    text, told = text_of(person.get("/")), person.get("/index.json").body
    assert told["sentence"] in text
    for host in ("gpu-1", "gpu-2", "cpu-1", "win-2"):
        assert f'href="/host/{host}"' in text
    assert "its fan is being replaced" in text
    assert 'href="/job/mlp-realistic"' in text
    assert "epoch 12/40" in text
    assert 'href="/jobs?status=failed"' in text


def test_a_problem_stands_with_the_command_to_type_next(person: Person) -> None:
    text = text_of(person.get("/"))
    (problem,) = (one for one in person.get("/index.json").body["problems"] if one["job"] == "gbt-oracle")
    assert f'<code class="command">{problem["next"]}</code>' in text


def test_the_jobs_can_be_chosen_by_status_model_and_words(person: Person) -> None:
    def names(query: str) -> list[str]:
        return [job["name"] for job in person.get(f"/jobs.json?{query}").body["jobs"]]

    assert names("status=failed") == ["gbt-oracle"]
    assert names("model=gru") == ["gru-realistic", "gru-oracle"]
    assert names("q=gru+oracle") == ["gru-oracle"]
    assert names("q=feature_17") == ["gbt-oracle"], "the words of an error count too"
    assert names("sort=name")[0] == "cnn-oracle"
    assert len(names("status=nonsense&sort=nonsense&page=-3")) == 14


def test_the_jobs_come_a_hundred_a_page(tmp_path: Path) -> None:
    text = "".join(
        f'[[jobs]]\nname = "j{at:03}"\nmodel = "gbt"\nmode = "oracle"\nseed = {at}\n' for at in range(230)
    )
    with live_receiver(tmp_path, text) as receiver:
        person = Person(receiver)
        first, last = person.get("/jobs.json").body, person.get("/jobs.json?page=99").body
        assert (len(first["jobs"]), first["pages"], first["total"]) == (100, 3, 230)
        assert (last["page"], len(last["jobs"])) == (3, 30)
        assert 'rel="next"' in text_of(person.get("/jobs"))
        assert 'rel="next"' not in text_of(person.get("/jobs?page=3"))


def test_a_host_page_has_capability_policy_with_its_line_and_what_failed_there(
    lab: LiveReceiver, person: Person
) -> None:
    text = text_of(person.get("/host/gpu-2"))
    assert "NVIDIA GeForce RTX 3090" in text
    line = lab.manifest.read_text(encoding="utf-8").splitlines().index('name = "gpu-2"') + 2
    assert re.search(rf"<code>deny_jobs</code></th><td>\[gru\]</td><td[^>]*>{line}</td>", text)
    assert "1 of 1 ended attempts failed" in text
    assert 'href="/job/gbt-oracle"' in text


def test_an_unknown_host_is_a_page_that_knows_what_was_meant(person: Person) -> None:
    answer = person.get("/host/gpu-3")
    assert answer.status == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "Did you mean" in text_of(answer)
    assert person.get("/host/gpu-3.json").status == 404


def test_the_events_come_latest_first_and_can_be_turned_and_filtered(person: Person) -> None:
    text = text_of(person.get("/events?host=win-2"))
    assert "its fan is being replaced" in text
    assert "mlp-realistic" not in text
    numbers = [int(one) for one in re.findall(r'<tr data-key="(\d+)">', text_of(person.get("/events")))]
    assert numbers == sorted(numbers, reverse=True)
    before = numbers[3]
    older = [one["seq"] for one in person.get(f"/events.json?before={before}").body["events"]]
    assert max(older) == before - 1
    assert person.get("/events?before=abc&after=-1&job=%00").status == 200


def test_the_events_as_csv_are_no_formulas(lab: LiveReceiver, person: Person) -> None:
    hosts.drain(lab.queue, "gpu-2", "=HYPERLINK(1)")
    try:
        answer = person.get("/events.csv?host=gpu-2")
    finally:
        hosts.undrain(lab.queue, "gpu-2")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = answer.raw.decode().splitlines()
    assert rows[0].startswith("seq,at,actor,event,name")
    assert any(",'=HYPERLINK(1)" in row for row in rows)


def test_the_health_page_tells_disk_database_and_versions(person: Person) -> None:
    text = text_of(person.get("/health"))
    assert "The receiver is well" in text
    for word in ("Free for the artifacts", "Database with its log", "Leases looked through", "sqlite"):
        assert word in text


def test_a_trouble_of_the_receiver_is_told_with_what_to_do(tmp_path: Path) -> None:
    with live_receiver(tmp_path, SMALL_MANIFEST) as receiver:
        receiver.coordinator.swept_at_s -= 1000.0
        text = text_of(Person(receiver).get("/health"))
        assert "The receiver is in trouble" in text
        assert "journalctl -u cis490-trainer-receiver" in text


def test_a_fleet_without_hosts_or_jobs_teaches_the_next_command(tmp_path: Path) -> None:
    with live_receiver(tmp_path, '[policy]\nunknown_hosts = "allow"\n') as receiver:
        person = Person(receiver)
        text = text_of(person.get("/"))
        assert "python -m training.fleet.worker" in text
        assert "cis490-jobs reload" in text
        assert "cis490-jobs reload" in text_of(person.get("/jobs"))
        assert person.get("/events").status == 200
        assert person.get("/health").status == 200


# -- names and texts that workers choose


def test_what_a_worker_says_is_text_and_never_markup(tmp_path: Path) -> None:
    with live_receiver(tmp_path, SMALL_MANIFEST) as receiver:
        gpu = {"name": SCRIPT, "vram_gib": 8.0}
        body = {"capability": {"hostname": SCRIPT, "os": SCRIPT, "gpus": [gpu], "vram_gib": 8.0, "has_cuda": True,
                               "models": ["gbt"], "torch_version": SCRIPT}}  # fmt: skip
        claim = receiver.worker("POST", "/v1/job/claim", body, host="gpu-1").body
        path = f"/v1/job/{claim['job_id']}/fail"
        receiver.worker("POST", path, {"error": SCRIPT, "fail_class": "bad_config"}, host="gpu-1")
        receiver.operator("/v1/host/gpu-1/drain", {"reason": SCRIPT})
        person = Person(receiver)
        sent = quote(SCRIPT)
        for page in ("/", "/jobs", "/host/gpu-1", "/events", f"/nothing/{sent}", f"/jobs?q={sent}",
                     f"/events?job={sent}", f"/login?next=/{sent}", f"/host/{sent}"):  # fmt: skip
            assert SCRIPT not in text_of(person.get(page)), page
        assert "&lt;script&gt;" in text_of(person.get("/host/gpu-1"))


# -- beside the interface


def test_the_interface_answers_unknown_paths_in_json_whatever_is_asked_for(person: Person) -> None:
    answer = person.get("/v1/nothing")
    assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
    assert json.loads(answer.raw) == {"error": "no such endpoint: /v1/nothing"}


def test_another_unknown_path_is_a_page_for_a_browser_and_json_for_a_program(
    lab: LiveReceiver, person: Person
) -> None:
    page, program = person.get("/nothing"), lab.send("GET", "/nothing")
    assert page.status == program.status == 404
    assert "There is no page at /nothing." in text_of(page)
    assert program.body == {"error": "no such endpoint: /nothing"}
    assert person.get("/nothing.json").body == {"error": "no such endpoint: /nothing.json"}


def test_a_page_repeats_no_host_that_a_client_claims(lab: LiveReceiver) -> None:
    for path in ("/", "/jobs/", "//elsewhere.example/x", "/job/x/cancel", "/login"):
        answer = lab.send("GET", path, headers={"Accept": "text/html", "Host": "elsewhere.example"})
        assert "elsewhere.example" not in answer.headers.get("location", "")
        assert not re.search(r'(href|action|src)="[^"]*elsewhere\.example', text_of(answer))


def test_a_receiver_without_pages_has_the_interface_alone(tmp_path: Path) -> None:
    with live_receiver(tmp_path, SMALL_MANIFEST, dashboard=False) as receiver:
        assert receiver.send("GET", "/", headers={"Accept": "text/html"}).body == {
            "error": "no such endpoint: /"
        }
        assert receiver.send("GET", "/v1/health").status == 200


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/nothing.json", "/static/style.css", "/static/nothing.css", "/static/icon.svg", "/events.csv",
     "/login", "/host/nothing", "/v1/overview", "/v1/nothing", "/metrics", "/openapi.json"],
)  # fmt: skip
def test_no_answer_whatever_it_is_lets_a_browser_run_something(path: str, person: Person) -> None:
    answer = person.get(path)
    assert "default-src" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
