"""The authority's folder made and changed: every change is one rename, or a row of them that each leave it usable.

The verbs of `training.fleet.ca` call these. Time and names are passed in; what is returned are sentences for a person.
Raises PkiError (what was tried, on which file, what to type next) and OSError.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cis490.files import atomic_write, create_exclusive, fsync_folder, make_folders, temporary_name, write_all
from cis490.locks import Held, hold
from cis490.pki import certificates as pki
from cis490.pki import issuers
from cis490.pki.authority import (
    Fleet,
    fleet_json,
    fleet_name_fault,
    open_authority,
    read_certificates,
    read_fleet,
    read_former,
    read_issuer,
)
from cis490.pki.certificates import Issuer, PkiError
from training.fleet.enrolment import LATE

COMMAND = "python -m training.fleet.ca"
SERVER, SERVER_KEY = "server.pem", "server-key.pem"
ROOT_KEY = "root-key.pem"
Rotated = Literal["clients", "servers", "signing"]
PARTS: tuple[Rotated, ...] = ("clients", "servers", "signing")


def init(folder: Path, fleet: Fleet, now: datetime) -> list[str]:
    """Make the authority, or bring the addresses of the one that is there up to date.

    It is made in a hidden folder beside and renamed: there is no half of an authority, whenever the power fails.
    """
    if fault := fleet_name_fault(fleet.name):
        raise PkiError(f"the fleet's name: {fault}")
    for host in (fleet.address, *fleet.also):
        pki.general_name(host)
    if (folder / "fleet.json").exists():
        return _update(folder, fleet)
    if folder.exists() and any(folder.iterdir()):
        found = ", ".join(sorted(item.name for item in folder.iterdir())[:5])
        raise PkiError(
            f"{folder} holds {found}, but no fleet.json: that is no authority, and nothing in it was touched. "
            f"Look what it is; mv {folder} {folder}.old"
        )
    make_folders(folder.parent)
    for left in folder.parent.glob(
        f".{folder.name}.*.tmp"
    ):  # of an attempt that the power ended: keys nobody uses
        shutil.rmtree(left)
    made = issuers.make_all(fleet, now)
    parts = {name: getattr(made, name) for name in ("root", *PARTS)}
    files = {f"{name}.pem": pki.chain_pem(issuer.certificate) for name, issuer in parts.items()}
    files |= {f"{name}-key.pem": pki.key_pem(issuer.key) for name, issuer in parts.items()}
    # The empty ones are there from the first day, so that a service can name all files that it gets copies of.
    files |= {"clients-old.pem": b"", "signing-old.pem": b"", "fleet.json": fleet_json(fleet)}
    temporary = temporary_name(folder)
    temporary.mkdir(mode=0o700)
    try:
        for name, data in files.items():
            _write_new(temporary / name, data)
        fsync_folder(temporary)
        os.rename(temporary, folder)  # also over an empty folder
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_folder(folder.parent)
    return [
        f"{folder}: the authority of {fleet.name} is made; root {pki.fingerprint(made.root.certificate)}",
        f"next: {COMMAND} root-key export --dir {folder} --out FILE   then keep FILE elsewhere",
    ]


def _update(folder: Path, wanted: Fleet) -> list[str]:
    found = read_fleet(folder)
    if found.name != wanted.name:
        raise PkiError(
            f"{folder} is the authority of {found.name}, not of {wanted.name}. A fleet keeps its name, because every "
            f"certificate holds it. For another fleet choose another --dir"
        )
    open_authority(folder)
    also = tuple(dict.fromkeys((*found.also, *wanted.also)))
    changed = replace(
        found, address=wanted.address, also=tuple(host for host in also if host != wanted.address)
    )
    if changed == found:
        return [f"{folder}: the authority of {found.name} is there already; nothing to do"]
    save_fleet(folder, changed)
    next_step = (
        f"next: {COMMAND} server --dir {folder} --out FOLDER --if-due   then restart proxy and receiver; hosts learn "
        "the new address when they renew, at the latest after 10 days: keep the old one until then"
    )
    return [
        f"{folder}: {found.name} is now reached at {', '.join((changed.address, *changed.also))}",
        next_step,
    ]


def save_fleet(folder: Path, fleet: Fleet) -> None:
    """Write fleet.json after checking that the proxy's certificate may name its addresses."""
    check_permitted(folder, issuers.server_names(fleet))
    atomic_write(folder / "fleet.json", fleet_json(fleet), 0o600)


