"""How a machine gets its first certificate: learn the lab's root from the join site, compare it with the token, and
only then show the token's secret, over TLS that the root vouches for.

The key is made here and never leaves; it is kept under the token's digest until the answer is written down, since a
token admits one key: whoever is interrupted in between repeats the same line.
"""

from __future__ import annotations

import hashlib
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cis490.files import atomic_write, make_folders
from cis490.locks import hold
from training.fleet import credentials
from training.fleet.certificate_dates import NoDates, dates_of
from training.fleet.credentials import About, CredentialsError, command_for
from training.fleet.join_token import JoinToken
from training.fleet.tls_identity import Anonymous
from training.fleet.transport import FleetError, Refused, Transport

TIMEOUT_S = 20.0
MOST_ROOT_BYTES = 64 * 1024
_PENDING = "pending-"


class JoinFault(Exception):
    """Nothing was joined; `lines` say why and what to type."""

    def __init__(self, *lines: str, unreachable: bool = False) -> None:
        super().__init__(lines[0])
        self.lines = lines
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Site:
    """The join site, once it was seen to be the right one."""

    root_pem: str
    fleet: str
    skew_s: float | None
    """By how much its clock is ahead of this one; None when it does not say."""


def said(refusal: Refused) -> str:
    """The receiver's whole sentence."""
    return str(refusal.body.get("error") or refusal.reason)


def look(token: JoinToken, wall_s: Callable[[], float] = time.time) -> Site:
    """Ask the join site for its root and compare that with the token. Sends no secret. Raises JoinFault."""
    try:
        transport = Transport(token.join_url, {}, TIMEOUT_S, Anonymous(token.server_name, None, wall_s))
    except ValueError as error:
        raise JoinFault(f"the token's address is none: {error}") from error
    try:
        skew_s = skew(transport.clock("/v1/enrol/ca"), wall_s())
        found = transport.json("GET", "/v1/enrol/ca", None, {})
    except FleetError as error:
        raise _not_reached(token, error) from error
    finally:
        transport.close()
    pem = found.get("root_pem")
    found_sha256 = fingerprint(pem)
    if found_sha256 != token.root_sha256.lower():
        raise JoinFault(
            f"the server at {token.join_url} is not the one that this token was made for: the token names the root "
            f"{token.root_sha256[:16]}..., it has {(found_sha256 or 'none')[:16]}... Nothing was sent to it.",
            "  next: check the address; if the lab's certificates were made anew, make a new token on the receiver:",
            f"        {command_for(token.role, token.name)}",
        )
    assert isinstance(pem, str)
    return Site(pem, str(found.get("fleet") or ""), skew_s)


def skew(date_s: float | None, now_s: float) -> float | None:
    """By how many seconds the other clock is ahead; its `Date` has whole seconds, so less than one is none. Pure."""
    if date_s is None:
        return None
    return date_s - now_s if date_s > now_s else min(0.0, date_s + 1.0 - now_s)


def fingerprint(pem: object) -> str | None:
    if (
        not isinstance(pem, str)
        or len(pem) > MOST_ROOT_BYTES
        or pem.count("-----BEGIN CERTIFICATE-----") != 1
    ):
        return None  # one certificate: a second one would be trusted without having been compared
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError:
        return None


def join(
    token: JoinToken, site: Site, folder: Path, wall_s: Callable[[], float] = time.time
) -> tuple[About, float]:
    """Get a certificate and write the folder; returns what stands in it and until when it counts. Raises JoinFault.

    OSError when the folder cannot be written, Held while somebody renews what is in it.
    """
    if (owner := credentials.foreign_owner(folder)) is not None:
        raise JoinFault(
            f"{folder} is for the user {owner}, who could not renew what root writes there. Nothing was changed.",
            f"  next: run this as that user: runuser -u {owner} -- python -m training.fleet.join ...",
        )
    make_private(folder)
    with hold(folder / credentials.LOCK):
        return _join(token, site, folder, wall_s)


