"""A lab's certificate authority and its identities in a folder of the test: real keys, real certificates, in a moment.

    pki = FleetPki(tmp_path)
    pki.ca                              the folder for `--ca-dir`; `pki.authority` is what the receiver reads from it
    pki.server_files                    what the proxy needs: certificate, key, pool of trusted clients
    pki.host("gpu-box-1")               a folder of credentials, as enrolling leaves it
    pki.operator("ada", token="...")    the same with an operator-token
    pki.host("late", expired=timedelta(days=29))

Ports that a test learns late are told by `pki.at(workers=..., ...)`, before the folders that name them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cis490.pki import certificates as certs
from cis490.pki.authority import Authority, Fleet, fleet_json, open_authority
from cis490.pki.certificates import Issuer, Usage
from cis490.pki.issuers import Issuers, make_all
from training.fleet import credentials
from training.fleet.credentials import About
from training.fleet.peers import uri_of

FLEET = "lab.test"
Role = Literal["host", "operator", "reader"]
ALREADY = timedelta(days=400)
"""The authority of a test is this old, so that leaves expired long ago were issued in its time."""


@dataclass(frozen=True)
class ServerFiles:
    """What the proxy is configured with."""

    certificate: Path
    """The leaf, then the intermediate."""
    key: Path
    pool: Path
    """Whom client certificates must come from: the lab's root; the intermediate travels with the leaf."""


class FleetPki:
    """One lab. `address` is where its proxy listens; `now` the moment at which everything is issued (real: now)."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = FLEET,
        address: str = "127.0.0.1",
        now: datetime | None = None,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    ) -> None:
        self.folder = folder / "pki"
        self.ca = self.folder / "ca"
        self.now = (now or datetime.now(UTC)).replace(microsecond=0)
        self.fleet = Fleet(name, address)
        self._hosts = hosts
        self._made = 0
        self._issuers = make_all(self.fleet, self.now - ALREADY)
        self.ca.mkdir(parents=True, mode=0o700)
        _write(self.ca / "fleet.json", fleet_json(self.fleet))
        for part in ("root", "clients", "servers", "signing"):
            issuer: Issuer = getattr(self._issuers, part)
            _write(self.ca / f"{part}.pem", certs.chain_pem(issuer.certificate))
            _write(self.ca / f"{part}-key.pem", certs.key_pem(issuer.key))

    @property
    def root(self) -> Issuer:
        return self._issuers.root

    @property
    def clients(self) -> Issuer:
        return self._issuers.clients

    @property
    def servers(self) -> Issuer:
        return self._issuers.servers

    @property
    def signing(self) -> Issuer:
        return self._issuers.signing

    @property
    def authority(self) -> Authority:
        """As the receiver reads it from the folder, with the ports told last."""
        return open_authority(self.ca)

    def at(
        self,
        *,
        address: str | None = None,
        join: int | None = None,
        workers: int | None = None,
        operators: int | None = None,
    ) -> None:
        """Say where the proxy listens. Folders of credentials made before keep what they say."""
        fleet = self.fleet
        self.fleet = replace(
            fleet,
            address=address or fleet.address,
            join_port=join or fleet.join_port,
            workers_port=workers or fleet.workers_port,
            operators_port=operators or fleet.operators_port,
        )
        _write(self.ca / "fleet.json", fleet_json(self.fleet))

    @cached_property
    def server_files(self) -> ServerFiles:
        """The proxy's own certificate, valid for the fleet's server name and `hosts`."""
        return self.make_server_files("server")

    def make_server_files(
        self, name: str, *, expired: timedelta | None = None, hosts: Sequence[str] | None = None
    ) -> ServerFiles:
        """Files for a proxy: `expired` that long ago, or for other names than the right ones."""
        key = certs.new_key()
        lifetime = timedelta(days=90)
        when = self.now if expired is None else self.now - lifetime - expired
        leaf = certs.issue(
            self.servers, key.public_key(), "servers", name=name, now=when, lifetime=lifetime,
            hosts=(self.fleet.server_name, *self._hosts) if hosts is None else hosts,
        )  # fmt: skip
        files = ServerFiles(
            self.folder / f"{name}.pem", self.folder / f"{name}-key.pem", self.ca / "root.pem"
        )
        _write(files.certificate, certs.chain_pem(leaf, self.servers.certificate))
        _write(files.key, certs.key_pem(key))
        return files

    def host(self, name: str, **how: object) -> Path:
        """A host's folder of credentials; `how` as in `identity`."""
        return self.identity("host", name, **how)  # type: ignore[arg-type]

    def operator(self, name: str, **how: object) -> Path:
        """An operator's folder; with `token=` it holds the operator token as well."""
        return self.identity("operator", name, **how)  # type: ignore[arg-type]

    def reader(self, name: str, **how: object) -> Path:
        return self.identity("reader", name, **how)  # type: ignore[arg-type]

    def identity(
        self,
        role: Role,
        name: str,
        *,
        expired: bool | timedelta = False,
        not_yet_valid: bool | timedelta = False,
        lifetime: timedelta = timedelta(days=30),
        age: timedelta = timedelta(0),
        other_ca: bool = False,
        usage: Usage = "clients",
        uri: str | Sequence[str] | None = None,
        issuer: Issuer | None = None,
        serial: int | None = None,
        token: str | None = None,
        site: Literal["join", "workers", "operators"] | None = None,
        into: Path | None = None,
    ) -> Path:
        """A folder of credentials, right unless told otherwise.

        `expired`: True (a minute ago) or how long ago. `not_yet_valid`: True (in an hour) or how far ahead.
        `age`: issued that long ago. `other_ca`: from an authority with the same names and other keys.
        `usage`: another purpose, from the issuer of clients unless `issuer` says otherwise.
        `uri`: the alternative name instead of the right one; () is none, several are several.
        `site`: which site the folder's URL points to; by default the role's.
        """
        when = self.now - age
        if expired:
            ago = expired if isinstance(expired, timedelta) else timedelta(minutes=1)
            when = self.now - lifetime - ago
        if not_yet_valid:
            ahead = not_yet_valid if isinstance(not_yet_valid, timedelta) else timedelta(hours=1)
            when = self.now + ahead + certs.BACKDATED
        by = issuer or (self._impostor.clients if other_ca else self.clients)
        key = certs.new_key()
        right = uri_of(self.fleet.name, role, name)
        uris = (right,) if uri is None else (uri,) if isinstance(uri, str) else tuple(uri)
        leaf = _leaf(by, key.public_key(), usage, name, uris, when, lifetime, serial)
        folder = into or self._fresh(role, name)
        write_credentials(folder, self.about(role, name, site), self.root.certificate, key, (leaf, *by.chain))
        if token is not None:
            _write(folder / credentials.OPERATOR_TOKEN, token.encode() + b"\n")
        return folder

    def about(
        self, role: Role, name: str, site: Literal["join", "workers", "operators"] | None = None
    ) -> About:
        """credentials.json of this identity."""
        port = {
            "join": self.fleet.join_port,
            "workers": self.fleet.workers_port,
            "operators": self.fleet.operators_port,
        }[site or ("workers" if role == "host" else "operators")]
        fleet = self.fleet
        return About(fleet.name, role, name, fleet.url(port), fleet.join_url, fleet.server_name)

    @cached_property
    def _impostor(self) -> Issuers:
        return make_all(self.fleet, self.now - ALREADY)

    @property
    def impostor_root(self) -> Issuer:
        """Another lab's root with this lab's name in it."""
        return self._impostor.root

    @property
    def impostor_clients(self) -> Issuer:
        return self._impostor.clients

    @property
    def impostor_servers(self) -> Issuer:
        return self._impostor.servers

    def _fresh(self, role: str, name: str) -> Path:
        self._made += 1
        return self.folder / "credentials" / f"{self._made:03d}-{role}-{name}"


