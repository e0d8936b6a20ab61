"""Operators and readers whose certificates are made beside the authority, and their files for browsers."""

from __future__ import annotations

import os
import stat
import sys

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from cis490.pki import certificates as certs
from tests.factories.ca_machine import DAY, NOW, Machine, contents
from tests.factories.fleet_pki import leaf_of
from training.fleet import credentials


@pytest.mark.parametrize("role", ["operator", "reader"])
def test_an_identity_made_here_is_a_folder_of_credentials(machine: Machine, role: str) -> None:
    out = machine.root / "ada"
    machine.run(role, "ada", "--out", out)
    about, leaf = credentials.read_about(out), leaf_of(out)
    assert (about.role, about.name, about.url) == (role, "ada", "https://192.168.1.7:8448")
    assert certs.uris_of(leaf) == (f"spiffe://lab.test/{role}/ada",)
    assert leaf.not_valid_after_utc == NOW + 30 * DAY
    credentials.context_of(out)
    assert stat.S_IMODE((out / "identity.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


def test_an_identity_that_is_there_stays_until_it_is_due(machine: Machine) -> None:
    out = machine.root / "ada"
    machine.run("operator", "ada", "--out", out)
    before = contents(out)
    machine.now += 9 * DAY
    assert "nothing to do" in machine.run("operator", "ada", "--out", out)
    assert contents(out) == before
    machine.now += 2 * DAY
    machine.run("operator", "ada", "--out", out)
    assert leaf_of(out).not_valid_after_utc == NOW + 41 * DAY


def test_replace_issues_another_before_it_is_due(machine: Machine) -> None:
    out = machine.root / "ada"
    machine.run("operator", "ada", "--out", out)
    first = leaf_of(out)
    machine.run("operator", "ada", "--out", out, "--replace")
    assert leaf_of(out) != first


def test_after_a_stolen_issuer_the_first_operator_gets_another_at_once(machine: Machine) -> None:
    out = machine.root / "ada"
    machine.run("operator", "ada", "--out", out)
    machine.run("rotate", "clients", "--stolen")
    machine.run("operator", "ada", "--out", out)
    assert certs.is_issued_by(leaf_of(out), machine.authority.clients.certificate)


def test_an_identity_of_somebody_else_is_never_overwritten(machine: Machine) -> None:
    out = machine.root / "ada"
    machine.run("operator", "ada", "--out", out)
    before = contents(out)
    for role, name in (("operator", "bob"), ("reader", "ada")):
        said = machine.run(role, name, "--out", out, "--replace", fails=True)
        assert f"{out} belongs to operator ada" in said
    assert contents(out) == before


def test_a_folder_with_other_files_or_a_damaged_identity_is_left_alone(machine: Machine) -> None:
    (machine.root / "home").mkdir()
    (machine.root / "home" / "notes").write_text("mine")
    said = machine.run("operator", "ada", "--out", machine.root / "home", fails=True)
    assert "holds other files; choose a folder of its own" in said
    out = machine.root / "ada"
    machine.run("operator", "ada", "--out", out)
    (out / "identity.pem").write_bytes(b"x")
    assert "holds a damaged identity" in machine.run("operator", "ada", "--out", out, fails=True)


@pytest.mark.parametrize("name", ["a/b", ".ada", "a b", "a" * 65])
def test_names_that_cannot_be_part_of_an_identity_are_refused(machine: Machine, name: str) -> None:
    said = machine.run("operator", name, "--out", machine.root / "x", fails=True)
    assert "expected 1 to 64 letters, digits, dots" in said


@pytest.mark.parametrize("days", [0, 398])
def test_lives_beyond_what_browsers_know_are_refused(machine: Machine, days: int) -> None:
    said = machine.run("operator", "ada", "--out", machine.root / "x", "--days", days, fails=True)
    assert f"found {days} days, expected 1 to 397" in said


def test_a_browsers_file_holds_key_certificate_and_intermediate(machine: Machine) -> None:
    out, file = machine.root / "ada", machine.root / "ada.p12"
    machine.run("operator", "ada", "--out", out, "--p12", file, stdin="a password of the test\n")
    key, leaf, others = pkcs12.load_key_and_certificates(file.read_bytes(), b"a password of the test")
    assert key is not None
    assert leaf == leaf_of(out)
    assert others == [machine.authority.clients.certificate], (
        "not the root: nobody shall trust it by accident"
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_browsers_file_needs_a_password_worth_the_name(machine: Machine) -> None:
    file = machine.root / "ada.p12"
    said = machine.run(
        "operator", "ada", "--out", machine.root / "ada", "--p12", file, stdin="short", fails=True
    )
    assert "found a password of 5 characters, expected at least 12" in said
    assert not file.exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="giving a folder away needs root")
def test_an_identity_can_be_given_to_a_user(machine: Machine) -> None:
    out = machine.root / "ada"
    machine.run("operator", "ada", "--out", out, "--owner", "nobody")
    assert {path.owner() for path in (out, *out.iterdir())} == {"nobody"}
    said = machine.run("operator", "ada", "--out", out, "--owner", "no-such-user", fails=True)
    assert "this machine has no user no-such-user" in said


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="giving a folder away needs root")
def test_what_the_user_laid_into_the_folder_meanwhile_is_not_given_away(machine: Machine) -> None:
    """Root runs this, and the folder is the user's since the first time: a link in it leads anywhere."""
    out, roots = machine.root / "ada", machine.root / "shadow"
    machine.run("operator", "ada", "--out", out, "--owner", "nobody")
    roots.write_bytes(b"secret")
    (out / "link").symlink_to(roots)
    machine.run("operator", "ada", "--out", out, "--owner", "nobody")
    assert roots.owner() == "root"
