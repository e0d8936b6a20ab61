"""What is going to end is said in time, by `ca show` and by `cis490-jobs doctor`, with what to type."""

from __future__ import annotations

import builtins
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cis490.pki import certificates as certs
from cis490.pki.authority import Fleet
from tests.factories.fleet_pki import FleetPki
from training.fleet import ca_backup, ca_checks, ca_files, doctor_receiver
from training.fleet.doctor import Finding

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ca_files.init(tmp_path / "ca", Fleet("lab.test", "192.168.1.7"), NOW)
    return tmp_path / "ca"


def states(folder: Path, now: datetime) -> dict[str, str]:
    return {one.what: one.state for one in ca_checks.of_authority(folder, now)}


ALL_WELL = {"root": "OK", "clients": "OK", "servers": "OK", "signing": "OK", "root key": "OK"}


def test_a_new_authority_is_in_order(folder: Path) -> None:
    assert states(folder, NOW) == ALL_WELL


@pytest.mark.parametrize(
    ("days_left", "state"), [(91, "OK"), (89, "WARN"), (31, "WARN"), (29, "FAIL"), (0, "FAIL"), (-1, "FAIL")]
)
def test_an_issuer_is_told_of_a_quarter_before_it_ends(folder: Path, days_left: int, state: str) -> None:
    end = NOW + certs.INTERMEDIATE_LIFETIME
    found = states(folder, end - days_left * DAY)
    assert found == ALL_WELL | {"clients": state, "servers": state, "signing": state}


def test_the_root_is_told_of_a_year_before_it_ends(folder: Path) -> None:
    late = NOW + certs.ROOT_LIFETIME - 300 * DAY
    root = next(one for one in ca_checks.of_authority(folder, late) if one.what == "root")
    assert (root.state, "every host joins the new root" in root.fix) == ("WARN", True)


def test_a_clock_that_stands_still_in_the_past_is_told_as_that(folder: Path) -> None:
    found = [
        one for one in ca_checks.of_authority(folder, datetime(1970, 1, 1, tzinfo=UTC)) if one.state == "FAIL"
    ]
    assert len(found) == 4
    assert all(
        "this machine's clock says 1970-01-01" in one.found and "timedatectl" in one.fix for one in found
    )


def test_a_damaged_authority_is_named_with_the_way_back(folder: Path) -> None:
    (folder / "clients-key.pem").write_bytes(b"x")
    (found,) = ca_checks.of_authority(folder, NOW)
    assert (found.state, "clients-key.pem: found no private key" in found.found) == ("FAIL", True)
    assert f"restore FILE --dir {folder} --only ca" in found.fix


def test_an_issuer_of_servers_that_does_not_fit_its_key_is_told(folder: Path) -> None:
    (folder / "servers-key.pem").write_bytes(certs.key_pem(certs.new_key()))
    found = [one for one in ca_checks.of_authority(folder, NOW) if one.state == "FAIL"]
    assert ["rotate servers" in one.fix for one in found] == [True]


def test_without_a_signer_that_is_said(folder: Path) -> None:
    (folder / "signing.pem").unlink()
    assert states(folder, NOW)["signing"] == "WARN"


def test_keys_that_others_may_read_are_told(folder: Path) -> None:
    (folder / "clients-key.pem").chmod(0o640)
    found = [one for one in ca_checks.of_authority(folder, NOW) if one.what == "key modes"]
    assert ["clients-key.pem in" in one.found for one in found] == [True]


def test_where_the_roots_key_lies_is_said(folder: Path) -> None:
    (folder / "root-key.pem").unlink()
    found = [one.found for one in ca_checks.of_authority(folder, NOW) if one.what == "root key"]
    assert found == ["the root's key is kept elsewhere"]


