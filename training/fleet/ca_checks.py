"""What is going to end, and how much that matters: certificates of the authority and of the proxy, and the last backup.

Pure judgements of dates and modes, and the reading of the files that they are about. `ca show` and `doctor` print them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509

from cis490.pki import certificates as pki
from cis490.pki.authority import open_authority, read_certificates, read_issuer
from cis490.pki.certificates import PkiError
from training.fleet.ca_files import COMMAND, ROOT_KEY, SERVER

State = Literal["OK", "WARN", "FAIL"]
ISSUER_WARN, ISSUER_FAIL = timedelta(days=90), timedelta(days=30)
"""An issuer that ends within a leaf's 30 days cuts its leaves short: then it is late."""
ROOT_WARN = timedelta(days=365)
"""A new root means that every host joins again: reason enough to know it a year before."""
SERVER_WARN, SERVER_FAIL = timedelta(days=45), timedelta(days=7)
"""It is renewed when 60 of its 90 days are left; with 45 the timer has not run for two weeks."""
BACKUP_WARN = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Judged:
    """One thing and how it stands. `fix`: what to type, "" when there is nothing to do."""

    what: str
    state: State
    found: str
    fix: str = ""


SAID = {
    "root": "the root",
    "clients": "the issuer of clients",
    "servers": "the issuer of servers",
    "signing": "the signing certificate",
    "proxy": "the proxy's certificate",
}


def of_dates(
    what: str, certificate: x509.Certificate, now: datetime, warn: timedelta, fail: timedelta, fix: str
) -> Judged:
    """A certificate against its own dates. `what` is one of `SAID`."""
    said = SAID[what]
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        text = f"{said} is valid from {start:%Y-%m-%d %H:%M} UTC only: this machine's clock says {now:%Y-%m-%d %H:%M}"
        return Judged(what, "FAIL", text, "timedatectl   then: sudo timedatectl set-ntp true")
    if now >= end:
        return Judged(what, "FAIL", f"{said} ended on {end:%Y-%m-%d}", fix)
    left = end - now
    text = f"{said} is valid until {end:%Y-%m-%d} ({left.days} days)"
    if left < fail:
        return Judged(what, "FAIL", text, fix)
    return Judged(what, "WARN", text, fix) if left < warn else Judged(what, "OK", text)


def of_authority(folder: Path, now: datetime) -> Iterator[Judged]:
    """The folder's certificates, what they are missing, and who may read its keys. Nothing is raised."""
    try:
        authority = open_authority(folder)
        servers = read_certificates(folder / "servers.pem")[0]
    except (PkiError, OSError) as error:
        yield Judged("authority", "FAIL", str(error), f"{COMMAND} restore FILE --dir {folder} --only ca")
        return
    again = f"{COMMAND} init   with another --dir: every host joins the new root"
    yield of_dates("root", authority.root, now, ROOT_WARN, ISSUER_FAIL, again)
    for part, certificate in (
        ("clients", authority.clients.certificate),
        ("servers", servers),
        *([("signing", authority.signing.certificate)] if authority.signing else []),
    ):
        fix = f"{COMMAND} rotate {part} --dir {folder}"
        yield of_dates(part, certificate, now, ISSUER_WARN, ISSUER_FAIL, fix)
    if authority.signing is None:
        text = "there is no signing certificate: provenance records are not signed"
        yield Judged("signing", "WARN", text, f"{COMMAND} rotate signing --dir {folder}")
    if (folder / "servers-key.pem").exists():
        try:
            read_issuer(folder, "servers", authority.root)
        except PkiError as error:
            yield Judged("servers", "FAIL", str(error), f"{COMMAND} rotate servers --dir {folder}")
    yield from of_modes(folder)
    if (folder / ROOT_KEY).exists():
        text = f"{folder / ROOT_KEY} lies on this machine; it is needed for rotations alone"
        fix = f"{COMMAND} root-key export --dir {folder} --out FILE   then: root-key remove --exported FILE"
        yield Judged("root key", "OK", text, fix)
    else:
        yield Judged("root key", "OK", "the root's key is kept elsewhere")


def of_modes(folder: Path) -> Iterator[Judged]:
    """Keys that others than their owner may read."""
    open_ones = [path.name for path in sorted(folder.glob("*-key.pem")) if path.stat().st_mode & 0o077]
    if open_ones:
        text = f"{', '.join(open_ones)} in {folder} can be read by others than their owner"
        yield Judged("key modes", "FAIL", text, f"sudo chmod 600 {folder}/*-key.pem; sudo chmod 700 {folder}")


def of_server(out: Path, now: datetime) -> Judged:
    """The proxy's own certificate. Nothing is raised."""
    path = out / SERVER
    try:
        found = pki.load_certificates(path.read_bytes())[0]
    except OSError as error:
        return Judged(
            "proxy", "FAIL", f"{path} cannot be read: {error.strerror}", f"{COMMAND} server --out {out}"
        )
    except PkiError as error:
        return Judged("proxy", "FAIL", f"{path}: {error}", f"{COMMAND} server --out {out}")
    fix = "systemctl status cis490-trainer-server-cert.timer   then: sudo systemctl start cis490-trainer-server-cert"
    return of_dates("proxy", found, now, SERVER_WARN, SERVER_FAIL, fix)


def of_backup(stamp: Path, now: datetime) -> Judged:
    """How old the last backup is, by the note beside the database. Nothing is raised."""
    fix = f"{COMMAND} backup   (docs/security.md says where to)"
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
        at, file = datetime.fromtimestamp(float(found["at"]), UTC), str(found["file"])
    except FileNotFoundError:
        return Judged("backup", "WARN", "no backup of keys and queue was ever made here", fix)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        return Judged("backup", "WARN", f"{stamp} cannot be read ({error}): no last backup is known", fix)
    age = now - at
    text = f"the last backup was made {age.days} days ago: {file}"
    return Judged("backup", "WARN" if age > BACKUP_WARN else "OK", text, fix if age > BACKUP_WARN else "")
