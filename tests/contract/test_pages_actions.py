"""Logging in and acting from the pages: who may, from where, and what becomes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from cis490.clock import ManualClock
from tests.factories.live_receiver import TOKEN, Answer, LiveReceiver, live_receiver
from tests.factories.page_client import Person, text_of
from tests.factories.seeded_fleet import SMALL_MANIFEST, seed_small
from training.dashboard.session import MAX_WRONG, SESSION_S, WRONG_WINDOW_S

JOB = "/job/gru-realistic"
FORMS = (
    "/job/gru-realistic/cancel", "/job/gbt-oracle/requeue", "/job/tcn-oracle/pause", "/job/tcn-oracle/resume",
    "/host/gpu-2/drain", "/host/gpu-2/undrain", "/host/gpu-2/resume", "/fleet/pause", "/fleet/resume",
)  # fmt: skip


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def lab(tmp_path: Path, clock: ManualClock) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, SMALL_MANIFEST, clock=clock, stale_after_s=10 * SESSION_S) as receiver:
        seed_small(receiver.queue)
        yield receiver


@pytest.fixture
def operator(lab: LiveReceiver) -> Person:
    person = Person(lab)
    assert person.log_in().status == 303
    return person


def status_of(lab: LiveReceiver, name: str) -> str:
    (found,) = (job["status"] for job in lab.send("GET", "/v1/jobs").body["jobs"] if job["name"] == name)
    return str(found)


def leads_to(answer: Answer) -> str:
    """Where a login would lead back to."""
    location = answer.headers["location"]
    assert urlsplit(location).path == "/login"
    return parse_qs(urlsplit(location).query)["next"][0]


# -- login


def test_the_right_token_gives_a_cookie_that_scripts_and_other_sites_never_see(lab: LiveReceiver) -> None:
    answer = Person(lab).log_in()
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    for word in ("httponly", "samesite=strict", "path=/", f"max-age={SESSION_S:.0f}"):
        assert word in cookie
    assert "secure" not in cookie, "it would be lost over plain HTTP"
    assert TOKEN not in answer.headers["set-cookie"]


def test_behind_a_proxy_with_tls_the_cookie_is_sent_over_tls_only(lab: LiveReceiver) -> None:
    person = Person(lab, sent_from={"Sec-Fetch-Site": "same-origin", "X-Forwarded-Proto": "https"})
    assert "secure" in person.log_in().headers["set-cookie"].lower()


def test_a_wrong_token_gets_no_cookie_and_says_where_the_right_one_is(lab: LiveReceiver) -> None:
    answer = Person(lab).log_in("guess")
    assert answer.status == 403
    assert "set-cookie" not in answer.headers
    assert "$CIS490_OPERATOR_TOKEN" in text_of(answer)
    assert "guess" not in text_of(answer)


def test_after_many_wrong_tokens_even_the_right_one_has_to_wait(
    lab: LiveReceiver, clock: ManualClock
) -> None:
    person = Person(lab)
    for _ in range(MAX_WRONG):
        assert person.log_in("guess").status == 403
    refused = person.log_in()
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) == WRONG_WINDOW_S
    clock.advance(WRONG_WINDOW_S)
    assert person.log_in().status == 303


def test_without_an_operator_token_the_login_says_how_to_set_one(tmp_path: Path) -> None:
    with live_receiver(tmp_path, SMALL_MANIFEST, operator_token=None) as receiver:
        person = Person(receiver)
        assert "CIS490_OPERATOR_TOKEN=" in text_of(person.get("/login"))
        for token in ("", "None", "x"):
            answer = person.log_in(token)
            assert answer.status == 403
            assert "set-cookie" not in answer.headers


ELSEWHERE = (
    "//evil.example", "https://evil.example/", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "/é", "",
    "/\t/evil.example", "/a\r\nSet-Cookie: x=1", "evil.example",
)  # fmt: skip


def test_a_login_leads_nowhere_but_into_these_pages(lab: LiveReceiver) -> None:
    for elsewhere in ELSEWHERE:
        person = Person(lab)
        answer = person.log_in(next=elsewhere)
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert person.get(f"/login?next={quote(elsewhere, safe='')}").headers["location"] == "/"


def test_a_login_leads_back_to_where_one_was(lab: LiveReceiver) -> None:
    person = Person(lab)
    wanted = leads_to(person.get(f"{JOB}/cancel"))
    assert person.log_in(next=wanted).headers["location"] == f"{JOB}/cancel"


def test_logging_out_ends_the_session_itself_and_not_only_the_cookie(operator: Person) -> None:
    kept = operator.cookie
    assert operator.submit("/logout").status == 303
    operator.cookie = kept
    assert "Log in" in text_of(operator.get("/"))
    assert operator.post(f"{JOB}/cancel", csrf="x").status == 303


def test_a_session_ends_after_its_time(operator: Person, clock: ManualClock) -> None:
    clock.advance(SESSION_S - 1)
    assert "Log out" in text_of(operator.get("/"))
    clock.advance(1)
    assert "Log out" not in text_of(operator.get("/"))


# -- forms


def test_every_form_asks_first_and_is_shown_to_the_operator_alone(operator: Person) -> None:
    for path in FORMS:
        text = text_of(operator.get(path))
        assert f'<form method="post" action="{path}"' in text
        assert "No, go back" in text
        assert leads_to(Person(operator.receiver).get(path)) == path


def test_no_form_is_carried_out_without_its_token(operator: Person) -> None:
    before = operator.receiver.send("GET", "/v1/audit").body["last_seq"]
    for path in FORMS:
        for given in ({}, {"csrf": ""}, {"csrf": "guess"}, {"csrf": "é"}):
            assert operator.post(path, **given).status == 403, path
    assert operator.receiver.send("GET", "/v1/audit").body["last_seq"] == before


@pytest.mark.parametrize(
    "sent_from",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"},
     {"Origin": "null"}],
    ids=str,
)  # fmt: skip
def test_a_form_from_another_site_is_refused_even_with_the_right_token(
    sent_from: dict[str, str], operator: Person
) -> None:
    csrf, before = operator.csrf(), operator.receiver.send("GET", "/v1/audit").body["last_seq"]
    operator.sent_from = sent_from
    for path in (*FORMS, "/logout", "/login", "/health/notify"):
        answer = operator.post(path, csrf=csrf, token=TOKEN)
        assert answer.status == 403, path
        assert "set-cookie" not in answer.headers
    assert operator.receiver.send("GET", "/v1/audit").body["last_seq"] == before


def test_a_form_from_an_older_browser_says_its_origin(operator: Person) -> None:
    csrf = operator.csrf()
    operator.sent_from = {"Origin": operator.receiver.url}
    assert operator.post(f"{JOB}/cancel", csrf=csrf).status == 303


def test_another_logins_token_does_not_fit(operator: Person) -> None:
    other = Person(operator.receiver)
    other.log_in()
    assert operator.post(f"{JOB}/cancel", csrf=other.csrf()).status == 403


def test_a_session_that_has_ended_leads_to_the_login_and_back_with_the_reason(
    operator: Person, clock: ManualClock
) -> None:
    csrf = operator.csrf()
    clock.advance(SESSION_S)
    answer = operator.post("/host/gpu-2/drain", csrf=csrf, reason="new disk & fan")
    wanted = leads_to(answer)
    assert operator.receiver.send("GET", "/v1/host/gpu-2").body["drained_reason"] is None
    operator.log_in(next=wanted)
    assert 'value="new disk &amp; fan"' in text_of(operator.get(wanted))


def test_a_form_of_unreasonable_size_is_refused(operator: Person) -> None:
    assert operator.post(f"{JOB}/cancel", csrf="x" * 70_000).status == 413
    assert operator.post(f"{JOB}/cancel", **{f"f{at}": "" for at in range(60)}).status == 400


# -- what they do


def test_cancelling_and_putting_back_a_job(lab: LiveReceiver, operator: Person) -> None:
    answer = operator.submit(f"{JOB}/cancel")
    assert (answer.status, answer.headers["location"]) == (303, JOB)
    assert status_of(lab, "gru-realistic") == "cancelled"
    assert "gru-realistic is cancelled." in text_of(operator.get("/"))
    assert "gru-realistic is cancelled." not in text_of(operator.get("/")), "it is said once"
    assert operator.submit(f"{JOB}/requeue").status == 303
    assert status_of(lab, "gru-realistic") == "pending"


def test_a_refetch_for_the_live_page_leaves_the_message_for_the_person(operator: Person) -> None:
    operator.submit(f"{JOB}/cancel")
    assert "is cancelled." not in text_of(operator.get("/", **{"X-Refresh": "1"}))
    assert "is cancelled." in text_of(operator.get("/"))


def test_completed_work_is_put_back_only_when_that_was_meant(lab: LiveReceiver, operator: Person) -> None:
    assert operator.submit("/job/gbt-realistic/requeue").status == 409
    assert status_of(lab, "gbt-realistic") == "completed"
    assert 'name="force"' in text_of(operator.get("/job/gbt-realistic/requeue"))
    assert operator.submit("/job/gbt-realistic/requeue", force="yes").status == 303
    assert status_of(lab, "gbt-realistic") == "pending"


def test_pausing_and_resuming_a_job(lab: LiveReceiver, operator: Person) -> None:
    assert operator.submit(f"{JOB}/pause", reason="the data is being checked").status == 303
    job = lab.send("GET", "/v1/jobs").body["jobs"]
    (paused,) = (one for one in job if one["name"] == "gru-realistic")
    assert paused["paused_reason"] == "the data is being checked"
    assert operator.submit(f"{JOB}/resume").status == 303


def test_draining_and_undraining_a_host(lab: LiveReceiver, operator: Person) -> None:
    assert operator.submit("/host/gpu-2/drain", reason="new disk").headers["location"] == "/host/gpu-2"
    assert lab.send("GET", "/v1/host/gpu-2").body["drained_reason"] == "new disk"
    assert "/host/gpu-2/undrain" in text_of(operator.get("/host/gpu-2"))
    assert operator.submit("/host/gpu-2/undrain").status == 303
    assert lab.send("GET", "/v1/host/gpu-2").body["drained_reason"] is None


def test_pausing_and_resuming_the_fleet(lab: LiveReceiver, operator: Person) -> None:
    assert operator.submit("/fleet/pause", reason="power cut at 18:00").headers["location"] == "/"
    text = text_of(operator.get("/"))
    assert "power cut at 18:00" in text
    assert 'href="/fleet/resume"' in text
    assert operator.submit("/fleet/resume").status == 303
    assert lab.send("GET", "/v1/overview").body["fleet_paused"] is None


def test_what_the_interface_refuses_is_a_page_with_its_sentence(operator: Person) -> None:
    answer = operator.submit("/job/gbt-realistic/cancel")
    assert answer.status == 409
    job_id = operator.receiver.send("GET", "/v1/resolve?job=gbt-realistic").body["job_id"]
    assert operator.receiver.operator(f"/v1/job/{job_id}/cancel").body["error"] in text_of(answer)
    assert operator.get("/job/nothing/cancel").status == 404
    assert operator.post("/job/nothing/cancel", csrf=operator.csrf()).status == 404


def test_a_job_is_found_by_its_id_too(lab: LiveReceiver, operator: Person) -> None:
    job_id = lab.send("GET", "/v1/resolve?job=gru-realistic").body["job_id"]
    assert operator.submit(f"/job/{job_id}/cancel").headers["location"] == JOB
    assert status_of(lab, "gru-realistic") == "cancelled"


def test_a_notification_is_tried_and_its_fate_told(operator: Person) -> None:
    answer = operator.post("/health/notify", csrf=operator.csrf())
    assert (answer.status, answer.headers["location"]) == (303, "/health")
    assert re.search(r'class="message"', text_of(operator.get("/health")))


def test_buttons_are_shown_to_the_operator_alone(operator: Person) -> None:
    assert 'href="/host/gpu-2/drain"' in text_of(operator.get("/host/gpu-2"))
    assert 'href="/host/gpu-2/drain"' not in text_of(Person(operator.receiver).get("/host/gpu-2"))
