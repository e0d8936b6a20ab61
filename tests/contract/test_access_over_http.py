"""Who may see and do what, at a real receiver that takes identities from certificates.

The proxy's part is played by the headers that it sets (`as_peer`); through a real proxy: tests/access.
"""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cis490.ballast import Ballast
from cis490.clock import ManualClock
from tests.factories.as_peer import proxied
from tests.factories.fleet_pki import FleetPki, leaf_of
from tests.factories.live_receiver import TOKEN, Answer, LiveReceiver, live_receiver
from tests.factories.page_client import Person, text_of
from training.dashboard.session import MAX_WRONG
from training.fleet.quotas import Limits
from training.fleet.redaction import READER_ERROR_CHARS
from training.fleet.routes import ROUTES

MANIFEST = """
name = "lab"
[[hosts]]
name = "a"
[[hosts]]
name = "b"
[[jobs]]
model = "gbt"
mode = "oracle"
allowed_hosts = ["a"]
[[jobs]]
model = "mlp"
mode = "oracle"
allowed_hosts = ["b"]
[[jobs]]
model = "mlp"
mode = "realistic"
allowed_hosts = ["b"]
"""
CANARY = "canary-in-the-error-text"
LONG_ERROR = "ValueError: " + "x" * READER_ERROR_CHARS + CANARY
CAPABILITY = {"capability": {"hostname": "x", "cores": 4, "ram_gib": 8.0}}


@dataclass
class Lab:
    """A receiver behind headers, its people, and a clock."""

    receiver: LiveReceiver
    pki: FleetPki
    clock: ManualClock
    people: dict[str, dict[str, str]]

    def send(self, who: str, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return self.receiver.send(method, path, body, {**self.people[who], **headers})

    def person(self, who: str) -> Person:
        return _Behind(self.receiver, behind=self.people[who])

    def job(self, name: str) -> dict[str, Any]:
        (found,) = (
            job for job in self.send("operator", "GET", "/v1/jobs").body["jobs"] if job["name"] == name
        )
        return dict(found)

    def audit(self) -> list[tuple[str, str]]:
        rows = self.send("operator", "GET", "/v1/audit").body["events"]
        return [(row["event"], row["actor"]) for row in rows]


@dataclass
class _Behind(Person):
    """A browser whose requests come through the operators' site."""

    behind: Mapping[str, str] = None  # type: ignore[assignment]

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        return super()._send(method, path, body, {**self.behind, **headers})


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> FleetPki:
    return FleetPki(tmp_path_factory.mktemp("pki"))


@contextmanager
def running(folder: Path, pki: FleetPki) -> Iterator[Lab]:
    clock = ManualClock(wall_s=datetime.now(UTC).timestamp())
    with live_receiver(
        folder, MANIFEST, clock=clock, worker_auth="mtls", authority=pki.authority, stale_after_s=1e6
    ) as receiver:
        yield Lab(receiver, pki, clock, people(pki))


@pytest.fixture
def lab(tmp_path: Path, pki: FleetPki) -> Iterator[Lab]:
    with running(tmp_path, pki) as found:
        yield found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, pki: FleetPki) -> Iterator[Lab]:
    """Of which tests look and change nothing: gbt-oracle has failed on a with a long error, mlp-oracle runs on b."""
    with running(tmp_path_factory.mktemp("seen"), pki) as found:
        failed(found)
        yield found


def people(pki: FleetPki) -> dict[str, dict[str, str]]:
    operator = proxied(pki.operator("ann"), "operators")
    return {
        "a": proxied(pki.host("a")), "b": proxied(pki.host("b")), "stranger": proxied(pki.host("stranger")),
        "reader": proxied(pki.reader("ruth"), "operators"), "ann": operator,
        "operator": {**operator, "X-Operator-Token": TOKEN}, "browser": proxied(None, "operators"), "local": {},
    }  # fmt: skip


def claim(lab: Lab, host: str) -> dict[str, Any]:
    answer = lab.send(host, "POST", "/v1/job/claim", CAPABILITY, **{"X-Fleet-Protocol": "2"})
    assert answer.status == 200, answer.body
    return dict(answer.body)


