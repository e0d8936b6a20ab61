"""`python -m training.fleet.join` with a real receiver behind a real Caddy: who joins, and who is told what."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.factories.fleet_pki import FleetPki
from tests.factories.live_receiver import TOKEN
from tests.factories.proxied_fleet import ProxiedFleet, proxied_fleet
from training.fleet import credentials, join, join_token, joining
from training.fleet.client import FleetClient
from training.fleet.join import FAULT, OK, OWES, UNREACHABLE, UNSEEN, USAGE, Outside
from training.fleet.join_token import JoinToken
from training.fleet.tls_identity import Anonymous
from training.fleet.types import Capability

MANIFEST = """
name = "lab-fleet"

[[hosts]]
name = "pc-1"

[[hosts]]
name = "pc-2"
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedFleet]:
    with proxied_fleet(
        tmp_path_factory.mktemp("fleet"), MANIFEST, build="wheel", operator_token=TOKEN
    ) as running:
        yield running


@pytest.fixture(scope="module")
def operator(fleet: ProxiedFleet) -> FleetClient:
    folder = fleet.pki.operator("ada")
    return FleetClient(fleet.pki.fleet.operators_url, credentials=folder, operator_token=TOKEN)


class Said:
    """What one call of the program came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"{self.code}\n{self.out}\n{self.err}"


class Machine:
    """One that is to join: its folders, and what is typed on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "credentials"

    def join(self, *options: str, stdin: str | bytes = "", **outside: Any) -> Said:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        out, err = io.StringIO(), io.StringIO()
        world = replace(Outside({}, io.BytesIO(data), out, err), **outside)
        argv = ["--state-dir", str(self.home), "--skip-trainer", *options]
        return Said(join.main(argv, world), out.getvalue(), err.getvalue())

    def files(self) -> dict[str, bytes]:
        """Of the folder, but for what a lock writes into its file."""
        paths = sorted(self.folder.iterdir()) if self.folder.exists() else []
        return {path.name: b"" if path.suffix == ".lock" else path.read_bytes() for path in paths}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def token(operator: FleetClient, name: str = "pc-1", role: str = "host") -> str:
    return str(operator.join_token(role, name)["token"])


def changed(text: str, **fields: str) -> str:
    return replace(join_token.parse(text), **fields).encode()


def test_a_machine_joins_with_one_line_and_the_receiver_takes_it(
    fleet: ProxiedFleet, operator: FleetClient, machine: Machine
) -> None:
    said = machine.join(stdin=token(operator))
    assert said.code == OK, said
    assert set(machine.files()) == {"credentials.json", "root.pem", "identity.pem", "renewal.lock"}
    about = credentials.read_about(machine.folder)
    assert (about.fleet, about.role, about.name) == (fleet.pki.fleet.name, "host", "pc-1")
    client = FleetClient(about.url, host=about.name, credentials=machine.folder)
    assert client.claim(Capability(cores=1), request_id="r") is None  # admitted; there is no job


@pytest.mark.skipif(sys.platform == "win32", reason="modes of Unix")
def test_the_key_is_for_its_owner_alone_from_the_first_moment(
    operator: FleetClient, machine: Machine
) -> None:
    before = os.umask(0)
    try:
        assert machine.join(stdin=token(operator)).code == OK
    finally:
        os.umask(before)
    assert machine.folder.stat().st_mode & 0o777 == 0o700
    assert (machine.folder / "identity.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can do it")
def test_root_does_not_make_what_the_services_user_could_not_renew(
    operator: FleetClient, machine: Machine
) -> None:
    line = token(operator)
    os.chown(machine.home, 65534, 65534)
    said = machine.join(stdin=line)
    assert said.code == FAULT
    assert "runuser -u nobody" in said.err
    assert not machine.folder.exists()
    os.chown(machine.home, 0, 0)
    assert machine.join(stdin=line).code == OK  # the token was not used up


def test_typed_twice_it_changes_nothing_and_asks_for_no_second_certificate(
    operator: FleetClient, machine: Machine
) -> None:
    line = token(operator)
    machine.join(stdin=line)
    before = machine.files()
    for stdin in (line, "", token(operator)):
        said = machine.join(stdin=stdin)
        assert said.code == OK, said
        assert "already" in said.out
        assert "nothing to do" in said.out
        assert machine.files() == before


