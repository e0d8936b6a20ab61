"""A certificate is renewed in time, or late, by a real receiver behind a real Caddy; clients take the new one up."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cis490.locks import Held, hold
from cis490.pki import certificates as pki
from tests.factories.fleet_pki import key_of, leaf_of
from tests.factories.live_receiver import TOKEN
from tests.factories.processes import wait_until
from tests.factories.proxied_fleet import ProxiedFleet, proxied_fleet
from training.fleet import credential_places, credentials, renewal
from training.fleet.certificate_dates import Dates
from training.fleet.client import FleetClient, Refused, Unreachable
from training.fleet.renewal import EVERY_S, SOON_S, RenewalFault, Renewer, pause_s, renew, state_of
from training.fleet.types import Capability

MANIFEST = """
[[hosts]]
name = "pc-1"

[[hosts]]
name = "pc-2"
"""
DAY = timedelta(days=1)


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


def client_of(folder: Path) -> FleetClient:
    about = credentials.read_about(folder)
    return FleetClient(about.url, host=about.name, credentials=folder, timeout_s=20.0)


def edited(folder: Path, **changes: str) -> None:
    path = folder / credentials.ABOUT
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), encoding="utf-8")


# -- when ----------------------------------------------------------------------------------------------------

LIFE = Dates(0.0, 30 * 86_400.0, "7")


@pytest.mark.parametrize(
    ("day", "state"),
    [
        (-1, "valid"),
        (0, "valid"),
        (9.9, "valid"),
        (10, "due"),
        (30, "due"),
        (30.1, "late"),
        (60, "late"),
        (60.1, "too-late"),
    ],
)
def test_a_certificate_of_30_days_is_due_on_day_10_and_may_be_late_by_30(day: float, state: str) -> None:
    assert state_of(LIFE, day * 86_400.0) == state


def test_an_expired_one_is_tried_every_minute_at_first_and_never_less_than_hourly() -> None:
    late = 31 * 86_400.0
    assert [pause_s(LIFE, late, failures) for failures in (0, 1, 2, 50)] == [
        SOON_S,
        2 * SOON_S,
        4 * SOON_S,
        16 * SOON_S,
    ]
    assert pause_s(LIFE, 0.0, 50) == EVERY_S
    assert pause_s(None, 0.0, 99) <= EVERY_S


# -- what ----------------------------------------------------------------------------------------------------


def test_nothing_is_asked_before_it_is_due(fleet: ProxiedFleet) -> None:
    folder = fleet.pki.host("pc-1", age=9 * DAY)
    edited(folder, url="https://127.0.0.1:9", join_url="https://127.0.0.1:9")  # nobody there
    before = (folder / "identity.pem").read_bytes()
    assert renew(folder).state == "valid"
    assert (folder / "identity.pem").read_bytes() == before


@pytest.mark.parametrize("age", [11, 29])
def test_one_that_is_due_gets_a_new_key_and_30_more_days(fleet: ProxiedFleet, age: int) -> None:
    folder = fleet.pki.host("pc-1", age=age * DAY)
    key, leaf = key_of(folder), leaf_of(folder)
    done = renew(folder)
    assert done.state == "due"
    assert pki.key_id(key_of(folder).public_key()) != pki.key_id(key.public_key())
    assert leaf_of(folder).not_valid_after_utc - leaf.not_valid_after_utc > (age - 1) * DAY
    assert done.not_after_s == leaf_of(folder).not_valid_after_utc.timestamp()
    assert client_of(folder).workers() is not None
    assert sorted(path.name for path in folder.iterdir()) == [
        "credentials.json", "identity.pem", "renewal.lock", "root.pem",
    ]  # fmt: skip


@pytest.mark.parametrize("ago", [0.01, 29])
def test_an_expired_one_is_renewed_by_a_signature_of_its_key(fleet: ProxiedFleet, ago: float) -> None:
    folder = fleet.pki.host("pc-1", expired=ago * DAY)
    with pytest.raises(Unreachable, match="expired on"):
        client_of(folder).workers()
    assert renew(folder).state == "late"
    assert client_of(folder).workers() is not None


def test_one_that_expired_more_than_30_days_ago_names_the_command_that_helps(fleet: ProxiedFleet) -> None:
    folder = fleet.pki.host("pc-1", expired=31 * DAY)
    with pytest.raises(RenewalFault, match="more than 30 days ago") as fault:
        renew(folder)
    assert "cis490-jobs hosts add pc-1" in fault.value.lines[1]


def test_a_machine_whose_clock_is_behind_is_renewed_all_the_same(fleet: ProxiedFleet) -> None:
    """It takes its certificate for a good one; the receiver does not, and refuses the connection."""
    folder = fleet.pki.host("pc-1", expired=2 * DAY)
    behind_s = (datetime.now(UTC) - 5 * DAY).timestamp()
    assert renew(folder, lambda: behind_s).state == "due"
    assert client_of(folder).workers() is not None


@pytest.mark.parametrize("expired", [False, True])
def test_a_revoked_one_is_not_renewed_and_stays_as_it_is(
    fleet: ProxiedFleet, operator: FleetClient, expired: bool
) -> None:
    name = f"gone-{expired}"
    folder = fleet.pki.host(name, expired=3 * DAY if expired else False, age=15 * DAY)
    operator.revoke_identity("host", name, "lost")
    before = (folder / "identity.pem").read_bytes()
    with pytest.raises(RenewalFault, match="revoked: lost") as fault:
        renew(folder)
    assert f"hosts add {name}" in " ".join(fault.value.lines)
    assert (folder / "identity.pem").read_bytes() == before


def test_one_of_another_authority_is_not_renewed(fleet: ProxiedFleet) -> None:
    folder = fleet.pki.host("pc-1", other_ca=True, expired=3 * DAY)
    with pytest.raises(RenewalFault):
        renew(folder)


def test_a_receiver_that_moved_says_where_it_is_now(fleet: ProxiedFleet) -> None:
    folder = fleet.pki.host("pc-1", expired=DAY)
    edited(folder, url="https://192.0.2.1:1")
    renew(folder)
    assert credentials.read_about(folder).url == fleet.pki.fleet.workers_url


def test_a_receiver_that_is_away_changes_nothing(fleet: ProxiedFleet) -> None:
    folder = fleet.pki.host("pc-1", age=15 * DAY)
    edited(folder, url="https://127.0.0.1:9", join_url="https://127.0.0.1:9")
    before = (folder / "identity.pem").read_bytes()
    with pytest.raises(RenewalFault) as fault:
        renew(folder)
    assert fault.value.unreachable
    assert (folder / "identity.pem").read_bytes() == before


def test_a_crash_before_the_rename_leaves_the_old_pair_in_use(
    fleet: ProxiedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fleet.pki.host("pc-1", age=15 * DAY)
    before = (folder / "identity.pem").read_bytes()

    def power_cut(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cis490.files.os.replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        renew(folder)
    monkeypatch.undo()
    assert (folder / "identity.pem").read_bytes() == before
    assert client_of(folder).workers() is not None
    assert renew(folder).state == "due"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can do it")
def test_root_does_not_take_the_identity_away_from_the_services_user(fleet: ProxiedFleet) -> None:
    folder = fleet.pki.host("pc-1", age=15 * DAY)
    os.chown(folder, 65534, 65534)
    with pytest.raises(RenewalFault, match="Nothing was changed") as fault:
        renew(folder)
    assert "runuser -u nobody -- " in fault.value.lines[1]
    assert not (folder / credentials.LOCK).exists()


def test_without_its_library_the_worker_goes_on_and_says_what_is_missing(
    fleet: ProxiedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was installed before it was enrolled may lack it; its thread must not end for good."""
    folder = fleet.pki.host("pc-1", age=11 * DAY)
    monkeypatch.setitem(sys.modules, "cis490.pki.certificates", None)  # any import of it fails
    monkeypatch.delattr("cis490.pki.certificates")
    renewer = Renewer(folder)
    renewer.look()
    with pytest.raises(RenewalFault, match=r"needs the package cryptography, .* scripts/setup\.sh run"):
        renew(folder)
    monkeypatch.undo()
    renewer.look()
    assert leaf_of(folder).not_valid_before_utc > datetime.now(UTC) - DAY