def check_permitted(folder: Path, names: Sequence[str]) -> None:
    """Raises PkiError naming the hosts that the issuer of servers may not certify."""
    issuer = read_certificates(folder / "servers.pem")[0]
    refused = [host for host in names if not pki.is_permitted(host, issuer)]
    if refused:
        options = " ".join(f"--also-address {host}" for host in refused)
        raise PkiError(
            f"the issuer of server certificates may name private addresses and those told when it was made, not "
            f"{', '.join(refused)}. {COMMAND} rotate servers --dir {folder} {options}   makes one that may"
        )


def issue_server(
    folder: Path, out: Path, now: datetime, *, also: Sequence[str] = (), only_if_due: bool = False
) -> tuple[bool, str]:
    """The proxy's certificate and key into `out`: (whether a new one was issued, a sentence).

    `also` is remembered in fleet.json. One file, server.pem, holds key, leaf and intermediate, and server-key.pem is a
    link to it: a renewal is one rename, and key and certificate are never out of step.
    """
    fleet = read_fleet(folder)
    wanted = replace(
        fleet, also=tuple(dict.fromkeys((*fleet.also, *(h for h in also if h != fleet.address))))
    )
    if wanted != fleet:
        save_fleet(folder, wanted)
    names = issuers.server_names(wanted)
    root = read_certificates(folder / "root.pem")[0]
    issuer = read_issuer(folder, "servers", root)
    check_permitted(folder, names)
    path = out / SERVER
    if only_if_due and not (why := _why_due(out, issuer, names, now)):
        end = pki.load_certificates(path.read_bytes())[0].not_valid_after_utc
        return False, f"{path} is valid until {end:%Y-%m-%d}; nothing to do"
    why = _why_due(out, issuer, names, now) or "asked for"
    key = pki.new_key()
    leaf = pki.issue(
        issuer, key.public_key(), "servers", name=wanted.server_name, now=now, lifetime=issuers.SERVER_LIFETIME,
        hosts=names,
    )  # fmt: skip
    _make_private(out)
    atomic_write(path, pki.key_pem(key) + pki.chain_pem(leaf, *issuer.chain), 0o600)
    _link(out / SERVER_KEY, SERVER)
    return True, f"{path}: issued until {leaf.not_valid_after_utc:%Y-%m-%d} for {', '.join(names)} ({why})"


def _why_due(out: Path, issuer: Issuer, names: Sequence[str], now: datetime) -> str:
    """Why the proxy needs another certificate; "" when it does not."""
    path = out / SERVER
    if not path.exists():
        return "there was none"
    try:
        leaf = pki.load_certificates(path.read_bytes())[0]
        fits = pki.load_key((out / SERVER_KEY).read_bytes()).public_key() == pki.public_key_of(leaf)
    except (PkiError, OSError):
        return "the former could not be read"
    if not fits:
        return "the former did not fit its key"
    if not pki.is_issued_by(leaf, issuer.certificate):
        return "its issuer is another now"
    if {pki.general_name(host) for host in names} != set(alternative_names(leaf)):
        return "the addresses have changed"
    return "it was due" if now >= pki.renew_after(leaf) else ""