def test_who_is_interrupted_after_the_token_was_used_repeats_the_same_line(
    operator: FleetClient, machine: Machine
) -> None:
    """The key was kept, so the receiver gives the same machine its certificate once more, and nobody else."""
    line = token(operator)
    found = join_token.parse(line)
    joining.make_private(machine.folder)
    lost = Machine(machine.home / "lost")
    lost.folder = machine.folder
    site = joining.look(found)
    joining.join(found, site, machine.folder)
    key = (machine.folder / "identity.pem").read_bytes().split(b"-----BEGIN CERTIFICATE")[0]
    joining.pending_key(machine.folder, found).write_bytes(key)  # as if the power had failed before the end
    (machine.folder / "identity.pem").unlink()
    said = machine.join(stdin=line)
    assert said.code == OK, said
    assert set(machine.files()) == {"credentials.json", "root.pem", "identity.pem", "renewal.lock"}


def test_a_used_token_explains_itself_and_names_the_command(operator: FleetClient, tmp_path: Path) -> None:
    line = token(operator)
    assert Machine(tmp_path / "one").join(stdin=line).code == OK
    said = Machine(tmp_path / "two").join(stdin=line)
    assert said.code == FAULT
    assert "used already" in said.err
    assert "cis490-jobs hosts add pc-1" in said.err


def test_a_secret_that_nobody_made_is_refused_and_shown_nowhere(
    operator: FleetClient, machine: Machine
) -> None:
    said = machine.join(stdin=changed(token(operator), secret="canary-canary-canary"))
    assert said.code == FAULT
    assert "cis490-jobs hosts add pc-1" in said.err
    assert "canary" not in said.out + said.err
    assert "identity.pem" not in machine.files()


def test_a_server_with_another_root_gets_no_secret(
    fleet: ProxiedFleet, operator: FleetClient, machine: Machine
) -> None:
    line = token(operator)
    said = machine.join(stdin=changed(line, root_sha256="ab" * 32))
    assert said.code == FAULT
    assert "abababababababab" in said.err
    assert "Nothing was sent" in said.err
    assert not machine.folder.exists()
    assert machine.join(stdin=line).code == OK  # the token was not used up by that


def test_a_server_that_shows_the_right_root_but_has_no_key_of_it_gets_no_secret(
    fleet: ProxiedFleet, operator: FleetClient, machine: Machine, tmp_path: Path
) -> None:
    """The root is public: anybody may hand it out. The secret goes only over TLS that it vouches for."""
    heard: list[bytes] = []
    other = FleetPki(tmp_path / "other", name=fleet.pki.fleet.name)
    with impostor(other, (fleet.pki.ca / "root.pem").read_text("ascii"), heard) as url:
        said = machine.join(stdin=changed(token(operator), join_url=url))
    assert said.code == UNREACHABLE, said
    assert "not of this lab" in said.err
    assert len(heard) >= 1
    assert all(line.startswith(b"GET /v1/enrol/ca") for line in heard)
    assert "identity.pem" not in machine.files()


def test_a_root_with_a_second_certificate_behind_it_is_not_trusted() -> None:
    """Only the first would have been compared."""
    one = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    assert joining.fingerprint(one) is not None
    assert joining.fingerprint(one + one) is None
    for found in (None, 7, "", "x" * 100_000, "-----BEGIN CERTIFICATE-----"):
        assert joining.fingerprint(found) is None


class impostor:  # noqa: N801 - used as a function
    """A server with a certificate of another authority that answers every question with this root."""

    def __init__(self, pki: FleetPki, root_pem: str, heard: list[bytes], refusal: str | None = None) -> None:
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append(self.requestline.encode())
                answer = {"fleet": pki.fleet.name, "root_pem": root_pem, "error": refusal}
                body = json.dumps(answer).encode()
                self.send_response(200 if refusal is None else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the name that the library looks for

            def log_message(self, *args: object) -> None:
                pass

        import ssl

        class Quiet(HTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Answers)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.server_files.certificate, pki.server_files.key)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"https://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=20)


