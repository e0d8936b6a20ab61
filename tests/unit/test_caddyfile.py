"""The proxy's configuration as text; what it does is tried in tests/access."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.applications import Starlette

from cis490.pki.authority import Fleet, fleet_json
from tests.factories.fleet_pki import FleetPki
from tests.factories.proxied_fleet import BUILDS, Build, caddy_program, version_of
from training.fleet import caddyfile
from training.fleet.caddyfile import CaddyfileError, Settings, parse_version, render
from training.fleet.connections import server_config
from training.fleet.wire_headers import HEADER_PEER_CERTIFICATE, HEADER_PEER_SITE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With files that a Caddy can read."""
    pki = FleetPki(tmp_path)
    files = pki.server_files
    return Settings(
        pki.fleet, str(files.certificate), str(files.key), str(files.pool), "/run/cis490/receiver.sock"
    )


def run(build: Build, verb: str, path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A verb of Caddy about this file."""
    return subprocess.run(
        [caddy_program(build), verb, *more, path], capture_output=True, text=True, check=False,
        env={"HOME": str(path.parent)},
    )  # fmt: skip


@pytest.mark.parametrize("bind", [None, "127.0.0.1", "::1"])
@pytest.mark.parametrize("build", BUILDS)
def test_caddy_takes_what_is_written_for_its_version(
    build: Build, bind: str | None, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "Caddyfile"
    path.write_text(render(replace(settings, bind=bind), version_of(caddy_program(build))))
    done = run(build, "validate", path, "--adapter", "caddyfile", "--config")
    assert done.returncode == 0, done.stderr
    assert '"level":"error"' not in done.stderr


def test_it_is_formatted_as_caddy_formats(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "Caddyfile"
    path.write_text(render(settings, (2, 11)))
    assert run("wheel", "fmt", path).stdout == path.read_text()


def test_caddys_versions_differ_in_two_words(settings: Settings) -> None:
    new, old = (render(settings, version).splitlines() for version in ((2, 11), (2, 6)))
    assert [line.strip() for line in new if line not in old and not line.startswith("#")] == [
        "persist_config off",
        f"trust_pool file {settings.trust}",
        f"trust_pool file {settings.trust}",
    ]
    assert [line.strip() for line in old if line not in new and not line.startswith("#")] == [
        f"trusted_ca_cert_file {settings.trust}",
        f"trusted_ca_cert_file {settings.trust}",
    ]


def test_every_header_that_the_proxy_sets_is_taken_from_clients_first() -> None:
    for header in (HEADER_PEER_CERTIFICATE, HEADER_PEER_SITE):
        assert header.startswith("X-Fleet-Peer")
        assert caddyfile.example().index("request_header -X-Fleet-Peer*") < caddyfile.example().index(header)


def test_the_example_is_what_the_program_writes() -> None:
    """Else type: python -m training.fleet.caddyfile --example >etc/Caddyfile.example"""
    assert (ROOT / "etc/Caddyfile.example").read_text(encoding="utf-8") == caddyfile.example()


def test_the_example_finds_its_files_where_the_unit_puts_them() -> None:
    unit = (ROOT / "etc/cis490-caddy.service").read_text(encoding="utf-8")
    for name in ("server.pem", "server-key.pem", "root.pem"):
        assert f"{{$CREDENTIALS_DIRECTORY}}/{name}" in caddyfile.example()
        assert f"LoadCredential={name}:" in unit


def test_the_proxy_lets_an_idle_connection_go_before_the_receiver_does() -> None:
    """Else a request now and then meets the end of its connection, and is answered 502."""
    proxy_s = int(caddyfile.example().split("keepalive ")[1].split("s")[0])
    assert proxy_s < server_config(Starlette()).timeout_keep_alive


@pytest.mark.parametrize(
    ("said", "version"), [("2.6.2", (2, 6)), ("v2.11.7 h1:abc=", (2, 11)), ("2.8", (2, 8)), ("3.0.1", (3, 0))]
)
def test_a_version_is_read_as_caddy_prints_it(said: str, version: tuple[int, int]) -> None:
    assert parse_version(said) == version


@pytest.mark.parametrize("said", ["", "caddy", "(devel)", "2"])
def test_what_is_no_version_is_refused(said: str) -> None:
    with pytest.raises(CaddyfileError, match="expected a version such as"):
        parse_version(said)


def test_a_caddy_that_is_too_old_is_refused_with_the_package_to_install() -> None:
    with pytest.raises(CaddyfileError, match="Debian's package caddy"):
        parse_version("v2.4.6")


@pytest.mark.parametrize("path", ["/a b.pem", '/a".pem', "/a`.pem", "/a\n.pem", "/a#.pem", "/a\\b.pem"])
def test_a_path_that_a_caddyfile_cannot_hold_is_refused(settings: Settings, path: str) -> None:
    for wrong in (replace(settings, key=path), replace(settings, socket=path), replace(settings, trust=path)):
        with pytest.raises(CaddyfileError, match="without spaces"):
            render(wrong, (2, 11))


def test_the_program_writes_what_differs_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_bytes(fleet_json(Fleet("lab.test", "192.0.2.1", workers_port=9000)))
    out = tmp_path / "Caddyfile"
    args = ["--ca-dir", str(tmp_path), "--out", str(out), "--version", "2.6"]
    assert caddyfile.main(args) == 0
    written, before = out.read_text(), out.stat()
    assert "https://:9000 {" in written
    assert caddyfile.main(args) == 0
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert caddyfile.main([*args, "--socket", "/run/other.sock"]) == 0
    assert "unix//run/other.sock" in out.read_text()


def test_the_program_prints_without_a_file_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fleet.json").write_bytes(fleet_json(Fleet("lab.test", "192.0.2.1")))
    assert caddyfile.main(["--ca-dir", str(tmp_path), "--caddy", str(caddy_program("wheel"))]) == 0
    assert "trust_pool file {$CREDENTIALS_DIRECTORY}/root.pem" in capsys.readouterr().out


def test_without_a_caddy_the_program_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caddyfile.main(["--ca-dir", str(tmp_path), "--caddy", str(tmp_path / "none")]) == 1
    assert "apt-get install caddy" in capsys.readouterr().err


def test_without_an_authority_the_program_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caddyfile.main(["--ca-dir", str(tmp_path), "--version", "2.11"]) == 1
    assert "fleet.json cannot be read" in capsys.readouterr().err
