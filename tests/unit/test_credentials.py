"""The folder with an identity: what is read from it, and what is said when it is not as it should be."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from cis490.pki import certificates as pki
from tests.factories.fleet_pki import FleetPki
from training.fleet import credential_places, credentials, exits
from training.fleet.credentials import CredentialsError

ROOT = Path(__file__).resolve().parents[2]
unix_only = pytest.mark.skipif(sys.platform == "win32", reason="modes of Unix")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> FleetPki:
    return FleetPki(tmp_path_factory.mktemp("lab"))


def test_a_folder_says_who_this_is_and_shows_it_over_tls_1_3_alone(lab: FleetPki) -> None:
    folder = lab.host("pc-1")
    assert (credentials.read_about(folder).role, credentials.read_about(folder).name) == ("host", "pc-1")
    context = credentials.context_of(folder)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1  # the lab's root is the only one that is trusted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ("7", "damaged"),
        ("{}", "damaged"),
        (
            '{"fleet": "x", "role": "host", "name": "", "url": "u", "join_url": "j", "server_name": "s"}',
            "empty",
        ),
        (
            '{"fleet": "x", "role": "host", "name": 7, "url": "u", "join_url": "j", "server_name": "s"}',
            "no text",
        ),
        ("\udcff", "damaged"),
        (
            '{"fleet": "x", "role": "host", "name":"n", "url": "https://[","join_url":"https://j","server_name":"s"}',
            "damaged",
        ),
        (
            '{"fleet": "x", "role": "host", "name":"n", "url": "https://u","join_url":"http://j","server_name":"s"}',
            "damaged",
        ),
    ],
)
def test_a_damaged_description_names_its_file(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / credentials.ABOUT).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CredentialsError, match=says) as fault:
        credentials.read_about(tmp_path)
    assert str(tmp_path / credentials.ABOUT) in str(fault.value)


def test_what_a_later_version_adds_to_the_description_does_no_harm(lab: FleetPki) -> None:
    folder = lab.host("pc-1")
    path = folder / credentials.ABOUT
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"region": "north"}), encoding="utf-8")
    assert credentials.read_about(folder).name == "pc-1"


def test_a_missing_folder_asks_whether_the_machine_was_enrolled(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="was this machine enrolled"):
        credentials.read_about(tmp_path / "nowhere")


def test_a_missing_or_damaged_identity_is_told_of(lab: FleetPki) -> None:
    folder = lab.host("pc-1")
    (folder / credentials.IDENTITY).write_bytes(b"rubbish")
    with pytest.raises(CredentialsError, match="enrol this machine again"):
        credentials.dates_in(folder)
    with pytest.raises(CredentialsError, match="cannot be used"):
        credentials.context_of(folder)
    (folder / credentials.IDENTITY).unlink()
    with pytest.raises(CredentialsError, match="cannot be read"):
        credentials.dates_in(folder)


def test_a_key_with_a_password_is_an_error_and_no_question_at_the_terminal(lab: FleetPki) -> None:
    from cryptography.hazmat.primitives import serialization

    folder = lab.host("pc-1")
    path = folder / credentials.IDENTITY
    key = pki.load_key(path.read_bytes())
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    path.write_bytes(locked + pki.chain_pem(*pki.load_certificates(path.read_bytes())))
    with pytest.raises(CredentialsError):
        credentials.context_of(folder)


def test_key_and_certificate_that_do_not_fit_are_found_out_before_they_are_kept(
    lab: FleetPki, tmp_path: Path
) -> None:
    good = (lab.host("pc-1") / credentials.IDENTITY).read_bytes()
    other = pki.key_pem(pki.new_key()) + pki.chain_pem(*pki.load_certificates(good))
    credentials.check_fits(tmp_path, good)
    with pytest.raises(CredentialsError, match="do not fit"):
        credentials.check_fits(tmp_path, other)
    assert list(tmp_path.iterdir()) == []


@unix_only
def test_an_identity_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        credentials.write_identity(tmp_path, b"key")
    finally:
        os.umask(before)
    assert (tmp_path / credentials.IDENTITY).stat().st_mode & 0o777 == 0o600


class TestWhereTheyLie:
    def test_an_operator_has_them_in_the_own_account(self, tmp_path: Path) -> None:
        home = {"HOME": str(tmp_path)}
        assert Path(credential_places.of_user(home, system="linux")) == tmp_path / ".config/cis490"
        given = home | {"XDG_CONFIG_HOME": "/elsewhere"}
        assert Path(credential_places.of_user(given, system="linux")) == Path("/elsewhere/cis490")
        assert Path(credential_places.of_user({"APPDATA": "/roaming"}, system="win32")) == Path(
            "/roaming/cis490"
        )

    def test_the_machines_come_before_the_users(
        self, lab: FleetPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(credential_places, "OF_THE_MACHINE", str(tmp_path / "etc"))
        env = {"HOME": str(tmp_path)}
        assert credentials.operators_folder(env) is None
        lab.operator("ada", into=tmp_path / ".config/cis490")
        assert credentials.operators_folder(env) == tmp_path / ".config/cis490"
        lab.operator("root", into=tmp_path / "etc")
        assert credentials.operators_folder(env) == tmp_path / "etc"

    def test_a_folder_without_an_identity_is_none(
        self, lab: FleetPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(credential_places, "OF_THE_MACHINE", str(tmp_path / "etc"))
        folder = lab.operator("ada", into=tmp_path / ".config/cis490")
        (folder / credentials.IDENTITY).unlink()
        assert credentials.operators_folder({"HOME": str(tmp_path)}) is None

    def test_the_command_line_and_the_folder_agree_on_the_variable(self) -> None:
        assert exits.CREDENTIALS_VARIABLE == credentials.VARIABLE


class TestTheSecondSecret:
    def test_is_read_without_its_line_end(self, tmp_path: Path) -> None:
        assert credentials.operator_token(tmp_path) is None
        (tmp_path / credentials.OPERATOR_TOKEN).write_text("secret\n")
        assert credentials.operator_token(tmp_path) == "secret"

    def test_bytes_that_are_no_text_are_a_fault_that_does_not_show_them(self, tmp_path: Path) -> None:
        (tmp_path / credentials.OPERATOR_TOKEN).write_bytes(b"canary\xff\xfe")
        with pytest.raises(CredentialsError, match="no text") as fault:
            credentials.operator_token(tmp_path)
        assert "canary" not in str(fault.value)


def test_a_worker_loads_cryptography_only_when_a_certificate_is_due() -> None:
    program = (
        "import sys; from training.fleet import cli, verbs, worker\nprint('cryptography' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