class TestCheck:
    def test_looks_at_everything_and_uses_nothing_up(self, operator: FleetClient, machine: Machine) -> None:
        line = token(operator)
        said = machine.join("--check", stdin=line)
        assert said.code == OK, said
        assert "root certificate is the one" in said.out
        assert "clock" in said.out
        assert not machine.folder.exists()
        assert machine.join(stdin=line).code == OK

    def test_needs_no_token(self, machine: Machine) -> None:
        said = machine.join("--check")
        assert said.code == OK
        assert "this machine can join" in said.out

    def test_a_clock_that_is_an_hour_wrong_is_a_fault_and_keeps_it_from_joining(
        self, operator: FleetClient, machine: Machine
    ) -> None:
        import time

        line = token(operator)
        for options in (["--check"], []):
            said = machine.join(*options, stdin=line, wall_s=lambda: time.time() - 3600)
            assert said.code == FAULT, said
            assert "[fail] the receiver's clock is" in said.out
            assert "timedatectl" in said.out
        assert not machine.folder.exists()


class TestTyping:
    def test_nothing_on_standard_input_is_told_and_helped(self, machine: Machine) -> None:
        said = machine.join()
        assert said.code == USAGE
        assert "cis490-jobs hosts add" in said.err

    def test_a_person_at_a_terminal_is_asked_for_the_token(
        self, operator: FleetClient, machine: Machine
    ) -> None:
        line = token(operator)
        assert machine.join(stdin="", ask=lambda: line).code == OK

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_the_shells_of_windows_may_pipe_what_they_like(
        self, operator: FleetClient, machine: Machine, encoding: str
    ) -> None:
        line = token(operator) + "\r\n"
        assert machine.join(stdin=line.encode(encoding)).code == OK

    def test_half_a_token_is_not_repeated(self, operator: FleetClient, machine: Machine) -> None:
        line = token(operator)[:60]
        said = machine.join(stdin=line)
        assert said.code == USAGE
        assert line[15:] not in said.err

    def test_a_persons_token_needs_the_option_and_a_hosts_forbids_it(
        self, operator: FleetClient, machine: Machine
    ) -> None:
        said = machine.join(stdin=token(operator, "bob", "operator"))
        assert said.code == USAGE
        assert "--operator" in said.err
        said = machine.join("--operator", stdin=token(operator))
        assert said.code == USAGE
        assert "leave out --operator" in said.err

    def test_an_address_where_nobody_answers(self, operator: FleetClient, machine: Machine) -> None:
        said = machine.join(stdin=changed(token(operator), join_url="https://127.0.0.1:9"))
        assert said.code == UNREACHABLE
        assert "https://127.0.0.1:9" in said.err
        assert not machine.folder.exists()


@pytest.mark.parametrize("role", ["operator", "reader"])
def test_a_person_joins_into_the_own_account(
    fleet: ProxiedFleet, operator: FleetClient, tmp_path: Path, role: str
) -> None:
    home = {"HOME": str(tmp_path / "home")}
    out, err = io.StringIO(), io.StringIO()
    line = token(operator, f"bob-{role}", role)
    code = join.main(["--operator"], Outside(home, io.BytesIO(line.encode()), out, err))
    assert code == OK, err.getvalue()
    folder = tmp_path / "home/.config/cis490"
    assert credentials.read_about(folder).url == fleet.pki.fleet.operators_url
    assert FleetClient(fleet.pki.fleet.operators_url, credentials=folder).workers() is not None


