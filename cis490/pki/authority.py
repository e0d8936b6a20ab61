"""The folder that holds the lab's certificate authority, read once.

    fleet.json                          what the fleet is called and where it is reached (`Fleet`)
    root.pem, root-key.pem              the key may be elsewhere: only new intermediates need it
    clients.pem, clients-key.pem        issues hosts, operators and readers
    clients-old.pem                     issuers before the last rotation, whose leaves still count; may be absent
    servers.pem, servers-key.pem        issues the proxy's certificate
    signing.pem, signing-key.pem        signs provenance records

The receiver reads fleet.json, root, clients and signing; never root-key.pem nor servers-key.pem. Files are 0600 in a
folder 0700; as a service it gets copies of those it needs from systemd (`LoadCredential=`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509

from cis490.pki import certificates as pki
from cis490.pki.certificates import Issuer, PkiError

SERVER_NAME = "receiver.cis490.internal"
"""What the proxy's certificate always names; our clients ask for it, whatever address they connect to, so that a lab
without DNS, or with a new IP address, needs no new certificate."""
JOIN_PORT, WORKERS_PORT, OPERATORS_PORT = 8446, 8447, 8448


@dataclass(frozen=True, slots=True)
class Fleet:
    """What everybody who joins is told."""

    name: str
    """Of the lab, the trust domain of identities: `[a-z0-9.-]{1,63}`."""
    address: str
    """Host name or IP address under which other machines reach the receiver."""
    server_name: str = SERVER_NAME
    join_port: int = JOIN_PORT
    workers_port: int = WORKERS_PORT
    operators_port: int = OPERATORS_PORT

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


def read_fleet(folder: Path) -> Fleet:
    """Raises PkiError naming the file."""
    path = folder / "fleet.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Fleet(**found)
    except OSError as error:
        raise PkiError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise PkiError(f"{path} is not what `python -m training.fleet.ca init` writes: {error}") from error


def fleet_json(fleet: Fleet) -> bytes:
    return (json.dumps(asdict(fleet), indent=2) + "\n").encode()


def open_authority(folder: Path) -> Authority:
    """Read what the receiver needs. Raises PkiError naming the file that is missing or wrong."""
    root = read_certificates(folder / "root.pem")[0]
    clients = read_issuer(folder, "clients", root)
    former = folder / "clients-old.pem"
    return Authority(
        read_fleet(folder),
        root,
        clients,
        read_certificates(former) if former.exists() else (),
        read_issuer(folder, "signing", root) if (folder / "signing.pem").exists() else None,
    )


def read_issuer(folder: Path, name: str, root: x509.Certificate) -> Issuer:
    """NAME.pem and NAME-key.pem, which must fit each other and come from the root. Raises PkiError."""
    path = folder / f"{name}.pem"
    certificate = read_certificates(path)[0]
    if not pki.is_issued_by(certificate, root):
        raise PkiError(f"{path} was not issued by {folder / 'root.pem'}")
    key_path = folder / f"{name}-key.pem"
    try:
        key = pki.load_key(_read(key_path))
    except PkiError as error:
        raise PkiError(f"{key_path}: {error}") from error
    if pki.key_id(key.public_key()) != pki.key_id(pki.public_key_of(certificate)):
        raise PkiError(f"{key_path} is not the key of {path}")
    return Issuer(certificate, key, (certificate,))


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
