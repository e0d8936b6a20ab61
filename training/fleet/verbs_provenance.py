"""`verify-provenance`: whether a signed record holds, and whether the files here are what it was made for.

What is checked against the lab's root certificate is on this machine: no word of the receiver is needed, nor taken.
"""

from __future__ import annotations

import json
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cis490.digest import sha256_file
from training.fleet import naming
from training.fleet.exits import REFUSED, USAGE, Stop
from training.fleet.provenance_root import HINT, known_root, read_root
from training.fleet.render import View
from training.fleet.tables import figure, safe, tsv
from training.fleet.verb import Call

if TYPE_CHECKING:
    from cryptography import x509

    from training.fleet.provenance import Record

COMMAND = "cis490-jobs verify-provenance"


@dataclass(frozen=True, slots=True)
class Checked:
    """The records of one artifact, all of which hold, and which bytes here were compared with it."""

    records: tuple[Record, ...]
    bundle: Path | None
    folder: Path | None
    """Whose files were compared with what lies in the bundle."""


def is_offline(word: str) -> bool:
    """Whether the word means a file or folder here, so that no receiver is asked."""
    if "/" in word or "\\" in word or word.endswith((".json", ".jsonl")):
        return True
    try:
        return Path(word).exists()
    except OSError:  # longer than a file's name can be
        return False


def verify(call: Call) -> int:
    """Check the records of a file, of a pulled folder, or of a job's artifact at the receiver."""
    from training.fleet.provenance import FILE_NAME

    word, given = call.args.record, call.args.bundle
    root = _root(call)
    place = Path(word)
    is_here = is_offline(word)
    folder = place if is_here and place.is_dir() else None
    wanted: str | None = None
    if is_here:
        where = str(place / FILE_NAME if folder else place)
        envelopes = _read(Path(where))
    else:
        wanted, envelopes = _fetched(call, word)
        where = f"artifact {wanted[:12]}"
    inside = None if folder is None else folder / "bundle.tar.zst"
    bundle = Path(given) if given else inside if inside is not None and inside.is_file() else None
    records = tuple(_verified(envelope, root, where) for envelope in envelopes)
    _same_artifact(records, wanted, where)
    if bundle is not None:
        _require_bytes(bundle, records[0])
        if folder is not None:
            _require_files(folder, bundle)
    found = Checked(records, bundle, folder if bundle is not None else None)
    return call.say(as_json(found), lambda: told(call.view, found))


def as_json(found: Checked) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "verified": True,
        "artifact_id": found.records[0].artifact_id,
        "bundle": None if found.bundle is None else str(found.bundle),
        "folder": None if found.folder is None else str(found.folder),
        "records": [
            {
                "job_id": one.job_id, "name": one.name, "epoch": one.epoch, "fleet": one.fleet, "host": one.host,
                "certificate_serial": one.certificate_serial, "recorded_at": one.recorded_at.isoformat(),
                "signed_by": _signer(one), "statement": one.statement,
            }
            for one in found.records
        ],
    }  # fmt: skip


def told(view: View, found: Checked) -> list[str]:
    """The records on one screen."""
    if view.width is None:
        header = [
            "ARTIFACT", "JOB", "NAME", "EPOCH", "FLEET", "HOST", "CERTIFICATE", "RECORDED_AT", "SIGNED_BY", "BUNDLE",
        ]  # fmt: skip
        rows = [
            [
                one.artifact_id, one.job_id, safe(one.name), str(one.epoch), one.fleet, one.host,
                one.certificate_serial or "-", one.recorded_at.isoformat(), _signer(one),
                "-" if found.bundle is None else safe(str(found.bundle)),
            ]
            for one in found.records
        ]  # fmt: skip
        return tsv(header, rows)
    out = [f"artifact {found.records[0].artifact_id}", f"  {_bytes_checked(found)}"]
    for one in found.records:
        out += ["", f"{view.paint('verified', 'good')}  {safe(one.name)}, attempt {one.epoch}"]
        width = max(len(key) for key, _ in _fields(one)) + 4
        for key, value in _fields(one):
            out += textwrap.wrap(
                value, max(view.columns, 40), initial_indent=f"  {key}".ljust(width), subsequent_indent=" " * width,
                break_on_hyphens=False, break_long_words=False,
            )  # fmt: skip
    return out