def failed(lab: Lab, fail_class: str = "bad_config") -> None:
    """gbt-oracle has failed on a with a long error, by default for good; mlp-oracle runs on b."""
    held = claim(lab, "a")
    token = {"X-Lease-Token": held["lease_token"]}
    path = f"/v1/job/{held['job_id']}"
    lab.send("a", "POST", f"{path}/log", {"offset": 0, "text": CANARY}, **token)
    lab.send("a", "POST", f"{path}/fail", {"error": LONG_ERROR, "fail_class": fail_class}, **token)
    claim(lab, "b")


# -- hosts


def test_a_host_is_who_its_certificate_says_with_or_without_the_header(lab: Lab) -> None:
    held = claim(lab, "a")
    assert lab.job(held["name"])["claimed_by"] == "a"
    beat = f"/v1/job/{held['job_id']}/heartbeat"
    token = {"X-Lease-Token": held["lease_token"]}
    assert lab.send("a", "POST", beat, {}, **token, **{"X-Lab-Host": "a"}).status == 200


def test_a_host_that_names_another_is_refused_and_the_job_stays_where_it_is(lab: Lab) -> None:
    held = claim(lab, "a")
    token = {"X-Lease-Token": held["lease_token"]}
    for verb in ("heartbeat", "complete", "fail", "release", "log"):
        body = {"artifact_id": "0" * 64, "offset": 0, "text": ""}
        answer = lab.send(
            "b", "POST", f"/v1/job/{held['job_id']}/{verb}", body, **token, **{"X-Lab-Host": "a"}
        )
        assert answer.status == 403, verb
        assert "speaks for itself alone" in answer.body["error"]
    assert lab.job(held["name"])["claimed_by"] == "a"


def test_a_hosts_token_in_the_hands_of_another_opens_nothing(lab: Lab) -> None:
    held = claim(lab, "a")
    token = {"X-Lease-Token": held["lease_token"]}
    answer = lab.send("b", "POST", f"/v1/job/{held['job_id']}/fail", {"error": "x"}, **token)
    assert answer.status == 410
    assert lab.job(held["name"])["status"] in ("claimed", "running")


def test_a_host_sees_its_own_jobs_whole_and_of_others_name_and_state(seen: Lab) -> None:
    told = {job["name"]: job for job in seen.send("b", "GET", "/v1/jobs").body["jobs"]}
    assert told["mlp-oracle"]["claimed_by"] == "b"
    assert set(told["gbt-oracle"]) == set(told["mlp-realistic"]) == {"job_id", "name", "status"}
    assert told["gbt-oracle"]["status"] == "failed"


def test_with_reasons_a_host_learns_no_more_of_others(seen: Lab) -> None:
    answer = seen.send("b", "GET", "/v1/jobs?reasons=1&limit=10")
    assert {len(job) for job in answer.body["jobs"] if job["name"] != "mlp-oracle"} == {3}
    assert CANARY.encode() not in answer.raw


def test_a_host_sees_itself_alone_among_the_workers(seen: Lab) -> None:
    assert [row["host"] for row in seen.send("b", "GET", "/v1/workers").body["workers"]] == ["b"]
    assert len(seen.send("operator", "GET", "/v1/workers").body["workers"]) == 2


def test_a_host_that_the_manifest_no_longer_names_is_refused_at_once(lab: Lab) -> None:
    assert lab.send("stranger", "POST", "/v1/job/claim", CAPABILITY).status == 403
    lab.receiver.manifest.write_text(MANIFEST.replace('[[hosts]]\nname = "a"', ""), encoding="utf-8")
    assert lab.send("operator", "POST", "/v1/manifest/reload", {}).status == 400, "a job still needs it"
    text = MANIFEST.replace('[[hosts]]\nname = "a"', "").replace('["a"]', '["b"]')
    lab.receiver.manifest.write_text(text, encoding="utf-8")
    assert lab.send("operator", "POST", "/v1/manifest/reload", {}).status == 200
    refused = lab.send("a", "POST", "/v1/job/claim", CAPABILITY)
    assert refused.status == 403
    assert "the manifest does not name the host a" in refused.body["error"]


