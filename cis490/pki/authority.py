"""The folder that holds the lab's certificate authority, read once.

    fleet.json                          what the fleet is called and where it is reached (`Fleet`)
    root.pem, root-key.pem              the key may be elsewhere: only new intermediates need it
    clients.pem, clients-key.pem        issues hosts, operators and readers
    clients-old.pem                     issuers before the last rotation, whose leaves still count; may be empty
    servers.pem, servers-key.pem        issues the proxy's certificate
    signing.pem, signing-key.pem        signs provenance records

The receiver reads fleet.json, root, clients and signing; never root-key.pem nor servers-key.pem. Files are 0600 in a
folder 0700; as a service it gets copies of those it needs from systemd (`LoadCredential=`).
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509

from cis490.pki import certificates as pki
from cis490.pki.certificates import Issuer, PkiError, Usage

SERVER_NAME = "receiver.cis490.internal"
"""What the proxy's certificate always names; our clients ask for it, whatever address they connect to, so that a lab
without DNS, or with a new IP address, needs no new certificate."""
JOIN_PORT, WORKERS_PORT, OPERATORS_PORT = 8446, 8447, 8448
MAX_FLEET_NAME = 63
_FLEET = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Fleet:
    """What everybody who joins is told."""

    name: str
    """Of the lab, the trust domain of identities: see `fleet_name_fault`."""
    address: str
    """Host name or IP address under which other machines reach the receiver."""
    server_name: str = SERVER_NAME
    join_port: int = JOIN_PORT
    workers_port: int = WORKERS_PORT
    operators_port: int = OPERATORS_PORT
    also: tuple[str, ...] = ()
    """Further host names and IP addresses that the proxy's certificate is to name, for browsers."""

    def url(self, port: int) -> str:
        """`https://ADDRESS:PORT`, with brackets around IPv6."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"https://{host}:{port}"

    @property
    def join_url(self) -> str:
        return self.url(self.join_port)

    @property
    def workers_url(self) -> str:
        return self.url(self.workers_port)

    @property
    def operators_url(self) -> str:
        return self.url(self.operators_port)


@dataclass(frozen=True, slots=True)
class Authority:
    """What the receiver needs to know and to issue."""

    fleet: Fleet
    root: x509.Certificate
    clients: Issuer
    former: tuple[x509.Certificate, ...]
    """Earlier issuers of clients, whose leaves still count."""
    signing: Issuer | None
    """None: provenance records cannot be signed here."""

    @property
    def root_fingerprint(self) -> str:
        return pki.fingerprint(self.root)


def fleet_name_fault(name: str) -> str:
    """What is wrong with this name of a fleet, as a sentence; "" for a good one.

    It is the host part of an identity (`spiffe://NAME/host/...`), so it looks like a host name: that is what name
    constraints of certificates are compared with. An IP address never matches one.
    """
    if not _FLEET.fullmatch(name) or len(name) > MAX_FLEET_NAME:
        return (
            f"found {name!r}, expected 1 to {MAX_FLEET_NAME} lower-case letters, digits, hyphens and dots, "
            "like a host name"
        )
    if name.replace(".", "").isdigit():
        return f"found {name!r}, expected at least one letter, so that it cannot be taken for an IP address"
    return ""


def read_fleet(folder: Path) -> Fleet:
    """Raises PkiError naming the file."""
    path = folder / "fleet.json"
    try:
        return _fleet(json.loads(_read(path)))
    except PkiError as error:
        raise PkiError(f"{path} {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise PkiError(f"{path} is not what `python -m training.fleet.ca init` writes: {error}") from error


def _fleet(found: object) -> Fleet:
    if not isinstance(found, dict):
        raise TypeError("expected an object")
    also = found.get("also", ())
    if not isinstance(also, (list, tuple)):
        raise TypeError('"also" is no list')
    fleet = Fleet(**{**found, "also": tuple(also)})
    for item in (fleet.name, fleet.address, fleet.server_name, *fleet.also):
        if not isinstance(item, str):
            raise TypeError(f"expected text, found {item!r}")
    ports: tuple[object, ...] = (fleet.join_port, fleet.workers_port, fleet.operators_port)
    for port in ports:
        if not isinstance(port, int) or not 0 < port < 65536:
            raise ValueError(f"expected a port from 1 to 65535, found {port!r}")
    if fault := fleet_name_fault(fleet.name):
        raise ValueError(f"name: {fault}")
    for host in (fleet.address, fleet.server_name, *fleet.also):
        pki.general_name(host)
    return fleet


def fleet_json(fleet: Fleet) -> bytes:
    return (json.dumps(asdict(fleet), indent=2) + "\n").encode()


def open_authority(folder: Path) -> Authority:
    """Read what the receiver needs. Raises PkiError naming the file that is missing or wrong."""
    root = read_certificates(folder / "root.pem")[0]
    return Authority(
        read_fleet(folder),
        root,
        read_issuer(folder, "clients", root),
        read_former(folder, "clients", root),
        read_issuer(folder, "signing", root) if (folder / "signing.pem").exists() else None,
    )


def read_issuer(folder: Path, name: Usage, root: x509.Certificate) -> Issuer:
    """NAME.pem and its key, which must come from the root and be for this use. Raises PkiError.

    NAME-key.pem may hold several keys; the one that fits counts. A rotation writes the new key beside the old one,
    then the new certificate, then the new key alone: wherever a power cut falls, one of them fits.
    """
    path = folder / f"{name}.pem"
    certificate = read_certificates(path)[0]
    _belongs(path, certificate, name, root)
    key_path = folder / f"{name}-key.pem"
    try:
        keys = pki.load_keys(_read(key_path))
    except PkiError as error:
        raise PkiError(f"{key_path}: {error}") from error
    wanted = pki.key_id(pki.public_key_of(certificate))
    for key in keys:
        if pki.key_id(key.public_key()) == wanted:
            return Issuer(certificate, key, (certificate,))
    raise PkiError(f"{key_path} is not the key of {path}")


def read_former(folder: Path, name: Usage, root: x509.Certificate) -> tuple[x509.Certificate, ...]:
    """NAME-old.pem; () when it is absent or empty. Raises PkiError."""
    path = folder / f"{name}-old.pem"
    if not path.exists() or not _read(path).strip():
        return ()
    found = read_certificates(path)
    for certificate in found:
        _belongs(path, certificate, name, root)
    return found


def _belongs(path: Path, certificate: x509.Certificate, name: Usage, root: x509.Certificate) -> None:
    if not pki.is_issued_by(certificate, root):
        raise PkiError(f"{path} was not issued by {path.with_name('root.pem')}")
    if not pki.has_usage(certificate, name):
        raise PkiError(f"{path} is a certificate for another use than {name}: {pki.name_of(certificate)!r}")


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return pki.load_certificates(_read(path))
    except PkiError as error:
        raise PkiError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PkiError(f"cannot be read: {error.strerror}") from error
