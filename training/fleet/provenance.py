"""Provenance records: what the receiver vouches for when it has accepted a result. Made, signed, verified as values.

The statement is an in-toto Statement v1 with a SLSA Provenance v1 predicate; the signature a DSSE v1 envelope with
ECDSA P-256 and SHA-256. So other people's tools read it too, and nothing here is a format of our own but the job's
parameters, whose meaning `BUILD_TYPE` names. What the record says and what it does not: docs/design/provenance.md.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cis490.digest import is_digest
from cis490.pki import certificates as pki
from training.fleet.peers import parse_uri, uri_of

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUILD_TYPE = "urn:cis490:training-job:1"
BUNDLE_NAME = "bundle.tar.zst"
FILE_NAME = "provenance.intoto.jsonl"
"""Of the records of one artifact in a file: JSON Lines, one envelope a line, as in-toto's bundles are written."""
MAX_ENVELOPE_BYTES = 1024 * 1024
SPEC_KEYS = ("hyper", "split_recipe", "train_hosts", "seed")
"""What beside model and mode makes a job; with these one can train it again."""

Recorded = Literal["at completion", "afterwards"]
"""`afterwards`: the receiver could not sign when it accepted the result, and knows less now."""


class ProvenanceError(ValueError):
    """A record that proves nothing; the text says what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that goes into a record. Wall times are seconds since the epoch."""

    fleet: str
    job_id: str
    name: str
    kind: str
    model: str
    mode: str
    spec: Mapping[str, Any]
    generation: int
    epoch: int
    artifact_id: str
    host: str
    claimed_at: float
    ended_at: float
    recorded: Recorded
    recorded_at: float
    size_bytes: int | None = None
    certificate_serial: str | None = None
    """Of the client certificate that handed in the result; None where hosts need none (`--worker-auth header`)."""
    certificate_sha256: str | None = None
    dataset_id: str | None = None
    trainer_digest: str | None = None
    manifest_digest: str | None = None
    capability: Mapping[str, Any] | None = None
    """As the host reported it last; its word alone."""
    receiver_version: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A record whose signature holds. `statement` is all of it."""

    statement: Mapping[str, Any]
    artifact_id: str
    fleet: str
    host: str
    job_id: str
    name: str
    epoch: int
    recorded_at: datetime
    signed_by: x509.Certificate

    @property
    def parameters(self) -> Mapping[str, Any]:
        return _dict(_definition(self.statement), "internalParameters")

    @property
    def job(self) -> Mapping[str, Any]:
        """Model, mode, hyper, split_recipe, train_hosts, seed."""
        return _dict(_dict(_definition(self.statement), "externalParameters"), "job")

    @property
    def certificate_serial(self) -> str | None:
        """Of the host's certificate; None: it had shown none."""
        found = _dict(_dict(self.parameters, "host"), "certificate").get("serial")
        return found if isinstance(found, str) else None


# -- building


def statement(facts: Facts) -> dict[str, Any]:
    """The in-toto statement. What is not known is left out or null; nothing is guessed."""
    told = facts.capability or {}
    versions = {key: told[key] for key in ("python_version", "torch_version", "os", "arch") if told.get(key)}
    certificate = {"serial": facts.certificate_serial, "sha256": facts.certificate_sha256}
    host = {"name": facts.host, "certificate": certificate if facts.certificate_serial else None}
    subject: dict[str, Any] = {"name": BUNDLE_NAME, "digest": {"sha256": facts.artifact_id}}
    if facts.size_bytes is not None:
        subject["annotations"] = {"size_bytes": facts.size_bytes}
    job = {
        "job_id": facts.job_id,
        "name": facts.name,
        "kind": facts.kind,
        "model": facts.model,
        "mode": facts.mode,
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": [subject],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "job": job | {key: facts.spec[key] for key in SPEC_KEYS if key in facts.spec},
                },
                "internalParameters": {
                    "fleet": facts.fleet,
                    "host": host,
                    "generation": facts.generation,
                    "epoch": facts.epoch,
                    "manifest_digest": facts.manifest_digest,
                },
                "resolvedDependencies": _dependencies(facts, told),
            },
            "runDetails": {
                "builder": {"id": uri_of(facts.fleet, "host", facts.host), "version": versions},
                "metadata": {
                    "invocationId": f"{facts.job_id}/{facts.epoch}",
                    "startedOn": _time(facts.claimed_at),
                    "finishedOn": _time(facts.ended_at),
                    "cis490_recordedOn": _time(facts.recorded_at),
                    "cis490_recorded": facts.recorded,
                    "cis490_receiverVersion": facts.receiver_version,
                },
            },
        },
    }