# -- readers


def test_a_reader_finds_the_end_of_a_long_error_nowhere(seen: Lab) -> None:
    job_id = seen.job("gbt-oracle")["job_id"]
    assert found_by_a_reader(seen, job_id) == []
    assert CANARY in text_of(seen.send("operator", "GET", f"/v1/job/{job_id}")), (
        "the test looks for the wrong thing"
    )
    assert CANARY in text_of(seen.send("ann", "GET", f"/v1/job/{job_id}/log"))


def test_a_reader_finds_it_nowhere_either_while_the_job_is_tried_again(lab: Lab) -> None:
    failed(lab, "program")
    lab.clock.advance(3600.0)
    again = claim(lab, "a")
    assert again["name"] == "gbt-oracle"
    assert found_by_a_reader(lab, again["job_id"]) == []
    for path in ("/v1/host/a", "/v1/host/a/eligibility"):
        assert CANARY in text_of(lab.send("operator", "GET", path)), path


def found_by_a_reader(seen: Lab, job_id: str) -> list[str]:
    """Where the canary shows: of every endpoint that a reader may ask, and every page. A new one is asked too."""
    asked = 0
    found = []
    paths = [item.path for item in ROUTES if item.method == "GET" and item.path != "/v1/events"]
    filled = [
        path.replace("/job/{id}", f"/job/{job_id}").replace("{name}", "a").replace("{role}", "host")
        for path in paths
    ]
    extra = (
        "/v1/jobs?reasons=1",
        "/v1/resolve?job=gbt-oracle",
        "/v1/health?details=1",
        f"/v1/job/{job_id}/log?tail=99",
    )
    pages = ("/", "/jobs", "/models", "/events", "/health", "/job/gbt-oracle", "/host/a", "/index.json",
             "/job/gbt-oracle.json", "/jobs.json", "/events.json", "/host/a.json")  # fmt: skip
    for path in (*filled, *extra, *pages):
        if "{" in path:
            continue
        answer = seen.send("reader", "GET", path)
        asked += answer.status == 200
        if CANARY in text_of(answer):
            found.append(path)
    assert asked > 25
    return found


def test_a_reader_sees_what_kind_of_error_it_was(seen: Lab) -> None:
    (job,) = (
        one for one in seen.send("reader", "GET", "/v1/jobs").body["jobs"] if one["name"] == "gbt-oracle"
    )
    assert job["last_error"].startswith("ValueError: xxx")
    assert len(job["last_error"]) == READER_ERROR_CHARS


def test_a_reader_gets_no_logs_and_is_told_why(seen: Lab) -> None:
    answer = seen.send("reader", "GET", f"/v1/job/{seen.job('gbt-oracle')['job_id']}/log")
    assert answer.status == 403
    assert "logs are for operators" in answer.body["error"]


def test_the_stream_of_events_tells_a_reader_no_error(seen: Lab) -> None:
    trail = seen.send("reader", "GET", "/v1/audit")
    assert any(row["event"] == "fail" for row in trail.body["events"])
    connection = seen.receiver.connection()
    connection.request("GET", "/v1/events?after=0", headers=seen.people["reader"])
    response = connection.getresponse()
    heard = b""
    while b'"event":"claim"' not in heard or b'"event":"fail"' not in heard:
        heard += response.readline()
    connection.close()
    assert CANARY.encode() not in heard


# -- operators


def test_an_operators_certificate_alone_reads_everything_and_changes_nothing(seen: Lab) -> None:
    assert seen.send("ann", "GET", "/v1/overview").status == 200
    for item in ROUTES:
        if item.who == "operator":
            path = item.path.replace("{id}", "x").replace("{name}", "a").replace("{role}", "host")
            assert seen.send("ann", item.method, path, {}).status == 401, path
            assert seen.send("ann", item.method, path, {}, **{"X-Operator-Token": "guess"}).status == 401, (
                path
            )


