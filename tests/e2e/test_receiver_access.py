"""The receiver as a program that checks identities: what it refuses to start with, and how it is spoken to."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import pytest

from tests.e2e.test_receiver_process import start, until_listening
from tests.factories.as_peer import proxied
from tests.factories.fleet_pki import FleetPki
from tests.factories.live_receiver import UnixConnection
from training.fleet.receiver_settings import arguments, operator_tokens

SECRET = "do-not-repeat-this-secret"


@pytest.fixture
def pki(tmp_path: Path) -> FleetPki:
    return FleetPki(tmp_path)


def refused(folder: Path, *options: str) -> str:
    process = start(folder, *options)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 78
    assert "Traceback" not in said
    return said


def test_identities_without_an_authority_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, "--worker-auth", "mtls")
    assert "[E204]" in said
    assert "--ca-dir /etc/cis490/ca" in said


def test_identities_on_a_port_are_refused(tmp_path: Path, pki: FleetPki) -> None:
    """Every program of this machine could send the headers that the proxy sends."""
    said = refused(tmp_path, "--worker-auth", "mtls", "--ca-dir", str(pki.ca), "--listen-addr", "127.0.0.1:0")
    assert "[E205]" in said
    assert "unix:/run/cis490/receiver.sock" in said


def test_a_folder_that_lacks_a_file_is_refused_with_its_name(tmp_path: Path, pki: FleetPki) -> None:
    (pki.ca / "clients-key.pem").unlink()
    """Also without `--worker-auth mtls`: then nobody could be enrolled."""
    said = refused(tmp_path, "--ca-dir", str(pki.ca))
    assert "clients-key.pem" in said
    assert "[E206]" in said


def test_behind_a_unix_socket_identities_are_those_of_the_certificates(tmp_path: Path, pki: FleetPki) -> None:
    tokens = tmp_path / "operator-token"
    tokens.write_text("new-token\nold-token\n")
    tokens.chmod(0o600)
    process = start(
        tmp_path, "--worker-auth", "mtls", "--ca-dir", str(pki.ca), "--operator-token-file", str(tokens)
    )
    until_listening(process)
    socket = tmp_path / "r.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660, "for the proxy's group, and for nobody else"

    def ask(method: str, path: str, headers: dict[str, str]) -> int:
        connection = UnixConnection(socket)
        connection.request(method, path, body=b"{}" if method == "POST" else None, headers=headers)
        status = connection.getresponse().status
        connection.close()
        return status

    host, operator = proxied(pki.host("a")), proxied(pki.operator("ann"), "operators")
    assert ask("GET", "/v1/health", {}) == 200
    assert ask("GET", "/v1/jobs", {}) == 401
    assert ask("GET", "/v1/jobs", {"X-Lab-Host": "a"}) == 401
    assert ask("GET", "/v1/jobs", host) == 200
    assert ask("POST", "/v1/fleet/pause", operator) == 401
    for token, status in (("new-token", 200), ("old-token", 200), ("t" * 20, 401)):
        assert ask("POST", "/v1/fleet/pause", {**operator, "X-Operator-Token": token}) == status
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "new-token" not in said


# -- the operator token


def token_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "operator-token"
    path.write_bytes(text.encode("utf-8"))
    path.chmod(mode)
    return path


def test_the_token_comes_from_the_environment_the_former_one_beside_it() -> None:
    given = {"MY_TOKEN": "new", "MY_TOKEN_PREVIOUS": "old", "CIS490_OPERATOR_TOKEN": "other"}
    assert operator_tokens(None, "MY_TOKEN", given) == ("new", "old")
    assert operator_tokens(None, "CIS490_OPERATOR_TOKEN", given) == ("other", None)
    assert operator_tokens(None, "NONE", given) == (None, None)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("new", ("new", None)), ("new\n", ("new", None)), ("new\r\n", ("new", None)), ("new\nold\n", ("new", "old")),
        ("\n new \n\nold\n", ("new", "old")),
    ],
)  # fmt: skip
def test_the_token_comes_from_a_file_the_former_one_on_its_second_line(
    tmp_path: Path, text: str, tokens: tuple[str, str | None]
) -> None:
    assert operator_tokens(token_file(tmp_path, text), "X", {"X": "other"}) == tokens


@pytest.mark.parametrize(
    "text",
    ["", "\n", f"{SECRET} {SECRET}", f"{SECRET}\nb\nc", f"{SECRET}é", f"{SECRET}\x00", f"{SECRET}\x1b[m"],
)
def test_a_file_that_holds_no_token_is_refused_without_its_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"\[E207\]") as refusal:
        operator_tokens(token_file(tmp_path, text), "X", {"X": "other"})
    assert SECRET not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_file_that_is_not_there_is_refused_though_the_environment_has_a_token(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        operator_tokens(tmp_path / "none", "X", {"X": "other"})


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
@pytest.mark.parametrize("mode", [0o604, 0o602, 0o666])
def test_a_file_that_everybody_may_open_is_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    path = token_file(tmp_path, SECRET, mode)
    with pytest.raises(ValueError, match=f"chmod 600 {path}"):
        operator_tokens(path, "X", {})


@pytest.mark.parametrize(
    "option", ["--host-requests-per-min", "--host-uploads-at-once", "--host-bytes-per-day"]
)
@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_quota_is_a_whole_number_above_0(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments().parse_args([option, value])
    said = capsys.readouterr().err
    assert "[E203]" in said
    assert json.dumps(value).strip('"') in said