def _join(token: JoinToken, site: Site, folder: Path, wall_s: Callable[[], float]) -> tuple[About, float]:
    # Only here and in `renewal`: a worker at work needs no `cryptography`.
    from cis490.pki import certificates as pki

    key_path = pending_key(folder, token)
    try:
        key = pki.load_key(key_path.read_bytes())
    except (FileNotFoundError, pki.PkiError):
        key = pki.new_key()
        atomic_write(key_path, pki.key_pem(key), mode=0o600)
    try:
        root_pem = ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(site.root_pem))
        transport = Transport(token.join_url, {}, TIMEOUT_S, Anonymous(token.server_name, root_pem, wall_s))
    except ValueError as error:
        raise JoinFault(f"the root that {token.join_url} sent cannot be used: {error}") from error
    body = {
        "secret": token.secret,
        "role": token.role,
        "name": token.name,
        "csr_pem": pki.make_request(key, token.name).decode(),
    }
    try:
        answer = transport.json("POST", "/v1/enrol/join", body, {})
    except Refused as refusal:
        raise _refused(token, refusal) from refusal
    except FleetError as error:
        raise _not_reached(token, error) from error
    finally:
        transport.close()
    about, certificate_pem = _judged(token, answer)
    try:
        not_after_s = write(folder, about, root_pem, pki.key_pem(key), certificate_pem)
    except (ValueError, CredentialsError) as error:
        raise JoinFault(f"the certificate that {token.join_url} sent cannot be used: {error}") from error
    forget_pending(folder)
    return about, not_after_s


def write(folder: Path, about: About, root_pem: str, key_pem: bytes, certificate_pem: str) -> float:
    """Fill the folder, the identity last; returns until when it counts. ValueError when it would not be usable."""
    not_after_s = dates_of(certificate_pem.encode()).not_after_s
    identity = key_pem + certificate_pem.encode()
    credentials.check_fits(folder, identity)
    atomic_write(folder / credentials.ABOUT, credentials.about_json(about))
    atomic_write(folder / credentials.ROOT, root_pem.encode())
    credentials.write_identity(folder, identity)
    return not_after_s


def make_private(folder: Path) -> None:
    """The folder, readable for its owner alone (Windows: as the installer's access list says)."""
    make_folders(folder)
    if sys.platform != "win32":
        folder.chmod(0o700)


def pending_key(folder: Path, token: JoinToken) -> Path:
    """Where the key of this token lies until its certificate is there."""
    return folder / f"{_PENDING}{hashlib.sha256(token.secret.encode()).hexdigest()[:12]}.pem"


def forget_pending(folder: Path) -> None:
    """Remove the keys of tokens that came to nothing."""
    for path in folder.glob(f"{_PENDING}*.pem"):
        path.unlink(missing_ok=True)


def _judged(token: JoinToken, answer: Mapping[str, Any]) -> tuple[About, str]:
    keys = ("certificate_pem", "fleet", "role", "name", "url", "join_url", "server_name")
    found = {key: answer.get(key) for key in keys}
    if not all(isinstance(value, str) and value for value in found.values()):
        missing = ", ".join(key for key, value in found.items() if not isinstance(value, str) or not value)
        raise JoinFault(
            f"{token.join_url} answered without {missing}: is the receiver older than this program?"
        )
    certificate_pem = str(found.pop("certificate_pem"))
    about = About(**{key: str(value) for key, value in found.items()})
    if (about.role, about.name) != (token.role, token.name):
        raise JoinFault(
            f"{token.join_url} made a certificate for the {about.role} {about.name}; the token is for the "
            f"{token.role} {token.name}. Nothing was kept."
        )
    try:
        dates_of(certificate_pem.encode())
    except NoDates as error:
        raise JoinFault(f"{token.join_url} sent a certificate that cannot be read: {error}") from error
    return about, certificate_pem


def _refused(token: JoinToken, refusal: Refused) -> JoinFault:
    text = said(refusal)
    code = refusal.body.get("code")
    mark = f"  [{code}]" if isinstance(code, str) else ""
    lines = [f"{token.join_url} did not take the token: {text}{mark}"]
    if command_for(token.role, token.name) not in text:
        lines.append(f"  next: make a new one on the receiver: {command_for(token.role, token.name)}")
    return JoinFault(*lines)


def _not_reached(token: JoinToken, error: FleetError) -> JoinFault:
    if isinstance(error, Refused):
        return JoinFault(
            f"{token.join_url} answers, and it is no join site: {error.reason}",
            f"  next: make a new token on the receiver: {command_for(token.role, token.name)}",
        )
    return JoinFault(
        f"the join site cannot be reached: {error}",
        "  next: is this machine in the lab's network, and does the proxy run there?  "
        "systemctl status cis490-caddy   (on the receiver's machine)",
        unreachable=True,
    )