def test_the_token_without_a_certificate_opens_nothing(seen: Lab) -> None:
    for who in ("browser", "local"):
        assert seen.send(who, "POST", "/v1/fleet/pause", {}, **{"X-Operator-Token": TOKEN}).status == 401
    assert seen.send("a", "POST", "/v1/fleet/pause", {}, **{"X-Operator-Token": TOKEN}).status == 403
    assert seen.send("reader", "POST", "/v1/fleet/pause", {}, **{"X-Operator-Token": TOKEN}).status == 403


def test_a_token_sent_twice_is_refused_even_when_one_is_right(seen: Lab) -> None:
    connection = seen.receiver.connection()
    connection.putrequest("POST", "/v1/fleet/pause")
    for name, value in (*seen.people["ann"].items(), ("X-Operator-Token", TOKEN), ("X-Operator-Token", "x")):
        connection.putheader(name, value)
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 400
    assert b"was sent 2 times" in response.read()
    connection.close()


def test_the_audit_trail_names_the_operator(lab: Lab) -> None:
    """Every verb that leaves a row there leaves the name."""
    job_id = lab.job("gbt-oracle")["job_id"]
    verbs: list[tuple[str, object]] = [
        ("/v1/fleet/pause", {}), ("/v1/fleet/resume", {}), (f"/v1/job/{job_id}/pause", {}),
        (f"/v1/job/{job_id}/resume", {}), (f"/v1/job/{job_id}/cancel", {}), (f"/v1/job/{job_id}/requeue", {}),
        ("/v1/host/a/drain", {}), ("/v1/host/a/undrain", {}),
    ]  # fmt: skip
    claim(lab, "b")  # a host that nobody has heard of cannot be drained
    claim(lab, "a")
    before = len(lab.audit())
    for path, body in verbs:
        assert lab.send("operator", "POST", path, body).status == 200, path
    rows = lab.audit()[before:]
    assert {event for event, _ in rows} >= {"pause", "resume", "cancel", "requeue", "drain", "undrain"}
    assert {actor for _, actor in rows} == {"operator ann"}


def test_a_reload_names_the_operator_beside_what_it_changed(lab: Lab) -> None:
    lab.receiver.manifest.write_text(MANIFEST.replace('"lab"', '"lab-2"'), encoding="utf-8")
    assert lab.send("operator", "POST", "/v1/manifest/reload", {}).status == 200
    (row,) = (one for one in lab.send("ann", "GET", "/v1/audit").body["events"] if one["kind"] == "manifest")
    assert row["detail"].endswith("by operator ann")


def test_a_former_token_counts_until_the_next_start(tmp_path: Path) -> None:
    with live_receiver(tmp_path, MANIFEST, operator_token="new", former_operator_token="old") as receiver:
        for token, status in (("new", 200), ("old", 200), ("older", 401), ("", 401), ("new old", 401)):
            assert receiver.operator("/v1/fleet/pause", {}, token=token).status == status, token
            assert Person(receiver).log_in(token).status == (303 if status == 200 else 403)


# -- everybody else


def test_a_trouble_of_the_receivers_machine_is_none_of_a_strangers_business(
    tmp_path: Path, pki: FleetPki
) -> None:
    ballast = Ballast(tmp_path / "ballast", size_bytes=1)  # not restored: as on a full disk
    with live_receiver(
        tmp_path, MANIFEST, worker_auth="mtls", authority=pki.authority, ballast=ballast
    ) as receiver:
        assert receiver.send("GET", "/v1/health").body == {"status": "ok"}
        assert "disk" in receiver.send("GET", "/v1/health", None, proxied(pki.host("a"))).body


def test_past_the_proxy_there_is_nothing_but_a_sign_of_life(seen: Lab) -> None:
    assert seen.send("local", "GET", "/v1/health?details=1").body == {"status": "ok"}
    for path in ("/v1/jobs", "/", "/login", "/static/live.js", "/metrics", "/openapi.json", "/v1/none"):
        assert seen.send("local", "GET", path).status == 401, path


