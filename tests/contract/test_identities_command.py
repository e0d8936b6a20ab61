"""`cis490-jobs hosts` and `operators`: what is printed, on a terminal and in a pipe, against a real receiver."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import command
from tests.factories.command import Result
from tests.factories.enrolling import Machine, enrolled
from tests.factories.fleet_pki import FleetPki
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from training.fleet import exits, join_token
from training.fleet.render import View
from training.fleet.verbs_identities import listed, note, state

MANIFEST = '[[hosts]]\nname = "gpu-1"\n[[hosts]]\nname = "gpu-2"\n'
DAY_S = 86400.0


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's clock is the receiver's, a little later."""
    monkeypatch.setattr(command, "NOW_S", time.time() + 30)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST, authority=FleetPki(tmp_path).authority) as running:
        yield running


def run(receiver: LiveReceiver, *words: str, terminal: bool = True, token: str = TOKEN) -> Result:
    return command.run(receiver.url, *words, terminal=terminal, token=token)


def tokens(text: str) -> list[str]:
    return re.findall(r"'(cis490-join-1\.[A-Za-z0-9_-]+)'", text)


class TestAdd:
    def test_one_line_each_for_linux_and_windows_that_can_be_copied(self, receiver: LiveReceiver) -> None:
        out = run(receiver, "hosts", "add", "gpu-1").out
        (token, same) = tokens(out)
        assert token == same
        lines = out.splitlines()
        assert f"echo '{token}' | sudo scripts/install-training-worker.sh" in lines
        windows = rf"'{token}' | powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1"
        assert windows in lines

    def test_with_the_line_the_host_joins(self, receiver: LiveReceiver) -> None:
        (token, _) = tokens(run(receiver, "hosts", "add", "gpu-1").out)
        assert Machine(receiver).join(token).status == 200

    def test_the_secret_is_no_argument_of_a_program(self, receiver: LiveReceiver) -> None:
        """`echo` is the shell's own; whatever runs behind the pipe has the token on standard input."""
        for line in run(receiver, "hosts", "add", "gpu-1").out.splitlines():
            before, pipe, after = line.partition(" | ")
            assert "cis490-join" not in (after if pipe else before)

    def test_it_says_so_when_the_manifest_does_not_name_the_host(self, receiver: LiveReceiver) -> None:
        out = run(receiver, "hosts", "add", "gpu-9").out
        assert "the manifest does not name gpu-9" in out
        assert "cis490-jobs reload" in out
        assert "manifest" not in run(receiver, "hosts", "add", "gpu-1").out

    def test_it_says_so_when_there_is_a_certificate_already(self, receiver: LiveReceiver) -> None:
        enrolled(receiver, "gpu-1")
        out = run(receiver, "hosts", "add", "gpu-1").out
        assert "gpu-1 has a certificate until" in out
        assert "cis490-jobs hosts revoke gpu-1" in out

    def test_people_join_without_an_installer(self, receiver: LiveReceiver) -> None:
        for flag, role in (((), "operator"), (("--reader",), "reader")):
            out = run(receiver, "operators", "add", "ada", *flag).out
            assert {join_token.parse(token).role for token in tokens(out)} == {role}
            assert "| .venv/bin/python -m training.fleet.join --operator" in out
            assert ("operator token" in out) == (role == "operator")

    def test_in_a_pipe_a_line_for_each_system(self, receiver: LiveReceiver) -> None:
        header, *rows = run(receiver, "hosts", "add", "gpu-1", terminal=False).out.splitlines()
        assert header == "SYSTEM\tCOMMAND"
        assert [row.split("\t")[0] for row in rows] == ["Linux", "Windows"]

    def test_as_json_the_receivers_answer(self, receiver: LiveReceiver) -> None:
        answer = run(receiver, "hosts", "add", "gpu-1", "--json").json
        assert set(answer) == {"token", "role", "name", "expires_at"}

    @pytest.mark.parametrize(
        ("words", "code", "says"),
        [
            (("hosts", "add"), exits.USAGE, "a NAME is missing"),
            (("operators", "revoke"), exits.USAGE, "a NAME is missing"),
            (("hosts", "list", "gpu-1"), exits.USAGE, "one word too many"),
            (("hosts", "add", "gpu 1"), exits.REFUSED, "[E301]"),
            (("hosts", "add", ".gpu"), exits.REFUSED, "[E301]"),
            (("hosts", "add", "gpu/1"), exits.REFUSED, "[E301]"),
            (("hosts", "revoke", ""), exits.REFUSED, "[E301]"),
        ],
    )
    def test_what_cannot_be_done_is_told(
        self, receiver: LiveReceiver, words: tuple[str, ...], code: int, says: str
    ) -> None:
        found = run(receiver, *words)
        assert found.code == code
        assert says in found.err

    def test_without_the_operator_token_nothing_is_made(self, receiver: LiveReceiver) -> None:
        found = run(receiver, "hosts", "add", "gpu-1", token="wrong")
        assert (found.code, found.out) == (exits.REFUSED, "")
        assert "[E005]" in found.err
        assert receiver.queue.read("join_tokens_open", now=0.0) == []

    def test_a_receiver_without_an_authority_is_told_apart(self, tmp_path: Path) -> None:
        folder = tmp_path / "plain"
        folder.mkdir()
        with live_receiver(folder, MANIFEST) as plain:
            found = run(plain, "hosts", "add", "gpu-1")
        assert found.code == exits.REFUSED
        assert "--ca-dir  [E314]" in found.err
        assert "next:" not in found.err, "the operator token is not what is missing"