def write_credentials(
    folder: Path,
    about: About,
    root: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    chain: Sequence[x509.Certificate],
) -> None:
    """The files of `training.fleet.credentials`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / credentials.ABOUT, credentials.about_json(about))
    _write(folder / credentials.ROOT, certs.chain_pem(root))
    _write(folder / credentials.IDENTITY, certs.key_pem(key) + certs.chain_pem(*chain))


def leaf_of(folder: Path) -> x509.Certificate:
    """The certificate in a folder of credentials."""
    return certs.load_certificates((folder / credentials.IDENTITY).read_bytes())[0]


def key_of(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a folder of credentials."""
    return certs.load_key((folder / credentials.IDENTITY).read_bytes())


def _leaf(
    issuer: Issuer,
    public_key: ec.EllipticCurvePublicKey,
    usage: Usage,
    name: str,
    uris: Sequence[str],
    now: datetime,
    lifetime: timedelta,
    serial: int | None,
) -> x509.Certificate:
    if len(uris) <= 1:
        return certs.issue(
            issuer, public_key, usage, name=name, now=now, lifetime=lifetime, serial=serial,
            uri=uris[0] if uris else None,
        )  # fmt: skip
    # Two identities in one certificate: nothing of ours issues that, so it is built by hand.
    made = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    made = made.issuer_name(issuer.certificate.subject).public_key(public_key)
    made = made.serial_number(serial or x509.random_serial_number())
    made = made.not_valid_before(now - certs.BACKDATED).not_valid_after(now + lifetime)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage([certs.PURPOSE[usage]]), critical=False)
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return made.sign(issuer.key, hashes.SHA256())


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.chmod(path, 0o600)