def test_only_operators_and_readers_are_told_how_the_receiver_is_doing(seen: Lab) -> None:
    for who in ("ann", "reader"):
        assert "details" in seen.send(who, "GET", "/v1/health?details=1").body
    for who in ("a", "browser"):
        assert seen.send(who, "GET", "/v1/health?details=1").body == {"status": "ok"}


def test_a_certificate_that_ends_while_the_connection_is_open_is_refused_with_the_next_request(
    lab: Lab,
) -> None:
    folder = lab.pki.host("a")
    connection = lab.receiver.connection()

    def ask() -> int:
        connection.request("GET", "/v1/jobs", headers=proxied(folder))
        response = connection.getresponse()
        response.read()
        return response.status

    assert ask() == 200
    socket = connection.sock
    left_s = leaf_of(folder).not_valid_after_utc.timestamp() - lab.clock.wall_s()
    lab.clock.step_wall(left_s + 1)
    assert ask() == 401
    assert connection.sock is socket, "it was another connection"
    connection.close()


def test_a_refused_upload_is_answered_in_words_while_it_is_still_sent(seen: Lab) -> None:
    connection = seen.receiver.connection()
    body = b"x" * (1 << 20)
    connection.request(
        "PUT", "/v1/model/x", body=body, headers={**seen.people["ann"], "X-Content-SHA256": "0" * 64}
    )
    response = connection.getresponse()
    assert response.status == 403
    assert json.loads(response.read())["error"] == "this is for hosts; the certificate says operator ann"
    connection.close()


def test_bytes_of_uploads_before_a_restart_count_against_the_quota(tmp_path: Path, pki: FleetPki) -> None:
    small, clock = Limits(bytes_per_day=1500), ManualClock(wall_s=datetime.now(UTC).timestamp())
    data = b"x" * 1000
    sent = {"X-Content-SHA256": hashlib.sha256(data).hexdigest()}

    def put(lab: Lab) -> Answer:
        held = claim(lab, "a")
        path, token = f"/v1/model/{held['job_id']}", {"X-Lease-Token": held["lease_token"]}
        answer = lab.send("a", "PUT", path, data, **sent, **token)
        lab.send("a", "POST", f"/v1/job/{held['job_id']}/release", {}, **token)
        return answer

    answers = []
    for _ in range(2):
        with live_receiver(
            tmp_path, MANIFEST, clock=clock, worker_auth="mtls", authority=pki.authority, host_limits=small
        ) as receiver:
            answers.append(put(Lab(receiver, pki, clock, people(pki))))
    assert [one.status for one in answers] == [201, 429]
    answer = answers[1]
    assert "--host-bytes-per-day" in answer.body["error"]
    assert 23 * 3600 < int(answer.headers["retry-after"]) <= 25 * 3600


# -- pages


