"""Certificates of operators and readers made beside the authority's folder, without the receiver: the first operator
has nobody to ask for a token. And the same identity as a PKCS #12 file, which browsers import.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import PrivateFormat, pkcs12

from cis490.files import atomic_write, fsync_folder, is_safe_name, make_folders
from cis490.pki import certificates as pki
from cis490.pki.authority import Authority, open_authority
from cis490.pki.certificates import PkiError
from training.fleet import credentials
from training.fleet.credentials import About, CredentialsError
from training.fleet.peers import uri_of

DAYS, MAX_DAYS = 30, 397
"""A browser does not renew by itself, so longer is allowed; never more than browsers take from a server."""
P12_ROUNDS = 200_000
MIN_P12_PASSWORD = 12
"""The file's checksum is bound to the password by 2048 rounds alone, so the password must carry it."""


@dataclass(frozen=True, slots=True)
class Member:
    """Whom to make a certificate for, and for how long."""

    role: Literal["operator", "reader"]
    name: str
    days: int = DAYS


def make(
    authority_folder: Path, out: Path, member: Member, now: datetime, *, replace: bool = False
) -> tuple[bool, list[str]]:
    """A folder of credentials in `out`: (whether a certificate was issued, sentences).

    A valid one of the same identity is left alone unless `replace`; one of somebody else always is. Raises PkiError.
    """
    if not is_safe_name(member.name):
        raise PkiError(
            f"found the name {member.name!r}, expected 1 to 64 letters, digits, dots, hyphens and underscores"
        )
    if not 1 <= member.days <= MAX_DAYS:
        raise PkiError(f"found {member.days} days, expected 1 to {MAX_DAYS}")
    authority = open_authority(authority_folder)
    path = out / credentials.IDENTITY
    if path.exists():
        end = _end_of_own(out, authority, member, now)
        if end is not None and not replace:
            return False, [f"{out}: {member.role} {member.name} is valid until {end:%Y-%m-%d}; nothing to do"]
    elif out.exists() and any(out.iterdir()) and not (out / credentials.ABOUT).exists():
        raise PkiError(f"{out} holds other files; choose a folder of its own")
    key, fleet = pki.new_key(), authority.fleet
    leaf = pki.issue(
        authority.clients, key.public_key(), "clients", name=member.name, now=now,
        lifetime=timedelta(days=member.days), uri=uri_of(fleet.name, member.role, member.name),
    )  # fmt: skip
    about = About(
        fleet.name, member.role, member.name, fleet.operators_url, fleet.join_url, fleet.server_name
    )
    if not out.exists():
        make_folders(out.parent)
        out.mkdir(mode=0o700)
        fsync_folder(out.parent)
    atomic_write(out / credentials.ROOT, pki.chain_pem(authority.root), 0o644)
    atomic_write(out / credentials.ABOUT, credentials.about_json(about), 0o644)
    identity = pki.key_pem(key) + pki.chain_pem(leaf, *authority.clients.chain)
    atomic_write(path, identity, 0o600)  # last: before it there is nobody in the folder
    return True, [
        f"{out}: {member.role} {member.name} until {leaf.not_valid_after_utc:%Y-%m-%d}, serial {pki.serial_of(leaf)}",
        f"next: cis490-jobs --credentials {out} status",
    ]


def _end_of_own(out: Path, authority: Authority, member: Member, now: datetime) -> datetime | None:
    """When the certificate in the folder ends; None when it is this identity's and another is due."""
    try:
        about = credentials.read_about(out)
        leaf = pki.load_certificates((out / credentials.IDENTITY).read_bytes())[0]
    except (CredentialsError, PkiError) as error:
        raise PkiError(
            f"{out} holds a damaged identity: {error}. Move it away: mv {out} {out}.old"
        ) from error
    if (about.role, about.name) != (member.role, member.name):
        raise PkiError(f"{out} belongs to {about.role} {about.name}; choose another folder for {member.name}")
    counts = any(
        pki.is_issued_by(leaf, issuer) for issuer in (authority.clients.certificate, *authority.former)
    )
    return leaf.not_valid_after_utc if counts and now < pki.renew_after(leaf) else None


def pkcs12_of(folder: Path, password: str) -> bytes:
    """Key, certificate and intermediate of a folder of credentials for a browser. Raises PkiError.

    The root is not in it: whoever imports an identity need not trust an authority for web sites by accident.
    """
    if len(password) < MIN_P12_PASSWORD:
        raise PkiError(
            f"found a password of {len(password)} characters, expected at least {MIN_P12_PASSWORD}"
        )
    about = credentials.read_about(folder)
    pem = (folder / credentials.IDENTITY).read_bytes()
    key, chain = pki.load_key(pem), pki.load_certificates(pem)
    return _pkcs12(f"{about.role} {about.name} of {about.fleet}", key, chain, password)


def _pkcs12(
    name: str, key: ec.EllipticCurvePrivateKey, chain: Sequence[x509.Certificate], password: str
) -> bytes:
    how = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(P12_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password.encode())
    )
    return pkcs12.serialize_key_and_certificates(name.encode(), key, chain[0], chain[1:], how)


def give_to(folder: Path, user: str) -> None:
    """Let `user` own the folder and its files. Raises PkiError when there is no such user.

    Links are not followed: root runs this, and whoever owns the folder already could lead it anywhere.
    """
    import pwd

    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise PkiError(f"this machine has no user {user}") from error
    for path in (folder, *folder.iterdir()):
        os.chown(path, uid, -1, follow_symlinks=False)
