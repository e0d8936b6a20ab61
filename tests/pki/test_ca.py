"""`python -m training.fleet.ca`: the authority's folder made, kept up to date, rotated; and what it refuses."""

from __future__ import annotations

import getpass
import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cis490.locks import hold
from cis490.pki import certificates as certs
from cis490.pki.authority import open_authority, read_certificates, read_fleet, read_issuer
from cis490.pki.certificates import PkiError
from tests.factories.ca_machine import DAY, NOW, Machine, contents, modes
from training.fleet import ca, ca_files, enrolment

PASSPHRASE = "a passphrase of the test"


# -- init


def test_init_makes_an_authority_that_only_its_owner_can_read(machine: Machine) -> None:
    assert machine.authority.fleet.workers_url == "https://192.168.1.7:8447"
    assert (stat.S_IMODE(machine.ca.stat().st_mode), modes(machine.ca)) == (0o700, {0o600})
    read_issuer(machine.ca, "servers", machine.authority.root)
    assert (machine.ca / "clients-old.pem").read_bytes() == b"", (
        "a service names each file that it gets a copy of"
    )


def test_init_again_changes_nothing(machine: Machine) -> None:
    before = contents(machine.ca)
    assert "nothing to do" in machine.init()
    assert contents(machine.ca) == before


def test_init_with_another_address_keeps_keys_and_identities(machine: Machine) -> None:
    before = contents(machine.ca)
    said = machine.run("init", "--name", "lab.test", "--address", "10.1.1.1", "--also-address", "pi.lan")
    assert "lab.test is now reached at 10.1.1.1, pi.lan" in said
    after = contents(machine.ca)
    assert {name for name in after if after[name] != before[name]} == {"fleet.json"}
    assert "nothing to do" in machine.run("init", "--name", "lab.test", "--address", "10.1.1.1")


def test_init_for_another_fleet_is_refused(machine: Machine) -> None:
    before = contents(machine.ca)
    said = machine.run("init", "--name", "other", "--address", "10.0.0.1", fails=True)
    assert "is the authority of lab.test, not of other" in said
    assert contents(machine.ca) == before


@pytest.mark.parametrize(
    ("name", "address", "says"),
    [
        ("My Lab", "10.0.0.1", "the fleet's name: found 'My Lab'"),
        ("10.0.0.1", "10.0.0.1", "cannot be taken for an IP address"),
        ("lab", "my host", "found 'my host', expected an IP address or a host name"),
        ("lab", "192.168.1.999", "found '192.168.1.999'"),
    ],
)
def test_init_refuses_what_no_certificate_could_hold(
    bare: Machine, name: str, address: str, says: str
) -> None:
    assert says in bare.run("init", "--name", name, "--address", address, fails=True)
    assert not bare.ca.exists()


def test_init_does_not_touch_a_folder_with_other_things(bare: Machine) -> None:
    bare.ca.mkdir()
    (bare.ca / "root.pem").write_text("somebody's")
    assert "holds root.pem, but no fleet.json" in bare.init(fails=True)
    assert contents(bare.ca) == {"root.pem": b"somebody's"}


def test_init_takes_an_empty_folder(bare: Machine) -> None:
    bare.ca.mkdir(mode=0o755)
    bare.init()
    assert stat.S_IMODE(bare.ca.stat().st_mode) == 0o700


def test_init_does_not_mend_a_damaged_authority_by_making_another(machine: Machine) -> None:
    (machine.ca / "clients-key.pem").unlink()
    assert "clients-key.pem: cannot be read: No such file" in machine.init(fails=True)