class TestRevoke:
    def test_it_says_how_many_certificates_no_longer_count(self, receiver: LiveReceiver) -> None:
        enrolled(receiver, "gpu-1")
        out = run(receiver, "hosts", "revoke", "gpu-1", "--reason", "sold").out
        assert "gpu-1: revoked as host, 1 certificate no longer counts" in out
        assert "cis490-jobs hosts add gpu-1" in out
        assert receiver.send("GET", "/v1/identities").body["identities"][0]["revoked_reason"] == "sold"

    def test_a_slip_of_the_pen_is_noticed(self, receiver: LiveReceiver) -> None:
        enrolled(receiver, "gpu-1")
        assert "is it right?" in run(receiver, "hosts", "revoke", "gpu-l").out

    def test_who_is_operator_and_reader_is_told_about_the_other_one(self, receiver: LiveReceiver) -> None:
        enrolled(receiver, "ada", "operator")
        enrolled(receiver, "ada", "reader")
        assert "operators revoke ada --reader" in run(receiver, "operators", "revoke", "ada").out
        assert "too:" not in run(receiver, "operators", "revoke", "ada", "--reader").out


class TestList:
    def test_hosts_and_people_apart(self, receiver: LiveReceiver) -> None:
        enrolled(receiver, "gpu-1")
        enrolled(receiver, "ada", "operator")
        hosts, people = run(receiver, "hosts", "list").out, run(receiver, "operators", "list").out
        assert re.search(r"(?m)^gpu-1 +enrolled +in 29 d", hosts)
        assert "ada" not in hosts
        assert re.search(r"(?m)^ada +operator +enrolled +in 29 d", people)

    def test_nobody_yet(self, receiver: LiveReceiver) -> None:
        assert "next: cis490-jobs hosts add NAME" in run(receiver, "hosts", "list").out

    def test_in_a_pipe_and_as_json(self, receiver: LiveReceiver) -> None:
        enrolled(receiver, "gpu-1")
        header, row = run(receiver, "hosts", "list", terminal=False).out.splitlines()
        assert header == "NAME\tROLE\tSTATE\tNOT_AFTER\tSERIALS\tNOTE"
        assert row.split("\t")[:3] == ["gpu-1", "host", "enrolled"]
        (one,) = run(receiver, "hosts", "list", "--json").json["identities"]
        assert one["name"] == "gpu-1"


class TestStates:
    """What the list says of identities that no test can wait for."""

    VIEW = View(1.7e9, 80)

    def one(self, **known: object) -> dict[str, object]:
        return {
            "role": "host", "name": "a", "serials": [], "not_after": None, "revoked_at": None, "in_manifest": True,
            "token_expires_at": None, "revoked_reason": None, **known,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("known", "word", "says"),
        [
            ({"serials": ["1"], "not_after": 1.7e9 + 25 * DAY_S}, "enrolled", ""),
            ({"serials": ["1"], "not_after": 1.7e9 + 9 * DAY_S}, "enrolled", "not renewed since day 10"),
            ({"serials": ["1"], "not_after": 1.7e9 + 25 * DAY_S, "in_manifest": False}, "enrolled", "not in the man"),
            ({"not_after": 1.7e9 - 9 * DAY_S}, "EXPIRED", "renews by itself within 30 days"),
            ({"not_after": 1.7e9 - 31 * DAY_S}, "EXPIRED", "cis490-jobs hosts add a"),
            ({"revoked_at": 1.0, "revoked_reason": "sold"}, "REVOKED", "sold"),
            ({"token_expires_at": 1.7e9 + 60.0}, "may join", "with a token until"),
            ({"token_expires_at": 1.7e9 + 60.0, "revoked_at": 1.0}, "may join", "with a token until"),
        ],
    )  # fmt: skip
    def test_each_has_its_word_and_its_hint(self, known: dict[str, object], word: str, says: str) -> None:
        found = self.one(**known)
        assert state(self.VIEW, found) == word
        assert says in note(self.VIEW, "hosts", found)
        assert (note(self.VIEW, "hosts", found) == "") == (says == "")

    def test_bad_states_are_in_colour_too(self) -> None:
        view = View(1.7e9, 80, color=True)
        assert "\x1b[" in "".join(listed(view, "hosts", [self.one(revoked_at=1.0)]))
        assert "\x1b[" not in "".join(listed(self.VIEW, "hosts", [self.one(revoked_at=1.0)]))