class TestPages:
    def test_a_browser_without_a_certificate_is_led_to_the_login_and_back(self, seen: Lab) -> None:
        person = seen.person("browser")
        answer = person.get("/job/gbt-oracle?attempt=1")
        assert (answer.status, answer.headers["location"]) == (
            303,
            "/login?next=%2Fjob%2Fgbt-oracle%3Fattempt%3D1",
        )
        text = text_of(person.get("/login"))
        assert "to see the fleet and to act" in text
        assert person.get("/static/live.js").status == 200
        assert person.log_in(next="/job/gbt-oracle").status == 303
        assert "gbt-oracle" in text_of(person.get("/job/gbt-oracle"))

    def test_without_a_login_no_page_no_twin_and_no_stream_says_anything(self, seen: Lab) -> None:
        for path in ("/", "/jobs", "/job/gbt-oracle", "/host/a", "/models", "/events", "/health", "/none"):
            answer = seen.person("browser").get(path)
            assert (answer.status, answer.raw) == (303, b""), path
        for path in ("/index.json", "/jobs.json", "/job/gbt-oracle.json", "/v1/events", "/v1/jobs"):
            assert seen.send("browser", "GET", path).status == 401, path

    def test_a_login_reads_everything_also_what_the_page_fetches_while_it_is_open(self, seen: Lab) -> None:
        person = seen.person("browser")
        person.log_in()
        assert CANARY in text_of(person.get("/job/gbt-oracle"))
        job_id = seen.job("gbt-oracle")["job_id"]
        for path in ("/index.json", "/job/gbt-oracle.json", "/v1/overview", f"/v1/job/{job_id}/log"):
            assert person.get(path).status == 200, path

    def test_a_login_alone_sends_no_verb_past_the_forms(self, seen: Lab) -> None:
        """A cookie goes along with whatever the browser is made to send; the token does not."""
        person = seen.person("browser")
        person.log_in()
        assert person.post("/v1/fleet/pause").status == 401

    def test_forms_need_the_login_and_act_in_its_name(self, lab: Lab) -> None:
        person = lab.person("browser")
        person.log_in()
        assert person.submit("/fleet/pause").status == 303
        assert ("pause", "operator") in lab.audit()

    def test_with_a_certificate_too_the_operators_name_is_on_record(self, lab: Lab) -> None:
        person = lab.person("ann")
        assert person.get("/fleet/pause").headers["location"].startswith("/login?")
        person.log_in()
        assert "operator ann" in text_of(person.get("/"))
        assert person.submit("/fleet/pause").status == 303
        assert ("pause", "operator ann") in lab.audit()

    def test_a_login_with_a_certificate_counts_with_that_certificate_alone(self, lab: Lab) -> None:
        """Else whoever is revoked goes on with the cookie, and without the certificate."""
        person = lab.person("ann")
        person.log_in()
        assert person.submit("/fleet/pause").status == 303
        lab.people["operator"] = proxied(lab.pki.operator("otto"), "operators") | {"X-Operator-Token": TOKEN}
        assert lab.send("operator", "POST", "/v1/identity/operator/ann/revoke").status == 200
        assert person.get("/").status == 401
        for who in ("browser", "reader"):
            other = lab.person(who)
            other.cookie = person.cookie
            assert other.submit("/fleet/resume").status == 303
            assert other.get("/fleet/resume").headers["location"].startswith("/login?"), who
        assert lab.send("browser", "GET", "/v1/overview", Cookie=person.cookie).status == 401
        assert "resume" not in [event for event, _ in lab.audit()]

    def test_strangers_who_guess_lock_out_no_operator_with_a_certificate(self, lab: Lab) -> None:
        for _ in range(MAX_WRONG):
            lab.person("browser").log_in("wrong")
        assert lab.person("browser").log_in().status == 429
        assert lab.person("ann").log_in().status == 303

    def test_a_reader_reads_pages_and_is_offered_no_login(self, seen: Lab) -> None:
        person = seen.person("reader")
        for path in ("/", "/job/gbt-oracle", "/host/a", "/health"):
            text = text_of(person.get(path))
            assert "reader ruth" in text
            assert "Log in" not in text, path
        refused = person.log_in()
        assert refused.status == 403
        assert "set-cookie" not in refused.headers

    def test_a_readers_certificate_with_an_operators_cookie_still_acts_as_nobody_else(
        self, seen: Lab
    ) -> None:
        operator = seen.person("browser")
        operator.log_in()
        reader = seen.person("reader")
        reader.cookie = operator.cookie
        assert reader.submit("/fleet/pause").status == 403
        assert "pause" not in [event for event, _ in seen.audit()]

    def test_a_host_sees_no_page(self, seen: Lab) -> None:
        for path in ("/", "/login", "/job/gbt-oracle.json", "/static/live.js"):
            assert seen.send("a", "GET", path).status == 403, path

    def test_a_refused_person_with_a_browser_reads_a_page(self, seen: Lab) -> None:
        answer = seen.send("a", "GET", "/", Accept="text/html")
        assert answer.status == 403
        assert "this is for readers and operators" in text_of(answer)


def test_the_certificate_is_asked_for_in_every_kind_of_request(seen: Lab) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        connection: http.client.HTTPConnection = seen.receiver.connection()
        connection.request(method, "/v1/jobs")
        assert connection.getresponse().status == 401, method
        connection.close()