class TestAnIdentityThatIsHereAlready:
    def test_of_another_name_is_left_alone(self, operator: FleetClient, machine: Machine) -> None:
        machine.join(stdin=token(operator, "pc-2"))
        before = machine.files()
        said = machine.join(stdin=token(operator, "pc-1"))
        assert said.code == FAULT
        assert "pc-2" in said.err
        assert machine.files() == before

    def test_that_was_revoked_gives_way_to_a_token_and_is_a_fault_without_one(
        self, operator: FleetClient, machine: Machine
    ) -> None:
        machine.join(stdin=token(operator, "pc-2"))
        before = machine.files()
        operator.revoke_identity("host", "pc-2", "a test")
        said = machine.join()
        assert said.code == FAULT
        assert "revoked" in said.err
        assert "cis490-jobs hosts add pc-2" in said.err
        assert machine.files() == before
        assert machine.join(stdin=token(operator, "pc-2")).code == OK
        assert machine.files() != before
        assert "already" in machine.join().out

    def test_that_has_expired_is_renewed_without_a_token(self, fleet: ProxiedFleet, machine: Machine) -> None:
        fleet.pki.host("pc-1", expired=timedelta(days=20), into=machine.folder)
        said = machine.join()
        assert said.code == OK, said
        assert machine.join("--status").code == OK

    def test_that_is_damaged_gives_way_to_a_token(self, operator: FleetClient, machine: Machine) -> None:
        machine.join(stdin=token(operator))
        (machine.folder / "identity.pem").write_bytes(b"half a k")
        assert machine.join().code == FAULT
        assert machine.join(stdin=token(operator)).code == OK

    def test_of_a_host_that_the_manifest_does_not_name_is_no_reason_for_another_one(
        self, operator: FleetClient, machine: Machine
    ) -> None:
        machine.join(stdin=token(operator, "stranger"))
        said = machine.join(stdin=token(operator, "stranger"))
        assert said.code == OK
        assert "manifest does not name" in said.out


class TestStatus:
    def test_says_who_and_until_when(self, fleet: ProxiedFleet, machine: Machine) -> None:
        fleet.pki.host("pc-1", into=machine.folder)
        said = machine.join("--status")
        assert said.code == OK
        assert said.out.startswith(f"pc-1\thost\t{fleet.pki.fleet.name}\tuntil ")

    def test_an_expired_one_and_none_are_no_good(self, fleet: ProxiedFleet, machine: Machine) -> None:
        assert machine.join("--status").code == FAULT
        fleet.pki.host("pc-1", expired=True, into=machine.folder)
        said = machine.join("--status")
        assert said.code == FAULT
        assert "\texpired " in said.out


class Now:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class TestWaitSeen:
    def wait(self, machine: Machine, seconds: str = "3") -> Said:
        now = Now()
        return machine.join("--wait-seen", seconds, now_s=lambda: now.now_s, sleep=now.sleep)

    def test_ends_well_once_the_worker_has_called(self, fleet: ProxiedFleet, machine: Machine) -> None:
        fleet.pki.host("pc-1", into=machine.folder)
        client = FleetClient(fleet.pki.fleet.workers_url, host="pc-1", credentials=machine.folder)
        client.claim(Capability(cores=1), request_id="r")
        assert self.wait(machine).code == OK

    def test_a_worker_that_never_called_is_not_ok(
        self, fleet: ProxiedFleet, operator: FleetClient, machine: Machine
    ) -> None:
        fleet.pki.host("pc-2", into=machine.folder, serial=77)
        if any(row["host"] == "pc-2" for row in operator.workers()):
            pytest.fail("no test of this module lets pc-2 call")
        machine.join(stdin=token(operator, "pc-2"))
        said = self.wait(machine)
        assert said.code == UNSEEN, said
        assert "journalctl" in said.err

    def test_a_call_of_yesterday_is_not_ok_either(self, fleet: ProxiedFleet, machine: Machine) -> None:
        fleet.pki.host("pc-1", into=machine.folder)
        client = FleetClient(fleet.pki.fleet.workers_url, host="pc-1", credentials=machine.folder)
        client.claim(Capability(cores=1), request_id="r")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.fleet.membership.Member.their_clock", lambda self: 4e9)
            assert self.wait(machine).code == UNSEEN

    def test_a_host_that_the_manifest_does_not_name_learns_that_at_once(
        self, fleet: ProxiedFleet, machine: Machine
    ) -> None:
        fleet.pki.host("stranger", into=machine.folder)
        said = self.wait(machine)
        assert said.code == FAULT
        assert "manifest" in said.err

    def test_a_receiver_that_is_away_is_asked_until_time_is_over(
        self, fleet: ProxiedFleet, machine: Machine
    ) -> None:
        fleet.pki.host("pc-1", into=machine.folder)
        path = machine.folder / credentials.ABOUT
        path.write_text(
            json.dumps(json.loads(path.read_text("utf-8")) | {"url": "https://127.0.0.1:9"}), encoding="utf-8"
        )
        said = self.wait(machine)
        assert said.code == UNSEEN
        assert "127.0.0.1:9" in said.err