@pytest.mark.parametrize(("days", "state"), [(0, "OK"), (44, "OK"), (46, "WARN"), (84, "FAIL"), (91, "FAIL")])
def test_the_proxys_certificate_is_told_of_when_its_timer_has_not_run(
    folder: Path, tmp_path: Path, days: int, state: str
) -> None:
    ca_files.issue_server(folder, tmp_path / "proxy", NOW)
    found = ca_checks.of_server(tmp_path / "proxy", NOW + days * DAY)
    assert found.state == state
    assert state == "OK" or "cis490-trainer-server-cert" in found.fix


def test_a_missing_or_damaged_certificate_of_the_proxy_is_told(tmp_path: Path) -> None:
    assert "server.pem cannot be read: No such file" in ca_checks.of_server(tmp_path, NOW).found
    (tmp_path / "server.pem").write_bytes(b"x")
    assert "found no certificate" in ca_checks.of_server(tmp_path, NOW).found


NOTES: dict[str, tuple[Any, str, str]] = {
    "none": (None, "WARN", "no backup of keys and queue was ever made here"),
    "fresh": ({"at": (NOW - 6 * DAY).timestamp(), "file": "/b.age"}, "OK", "made 6 days ago: /b.age"),
    "old": ({"at": (NOW - 8 * DAY).timestamp(), "file": "/b.age"}, "WARN", "made 8 days ago: /b.age"),
    "no object": ([], "WARN", "no last backup is known"),
    "no time": ({"file": "/b.age"}, "WARN", "no last backup is known"),
    "an impossible time": ({"at": 1e300, "file": "/b.age"}, "WARN", "no last backup is known"),
}


@pytest.mark.parametrize("note", NOTES)
def test_how_old_the_last_backup_is_is_known_from_its_note(tmp_path: Path, note: str) -> None:
    content, state, says = NOTES[note]
    path = tmp_path / ca_backup.STAMP
    if content is not None:
        path.write_text(json.dumps(content), encoding="utf-8")
    found = ca_checks.of_backup(path, NOW)
    assert (found.state, says in found.found) == (state, True)
    assert state == "OK" or "backup" in found.fix


# -- in the doctor


def places(tmp_path: Path) -> doctor_receiver.Places:
    return doctor_receiver.Places(
        tmp_path / "m.toml", tmp_path / "q.db", tmp_path, tmp_path,
        authority=tmp_path / "pki" / "ca", proxy=tmp_path / "proxy",
    )  # fmt: skip


def certificates(tmp_path: Path, now: datetime = NOW) -> list[Finding]:
    return list(doctor_receiver.checks(places(tmp_path), now.timestamp())["certificates"]())


def test_the_doctor_says_nothing_of_certificates_where_there_is_no_authority(tmp_path: Path) -> None:
    assert certificates(tmp_path) == []


def test_the_doctor_looks_at_authority_proxy_and_backup(tmp_path: Path) -> None:
    pki = FleetPki(tmp_path, now=NOW)
    ca_files.issue_server(pki.ca, tmp_path / "proxy", NOW)
    found = {one.check: one.state for one in certificates(tmp_path)}
    assert found == ALL_WELL | {"proxy": "OK", "backup": "WARN"}
    assert {one.area for one in certificates(tmp_path)} == {"receiver"}
    late = {one.check: one.fix for one in certificates(tmp_path, NOW + 1090 * DAY)}
    program = f"sudo {sys.executable} -m training.fleet.ca"
    assert late["clients"] == f"{program} rotate clients --dir {pki.ca}"
    assert late["backup"].startswith(f"{program} backup")


def test_the_doctor_says_who_may_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FleetPki(tmp_path, now=NOW)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs this, may look everywhere
    (found,) = certificates(tmp_path)
    assert ("cannot be looked into by" in found.found, found.fix) == (True, "sudo cis490-jobs doctor")


def test_the_doctor_says_what_is_missing_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FleetPki(tmp_path, now=NOW)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "training.fleet" and "ca_checks" in (rest[2] or ()):
            raise ImportError(name="cryptography")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    (found,) = certificates(tmp_path)
    assert (found.state, "cryptography is not installed" in found.found) == ("FAIL", True)
