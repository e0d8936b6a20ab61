"""A worker with credentials: where its settings come from, and what it refuses to start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories.fleet_pki import FleetPki
from training.fleet import worker_settings
from training.fleet.credentials import IDENTITY
from training.fleet.worker_settings import SettingsError, WorkerSettings


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> FleetPki:
    return FleetPki(tmp_path_factory.mktemp("lab"))


def read(folder: Path, *argv: str, **env: str) -> WorkerSettings:
    return worker_settings.read(
        ["--credentials", str(folder), *argv], env, hostname=lambda: "as-the-system-says"
    )


def test_receiver_and_name_come_from_the_credentials(lab: FleetPki) -> None:
    found = read(folder := lab.host("pc-1"))
    assert (found.receiver_url, found.host, found.credentials) == (lab.fleet.workers_url, "pc-1", folder)


def test_the_variable_does_as_well(lab: FleetPki) -> None:
    folder = lab.host("pc-1")
    found = worker_settings.read([], {"CIS490_CREDENTIALS": str(folder)}, hostname=lambda: "x")
    assert (found.host, found.credentials) == ("pc-1", folder)


def test_an_address_that_was_given_wins(lab: FleetPki) -> None:
    folder = lab.host("pc-1")
    assert read(folder, "--receiver-url", "https://192.0.2.9:8447").receiver_url == "https://192.0.2.9:8447"
    assert read(folder, CIS490_RECEIVER_URL="https://192.0.2.9:8447").receiver_url == "https://192.0.2.9:8447"


def test_a_name_that_was_given_must_be_the_certificates(lab: FleetPki) -> None:
    folder = lab.host("pc-1")
    assert read(folder, "--host", "pc-1").host == "pc-1"
    for source, given in ((["--host", "pc-2"], {}), ([], {"CIS490_HOST": "pc-2"})):
        with pytest.raises(SettingsError, match="found 'pc-2', expected pc-1"):
            read(folder, *source, **given)


@pytest.mark.parametrize("role", ["operator", "reader"])
def test_a_persons_are_no_workers(lab: FleetPki, role: str) -> None:
    folder = lab.operator("ada") if role == "operator" else lab.reader("ada")
    with pytest.raises(SettingsError, match=f"it belongs to the {role} ada.*hosts add NAME.*E040"):
        read(folder)


def test_a_damaged_identity_is_found_at_the_start(lab: FleetPki) -> None:
    folder = lab.host("pc-1")
    (folder / IDENTITY).write_bytes(b"")
    with pytest.raises(SettingsError, match="E040"):
        read(folder)


def test_an_expired_one_is_no_reason_not_to_start(lab: FleetPki) -> None:
    """It will be renewed, and a finished result is waiting for that."""
    assert read(lab.host("pc-1", expired=True)).host == "pc-1"


def test_without_credentials_nothing_changes() -> None:
    found = worker_settings.read([], {}, hostname=lambda: "pc-1")
    assert (found.receiver_url, found.host, found.credentials) == ("http://127.0.0.1:8445", "pc-1", None)