def lease_file(state: Path, key: str, ending: Mapping[str, object] | None) -> None:
    (state / "leases").mkdir(parents=True, exist_ok=True)
    (state / "leases" / f"{key}.json").write_text(json.dumps({"name": f"job-{key}", "ending": ending}))


class TestMayLeave:
    def test_an_empty_or_missing_state_folder_owes_nothing(self, machine: Machine) -> None:
        assert machine.join("--may-leave").code == OK
        assert not (machine.home / "leases").exists()

    @pytest.mark.parametrize("where", ["spool", "ending", "unpacked"])
    def test_a_result_that_was_not_delivered_keeps_it_here_wherever_it_lies(
        self, machine: Machine, where: str
    ) -> None:
        lease_file(machine.home, "k-1", {"kind": "complete"} if where == "ending" else None)
        if where == "spool":
            (machine.home / "spool").mkdir()
            (machine.home / "spool/k-1.tar.zst").write_bytes(b"result")
        if where == "unpacked":
            (machine.home / "jobs/k-1").mkdir(parents=True)
            (machine.home / "jobs/k-1/end.json").write_text("{}")
        said = machine.join("--may-leave")
        assert said.code == OWES
        assert "job-k-1" in said.err
        assert "systemctl start cis490-trainer-worker" in said.err

    def test_a_job_to_be_given_back_and_a_bundle_without_lease_are_no_results(self, machine: Machine) -> None:
        lease_file(machine.home, "k-1", {"kind": "release"})
        lease_file(machine.home, "k-2", None)
        (machine.home / "spool").mkdir()
        (machine.home / "spool/k-9.tar.zst").write_bytes(b"left over")
        assert machine.join("--may-leave").code == OK

    def test_what_cannot_be_read_is_not_taken_for_nothing(self, machine: Machine) -> None:
        (machine.home / "leases").write_text("no folder")
        lease = machine.home / "state/leases/k-1.json"
        lease.mkdir(parents=True)  # a folder where a file belongs cannot be read, whoever asks
        said = machine.join("--may-leave", "--state-dir", str(machine.home / "state"))
        assert said.code == FAULT
        assert "cannot be used" in said.err


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
def test_a_wait_that_would_never_end_is_wrong_usage(machine: Machine, seconds: str) -> None:
    with pytest.raises(SystemExit) as ended:
        machine.join("--wait-seen", seconds)
    assert ended.value.code == USAGE


def test_a_full_disk_is_not_taken_for_the_wrong_user(
    machine: Machine, operator: FleetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the token is not used up: nothing was sent before there was a place for its key."""
    line = token(operator)

    def full(path: Path, data: bytes, mode: int = 0o644) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.fleet.joining.atomic_write", full)
    said = machine.join(stdin=line)
    assert said.code == FAULT
    assert f"No space left on device; make room and repeat the same line: df -h {machine.folder}" in said.err
    monkeypatch.undo()
    assert machine.join(stdin=line).code == OK


@pytest.mark.parametrize("address", ["https://[::::]:1", "https://..:4"])
def test_an_address_that_no_machine_can_have_is_said_in_words(machine: Machine, address: str) -> None:
    found = JoinToken(address, "receiver.cis490.internal", "host", "pc-1", "00" * 32, "secret")
    said = machine.join(stdin=found.encode())
    assert said.code in (FAULT, UNREACHABLE)
    assert f"{address}" in said.err
    assert "cis490 join: " in said.err


def test_what_a_stranger_on_the_network_answers_reaches_no_terminal_raw(
    tmp_path: Path, machine: Machine
) -> None:
    other = FleetPki(tmp_path / "other")
    heard: list[bytes] = []
    with impostor(other, "", heard, "go \x1b[2J away") as url:
        found = JoinToken(url, other.fleet.server_name, "host", "pc-1", "00" * 32, "secret")
        said = machine.join(stdin=found.encode())
    assert said.code == FAULT
    assert "go \\x1b[2J away" in said.err
    assert "\x1b" not in said.err + said.out


def test_without_a_certificate_nobody_is_trusted_but_to_learn_the_root(fleet: ProxiedFleet) -> None:
    import ssl

    assert Anonymous("x", None).current()[1].verify_mode == ssl.CERT_NONE
    root = (fleet.pki.ca / "root.pem").read_text("ascii")
    context = Anonymous("x", root).current()[1]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