class PowerCut(BaseException):
    """Ends the program between two file operations."""


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`power(n)`: it fails at the n-th operation from now that makes or renames a file; `power(0)`: it is back."""
    left = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut
            return real(*args, **options)

        return act

    for name in ("rename", "replace", "mkdir", "open"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    # What tidies up after an error in order does not run when the power fails.
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None if left == 0 else _rmtree(*_, **__))

    def set_to(n: int) -> None:
        nonlocal left
        left = n

    return set_to


_rmtree = shutil.rmtree


def cuts(machine: Machine, power: Callable[[int], None], act: Callable[[], object]) -> Iterator[int]:
    """Run `act` with the power failing at its first operation, its second, ... until it gets through."""
    for n in range(1, 200):
        power(n)
        try:
            act()
        except PowerCut:
            power(0)
            machine.capsys.readouterr()
            yield n
        else:
            power(0)
            return
    raise AssertionError("it never got through")


def test_wherever_the_power_fails_init_leaves_none_or_a_whole_authority(
    bare: Machine, power: Callable[[int], None]
) -> None:
    seen = set()
    for _ in cuts(bare, power, bare.init):
        seen.add(bare.ca.exists())
        if bare.ca.exists():
            read_issuer(bare.ca, "servers", bare.authority.root)
    assert seen >= {False}
    assert {path.name for path in bare.root.iterdir()} == {"ca"}, "keys of attempts that failed are gone"


# -- rotation


@pytest.mark.parametrize("part", ["clients", "servers", "signing"])
def test_wherever_the_power_fails_a_rotation_leaves_an_authority_that_works(
    machine: Machine, power: Callable[[int], None], part: Any
) -> None:
    root = machine.authority.root
    first = certs.fingerprint(read_certificates(machine.ca / f"{part}.pem")[0])
    steps = 0
    for _ in cuts(machine, power, lambda: machine.run("rotate", part)):
        steps += 1
        issuer = read_issuer(machine.ca, part, root)
        counting = {certs.fingerprint(item) for item in (issuer.certificate, *machine.authority.former)}
        assert part != "clients" or first in counting, "what it issued still counts"
    assert steps > 5
    assert certs.fingerprint(read_certificates(machine.ca / f"{part}.pem")[0]) != first
    assert (machine.ca / f"{part}-key.pem").read_bytes().count(b"BEGIN") == 1, "the old key is gone"


def test_what_a_former_issuer_signed_counts_for_as_long_as_it_may_be_renewed(machine: Machine) -> None:
    """Nobody was there when it ended: its hosts ended with it, and may renew for 30 more days."""
    first = machine.authority.clients.certificate
    machine.now += DAY
    machine.run("rotate", "clients")
    second = machine.authority.clients.certificate
    machine.now += DAY
    machine.run("rotate", "clients")
    assert machine.authority.former == (second, first)
    machine.now = first.not_valid_after_utc + enrolment.LATE - DAY
    machine.run("rotate", "clients")
    assert first in machine.authority.former
    machine.now += 2 * DAY
    machine.run("rotate", "clients")
    assert first not in machine.authority.former


def test_what_a_stolen_issuer_signed_counts_no_more(machine: Machine) -> None:
    machine.run("rotate", "clients")
    said = machine.run("rotate", "clients", "--stolen")
    assert "every host and operator joins again" in said
    assert machine.authority.former == ()


def test_a_rotated_issuer_of_servers_may_name_further_addresses(machine: Machine) -> None:
    assert "--also-address lab.example.org   makes one that may" in machine.server(
        "--also-address", "lab.example.org", fails=True
    )
    assert read_fleet(machine.ca).also == ()
    machine.run("rotate", "servers", "--also-address", "lab.example.org")
    assert "lab.example.org" in machine.server("--if-due")
    assert read_fleet(machine.ca).also == ("lab.example.org",)


def test_an_address_that_somebody_wrote_into_the_file_is_checked_as_well(machine: Machine) -> None:
    path = machine.ca / "fleet.json"
    path.write_text(path.read_text().replace("192.168.1.7", "203.0.113.9"))
    assert "not 203.0.113.9" in machine.server(fails=True)


def test_a_rotation_with_another_root_key_is_refused(machine: Machine) -> None:
    before = contents(machine.ca)
    (machine.ca / "root-key.pem").write_bytes(certs.key_pem(certs.new_key()))
    assert "this is not the key of" in machine.run("rotate", "clients", fails=True)
    assert {**contents(machine.ca), "root-key.pem": b""} == {**before, "root-key.pem": b""}


def test_two_commands_do_not_change_the_folder_at_once(machine: Machine) -> None:
    with hold(machine.ca / "lock"):
        said = machine.run("rotate", "clients", fails=True)
    assert f"another command is changing {machine.ca} (pid {os.getpid()})" in said


# -- the root's key


def test_the_roots_key_can_be_taken_away_and_used_from_its_file(machine: Machine) -> None:
    exported = machine.root / "stick.age"
    machine.run("root-key", "export", "--out", exported, stdin=PASSPHRASE + "\n")
    assert b"PRIVATE KEY" not in exported.read_bytes()
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    machine.run("root-key", "remove", "--exported", exported, stdin=PASSPHRASE)
    assert not (machine.ca / "root-key.pem").exists()
    assert "nothing to do" in machine.run("root-key", "remove", "--exported", exported, stdin=PASSPHRASE)
    assert "kept elsewhere. Name the exported file: --root-key FILE" in machine.run(
        "rotate", "clients", fails=True
    )
    machine.run("rotate", "clients", "--root-key", exported, stdin=PASSPHRASE)
    assert len(machine.authority.former) == 1


def test_the_roots_key_is_not_removed_before_its_copy_was_opened(machine: Machine) -> None:
    exported, other = machine.root / "stick.age", machine.root / "other"
    machine.run("root-key", "export", "--out", exported, stdin=PASSPHRASE)
    assert "needs --exported FILE" in machine.run("root-key", "remove", fails=True)
    said = machine.run("root-key", "remove", "--exported", exported, stdin="a wrong passphrase", fails=True)
    assert "the passphrase is not the one of this file" in said
    assert "other" in machine.run("root-key", "remove", "--exported", other, stdin=PASSPHRASE, fails=True)
    (machine.ca / "root-key.pem").write_bytes(certs.key_pem(certs.new_key()))
    machine.run("root-key", "export", "--out", other, stdin=PASSPHRASE)
    said = machine.run("root-key", "remove", "--exported", other, stdin=PASSPHRASE, fails=True)
    assert "the exported key is not the key of" in said
    assert (machine.ca / "root-key.pem").exists()


def test_export_needs_a_file_and_a_passphrase_worth_the_name(machine: Machine) -> None:
    out = machine.root / "stick.age"
    assert "needs --out FILE" in machine.run("root-key", "export", stdin=PASSPHRASE, fails=True)
    said = machine.run("root-key", "export", "--out", out, stdin="short", fails=True)
    assert "found a passphrase of 5 characters, expected at least 12" in said
    said = machine.run("root-key", "export", "--out", out, stdin="", fails=True)
    assert "found no passphrase in standard input" in said
    assert not out.exists()


def test_a_passphrase_comes_from_a_file_that_others_cannot_read(machine: Machine) -> None:
    file, out = machine.root / "passphrase", machine.root / "stick.age"
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o644)
    said = machine.run("root-key", "export", "--out", out, "--passphrase-file", file, fails=True)
    assert f"can be read by others than its owner: chmod 600 {file}" in said
    file.chmod(0o600)
    machine.run("root-key", "export", "--out", out, "--passphrase-file", file)
    machine.run("root-key", "remove", "--exported", out, stdin=PASSPHRASE)


# -- the proxy's certificate


def test_the_proxy_gets_one_file_under_two_names(machine: Machine) -> None:
    """A renewal is one rename, so that key and certificate are never out of step."""
    machine.server()
    assert os.readlink(machine.proxy / "server-key.pem") == "server.pem"
    leaf, issuer = read_certificates(machine.proxy / "server.pem")
    key = certs.load_key((machine.proxy / "server-key.pem").read_bytes())
    assert key.public_key() == leaf.public_key()
    assert certs.is_issued_by(leaf, issuer)
    assert certs.is_issued_by(issuer, machine.authority.root)
    names = [str(name.value) for name in ca_files.alternative_names(leaf)]
    assert names == ["receiver.cis490.internal", "192.168.1.7", "localhost", "127.0.0.1", "::1"]
    assert leaf.not_valid_after_utc == NOW + 90 * DAY
    assert modes(machine.proxy) == {0o600}


def test_a_new_one_is_due_after_a_third_of_its_life(machine: Machine) -> None:
    machine.server("--if-due")
    before = contents(machine.proxy)
    machine.now += 29 * DAY
    assert "nothing to do" in machine.server("--if-due")
    assert contents(machine.proxy) == before
    machine.now += 2 * DAY
    assert "issued until 2027-03-23" in machine.server("--if-due")
    assert contents(machine.proxy)["server.pem"] != before["server.pem"]


def test_without_if_due_a_new_one_is_issued_each_time(machine: Machine) -> None:
    machine.server()
    assert "(asked for)" in machine.server()


def swap_key(machine: Machine) -> None:
    path = machine.proxy / "server-key.pem"
    path.unlink()
    path.write_bytes(certs.key_pem(certs.new_key()))


DUE: dict[str, tuple[Callable[[Machine], object], str]] = {
    "none": (lambda m: (m.proxy / "server.pem").unlink(), "there was none"),
    "damaged": (lambda m: (m.proxy / "server.pem").write_bytes(b"x"), "could not be read"),
    "no link": (lambda m: (m.proxy / "server-key.pem").unlink(), "could not be read"),
    "another key": (swap_key, "did not fit its key"),
    "another issuer": (lambda m: m.run("rotate", "servers"), "its issuer is another now"),
    "another address": (lambda m: m.init("--also-address", "pi.lan"), "the addresses have changed"),
}


@pytest.mark.parametrize("reason", DUE)
def test_one_that_does_not_serve_is_replaced_before_its_time(machine: Machine, reason: str) -> None:
    machine.server()
    break_it, says = DUE[reason]
    break_it(machine)
    assert says in machine.server("--if-due")
    assert "nothing to do" in machine.server("--if-due")


def test_the_timer_needs_no_write_access_to_the_authority(machine: Machine) -> None:
    before = contents(machine.ca)
    machine.server("--if-due")
    assert contents(machine.ca) == before
    assert not (machine.ca / "lock").exists()


def test_without_an_authority_the_missing_file_is_named(bare: Machine) -> None:
    assert "fleet.json cannot be read: No such file" in bare.server("--if-due", fails=True)
    assert "init --dir" in bare.run("rotate", "clients", fails=True)


# -- show, and the program itself


def test_show_says_what_is_there_and_until_when(machine: Machine) -> None:
    machine.server()
    said = machine.run("show", "--out", machine.proxy)
    assert f"root {machine.authority.root_fingerprint}" in said
    assert "OK   the issuer of clients is valid until 2029-11-21 (1095 days)" in said
    found = json.loads(machine.run("show", "--out", machine.proxy, "--json"))
    assert {one["state"] for one in found["found"]} == {"OK"}
    assert found["fleet"]["name"] == "lab.test"


def test_show_says_what_to_type_about_what_is_going_to_end(machine: Machine) -> None:
    machine.now = machine.authority.clients.certificate.not_valid_after_utc - 80 * DAY
    said = machine.run("show", "--out", machine.proxy)
    assert "WARN the issuer of clients is valid until 2029-11-21 (80 days)\n" in said
    assert f"rotate clients --dir {machine.ca}" in said


def test_a_file_that_cannot_be_written_is_named_without_a_traceback(machine: Machine) -> None:
    (machine.root / "file").write_text("x")
    said = machine.run("server", "--out", machine.root / "file" / "below", fails=True)
    assert "ca: server:" in said
    assert "Not a directory" in said or "File exists" in said


def test_no_command_prints_a_key_or_a_passphrase(machine: Machine) -> None:
    """Each key as a number, in hexadecimal and as its text."""
    printed = [machine.server(), machine.run("show"), machine.run("show", "--json")]
    printed.append(machine.run("root-key", "export", "--out", machine.root / "s.age", stdin=PASSPHRASE))
    printed.append(machine.run("operator", "ada", "--out", machine.root / "ada"))
    printed.append(machine.run("rotate", "clients"))
    for path in machine.ca.glob("*-key.pem"):
        body = path.read_text().splitlines()[1]
        assert not any(body in text or PASSPHRASE in text for text in printed)


@pytest.mark.parametrize("argv", [[], ["init"], ["rotate", "root"], ["operator", "ada"], ["no-such"]])
def test_wrong_usage_is_exit_code_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ca.main(argv)
    assert caught.value.code == 2
    capsys.readouterr()


def test_a_passphrase_that_is_no_text_is_refused_and_not_quoted(machine: Machine) -> None:
    file = machine.root / "passphrase"
    file.write_bytes(b"long enough \xff\xfe passphrase")
    file.chmod(0o600)
    out = machine.root / "stick.age"
    said = machine.run("root-key", "export", "--out", out, "--passphrase-file", file, fails=True)
    assert ("no text in UTF-8" in said, "long" in said, out.exists()) == (True, False, False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ([PASSPHRASE, PASSPHRASE], ""),
        ([PASSPHRASE, "another passphrase"], "the two were not the same; nothing was done"),
        ([], "nothing was typed; nothing was done"),
    ],
)
def test_at_a_terminal_a_new_passphrase_is_asked_for_twice(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, typed: list[str], says: str
) -> None:
    def ask(_: str) -> str:
        if not typed:
            raise EOFError
        return typed.pop(0)

    monkeypatch.setattr(getpass, "getpass", ask)
    out = machine.root / "stick.age"
    argv = ["root-key", "export", "--dir", str(machine.ca), "--out", str(out)]
    code = ca.main(argv, now=lambda: NOW, stdin=Terminal(), log2_work=4)
    assert (code, says in machine.capsys.readouterr().err) == (1 if says else 0, True)
    assert out.exists() is not bool(says)


def test_no_option_takes_a_secret() -> None:
    """Arguments can be read by every process of the machine."""
    options = {
        option
        for verb in ca.parser()._subparsers._group_actions[0].choices.values()  # type: ignore[union-attr]
        for action in verb._actions
        for option in action.option_strings
    }
    secret = {
        option for option in options if any(word in option for word in ("pass", "secret", "token", "word"))
    }
    assert secret == {"--passphrase-file", "--token-file"}


def test_an_error_of_the_folder_is_a_sentence_and_not_a_traceback(bare: Machine) -> None:
    with pytest.raises(PkiError):
        open_authority(bare.ca)
    assert "cannot be read: No such file" in bare.run("show", fails=True)


def test_every_verb_and_option_is_in_the_operators_guide() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "operator-guide.md").read_text(encoding="utf-8")
    section = guide.split("\n## The certificate authority\n")[1].split("\n## Where things lie\n")[0]
    for name, verb in ca.parser()._subparsers._group_actions[0].choices.items():  # type: ignore[union-attr]
        assert f"`{name} " in section or f"`{name}`" in section, name
        for action in verb._actions:
            for option in set(action.option_strings) - {"-h", "--help"}:
                assert option in section, f"{name} {option}"
