"""Who gets a certificate, and with what proof: the decisions alone, with real keys and certificates."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cis490.pki import certificates as pki
from cis490.pki.authority import Authority
from tests.factories.fleet_pki import FleetPki, key_of, leaf_of
from training.fleet import enrolment
from training.fleet.enrolment import Former, Grant, Refused, Request, Token, WrongSecrets

NOW = datetime(2026, 7, 1, 12, 0, 0, 250_000, tzinfo=UTC)
SECRET = "c2VjcmV0LW9mLXRoZS10ZXN0"
SHA256 = enrolment.secret_sha256(SECRET)
KEY = pki.new_key()
ASKED = Request("host", "gpu-1", KEY.public_key(), pki.key_id(KEY.public_key()))
ENDS_S = (NOW + timedelta(minutes=5)).timestamp()
TOKEN = Token(enrolment.token_id(SHA256), SHA256, "host", "gpu-1", ENDS_S)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> FleetPki:
    return FleetPki(tmp_path_factory.mktemp("lab"), now=NOW)


@pytest.fixture(scope="module")
def authority(lab: FleetPki) -> Authority:
    return lab.authority


def refusal(found: object) -> Refused:
    assert isinstance(found, Refused), found
    return found


@pytest.mark.parametrize(("role", "name"), [("host", "../x"), ("admin", "gpu-1"), ("host", "")])
def test_a_request_for_a_name_that_is_none_is_refused_before_it_is_parsed(role: str, name: str) -> None:
    found = refusal(enrolment.read_request(role, name, "no request at all"))
    assert (found.status, found.code) == (400, "E301")


class TestToken:
    def test_a_fresh_one_lets_its_name_in(self) -> None:
        assert enrolment.judge_token(TOKEN, SHA256, ASKED, NOW) is None

    def test_the_key_that_used_it_may_ask_again(self) -> None:
        used = replace(TOKEN, used_at=NOW.timestamp(), key_id=ASKED.key_id)
        assert enrolment.judge_token(used, SHA256, ASKED, NOW) is None

    @pytest.mark.parametrize(
        ("token", "code", "helps"),
        [
            (None, "E303", "cis490-jobs hosts add gpu-1"),
            (replace(TOKEN, secret_sha256=SHA256[:12] + "0" * 52), "E303", "cis490-jobs hosts add gpu-1"),
            (replace(TOKEN, name="gpu-2"), "E304", "cis490-jobs hosts add gpu-1"),
            (replace(TOKEN, role="operator"), "E304", "cis490-jobs hosts add gpu-1"),
            (replace(TOKEN, key_id="0" * 64, used_at=NOW.timestamp()), "E305", "cis490-jobs hosts revoke gpu-1"),
            (replace(TOKEN, expires_at=NOW.timestamp()), "E306", "cis490-jobs hosts add gpu-1"),
            (replace(TOKEN, expires_at=0.0, key_id=ASKED.key_id), "E306", "cis490-jobs hosts add gpu-1"),
        ],
        ids=["unknown", "another secret", "another name", "another role", "used", "ended", "ended, same key"],
    )  # fmt: skip
    def test_any_other_is_refused_and_told_what_to_type(
        self, token: Token | None, code: str, helps: str
    ) -> None:
        found = refusal(enrolment.judge_token(token, SHA256, ASKED, NOW))
        assert (found.status, found.code) == (403, code)
        assert helps in found.error

    def test_no_refusal_tells_the_secret_or_its_digest(self) -> None:
        for token in (
            None,
            replace(TOKEN, name="b"),
            replace(TOKEN, key_id="0"),
            replace(TOKEN, expires_at=0.0),
        ):
            text = refusal(enrolment.judge_token(token, SHA256, ASKED, NOW)).error
            assert SECRET not in text
            assert SHA256[:12] not in text

    def test_what_is_stored_and_shown_of_a_secret_does_not_lead_back_to_it(self) -> None:
        assert len(SHA256) == 64
        assert enrolment.token_id(SHA256) == SHA256[:12]

    @pytest.mark.parametrize(
        ("role", "command"),
        [
            ("host", "cis490-jobs hosts add ada"),
            ("operator", "cis490-jobs operators add ada"),
            ("reader", "cis490-jobs operators add ada --reader"),
        ],
    )
    def test_each_role_has_its_command(self, role: str, command: str) -> None:
        assert enrolment.command_for(role, "ada") == command

    def test_a_name_that_nobody_can_have_is_not_repeated_as_something_to_type(self) -> None:
        assert "hosts add NAME" in enrolment.unknown_token("host", "x; rm -rf /").error


class TestNames:
    @pytest.mark.parametrize("name", ["gpu-1", "a", "A_b.c-9", "x" * 64])
    def test_names_of_the_manifest_can_be_enrolled(self, name: str) -> None:
        assert enrolment.name_fault("host", name) is None

    @pytest.mark.parametrize("name", ["", ".a", "a b", "x" * 65, "a/b", "é", "a\n", "a%20"])
    def test_others_cannot(self, name: str) -> None:
        assert refusal(enrolment.name_fault("host", name)).code == "E301"

    @pytest.mark.parametrize("role", ["session", "nobody", "open", "", "hosts"])
    def test_a_role_that_no_certificate_has_cannot_either(self, role: str) -> None:
        assert refusal(enrolment.name_fault(role, "a")).status == 404


class TestRequest:
    def test_of_a_request_only_its_key_counts(self) -> None:
        key = pki.new_key()
        found = enrolment.read_request("host", "gpu-1", pki.make_request(key, "root operator").decode())
        assert isinstance(found, Request)
        assert (found.role, found.name) == ("host", "gpu-1")
        assert found.key_id == pki.key_id(key.public_key())

    @pytest.mark.parametrize(
        "pem", ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "é" * 20, "x" * 9000]
    )
    def test_what_is_none_is_refused_in_words(self, pem: str) -> None:
        found = refusal(enrolment.read_request("host", "gpu-1", pem))
        assert (found.status, found.code) == (400, "E302")

    def test_a_request_signed_by_another_key_is_refused(self) -> None:
        lines = pki.make_request(pki.new_key(), "a").decode().splitlines()
        other = pki.make_request(pki.new_key(), "a").decode().splitlines()
        mixed = [*lines[:-2], other[-2], lines[-1]]
        assert refusal(enrolment.read_request("host", "a", "\n".join(mixed))).code == "E302"


class TestGrant:
    def granted(self, authority: Authority, asked: Request = ASKED) -> Grant:
        found = enrolment.grant(authority, asked, 0xABC, NOW)
        assert isinstance(found, Grant)
        return found

    def test_a_certificate_names_one_identity_for_30_days(self, authority: Authority) -> None:
        given = self.granted(authority)
        answer = enrolment.issued(authority, given)
        leaf, issuer = pki.load_certificates(answer["certificate_pem"].encode())
        assert pki.uris_of(leaf) == ("spiffe://lab.test/host/gpu-1",)
        assert pki.has_usage(leaf, "clients")
        assert not pki.has_usage(leaf, "servers")
        assert leaf.not_valid_after_utc == NOW.replace(microsecond=0) + timedelta(days=30)
        assert pki.is_issued_by(leaf, issuer)
        assert pki.key_id(pki.public_key_of(leaf)) == ASKED.key_id

    def test_what_is_written_down_is_what_is_signed(self, authority: Authority) -> None:
        given = self.granted(authority)
        leaf = pki.load_certificates(enrolment.issued(authority, given)["certificate_pem"].encode())[0]
        row = given.row()
        assert row["serial"] == pki.serial_of(leaf) == "abc"
        assert row["not_before"] == leaf.not_valid_before_utc.timestamp()
        assert row["not_after"] == leaf.not_valid_after_utc.timestamp()
        assert row["key_id"] == ASKED.key_id

    def test_hosts_are_sent_to_the_workers_site_and_people_to_the_operators(
        self, authority: Authority
    ) -> None:
        fleet = authority.fleet
        for role, url in (
            ("host", fleet.workers_url),
            ("operator", fleet.operators_url),
            ("reader", fleet.operators_url),
        ):
            answer = enrolment.issued(authority, self.granted(authority, replace(ASKED, role=role)))
            assert (answer["url"], answer["join_url"]) == (url, fleet.join_url)

    def test_it_does_not_outlive_its_issuer(self, authority: Authority) -> None:
        end = authority.clients.certificate.not_valid_after_utc
        given = enrolment.grant(authority, ASKED, 1, end - timedelta(days=3))
        assert isinstance(given, Grant)
        assert given.not_after == end

    def test_an_issuer_that_has_ended_issues_nothing_and_says_how_to_make_another(
        self, authority: Authority
    ) -> None:
        end = authority.clients.certificate.not_valid_after_utc
        found = refusal(enrolment.grant(authority, ASKED, 1, end))
        assert (found.status, found.code) == (409, "E312")
        assert "training.fleet.ca rotate clients" in found.error

    def test_a_receiver_whose_clock_was_not_set_yet_issues_nothing_and_says_so(
        self, authority: Authority
    ) -> None:
        found = refusal(enrolment.grant(authority, ASKED, 1, datetime(1970, 1, 2, tzinfo=UTC)))
        assert (found.status, "the receiver's clock says 1970" in found.error) == (409, True)


class TestLate:
    def judge(self, lab: FleetPki, folder: Path, now: datetime = NOW, **instead: Any) -> Former | Refused:
        """Ask with the certificate and key of this folder."""
        csr = instead.get("csr", pki.make_request(KEY, "x").decode())
        signed = instead.get("signed", enrolment.LATE_CONTEXT + csr.encode())
        signature = instead.get("key", key_of(folder)).sign(signed, ec.ECDSA(hashes.SHA256()))
        text = instead.get("signature", base64.b64encode(signature).decode())
        pem = instead.get("pem", pki.chain_pem(leaf_of(folder)).decode())
        return enrolment.judge_late(lab.authority, pem, csr, text, now)

    @pytest.mark.parametrize("role", ["host", "operator", "reader"])
    def test_whoever_has_the_key_may_for_30_days(self, lab: FleetPki, role: Any) -> None:
        folder = lab.identity(role, "late", expired=timedelta(days=29, hours=23))
        found = self.judge(lab, folder)
        assert isinstance(found, Former)
        assert (found.role, found.name, found.serial) == (role, "late", pki.serial_of(leaf_of(folder)))

    def test_after_30_days_only_a_token_helps(self, lab: FleetPki) -> None:
        found = refusal(self.judge(lab, lab.host("late", expired=timedelta(days=30, seconds=2))))
        assert (found.status, found.code) == (403, "E309")
        assert "cis490-jobs hosts add late" in found.error

    def test_one_that_has_not_ended_may_too(self, lab: FleetPki) -> None:
        assert isinstance(self.judge(lab, lab.host("early")), Former)

    @pytest.mark.parametrize(
        "how",
        [
            {"other_ca": True},
            {"usage": "servers"},
            {"uri": ()},
            {"uri": ("spiffe://lab.test/host/a", "spiffe://lab.test/host/b")},
            {"uri": "spiffe://other.lab/host/a"},
            {"uri": "spiffe://lab.test/admin/a"},
        ],
        ids=str,
    )
    def test_a_certificate_that_is_none_of_ours_proves_nothing(
        self, lab: FleetPki, how: dict[str, Any]
    ) -> None:
        found = refusal(self.judge(lab, lab.host("a", expired=timedelta(days=1), **how)))
        assert (found.status, found.code) == (403, "E307")

    def test_one_of_the_issuer_before_the_last_rotation_counts(self, lab: FleetPki, tmp_path: Path) -> None:
        other = FleetPki(tmp_path, now=NOW)
        folder = other.host("a", expired=timedelta(days=1))
        rotated = replace(lab.authority, former=(other.clients.certificate,))
        csr = pki.make_request(KEY, "x").decode()
        signature = key_of(folder).sign(enrolment.LATE_CONTEXT + csr.encode(), ec.ECDSA(hashes.SHA256()))
        pem = pki.chain_pem(leaf_of(folder)).decode()
        found = enrolment.judge_late(rotated, pem, csr, base64.b64encode(signature).decode(), NOW)
        assert isinstance(found, Former)

    @pytest.mark.parametrize(
        "how",
        [
            {"key": pki.new_key()},
            {"signed": b"something else"},
            {"signed": pki.make_request(KEY, "y")},
            {"signature": "bm90IGEgc2lnbmF0dXJl"},
            {"signature": "%%%"},
            {"signature": "é"},
            {"signature": ""},
        ],
        ids=["another key", "other bytes", "without the fixed line", "no signature", "no base64", "no ASCII", "empty"],
    )  # fmt: skip
    def test_a_proof_that_does_not_fit_is_refused(self, lab: FleetPki, how: dict[str, Any]) -> None:
        found = refusal(self.judge(lab, lab.host("a", expired=timedelta(days=1)), **how))
        assert (found.status, found.code) == (403, "E308")

    @pytest.mark.parametrize("pem", ["", "é", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"])
    def test_what_is_no_certificate_is_refused_in_words(self, lab: FleetPki, pem: str) -> None:
        found = refusal(self.judge(lab, lab.host("a"), pem=pem))
        assert (found.status, found.code) == (400, "E307")

    def test_a_renewal_needs_another_key(self) -> None:
        assert refusal(enrolment.same_key(ASKED, ASKED.key_id)).code == "E311"
        assert enrolment.same_key(ASKED, "0" * 64) is None


class TestGuessing:
    def test_thirty_a_minute_are_told_why_and_then_one_every_two_seconds(self) -> None:
        wrong = WrongSecrets()
        assert [wrong.wait_s(1000.0) for _ in range(30)] == [0.0] * 30
        assert wrong.wait_s(1000.0) == pytest.approx(2.0)
        assert wrong.wait_s(1002.0) == 0.0
        assert wrong.wait_s(1002.0) > 0.0

    def test_after_a_minute_of_quiet_all_is_as_before_and_no_more(self) -> None:
        wrong = WrongSecrets()
        assert any(wrong.wait_s(1000.0) for _ in range(100))
        assert [wrong.wait_s(90_000.0) for _ in range(30)] == [0.0] * 30
        assert wrong.wait_s(90_000.0) > 0.0
