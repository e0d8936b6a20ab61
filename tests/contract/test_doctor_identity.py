"""`doctor` looks at certificates: the worker's and the command line's, each broken for real."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cis490.locks import hold
from tests.factories.live_receiver import TOKEN
from tests.factories.proxied_fleet import ProxiedFleet, proxied_fleet
from training.fleet import capability, cli, credentials, doctor, exits
from training.fleet.capability import Survey
from training.fleet.certificate_dates import Dates
from training.fleet.client import FleetClient
from training.fleet.credentials import About
from training.fleet.doctor_identity import judged
from training.fleet.types import Capability
from training.fleet.verbs import Terminal

MANIFEST = '[[hosts]]\nname = "pc-1"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedFleet]:
    with proxied_fleet(
        tmp_path_factory.mktemp("fleet"), MANIFEST, build="wheel", operator_token=TOKEN
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The survey of the machine takes seconds, and a tight disk is no fault here."""
    found = Capability(cores=2, models=["gbt"], ram_gib=4.0, trainer_digest="e" * 64)
    monkeypatch.setattr(capability, "survey", lambda **_: Survey(found))
    monkeypatch.setattr(doctor, "TIGHT_BYTES", 1)
    monkeypatch.setattr(doctor, "FULL_BYTES", 1)


class Machine:
    """A worker's machine, where an operator sits."""

    def __init__(self, folder: Path, fleet: ProxiedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.env_file = folder, folder / "worker.env"
        self.operator = fleet.pki.operator("ada", token=TOKEN)
        for name in ("spool", "leases"):
            (folder / "worker" / name).mkdir(parents=True)
        monkeypatch.setattr(doctor, "ENV_FILES", (self.env_file,))

    def doctor(self, worker: Path | None, wall_s: float | None = None) -> dict[str, tuple[str, str, str]]:
        """Check -> (state, found, fix) of the worker's side, with its credentials in the service's own settings."""
        self.env_file.write_text("" if worker is None else f"{credentials.VARIABLE}={worker}\n", "utf-8")
        out = io.StringIO()
        now = time.time if wall_s is None else (lambda: wall_s)
        argv = ["--credentials", str(self.operator), "doctor", "--json", "--worker"]
        with hold(self.folder / "worker/worker.lock"):
            terminal = Terminal({}, out, io.StringIO(), now, now, 80)
            cli.run([*argv, "--state-dir", str(self.folder / "worker")], terminal)
        found = json.loads(out.getvalue())["findings"]
        return {
            f"{one['area']} {one['check']}": (one["state"], one["found"], one["fix"])
            for one in found
            if "cert" in one["check"] or one["check"] in ("clock", "operator token")
        }


@pytest.fixture
def machine(tmp_path: Path, fleet: ProxiedFleet, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, fleet, monkeypatch)


def test_certificates_in_order_have_nothing_to_mend(fleet: ProxiedFleet, machine: Machine) -> None:
    found = machine.doctor(fleet.pki.host("pc-1"))
    assert {state for state, _, _ in found.values()} == {"OK"}, found
    assert "worker certificate" in found
    assert "fleet certificate" in found
    assert "worker certificate's standing" in found
    assert found["fleet operator token"][0] == "OK"  # of the folder


def test_a_worker_without_credentials_has_no_certificate_to_look_at(machine: Machine) -> None:
    assert not any(name.startswith("worker cert") for name in machine.doctor(None))


def test_an_expired_one_is_a_fault_with_the_command_that_renews_it(
    fleet: ProxiedFleet, machine: Machine
) -> None:
    folder = fleet.pki.host("pc-1", expired=True)
    state, found, fix = machine.doctor(folder)["worker certificate"]
    assert (state, "expired" in found) == ("FAIL", True)
    assert f"training.fleet.renewal --credentials {folder}" in fix


@pytest.mark.skipif(sys.platform == "win32", reason="modes of Unix")
def test_a_key_that_others_may_read_is_a_fault(fleet: ProxiedFleet, machine: Machine) -> None:
    folder = fleet.pki.host("pc-1")
    (folder / credentials.IDENTITY).chmod(0o644)
    (machine.operator / credentials.OPERATOR_TOKEN).chmod(0o640)
    found = machine.doctor(folder)
    assert found["worker certificate's file"][0] == "FAIL"
    assert found["worker certificate's file"][2].startswith("chmod 600 ")
    assert "operator-token" in found["fleet certificate's file"][1]


def test_a_revoked_one_is_a_fault_with_the_command_that_lets_it_in_again(
    fleet: ProxiedFleet, machine: Machine
) -> None:
    folder = fleet.pki.host("pc-9")
    operator = FleetClient(fleet.pki.fleet.operators_url, credentials=machine.operator, operator_token=TOKEN)
    operator.revoke_identity("host", "pc-9", "lost")
    state, found, fix = machine.doctor(folder)["worker certificate's standing"]
    assert (state, "revoked: lost" in found) == ("FAIL", True)
    assert "cis490-jobs hosts add pc-9" in fix


def test_one_of_another_lab_and_a_damaged_one_are_faults(fleet: ProxiedFleet, machine: Machine) -> None:
    assert machine.doctor(fleet.pki.host("pc-1", other_ca=True))["worker certificate's standing"][0] == "FAIL"
    folder = fleet.pki.host("pc-1")
    (folder / credentials.IDENTITY).write_bytes(b"rubbish")
    assert machine.doctor(folder)["worker certificate"][0] == "FAIL"
    assert machine.doctor(machine.folder / "nowhere")["worker certificate"][0] == "FAIL"


def test_a_clock_far_off_is_told_by_the_receivers_date(fleet: ProxiedFleet, machine: Machine) -> None:
    state, found, _ = machine.doctor(fleet.pki.host("pc-1"), time.time() + 7200)["worker clock"]
    assert (state, "behind" in found) == ("FAIL", True)


DAY = 86_400.0


@pytest.mark.parametrize(
    ("day", "role", "state"),
    [
        (-1, "host", "FAIL"), (1, "host", "OK"), (10.5, "host", "OK"), (13, "host", "WARN"), (31, "host", "FAIL"),
        (61, "host", "FAIL"), (10.5, "operator", "WARN"),
    ],
)  # fmt: skip
def test_dates_are_judged_by_what_somebody_has_to_do(day: float, role: str, state: str) -> None:
    about = About("lab", role, "x", "https://h:1", "https://h:2", "s")
    found = judged(about, Dates(0.0, 30 * DAY, "7"), Path("/c"), day * DAY)
    assert found[0] == state
    assert bool(found[2]) == (state != "OK")
    if day > 60:
        assert "cis490-jobs hosts add x" in found[2]


def test_without_a_token_only_the_verbs_that_look_will_work(fleet: ProxiedFleet, machine: Machine) -> None:
    (machine.operator / credentials.OPERATOR_TOKEN).unlink()
    assert machine.doctor(None)["fleet operator token"][0] == "WARN"


class TestCommandLine:
    """What `cis490-jobs` says when its certificate is no good."""

    def run(self, *argv: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        code = cli.run(argv, Terminal({}, out, err, time.time, time.time, 80))
        return code, out.getvalue(), err.getvalue()

    def test_an_expired_one(self, fleet: ProxiedFleet) -> None:
        folder = fleet.pki.operator("ada", expired=timedelta(days=3))
        code, _, err = self.run("--credentials", str(folder), "list")
        assert (code, "expired on" in err) == (exits.UNREACHABLE, True)
        assert "training.fleet.renewal --credentials" in err
        assert "systemctl start cis490-trainer-receiver" not in err

    def test_a_missing_token_names_the_file_for_it(self, fleet: ProxiedFleet) -> None:
        folder = fleet.pki.operator("ada")
        code, _, err = self.run("--credentials", str(folder), "pause")
        assert code == exits.REFUSED
        assert str(folder / credentials.OPERATOR_TOKEN) in err

    def test_a_token_in_the_folder_is_enough(self, fleet: ProxiedFleet) -> None:
        folder = str(fleet.pki.operator("ada", token=TOKEN))
        assert self.run("--credentials", folder, "pause")[0] == exits.OK
        assert self.run("--credentials", folder, "resume")[0] == exits.OK

    def test_one_that_ends_within_a_week_is_told_of_and_still_does(self, fleet: ProxiedFleet) -> None:
        folder = fleet.pki.operator("ada", age=timedelta(days=26, hours=1))
        code, out, err = self.run("--credentials", str(folder), "list")
        assert code == exits.OK
        assert f"ends in 3 days: python -m training.fleet.renewal --credentials {folder}" in err
        assert "ends in" not in out
        assert self.run("--credentials", str(fleet.pki.operator("ada")), "list")[2] == ""

    def test_a_folder_that_is_none(self) -> None:
        code, _, err = self.run("--credentials", "/nowhere", "list")
        assert (code, "[E040]" in err) == (exits.USAGE, True)

    def test_a_tab_asks_with_the_certificate(
        self, fleet: ProxiedFleet, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = str(fleet.pki.operator("ada"))
        cli.run(["__complete", "--", "--credentials", folder, "show", ""])
        assert "gbt-realistic" in capsys.readouterr().out