def alternative_names(leaf: x509.Certificate) -> list[x509.GeneralName]:
    """DNS names and IP addresses of a certificate."""
    try:
        return list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def rotate(
    folder: Path, part: Rotated, root_key: ec.EllipticCurvePrivateKey, now: datetime, *,
    also: Sequence[str] = (), is_stolen: bool = False,
) -> list[str]:  # fmt: skip
    """A new issuer (or signer) under the same root. What the former issued goes on counting, unless `is_stolen`.

    In this order each step leaves a folder that works: the former certificate among the old ones; the new key beside
    the old key; the new certificate; the new key alone.
    """
    root = read_certificates(folder / "root.pem")[0]
    if root_key.public_key() != pki.public_key_of(root):
        raise PkiError(f"this is not the key of {folder / 'root.pem'}")
    fleet = read_fleet(folder)
    if also:
        fleet = replace(fleet, also=tuple(dict.fromkeys((*fleet.also, *also))))
    make = {
        "clients": issuers.make_clients,
        "servers": issuers.make_servers,
        "signing": issuers.make_signing,
    }[part]
    made = make(Issuer(root, root_key), fleet, now)
    former = read_certificates(folder / f"{part}.pem")[0]
    if part != "servers":
        old = [] if is_stolen else [former, *read_former(folder, part, root)]
        # Its leaves ended with it at the latest, and may be renewed for LATE after: a summer break locks nobody out.
        kept = [
            item for item in dict.fromkeys(old) if item.not_valid_after_utc + LATE > now or part == "signing"
        ]
        atomic_write(folder / f"{part}-old.pem", pki.chain_pem(*kept), 0o600)
    key_path = folder / f"{part}-key.pem"
    before = key_path.read_bytes() if key_path.exists() else b""
    atomic_write(key_path, pki.key_pem(made.key) + before, 0o600)
    atomic_write(folder / f"{part}.pem", pki.chain_pem(made.certificate), 0o600)
    atomic_write(key_path, pki.key_pem(made.key), 0o600)
    if also:
        save_fleet(folder, fleet)
    return [
        f"{folder}: {part} is new, valid until {made.certificate.not_valid_after_utc:%Y-%m-%d}",
        _after_rotation(folder, part, is_stolen),
    ]


def _after_rotation(folder: Path, part: Rotated, is_stolen: bool) -> str:
    if part == "servers":
        return f"next: {COMMAND} server --dir {folder} --out FOLDER   then restart the proxy"
    if not is_stolen:
        return "next: restart the receiver. What was issued or signed before counts on"
    if part == "clients":
        return (
            "next: restart the receiver. No earlier certificate counts any more: every host and operator joins again "
            "(cis490-jobs hosts add NAME; the first operator by "
            f"{COMMAND} operator NAME --dir {folder} --out FOLDER --replace)"
        )
    return "next: restart the receiver. Records signed with the stolen key prove nothing any more"


def read_root_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """root-key.pem of this folder. Raises PkiError that says where it may be instead."""
    path = folder / ROOT_KEY
    if not path.exists():
        raise PkiError(
            f"{path} is not here: it was removed to be kept elsewhere. Name the exported file: --root-key FILE"
        )
    try:
        return pki.load_key(path.read_bytes())
    except PkiError as error:
        raise PkiError(f"{path}: {error}") from error


def remove_root_key(folder: Path, exported: ec.EllipticCurvePrivateKey) -> str:
    """Delete root-key.pem, after comparing it with what was exported and could be read back."""
    root = read_certificates(folder / "root.pem")[0]
    if exported.public_key() != pki.public_key_of(root):
        raise PkiError(f"the exported key is not the key of {folder / 'root.pem'}; nothing was removed")
    path = folder / ROOT_KEY
    if not path.exists():
        return f"{path} is not there; nothing to do"
    path.unlink()
    fsync_folder(folder)
    return f"{path} is removed; rotations need --root-key FILE from now on. Backups made before still hold it"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other command changes this folder meanwhile. Raises PkiError."""
    if not (folder / "fleet.json").exists():
        raise PkiError(
            f"{folder} holds no authority (no fleet.json). {COMMAND} init --dir {folder} makes one"
        )
    try:
        with hold(folder / "lock"):
            yield
    except Held as error:
        raise PkiError(f"another command is changing {folder} (pid {error.pid}); wait for it") from error


def _make_private(folder: Path) -> None:
    if not folder.exists():
        make_folders(folder.parent)
        folder.mkdir(mode=0o700)
        fsync_folder(folder.parent)


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and os.readlink(path) == target:
        return
    temporary = temporary_name(path)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    fsync_folder(path.parent)


def _write_new(path: Path, data: bytes) -> None:
    descriptor = create_exclusive(path, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def safe_stem(name: str) -> str:
    """The fleet's name as part of a file name."""
    return re.sub(r"[^a-z0-9-]", "-", name)