def _fields(one: Record) -> list[tuple[str, str]]:
    from training.fleet.provenance import SPEC_KEYS

    serial = one.certificate_serial
    proof = f"certificate {serial}" if serial else "without a certificate: hosts were taken at their word"
    job = ", ".join(
        f"{key} {_value(one.job[key])}" for key in ("model", "mode", *SPEC_KEYS) if key in one.job
    )
    return [
        ("job", f"{one.job_id[:12]}: {safe(job)}"),
        ("host", f"{one.host} of {one.fleet}, {proof}"),
        *((name, safe(value)) for name, value in _made_from(one)),
        ("recorded", f"{one.recorded_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("signed by", _signer(one)[:12]),
    ]


def _made_from(one: Record) -> list[tuple[str, str]]:
    predicate = one.statement.get("predicate")
    definition = predicate.get("buildDefinition") if isinstance(predicate, dict) else None
    parts = definition.get("resolvedDependencies") if isinstance(definition, dict) else None
    out = []
    for part in parts if isinstance(parts, list) else ():
        digest = part.get("digest") if isinstance(part, dict) else None
        if isinstance(digest, dict):
            said = " (the host's word)" if part.get("annotations") else ""
            out.append(
                (str(part.get("name")), ", ".join(str(value) for value in digest.values())[:64] + said)
            )
    return out


def _value(value: object) -> str:
    return figure(value) if not isinstance(value, dict | list) else json.dumps(value)


def _bytes_checked(found: Checked) -> str:
    if found.bundle is None:
        return "its bytes were not looked at: --bundle FILE compares them"
    files = f", and the files in {safe(str(found.folder))} are those in it" if found.folder else ""
    return f"{safe(str(found.bundle))} has its bytes{files}"


def _signer(one: Record) -> str:
    from cis490.pki.certificates import fingerprint

    return fingerprint(one.signed_by)


# -- what is read


def _root(call: Call) -> x509.Certificate:
    path = (
        Path(call.args.root)
        if call.args.root
        else known_root(getattr(call.args, "credentials", None), call.terminal.env)
    )
    command = f"{COMMAND} {safe(call.args.record)}"
    if path is None:
        raise Stop(
            USAGE,
            "no root certificate to check the signature with: this user has no credentials of a fleet",
            f"  next: {command} --root root.pem   ({HINT})",
            error_code="E063",
        )
    return read_root(path, command)


def _read(path: Path) -> list[bytes]:
    from training.fleet.provenance import MAX_ENVELOPE_BYTES, ProvenanceError, envelopes_of

    try:
        with path.open("rb") as stream:
            return envelopes_of(stream.read(16 * MAX_ENVELOPE_BYTES))
    except OSError as fault:
        raise Stop(
            USAGE, f"{safe(str(path))} cannot be read: {fault.strerror}",
            "  next: cis490-jobs pull JOB   (leaves the record in the folder that it makes)", error_code="E010",
        ) from fault  # fmt: skip
    except ProvenanceError as fault:
        raise _no_proof(str(path), fault) from fault


def _fetched(call: Call, word: str) -> tuple[str, list[bytes]]:
    try:
        artifact, _ = naming.artifact_of(call.client.jobs(), word)
    except naming.NoArtifact as fault:
        raise Stop(REFUSED, *safe(str(fault)).splitlines()) from fault
    return artifact, [json.dumps(one).encode() for one in call.client.provenance(artifact)]


# -- what is compared


def _verified(envelope: bytes, root: x509.Certificate, where: str) -> Record:
    from training.fleet.provenance import ProvenanceError, verify

    try:
        return verify(envelope, root)
    except ProvenanceError as fault:
        raise _no_proof(where, fault) from fault


def _no_proof(where: str, fault: Exception) -> Stop:
    return Stop(
        REFUSED, f"{safe(where)}: {safe(str(fault))}", "  next: do not use the model", error_code="E061"
    )


def _same_artifact(records: tuple[Record, ...], wanted: str | None, where: str) -> None:
    named = {one.artifact_id for one in records} | ({wanted} if wanted else set())
    if len(named) > 1:
        both = " and ".join(sorted(one[:12] for one in named))
        raise Stop(
            REFUSED, f"{safe(where)}: the records are of different artifacts: {both}",
            "  next: check each alone, a file with one line for each", error_code="E062",
        )  # fmt: skip


def _require_bytes(bundle: Path, record: Record) -> None:
    try:
        found = sha256_file(bundle)
    except OSError as fault:
        raise Stop(
            USAGE, f"the bundle {safe(str(bundle))} cannot be read: {fault.strerror}", error_code="E010"
        ) from fault
    if found != record.artifact_id:
        raise Stop(
            REFUSED,
            f"{safe(str(bundle))} is not the artifact: its sha256 is {found[:12]}, the record is of "
            f"{record.artifact_id[:12]}",
            f"  next: cis490-jobs pull {record.artifact_id[:12]} --keep-bundle",
            error_code="E062",
        )


def _require_files(folder: Path, bundle: Path) -> None:
    """The unpacked files are those in the bundle: a model is loaded from the folder, not from the bundle."""
    from training.fleet.bundle import BundleError, extract
    from training.fleet.provenance import FILE_NAME

    with tempfile.TemporaryDirectory(prefix="cis490-verify-") as work:
        try:
            names = set(extract(bundle, Path(work) / "files"))
        except (BundleError, OSError) as fault:
            raise Stop(
                REFUSED, f"{safe(str(bundle))} cannot be unpacked: {safe(str(fault))}", error_code="E062"
            ) from fault
        # A link is none of them wherever it leads: to a folder of code, or to bytes that change later.
        here = {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }
        here -= {FILE_NAME, bundle.name} - names
        odd = sorted(here ^ names) or sorted(
            name
            for name in names
            if (folder / name).is_symlink()
            or sha256_file(folder / name) != sha256_file(Path(work) / "files" / name)
        )
    if odd:
        raise Stop(
            REFUSED,
            f"{safe(str(folder))}: {len(odd)} of its files are not those of the artifact: {safe(', '.join(odd[:5]))}",
            "  next: pull it again into another folder, and compare",
            error_code="E062",
        )
