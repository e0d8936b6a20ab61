"""Provenance records: what is in them, what a signature holds against, and what each forgery is told."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cis490.pki import certificates as pki
from tests.factories.fleet_pki import FleetPki
from tests.factories.provenance_facts import ARTIFACT, FACTS, JOB, NOW
from training.fleet import provenance
from training.fleet.provenance import ProvenanceError, envelopes_of, sign, statement, verify


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> FleetPki:
    return FleetPki(tmp_path_factory.mktemp("pki"), now=NOW)


def dependency(made: dict[str, Any], name: str) -> dict[str, Any] | None:
    found = made["predicate"]["buildDefinition"]["resolvedDependencies"]
    return next((one["digest"] for one in found if one["name"] == name), None)


class TestWhatIsSaid:
    def test_it_is_an_in_toto_statement_with_a_slsa_predicate(self) -> None:
        made = statement(FACTS)
        assert made["_type"] == "https://in-toto.io/Statement/v1"
        assert made["predicateType"] == "https://slsa.dev/provenance/v1"
        assert made["subject"] == [
            {"name": "bundle.tar.zst", "digest": {"sha256": ARTIFACT}, "annotations": {"size_bytes": 6}}
        ]

    def test_the_parameters_are_enough_to_train_the_job_again(self) -> None:
        job = statement(FACTS)["predicate"]["buildDefinition"]["externalParameters"]["job"]
        assert job == {
            "job_id": JOB, "name": "gbt-oracle", "kind": "job", "model": "gbt", "mode": "oracle",
            "hyper": {"trees": 9}, "split_recipe": "host_disjoint", "train_hosts": [], "seed": 7,
        }  # fmt: skip

    def test_host_certificate_attempt_and_manifest_stand_in_it(self) -> None:
        inner = statement(FACTS)["predicate"]["buildDefinition"]["internalParameters"]
        assert inner == {
            "fleet": "lab.test",
            "host": {"name": "gpu-box-1", "certificate": {"serial": "5e3a", "sha256": "ab" * 32}},
            "generation": 1,
            "epoch": 2,
            "manifest_digest": "01" * 32,
        }

    def test_the_builder_is_the_identity_of_the_host(self) -> None:
        run = statement(FACTS)["predicate"]["runDetails"]
        assert run["builder"] == {
            "id": "spiffe://lab.test/host/gpu-box-1",
            "version": {"python_version": "3.13.5"},
        }
        assert run["metadata"]["invocationId"] == f"{JOB}/2"
        assert run["metadata"]["startedOn"] == "2026-11-22T11:59:00Z"

    def test_data_and_code_stand_under_digests_of_their_own_kind(self) -> None:
        made = statement(FACTS)
        assert dependency(made, "dataset") == {"cis490_dataset": "cd" * 32}
        assert dependency(made, "trainer") == {"cis490_trainer": "ef" * 32}
        assert dependency(made, "checkout") == {"gitCommit": "12" * 20}

    def test_the_commit_of_another_trainer_is_left_out(self) -> None:
        told = {"git_commit": "12" * 20, "trainer_digest": "00" * 32}
        assert dependency(statement(replace(FACTS, capability=told)), "checkout") is None

    def test_a_host_without_a_certificate_is_said_to_have_none(self) -> None:
        made = statement(replace(FACTS, certificate_serial=None, certificate_sha256=None))
        assert made["predicate"]["buildDefinition"]["internalParameters"]["host"]["certificate"] is None

    def test_what_is_not_known_is_not_made_up(self) -> None:
        made = statement(
            replace(
                FACTS,
                dataset_id=None,
                trainer_digest=None,
                capability=None,
                manifest_digest=None,
                size_bytes=None,
            )
        )
        assert made["predicate"]["buildDefinition"]["resolvedDependencies"] == []
        assert made["predicate"]["runDetails"]["builder"]["version"] == {}
        assert "annotations" not in made["subject"][0]


class TestASignature:
    def test_a_signed_record_says_what_was_put_in(self, lab: FleetPki) -> None:
        found = verify(sign(statement(FACTS), lab.signing), lab.root.certificate)
        assert (found.artifact_id, found.job_id, found.name, found.epoch) == (ARTIFACT, JOB, "gbt-oracle", 2)
        assert (found.fleet, found.host, found.certificate_serial) == ("lab.test", "gpu-box-1", "5e3a")
        assert found.recorded_at == NOW
        assert found.job["hyper"] == {"trees": 9}
        assert found.signed_by == lab.signing.certificate

    def test_the_envelope_is_dsse_as_its_specification_says(self, lab: FleetPki) -> None:
        """Checked by hand, with no function of ours: "DSSEv1 LEN(type) type LEN(body) body"."""
        envelope = json.loads(sign(statement(FACTS), lab.signing))
        body = base64.b64decode(envelope["payload"])
        signed = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(body), body)
        (one,) = envelope["signatures"]
        lab.signing.key.public_key().verify(base64.b64decode(one["sig"]), signed, ec.ECDSA(hashes.SHA256()))
        assert envelope["payloadType"] == "application/vnd.in-toto+json"
        assert json.loads(body) == statement(FACTS)

    def test_equal_facts_give_an_equal_payload(self, lab: FleetPki) -> None:
        one, other = (json.loads(sign(statement(FACTS), lab.signing))["payload"] for _ in range(2))
        assert one == other

    def test_the_private_key_is_not_in_it(self, lab: FleetPki) -> None:
        text = sign(statement(FACTS), lab.signing)
        number = lab.signing.key.private_numbers().private_value.to_bytes(32, "big")
        assert "PRIVATE" not in text
        assert base64.b64encode(number).decode() not in text

    def test_one_good_signature_among_others_is_enough(self, lab: FleetPki) -> None:
        envelope = json.loads(sign(statement(FACTS), lab.signing))
        envelope["signatures"].insert(0, {"sig": "AAAA"})
        assert verify(json.dumps(envelope), lab.root.certificate).host == "gpu-box-1"

    def test_the_url_safe_alphabet_without_padding_is_read_too(self, lab: FleetPki) -> None:
        envelope = json.loads(sign(statement(FACTS), lab.signing))
        for place, key in ((envelope, "payload"), (envelope["signatures"][0], "sig")):
            place[key] = place[key].replace("+", "-").replace("/", "_").rstrip("=")
        assert verify(json.dumps(envelope), lab.root.certificate).host == "gpu-box-1"

    def test_a_record_outlives_its_signing_certificate(self, lab: FleetPki) -> None:
        """What counts is whether the certificate was in force when the record was made."""
        end = lab.signing.certificate.not_valid_after_utc.timestamp()
        last = replace(FACTS, recorded_at=end - 1)
        assert verify(sign(statement(last), lab.signing), lab.root.certificate).host == "gpu-box-1"
        with pytest.raises(ProvenanceError, match="was in force from"):
            verify(sign(statement(replace(FACTS, recorded_at=end + 60)), lab.signing), lab.root.certificate)

    @given(st.sampled_from(["payload", "sig"]), st.integers(0, 1 << 20), st.integers(0, 7))
    def test_no_bit_of_payload_or_signature_can_change(
        self, lab: FleetPki, key: str, byte: int, bit: int
    ) -> None:
        envelope = json.loads(sign(statement(FACTS), lab.signing))
        place = envelope if key == "payload" else envelope["signatures"][0]
        raw = bytearray(base64.b64decode(place[key]))
        raw[byte % len(raw)] ^= 1 << bit
        place[key] = base64.b64encode(bytes(raw)).decode()
        with pytest.raises(ProvenanceError):
            verify(json.dumps(envelope), lab.root.certificate)

    @given(st.one_of(st.binary(), st.text(), st.builds(json.dumps, st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["payloadType", "payload", "signatures", "cert", "sig"]) | st.text(), inner
        ),
    ))))  # fmt: skip
    def test_whatever_is_no_record_is_refused_in_words(self, lab: FleetPki, text: str | bytes) -> None:
        with pytest.raises(ProvenanceError):
            verify(text, lab.root.certificate)


def signed_by(lab: FleetPki, certificate: Any, key: ec.EllipticCurvePrivateKey) -> str:
    return sign(statement(FACTS), pki.Issuer(certificate, key))


def _other_lab(lab: FleetPki) -> str:
    key = pki.new_key()
    leaf = pki.issue(
        lab.impostor_root,
        key.public_key(),
        "signing",
        name="lab.test signing",
        now=NOW,
        lifetime=timedelta(days=9),
    )
    return signed_by(lab, leaf, key)


def _hosts_certificate(lab: FleetPki) -> str:
    key = pki.new_key()
    leaf = pki.issue(lab.clients, key.public_key(), "clients", name="a", now=NOW, lifetime=timedelta(days=9))
    return signed_by(lab, leaf, key)


def _clients_authority(lab: FleetPki) -> str:
    return signed_by(lab, lab.clients.certificate, lab.clients.key)


def _the_root_itself(lab: FleetPki) -> str:
    return signed_by(lab, lab.root.certificate, lab.root.key)


def _an_authority_for_signing(lab: FleetPki) -> str:
    made = pki.make_intermediate(lab.root, "x", "signing", now=NOW)
    return signed_by(lab, made.certificate, made.key)


def _a_client_of_the_root(lab: FleetPki) -> str:
    key = pki.new_key()
    leaf = pki.issue(lab.root, key.public_key(), "clients", name="x", now=NOW, lifetime=timedelta(days=9))
    return signed_by(lab, leaf, key)


def _signing_usage_from_the_clients_authority(lab: FleetPki) -> str:
    """What a receiver that was broken into could issue: its key for clients, the usage for records."""
    key = pki.new_key()
    leaf = pki.issue(lab.clients, key.public_key(), "signing", name="x", now=NOW, lifetime=timedelta(days=9))
    return signed_by(lab, leaf, key)


def _certificate_with_a_foreign_signature(lab: FleetPki) -> str:
    return signed_by(lab, lab.signing.certificate, pki.new_key())


def _changed(**keys: Any) -> Callable[[FleetPki], str]:
    return lambda lab: json.dumps(json.loads(sign(statement(FACTS), lab.signing)) | keys)


def _said(edit: Callable[[dict[str, Any]], object]) -> Callable[[FleetPki], str]:
    """A statement of the right key that says something else than we know."""

    def make(lab: FleetPki) -> str:
        made = statement(FACTS)
        edit(made)
        return sign(made, lab.signing)

    return make


def _no_certificate(lab: FleetPki) -> str:
    envelope = json.loads(sign(statement(FACTS), lab.signing))
    del envelope["signatures"][0]["cert"]
    return json.dumps(envelope)


FORGERIES: dict[str, tuple[Callable[[FleetPki], str], str]] = {
    "another lab's key under our name": (_other_lab, "does not come from the root"),
    "a host's certificate": (_hosts_certificate, "does not come from the root"),
    "the authority for clients": (_clients_authority, "not one for signing records"),
    "the root": (_the_root_itself, "not one for signing records"),
    "an authority, though for signing": (_an_authority_for_signing, "not one for signing records"),
    "a client that the root itself issued": (_a_client_of_the_root, "not one for signing records"),
    "a signing leaf of the wrong authority": (
        _signing_usage_from_the_clients_authority,
        "does not come from the root",
    ),
    "our certificate, a foreign key": (_certificate_with_a_foreign_signature, "was changed after it was signed"),
    "another type of payload": (_changed(payloadType="text/plain"), "expected a DSSE envelope of"),
    "no signatures": (_changed(signatures=[]), "is not signed"),
    "signatures that are no list": (_changed(signatures="x"), "is not signed"),
    "no payload": (_changed(payload=None), "has no payload"),
    "a payload that is no base64": (_changed(payload="%%%"), "payload is not base64"),
    "no certificate": (_no_certificate, "names no certificate"),
    "a certificate that is none": (_changed(signatures=[{"cert": "x", "sig": ""}]), "cannot be read"),
    "another predicate": (_said(lambda made: made.update(predicateType="x")), "something else than how"),
    "another kind of build": (
        _said(lambda made: made["predicate"]["buildDefinition"].update(buildType="x")),
        "something else than how",
    ),
    "two subjects": (_said(lambda made: made["subject"].append({})), "does not name one artifact"),
    "no digest": (_said(lambda made: made["subject"][0].update(digest={})), "does not name one artifact"),
    "no builder": (_said(lambda made: made["predicate"]["runDetails"].update(builder={})), "which job was trained"),
    "no time": (_said(lambda made: made["predicate"]["runDetails"].update(metadata={})), "when it was made"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forgery_is_told_what_is_wrong_with_it(lab: FleetPki, kind: str) -> None:
    make, why = FORGERIES[kind]
    with pytest.raises(ProvenanceError, match=why):
        verify(make(lab), lab.root.certificate)


def test_a_record_larger_than_any_we_write_is_not_read(lab: FleetPki) -> None:
    with pytest.raises(ProvenanceError, match="expected at most"):
        verify(b"{" + b" " * provenance.MAX_ENVELOPE_BYTES, lab.root.certificate)


class TestAFileOfRecords:
    def test_each_line_is_one(self) -> None:
        assert envelopes_of(b'{"a": 1}\n\n{"b": 2}\n') == [b'{"a": 1}', b'{"b": 2}']

    def test_a_record_in_several_lines_is_one(self) -> None:
        assert envelopes_of(b'{\n "a": 1\n}\n') == [b'{\n "a": 1\n}\n']

    def test_an_empty_file_is_no_proof(self) -> None:
        with pytest.raises(ProvenanceError, match="empty"):
            envelopes_of(b"\n")


def test_the_name_of_the_file_is_the_same_where_cryptography_is_missing() -> None:
    """`pulled_record` cannot import it from here."""
    from training.fleet import pulled_record

    assert pulled_record.FILE_NAME == provenance.FILE_NAME


def test_no_record_is_trusted_for_the_root_that_it_brings(lab: FleetPki, tmp_path: Path) -> None:
    """A forger's own lab, named like ours, complete: every check holds with its root, none with ours."""
    forger = FleetPki(tmp_path, now=NOW)
    forged = sign(statement(FACTS), forger.signing)
    assert verify(forged, forger.root.certificate).host == "gpu-box-1"
    with pytest.raises(ProvenanceError, match="another fleet"):
        verify(forged, lab.root.certificate)
