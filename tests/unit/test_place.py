"""Which receiver `cis490-jobs` asks, and as whom: what is said wins over what lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories.fleet_pki import FleetPki
from training.fleet import credential_places, credentials
from training.fleet.exits import DEFAULT_URL, USAGE, Stop
from training.fleet.place import place_of, token_of


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FleetPki:
    monkeypatch.setattr(credential_places, "OF_THE_MACHINE", str(tmp_path / "etc"))
    return FleetPki(tmp_path)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home")}


def test_without_anything_it_is_the_receiver_on_this_machine(lab: FleetPki, env: dict[str, str]) -> None:
    assert place_of(None, None, env)[:2] == (DEFAULT_URL, None)


def test_credentials_in_their_place_say_where_and_who(
    lab: FleetPki, env: dict[str, str], tmp_path: Path
) -> None:
    folder = lab.operator("ada", into=tmp_path / "etc")
    assert place_of(None, None, env)[:2] == (lab.fleet.operators_url, folder)


@pytest.mark.parametrize("by", ["option", "variable"])
def test_an_address_that_is_given_is_asked_without_a_certificate(
    lab: FleetPki, env: dict[str, str], tmp_path: Path, by: str
) -> None:
    """The command line on the receiver's machine goes on working as before."""
    lab.operator("ada", into=tmp_path / "etc")
    given = {**env, "CIS490_RECEIVER_URL": "http://127.0.0.1:1"} if by == "variable" else env
    place = place_of("http://127.0.0.1:1" if by == "option" else None, None, given)
    assert place[:2] == ("http://127.0.0.1:1", None)


def test_a_folder_that_is_given_is_used_and_an_address_beside_it_wins(
    lab: FleetPki, env: dict[str, str]
) -> None:
    folder = lab.reader("eve")
    assert place_of(None, str(folder), env)[:2] == (lab.fleet.operators_url, folder)
    assert place_of(None, None, {**env, "CIS490_CREDENTIALS": str(folder)})[1] == folder
    moved = place_of("https://192.0.2.9:8448", str(folder), env)
    assert moved[:2] == ("https://192.0.2.9:8448", folder)


def test_a_folder_that_cannot_be_used_ends_the_command_and_says_what_to_type(env: dict[str, str]) -> None:
    with pytest.raises(Stop) as stop:
        place_of(None, "/nowhere", env)
    assert stop.value.code == USAGE
    assert stop.value.error_code == "E040"
    assert "training.fleet.join --operator" in stop.value.lines[1]


class TestOperatorToken:
    def test_the_variable_wins_over_the_file(self, tmp_path: Path) -> None:
        (tmp_path / credentials.OPERATOR_TOKEN).write_text("of-the-file\n")
        assert token_of(tmp_path, {}) == "of-the-file"
        assert token_of(tmp_path, {"CIS490_OPERATOR_TOKEN": "of-the-variable"}) == "of-the-variable"
        assert token_of(None, {}) is None

    def test_a_file_with_what_no_header_can_carry_is_named_and_its_content_is_not(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / credentials.OPERATOR_TOKEN).write_text("canary-ä-1")
        with pytest.raises(Stop) as stop:
            token_of(tmp_path, {})
        assert stop.value.error_code == "E008"
        assert str(tmp_path / credentials.OPERATOR_TOKEN) in stop.value.lines[0]
        assert "canary" not in "".join(stop.value.lines)