def _dependencies(facts: Facts, told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the model was made from. Data and code have digests of their own making, each over the content of many
    files, so they do not stand under `sha256`, which readers take for that of one file."""
    out: list[dict[str, Any]] = []
    if facts.dataset_id:
        out.append({"name": "dataset", "digest": {"cis490_dataset": facts.dataset_id}})
    if facts.trainer_digest:
        out.append({"name": "trainer", "digest": {"cis490_trainer": facts.trainer_digest}})
    commit = told.get("git_commit")
    # A commit says something only of a checkout whose trainer is the one that was asked for.
    if commit and told.get("trainer_digest") in (None, facts.trainer_digest):
        out.append(
            {"name": "checkout", "digest": {"gitCommit": commit}, "annotations": {"said_by": facts.host}}
        )
    return out


def sign(made: Mapping[str, Any], signing: pki.Issuer) -> str:
    """The statement in its envelope, one line of JSON. The signing certificate goes along, for readers that have
    nothing but the root."""
    payload = json.dumps(made, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    signature = signing.key.sign(_authenticated(payload), ec.ECDSA(hashes.SHA256()))
    one = {
        "keyid": pki.key_id(signing.key.public_key()),
        "sig": base64.b64encode(signature).decode("ascii"),
        "cert": pki.chain_pem(signing.certificate).decode("ascii"),
    }
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode("ascii"),
        "signatures": [one],
    }
    return json.dumps(envelope, separators=(",", ":"))


def _authenticated(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (PAE): what is signed, so that a type cannot be swapped for another."""
    kind = PAYLOAD_TYPE.encode("ascii")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


# -- verifying


def verify(envelope: str | bytes, root: x509.Certificate) -> Record:
    """The record of an envelope that a signing key of this root has signed. Raises ProvenanceError.

    A record counts as long as its signing certificate was in force when it was made: results outlive certificates.
    """
    found = _envelope(envelope)
    payload, signatures = _payload(found), found.get("signatures")
    if not isinstance(signatures, list) or not signatures:
        raise ProvenanceError("the record is not signed")
    signer = _signer(payload, signatures, root)
    record = _record(payload, signer)
    start, end = signer.not_valid_before_utc, signer.not_valid_after_utc
    if not start <= record.recorded_at <= end:
        raise ProvenanceError(
            f"the record says it was made at {record.recorded_at:%Y-%m-%d %H:%M} UTC, but its signing certificate "
            f"was in force from {start:%Y-%m-%d} to {end:%Y-%m-%d}"
        )
    return record


def envelopes_of(text: bytes) -> list[bytes]:
    """The envelopes of a file: one a line, or a single one in several lines. Raises ProvenanceError."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ProvenanceError(
            "the file is empty: expected one record a line, as `cis490-jobs pull` writes them"
        )
    return (
        lines
        if all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines)
        else [text]
    )


def _envelope(text: str | bytes) -> dict[str, Any]:
    if len(text) > MAX_ENVELOPE_BYTES:
        raise ProvenanceError(f"the record has {len(text)} bytes; expected at most {MAX_ENVELOPE_BYTES}")
    found = _json(text)
    if found.get("payloadType") != PAYLOAD_TYPE:
        raise ProvenanceError(
            f"the record is of type {str(found.get('payloadType'))[:80]!r}; "
            f"expected a DSSE envelope of {PAYLOAD_TYPE!r}"
        )
    return found


def _json(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProvenanceError("the record is not JSON") from error
    if not isinstance(found, dict):
        raise ProvenanceError("the record is no JSON object")
    return found


def _payload(envelope: Mapping[str, Any]) -> bytes:
    return _base64(envelope.get("payload"), "payload")


def _base64(text: object, what: str) -> bytes:
    """Both alphabets, as DSSE asks of readers; padding may be absent."""
    if not isinstance(text, str):
        raise ProvenanceError(f"the record has no {what}")
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProvenanceError(f"the record's {what} is not base64") from error


def _signer(payload: bytes, signatures: list[Any], root: x509.Certificate) -> x509.Certificate:
    """The certificate of the first signature that holds. Raises ProvenanceError with why the last one does not."""
    reason = "the record is not signed"
    for one in signatures:
        try:
            return _checked(payload, one, root)
        except ProvenanceError as error:
            reason = str(error)
    raise ProvenanceError(reason)


def _checked(payload: bytes, one: object, root: x509.Certificate) -> x509.Certificate:
    if not isinstance(one, dict) or not isinstance(one.get("cert"), str):
        raise ProvenanceError("the signature names no certificate")
    try:
        certificate = pki.load_certificates(one["cert"].encode("utf-8", "replace"))[0]
        key = pki.public_key_of(certificate)
    except pki.PkiError as error:
        raise ProvenanceError(f"the signature's certificate cannot be read: {error}") from error
    if not pki.is_issued_by(certificate, root):
        raise ProvenanceError(
            f"the signing certificate {pki.fingerprint(certificate)[:12]} does not come from the root "
            f"{pki.fingerprint(root)[:12]}: another fleet's record, or another fleet's root"
        )
    if not _may_sign(certificate):
        raise ProvenanceError("the certificate is the lab's, but not one for signing records")
    try:
        key.verify(_base64(one.get("sig"), "signature"), _authenticated(payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise ProvenanceError(
            "the signature does not fit: the record was changed after it was signed"
        ) from error
    return certificate


def _may_sign(certificate: x509.Certificate) -> bool:
    """For this one use, and no authority: an intermediate for clients must not vouch for models."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return not basic.ca and pki.has_usage(certificate, "signing")


def _record(payload: bytes, signer: x509.Certificate) -> Record:
    made = _json(payload)
    definition = _definition(made)
    kinds = (made.get("_type"), made.get("predicateType"), definition.get("buildType"))
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE, BUILD_TYPE):
        raise ProvenanceError(
            f"the record says something else than how a model was trained: {str(kinds)[:200]}"
        )
    job = _dict(_dict(definition, "externalParameters"), "job")
    inner, details = _dict(definition, "internalParameters"), _dict(_dict(made, "predicate"), "runDetails")
    builder = parse_uri(str(_dict(details, "builder").get("id")))
    job_id, epoch, name = job.get("job_id"), inner.get("epoch"), job.get("name")
    if builder is None or not is_digest(job_id) or not isinstance(epoch, int) or not isinstance(name, str):
        raise ProvenanceError("the record does not say which job was trained, or by which host")
    recorded_at = _moment(_dict(details, "metadata").get("cis490_recordedOn"))
    return Record(made, _subject(made), builder[0], builder[2], str(job_id), name, epoch, recorded_at, signer)


def _subject(made: Mapping[str, Any]) -> str:
    subjects = made.get("subject")
    one = subjects[0] if isinstance(subjects, list) and len(subjects) == 1 else None
    found = _dict(one, "digest").get("sha256") if isinstance(one, dict) else None
    if not is_digest(found):
        raise ProvenanceError("the record does not name one artifact by its sha256")
    return str(found)


def _definition(made: Mapping[str, Any]) -> Mapping[str, Any]:
    return _dict(_dict(made, "predicate"), "buildDefinition")


def _dict(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _time(at: float) -> str:
    """RFC 3339, whole seconds, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(text: object) -> datetime:
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise ProvenanceError("the record does not say when it was made") from error
