"""Enrolment over HTTP, to a real receiver: as a proxy hands requests on, with real keys and certificates."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cis490.clock import SystemClock
from cis490.pki import certificates as pki
from tests.factories.as_peer import proxied
from tests.factories.enrolling import Machine, enrolled, token_for
from tests.factories.fleet import cpu_host
from tests.factories.fleet_pki import FleetPki, key_of, leaf_of, write_credentials
from tests.factories.live_receiver import TOKEN, Answer, LiveReceiver, live_receiver
from tests.factories.processes import wait_until
from training.fleet import ca_files, enrolment_store, join_token
from training.fleet.credentials import About
from training.fleet.store import IngestResult

MANIFEST = '[[hosts]]\nname = "a"\n[[hosts]]\nname = "b"\n'
JOB = '[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
HEADERS = {"X-Operator-Token": TOKEN}


class Clock(SystemClock):
    """The real time, or later."""

    ahead_s = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.ahead_s

    def now_s(self) -> float:
        return super().now_s() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lab(tmp_path: Path) -> FleetPki:
    return FleetPki(tmp_path)


@pytest.fixture
def receiver(tmp_path: Path, lab: FleetPki, clock: Clock) -> Iterator[LiveReceiver]:
    """On loopback, where everybody is believed."""
    with live_receiver(tmp_path, MANIFEST, authority=lab.authority, clock=clock) as running:
        yield running


class Behind:
    """A receiver behind the proxy: it looks at certificates."""

    def __init__(self, receiver: LiveReceiver, lab: FleetPki) -> None:
        self.receiver, self.lab = receiver, lab

    def send(self, folder: Path, method: str, path: str, body: object = None, **headers: str) -> Answer:
        site = "workers" if "-host-" in folder.name else "operators"
        return self.receiver.send(method, path, body, {**proxied(folder, site), **headers})

    def join_site(self, path: str, body: object) -> Answer:
        return self.receiver.send("POST", path, body, proxied(None, "join"))

    def revoke(self, name: str = "a", role: str = "host") -> Answer:
        folder = self.lab.operator("ada")
        return self.send(folder, "POST", f"/v1/identity/{role}/{name}/revoke", {"reason": "lost"}, **HEADERS)


@pytest.fixture
def behind(tmp_path: Path, lab: FleetPki, clock: Clock) -> Iterator[Behind]:
    with live_receiver(
        tmp_path, MANIFEST, authority=lab.authority, clock=clock, worker_auth="mtls", unix_path=tmp_path / "s",
    ) as running:  # fmt: skip
        yield Behind(running, lab)


@pytest.fixture
def with_a_job(tmp_path: Path, lab: FleetPki) -> Iterator[Behind]:
    """The same, with a job for the host `a` to do."""
    with live_receiver(
        tmp_path, MANIFEST + JOB, authority=lab.authority, worker_auth="mtls", unix_path=tmp_path / "s"
    ) as running:
        yield Behind(running, lab)


class Upload:
    """The host `a` sends what it trained, in two parts."""

    DATA = b"x" * 500_000

    def __init__(self, behind: Behind) -> None:
        self.behind, self.folder = behind, behind.lab.host("a")
        claim = behind.send(self.folder, "POST", "/v1/job/claim", {"capability": cpu_host().to_dict()})
        self.job_id = str(claim.body["job_id"])
        self.sha256 = hashlib.sha256(self.DATA).hexdigest()

    def begin(self, size_bytes: int) -> None:
        self._sent, self._connection = size_bytes, self.behind.receiver.connection()
        self._connection.putrequest("PUT", f"/v1/model/{self.job_id}")
        headers = {"X-Content-SHA256": self.sha256, "Content-Length": str(len(self.DATA))}
        for name, value in (proxied(self.folder) | headers).items():
            self._connection.putheader(name, value)
        self._connection.endheaders(self.DATA[:size_bytes])

    def end(self) -> tuple[int, bytes]:
        """Send the rest; status and body of the answer."""
        with contextlib.closing(self._connection):
            self._connection.send(self.DATA[self._sent :])
            answer = self._connection.getresponse()
            return answer.status, answer.read()


class TestJoining:
    def test_a_machine_learns_the_root_compares_it_and_joins(
        self, receiver: LiveReceiver, lab: FleetPki
    ) -> None:
        token = join_token.parse(token_for(receiver, "a"))
        told = receiver.send("GET", "/v1/enrol/ca").body
        root = pki.load_certificates(told["root_pem"].encode())[0]
        assert (told["fleet"], pki.fingerprint(root)) == (lab.fleet.name, token.root_sha256)
        machine = Machine(receiver)
        joined = machine.join(token.encode())
        leaf, issuer = pki.load_certificates(joined.body["certificate_pem"].encode())
        assert joined.status == 200
        assert pki.uris_of(leaf) == ("spiffe://lab.test/host/a",)
        assert pki.is_issued_by(leaf, issuer)
        assert pki.is_issued_by(issuer, root)
        assert pki.key_id(pki.public_key_of(leaf)) == pki.key_id(machine.key.public_key())

    def test_a_lost_answer_can_be_asked_for_again(self, receiver: LiveReceiver) -> None:
        token, machine = token_for(receiver, "a"), Machine(receiver)
        assert [machine.join(token).status for _ in range(3)] == [200] * 3

    def test_a_second_machine_with_the_same_token_is_refused(self, receiver: LiveReceiver) -> None:
        token = token_for(receiver, "a")
        assert Machine(receiver).join(token).status == 200
        refused = Machine(receiver).join(token)
        assert (refused.status, refused.body["code"]) == (403, "E305")
        assert "cis490-jobs hosts add a" in refused.body["error"]

    def test_of_many_machines_at_once_one_joins(self, receiver: LiveReceiver) -> None:
        token = token_for(receiver, "a")
        machines, start = [Machine(receiver) for _ in range(8)], threading.Barrier(8)

        def join(machine: Machine) -> int:
            start.wait(10)
            return machine.join(token).status

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(join, machines))
        assert sorted(found) == [200, *[403] * 7]
        assert len(receiver.queue.read("certificates_all")) == 1

    def test_after_15_minutes_it_is_over(self, receiver: LiveReceiver, clock: Clock) -> None:
        token, machine = token_for(receiver, "a"), Machine(receiver)
        clock.ahead_s = 14 * 60 + 50
        assert machine.join(token).status == 200
        clock.ahead_s = 15 * 60
        refused = machine.join(token)
        assert (refused.status, refused.body["code"]) == (403, "E306")

    def test_for_another_name_or_role_it_is_good_for_nothing(self, receiver: LiveReceiver) -> None:
        token, machine = token_for(receiver, "a"), Machine(receiver)
        for instead in ({"name": "b"}, {"role": "operator"}):
            refused = machine.join(token, **instead)
            assert (refused.status, refused.body["code"]) == (403, "E304")
        assert machine.join(token).status == 200, "a slip uses nothing up"

    def test_a_request_that_cannot_be_used_does_not_use_the_token_up(self, receiver: LiveReceiver) -> None:
        token, machine = token_for(receiver, "a"), Machine(receiver)
        refused = machine.join(token, csr_pem="no request")
        assert (refused.status, refused.body["code"]) == (400, "E302")
        assert machine.join(token).status == 200

    def test_wrong_secrets_are_told_so_until_there_are_too_many_and_a_right_one_never_waits(
        self, receiver: LiveReceiver
    ) -> None:
        token, machine = token_for(receiver, "a"), Machine(receiver)
        found = [machine.join(token, secret=f"guess {n}") for n in range(40)]
        assert (found[0].status, found[0].body["code"]) == (403, "E303")
        assert (found[-1].status, found[-1].body["code"]) == (429, "E315")
        assert 1 <= int(found[-1].headers["retry-after"]) <= 60
        assert machine.join(token).status == 200

    @pytest.mark.parametrize("role", ["operator", "reader"])
    def test_people_join_in_the_same_way(self, receiver: LiveReceiver, role: str, lab: FleetPki) -> None:
        joined = enrolled(receiver, "ada", role)
        assert joined.body["url"] == lab.fleet.operators_url
        leaf = pki.load_certificates(joined.body["certificate_pem"].encode())[0]
        assert pki.uris_of(leaf) == (f"spiffe://lab.test/{role}/ada",)

    @pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"secret": 1}', b"\xff", b'{"secret":"\\ud800"'])
    def test_a_body_that_is_none_is_refused_in_words(self, receiver: LiveReceiver, body: bytes) -> None:
        for path in ("join", "renew-late"):
            refused = receiver.send("POST", f"/v1/enrol/{path}", body)
            assert refused.status == 400
            assert refused.body["error"]

    def test_a_request_of_a_megabyte_is_not_read(self, receiver: LiveReceiver) -> None:
        body = {"secret": "s", "role": "host", "name": "a", "csr_pem": "x" * (1 << 20)}
        assert receiver.send("POST", "/v1/enrol/join", body).status == 413


class TestTokens:
    def test_only_its_digest_is_kept(self, receiver: LiveReceiver, tmp_path: Path) -> None:
        secret = join_token.parse(token_for(receiver, "a")).secret.encode()
        found = b"".join(path.read_bytes() for path in tmp_path.glob("training_jobs.db*"))
        assert hashlib.sha256(secret).hexdigest().encode() in found
        assert secret not in found

    def test_without_the_operator_token_there_is_none(self, receiver: LiveReceiver) -> None:
        for verb in ("token", "revoke"):
            assert receiver.send("POST", f"/v1/identity/host/a/{verb}").status == 401

    @pytest.mark.parametrize("path", ["host/.a", "host/a%20b", "session/a", "host/" + "x" * 65, "HOST/a"])
    def test_for_what_cannot_be_a_name_there_is_none(self, receiver: LiveReceiver, path: str) -> None:
        for verb in ("token", "revoke"):
            assert receiver.operator(f"/v1/identity/{path}/{verb}").status == 404

    def test_a_host_that_the_manifest_does_not_name_may_join_and_the_list_says_so(
        self, receiver: LiveReceiver
    ) -> None:
        enrolled(receiver, "stranger")
        (one,) = receiver.send("GET", "/v1/identities").body["identities"]
        assert (one["name"], one["in_manifest"]) == ("stranger", False)

    def test_a_receiver_without_an_authority_says_so(self, tmp_path: Path, lab: FleetPki) -> None:
        folder = tmp_path / "plain"
        folder.mkdir()
        with live_receiver(folder, MANIFEST) as plain:
            asked = [
                plain.send("GET", "/v1/enrol/ca"),
                plain.operator("/v1/identity/host/a/token"),
                plain.operator("/v1/identity/host/a/revoke"),
                plain.send("POST", "/v1/enrol/renew", {"csr_pem": ""}),
                Machine(plain).renew_late(lab.host("a")),
            ]
        assert [(one.status, one.body["code"]) for one in asked] == [(409, "E314")] * 5
        assert "--ca-dir" in asked[0].body["error"]


class TestRenewing:
    def renew(self, behind: Behind, folder: Path) -> Answer:
        csr = Machine(behind.receiver).csr()
        return behind.send(folder, "POST", "/v1/enrol/renew", {"csr_pem": csr})

    @pytest.mark.parametrize("role", ["host", "operator", "reader"])
    def test_whoever_has_a_certificate_gets_the_next_one_for_the_same_name(
        self, behind: Behind, role: str
    ) -> None:
        folder = behind.lab.identity(role, "a")  # type: ignore[arg-type]
        renewed = self.renew(behind, folder)
        assert renewed.status == 200
        leaf = pki.load_certificates(renewed.body["certificate_pem"].encode())[0]
        assert pki.uris_of(leaf) == pki.uris_of(leaf_of(folder))
        assert pki.key_id(pki.public_key_of(leaf)) != pki.key_id(pki.public_key_of(leaf_of(folder)))
        assert behind.receiver.queue.read("certificates_all")[0]["how"] == "renew"

    def test_the_old_key_is_refused(self, behind: Behind) -> None:
        """Also of a certificate that was made without the receiver."""
        folder = behind.lab.host("a")
        csr = pki.make_request(key_of(folder), "a").decode()
        refused = behind.send(folder, "POST", "/v1/enrol/renew", {"csr_pem": csr})
        assert (refused.status, refused.body["code"]) == (400, "E311")

    @pytest.mark.parametrize(
        "header", [("Sec-Fetch-Site", "cross-site"), ("Origin", "https://elsewhere.example")]
    )
    def test_no_page_makes_a_browser_with_a_certificate_ask_for_another(
        self, behind: Behind, header: tuple[str, str]
    ) -> None:
        body = {"csr_pem": Machine(behind.receiver).csr()}
        refused = behind.send(behind.lab.operator("ada"), "POST", "/v1/enrol/renew", body, **dict([header]))
        assert refused.status == 403
        assert "a browser sent this" in refused.body["error"]
        assert behind.receiver.queue.read("certificates_all") == []

    def test_without_a_certificate_there_is_nothing_to_renew(self, receiver: LiveReceiver) -> None:
        refused = receiver.send("POST", "/v1/enrol/renew", {"csr_pem": Machine(receiver).csr()})
        assert (refused.status, refused.body["code"]) == (403, "E313")

    def test_29_days_after_its_end_the_key_alone_is_proof_enough(
        self, receiver: LiveReceiver, lab: FleetPki
    ) -> None:
        renewed = Machine(receiver).renew_late(lab.host("a", expired=timedelta(days=29)))
        assert renewed.status == 200
        assert pki.uris_of(pki.load_certificates(renewed.body["certificate_pem"].encode())[0]) == (
            "spiffe://lab.test/host/a",
        )

    def test_who_was_revoked_does_not_come_back_late(self, receiver: LiveReceiver, lab: FleetPki) -> None:
        folder = lab.host("a", expired=timedelta(days=3))
        assert receiver.operator("/v1/identity/host/a/revoke", {"reason": "sold"}).status == 200
        refused = Machine(receiver).renew_late(folder)
        assert (refused.status, refused.body["code"]) == (403, "E317")
        assert "sold" in refused.body["error"]

    def test_nor_does_a_host_that_the_manifest_no_longer_names(
        self, receiver: LiveReceiver, lab: FleetPki
    ) -> None:
        refused = Machine(receiver).renew_late(lab.host("gone", expired=timedelta(days=3)))
        assert (refused.status, refused.body["code"]) == (403, "E316")
        assert "cis490-jobs reload" in refused.body["error"]

    def test_another_fleets_certificate_is_counted_as_a_guess(
        self, receiver: LiveReceiver, lab: FleetPki
    ) -> None:
        folder, machine = lab.host("a", other_ca=True), Machine(receiver)
        found = [machine.renew_late(folder) for _ in range(40)]
        assert (found[0].status, found[0].body["code"]) == (403, "E307")
        assert (found[-1].status, found[-1].body["code"]) == (429, "E315")


def _joined(behind: Behind, name: str) -> tuple[Path, Machine]:
    """A host that joined through the receiver: its folder of credentials."""
    made = behind.send(behind.lab.operator("ada"), "POST", f"/v1/identity/host/{name}/token", **HEADERS)
    token, machine = join_token.parse(made.body["token"]), Machine(behind.receiver)
    body = {"secret": token.secret, "role": "host", "name": name, "csr_pem": machine.csr()}
    joined = behind.join_site("/v1/enrol/join", body)
    assert joined.status == 200, joined
    folder = behind.lab.folder / f"joined-host-{name}-{machine.key.private_numbers().private_value % 9999}"
    about = About(**{key: joined.body[key] for key in About.__slots__})
    chain = pki.load_certificates(joined.body["certificate_pem"].encode())
    write_credentials(folder, about, behind.lab.root.certificate, machine.key, chain)
    return folder, machine


class TestRevoking:
    def test_from_the_answer_on_nothing_is_answered(self, behind: Behind) -> None:
        folder, _ = _joined(behind, "a")
        assert behind.send(folder, "GET", "/v1/jobs").status == 200
        assert behind.revoke().body["revoked"] == 1
        refused = behind.send(folder, "GET", "/v1/jobs")
        assert refused.status == 401
        assert "lost" in refused.body["error"]

    def test_others_go_on(self, behind: Behind) -> None:
        behind.revoke()
        assert behind.send(behind.lab.host("b"), "GET", "/v1/jobs").status == 200

    def test_a_certificate_that_the_receiver_never_saw_is_denied_too(self, behind: Behind) -> None:
        assert behind.revoke().body["revoked"] == 0
        assert behind.send(behind.lab.host("a"), "GET", "/v1/jobs").status == 401

    def test_who_joins_again_is_back(self, behind: Behind) -> None:
        old, _ = _joined(behind, "a")
        behind.revoke()
        new, _ = _joined(behind, "a")
        assert behind.send(new, "GET", "/v1/jobs").status == 200
        assert behind.send(old, "GET", "/v1/jobs").status == 401

    def test_the_audit_trail_says_who_did_it(self, behind: Behind) -> None:
        behind.revoke()
        (row,) = behind.receiver.queue.read("audit_after", after=0, limit=9)
        assert (row["actor"], row["event"], row["host"], row["detail"]) == (
            "operator ada",
            "revoke",
            "a",
            "lost",
        )

    def test_an_operator_can_be_revoked(self, behind: Behind) -> None:
        eve = behind.lab.operator("eve")
        assert behind.revoke("eve", "operator").status == 200
        assert behind.send(eve, "GET", "/v1/jobs", **HEADERS).status == 401

    def test_a_reason_that_is_too_long_changes_nothing(self, receiver: LiveReceiver) -> None:
        assert receiver.operator("/v1/identity/host/a/revoke", {"reason": "x" * 201}).status == 400
        assert receiver.send("GET", "/v1/identities").body["identities"] == []


class TestWhatIsUnderWay:
    """Requests that last end with the identity they came with."""

    def test_a_claim_that_waits_is_answered(self, behind: Behind) -> None:
        folder, _ = _joined(behind, "a")
        with ThreadPoolExecutor(1) as pool:
            body = {"capability": cpu_host().to_dict(), "wait_s": 50.0}
            waiting = pool.submit(behind.send, folder, "POST", "/v1/job/claim", body)
            wait_until(lambda: len(behind.receiver.coordinator.waiters) == 1, "a claim that waits")
            assert behind.revoke().status == 200
            answer = waiting.result(timeout=5)
        assert answer.status == 401

    def test_the_claim_of_another_host_waits_on(self, behind: Behind) -> None:
        with ThreadPoolExecutor(1) as pool:
            body = {"capability": cpu_host().to_dict(), "wait_s": 50.0}
            waiting = pool.submit(behind.send, behind.lab.host("b"), "POST", "/v1/job/claim", body)
            wait_until(lambda: len(behind.receiver.coordinator.waiters) == 1, "a claim that waits")
            assert behind.revoke("a").status == 200
            behind.send(behind.lab.operator("ada"), "GET", "/v1/jobs")
            assert not waiting.done()
            assert len(behind.receiver.coordinator.open_requests) == 1
            behind.revoke("b")

    def test_a_stream_of_events_ends(self, behind: Behind) -> None:
        with _stream(behind, behind.lab.reader("rita")) as stream:
            assert behind.revoke("rita", "reader").status == 200
            _has_ended(behind, stream)
        assert behind.send(behind.lab.reader("rita"), "GET", "/v1/events").status == 401

    def test_a_stream_whose_certificate_ends_is_ended_by_the_reapers_next_round(
        self, behind: Behind, clock: Clock
    ) -> None:
        with _stream(behind, behind.lab.reader("rita", lifetime=timedelta(hours=1))) as stream:
            clock.ahead_s = 3601.0
            loop = behind.receiver.coordinator.events._loop
            assert loop is not None
            asyncio.run_coroutine_threadsafe(behind.receiver.coordinator.after_sweep(), loop).result(10)
            _has_ended(behind, stream)

    def test_an_upload_is_broken_off_and_counts_for_nothing(self, with_a_job: Behind) -> None:
        upload = Upload(with_a_job)
        upload.begin(300_000)
        open_requests = with_a_job.receiver.coordinator.open_requests
        wait_until(lambda: len(open_requests) == 1, "an upload under way")
        assert with_a_job.revoke().status == 200
        status, text = upload.end()
        assert status == 401
        assert b"revoked" in text
        assert not with_a_job.receiver.queue.has_upload(upload.job_id, 1, upload.sha256)

    def test_one_whose_last_byte_came_just_before_counts_for_nothing_either(
        self, with_a_job: Behind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parts, upload = with_a_job.receiver.coordinator, Upload(with_a_job)
        arrive = parts.store.ingest_stream

        async def arrive_then_be_revoked(**what: Any) -> IngestResult:
            result = await arrive(**what)
            revoked = functools.partial(
                enrolment_store.revoke, parts.queue, parts.standing, "host", "a", "lost", actor="operator"
            )
            await parts.write(revoked)
            return result

        monkeypatch.setattr(parts.store, "ingest_stream", arrive_then_be_revoked)
        upload.begin(0)
        assert upload.end()[0] == 401

    def test_nothing_is_left_open_afterwards(self, behind: Behind) -> None:
        with _stream(behind, behind.lab.reader("rita")):
            assert len(behind.receiver.coordinator.open_requests) == 1
        wait_until(lambda: len(behind.receiver.coordinator.open_requests) == 0, "the stream is over")


def _has_ended(behind: Behind, stream: http.client.HTTPResponse) -> None:
    wait_until(lambda: len(behind.receiver.coordinator.open_requests) == 0, "the end of the stream")
    stream.read()


@contextlib.contextmanager
def _stream(behind: Behind, folder: Path) -> Iterator[http.client.HTTPResponse]:
    """An open stream of events, whose beginning was read."""
    connection = behind.receiver.connection()
    connection.request("GET", "/v1/events", headers=proxied(folder, "operators"))
    response = connection.getresponse()
    assert response.status == 200
    wait_until(lambda: len(behind.receiver.coordinator.open_requests) == 1, "an open stream")
    try:
        yield response
    finally:
        response.close()
        connection.close()


class TestList:
    def test_it_tells_who_has_may_have_and_had(self, receiver: LiveReceiver, clock: Clock) -> None:
        def listed() -> dict[str, dict[str, object]]:
            found = receiver.send("GET", "/v1/identities").body["identities"]
            return {f"{one['role']} {one['name']}": one for one in found}

        enrolled(receiver, "a")
        enrolled(receiver, "ada", "operator")
        token_for(receiver, "b")
        receiver.operator("/v1/identity/host/old/revoke", {"reason": "sold"})
        found = listed()
        assert list(found) == ["host a", "host b", "host old", "operator ada"]
        assert (len(found["host a"]["serials"]), found["host a"]["last_how"]) == (1, "join")  # type: ignore[arg-type]
        assert found["host b"]["token_expires_at"] is not None
        assert (found["host old"]["revoked_reason"], found["host old"]["serials"]) == ("sold", [])
        assert (found["host a"]["in_manifest"], found["operator ada"]["in_manifest"]) == (True, None)
        clock.ahead_s = timedelta(days=31).total_seconds()
        later = listed()
        assert list(later) == ["host a", "host old", "operator ada"], (
            "of b there was a token alone, which has ended"
        )
        assert later["host a"]["serials"] == []
        assert later["host a"]["not_after"] == found["host a"]["not_after"]

    def test_the_page_of_a_host_says_when_its_certificate_ends(
        self, receiver: LiveReceiver, clock: Clock
    ) -> None:
        def page() -> str:
            return " ".join(receiver.send("GET", "/host/a").raw.decode().split())

        assert "certificate" not in page()
        enrolled(receiver, "a")
        assert receiver.send("GET", "/v1/host/a").body["certificate"]["last_how"] == "join"
        assert "Its certificate ends <time" in page()
        clock.ahead_s = timedelta(days=31).total_seconds()
        assert "Its certificate ended <time" in page()
        receiver.operator("/v1/identity/host/a/revoke", {"reason": "<sold>"})
        assert "Its certificates were revoked" in page()
        assert "&lt;sold&gt;" in page()

    def test_a_host_that_does_not_renew_is_a_problem_on_the_first_screen(
        self, receiver: LiveReceiver, clock: Clock
    ) -> None:
        def problems() -> list[str]:
            found = receiver.send("GET", "/v1/overview").body["problems"]
            return [one["text"] for one in found if one["code"] == "certificate_late"]

        enrolled(receiver, "a")
        enrolled(receiver, "not in the manifest".replace(" ", "-"))
        clock.ahead_s = timedelta(days=19).total_seconds()
        assert problems() == []
        clock.ahead_s = timedelta(days=25).total_seconds()
        (text,) = problems()
        assert text.startswith("the certificate of a ends in ")
        clock.ahead_s = timedelta(days=33).total_seconds()
        (text,) = problems()
        assert text.startswith("the certificate of a ended ")
        enrolled(receiver, "a")
        assert problems() == []

    def test_no_answer_and_no_row_holds_a_secret(self, receiver: LiveReceiver) -> None:
        token = token_for(receiver, "a")
        secret = join_token.parse(token).secret
        Machine(receiver).join(token)
        Machine(receiver).join(token)
        seen = [receiver.send("GET", path).raw for path in ("/v1/identities", "/v1/audit", "/v1/jobs")]
        assert all(secret.encode() not in raw for raw in seen)


def test_the_interface_names_the_bodies(receiver: LiveReceiver) -> None:
    document = json.loads(receiver.send("GET", "/openapi.json").raw)
    assert "JoinRequest" in document["components"]["schemas"]


def test_a_host_renews_late_although_the_issuer_of_its_certificate_has_ended(
    tmp_path: Path, lab: FleetPki, clock: Clock
) -> None:
    """Nobody rotated in time: the issuer and all its hosts ended on one day, in a summer break."""
    end = lab.clients.certificate.not_valid_after_utc
    folder = lab.host("a", age=lab.now - (end - timedelta(days=3)), lifetime=timedelta(days=3))
    after = end + timedelta(days=20)
    ca_files.rotate(lab.ca, "clients", lab.root.key, after)
    clock.ahead_s = (after - lab.now).total_seconds()
    with live_receiver(tmp_path, MANIFEST, authority=lab.authority, clock=clock) as receiver:
        assert Machine(receiver).renew_late(folder).status == 200