def test_what_a_renewal_that_was_killed_left_goes_with_the_next(fleet: ProxiedFleet) -> None:
    """Copies of a private key under other names, which nobody would look for."""
    folder = fleet.pki.host("pc-1", age=11 * DAY)
    for name in (
        ".trial-4711.pem",
        "..trial-4711.pem.0123456789abcdef.tmp",
        ".identity.pem.0123456789abcdef.tmp",
    ):
        (folder / name).write_bytes(b"PRIVATE KEY")
    renew(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "credentials.json", "identity.pem", "renewal.lock", "root.pem",
    ]  # fmt: skip


def test_two_processes_do_not_renew_at_once(fleet: ProxiedFleet) -> None:
    folder = fleet.pki.host("pc-1", age=15 * DAY)
    with hold(folder / credentials.LOCK), pytest.raises(Held):
        renew(folder)


def test_an_answer_that_is_no_certificate_is_not_kept(
    fleet: ProxiedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fleet.pki.host("pc-1", age=15 * DAY)
    before = (folder / "identity.pem").read_bytes()
    other = pki.chain_pem(leaf_of(fleet.pki.host("pc-1"))).decode()
    for answer in (
        {"certificate_pem": "rubbish"},
        {"certificate_pem": other},  # of another key
        {"certificate_pem": other, "name": "pc-2"},
        {},
        {"certificate_pem": 7},
    ):
        with monkeypatch.context() as patch:
            patch.setattr("training.fleet.transport.Transport.json", lambda *_, found=answer, **__: found)
            with pytest.raises(RenewalFault):
                renew(folder)
        assert (folder / "identity.pem").read_bytes() == before


class TestProgram:
    def run(self, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
        code = renewal.main(argv, {})
        said = capsys.readouterr()
        return code, said.out, said.err

    def test_says_what_it_did(self, fleet: ProxiedFleet, capsys: pytest.CaptureFixture[str]) -> None:
        folder = str(fleet.pki.host("pc-1"))
        assert self.run(capsys, "--credentials", folder)[:2] == (
            0,
            f"not due yet: it counts until {until(folder)}\n",
        )
        code, out, _ = self.run(capsys, "--credentials", folder, "--force")
        assert (code, out.split(":")[0]) == (0, "renewed")

    def test_says_why_not(
        self, fleet: ProxiedFleet, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        code, _, err = self.run(capsys, "--credentials", str(fleet.pki.host("pc-1", expired=40 * DAY)))
        assert (code, "hosts add pc-1" in err) == (1, True)
        busy = fleet.pki.host("pc-1", age=15 * DAY)
        with hold(busy / credentials.LOCK):
            assert self.run(capsys, "--credentials", str(busy))[0] == renewal.BUSY
        away = fleet.pki.host("pc-1", age=15 * DAY)
        edited(away, url="https://127.0.0.1:9", join_url="https://127.0.0.1:9")
        assert self.run(capsys, "--credentials", str(away))[0] == renewal.UNREACHABLE
        assert self.run(capsys, "--credentials", str(tmp_path / "nowhere"))[0] == 1

    def test_wants_to_know_which_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(credential_places, "OF_THE_MACHINE", str(tmp_path / "etc"))
        with pytest.raises(SystemExit):
            renewal.main([], {"HOME": str(tmp_path)})

    def test_takes_that_of_the_command_line_when_none_is_named(
        self,
        fleet: ProxiedFleet,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(credential_places, "OF_THE_MACHINE", str(tmp_path / "etc"))
        fleet.pki.operator("ada", into=tmp_path / ".config/cis490", age=20 * DAY)
        assert renewal.main([], {"HOME": str(tmp_path)}) == 0
        assert capsys.readouterr().out.startswith("renewed")


def until(folder: str) -> str:
    return leaf_of(Path(folder)).not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")


class TestWorkersOwn:
    def test_an_expired_one_is_renewed_before_the_worker_does_anything(self, fleet: ProxiedFleet) -> None:
        folder = fleet.pki.host("pc-1", expired=29 * DAY)
        with Renewer(folder) as renewer:
            assert client_of(folder).workers() is not None
        renewer._thread.join(20)

    def test_one_that_is_due_is_renewed_beside(self, fleet: ProxiedFleet) -> None:
        folder = fleet.pki.host("pc-1", age=15 * DAY)
        before = leaf_of(folder).serial_number
        with Renewer(folder) as renewer:
            wait_until(lambda: leaf_of(folder).serial_number != before, "a new certificate")
        renewer._thread.join(20)

    def test_a_failure_is_told_once_and_the_success_after_it(
        self, fleet: ProxiedFleet, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        folder = fleet.pki.host("pc-1", age=15 * DAY)
        right = credentials.read_about(folder)
        edited(folder, url="https://127.0.0.1:9", join_url="https://127.0.0.1:9")
        renewer = Renewer(folder)
        renewer.look()
        renewer.look()
        edited(folder, url=right.url, join_url=right.join_url)
        renewer.look()
        renewer.look()
        said = [record.getMessage() for record in caplog.records if record.name == "training.fleet.renewal"]
        assert [line.split()[0] for line in said] == ["credentials.renewal_failing", "credentials.renewed"]

    def test_a_folder_that_is_gone_does_no_harm(self, tmp_path: Path) -> None:
        with Renewer(tmp_path / "nowhere"):
            pass


# -- what open connections do --------------------------------------------------------------------------------


def test_a_client_shows_the_new_certificate_from_the_next_request_on(
    fleet: ProxiedFleet, operator: FleetClient
) -> None:
    """Also over a connection that it had open: the old certificate ends while that would live on."""
    folder = fleet.pki.host("pc-2", age=15 * DAY)
    client = client_of(folder)
    client.workers()
    operator.revoke_identity("host", "pc-2", "stolen")
    with pytest.raises(Refused, match="revoked"):
        client.workers()
    from training.fleet import join

    line = operator.join_token("host", "pc-2")["token"]
    world = join.Outside({}, io.BytesIO(line.encode()), io.StringIO(), io.StringIO())
    assert join.main(["--credentials", str(folder), "--skip-trainer"], world) == 0
    assert client.workers() is not None


def test_a_folder_that_vanishes_is_no_crash_and_its_return_is_noticed(
    fleet: ProxiedFleet, tmp_path: Path
) -> None:
    folder = fleet.pki.host("pc-1", into=tmp_path / "here")
    client = client_of(folder)
    client.workers()
    folder.rename(tmp_path / "away")
    with pytest.raises(Unreachable, match="cannot be read"):
        client.workers()
    (tmp_path / "away").rename(folder)
    assert client.workers() is not None


def test_a_worker_that_stops_ends_its_waiting_claim_over_tls_too(fleet: ProxiedFleet) -> None:
    client = client_of(fleet.pki.host("pc-1"))
    ended: list[object] = []

    def claim() -> None:
        try:
            ended.append(client.claim(Capability(cores=1), request_id="waits", wait_s=60.0))
        except Unreachable as error:
            ended.append(str(error))

    thread = threading.Thread(target=claim)
    thread.start()
    wait_until(lambda: client._transport._waiting is not None, "the claim")
    began = time.monotonic()
    client.hurry(5.0)
    thread.join(timeout=20)
    assert len(ended) == 1
    assert isinstance(ended[0], str)
    assert time.monotonic() - began < 20


def test_every_refusal_by_certificate_says_what_is_wrong(fleet: ProxiedFleet) -> None:
    other = client_of(fleet.pki.host("pc-1", other_ca=True))
    wrong = client_of(fleet.pki.host("pc-1", usage="servers"))
    early = client_of(fleet.pki.host("pc-1", not_yet_valid=True))
    for client, says in ((other, "another lab"), (wrong, "another lab"), (early, "set the clock")):
        for _ in range(3):  # the refusal may come as an alert or as the end of the connection
            with pytest.raises(Unreachable, match=f"{says}|does not take the certificate of pc-1"):
                client.workers()


def test_a_server_of_another_lab_is_not_told_anything(fleet: ProxiedFleet, tmp_path: Path) -> None:
    folder = fleet.pki.host("pc-1")
    (folder / "root.pem").write_bytes(pki.chain_pem(fleet.pki.impostor_root.certificate))
    with pytest.raises(Unreachable, match="not of this lab"):
        client_of(folder).workers()


def test_a_large_result_goes_through_tls_whole(fleet: ProxiedFleet, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"x" * 900_000)
    client = client_of(fleet.pki.host("pc-1"))
    with pytest.raises(Refused):  # there is no such job: the answer comes although not a byte is wanted
        client.upload("ab" * 32, None, bundle, "cd" * 32)
