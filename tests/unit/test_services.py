"""The units of etc/ and the scripts that install them, as far as they can be judged without being started.

Started they are in tests/platforms/test_systemd.py.
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "etc").glob("*.service"))
TIMERS = sorted((ROOT / "etc").glob("*.timer"))
DAEMONS = {"cis490-trainer-receiver", "cis490-trainer-worker", "cis490-caddy"}
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
EXPOSURE = {"cis490-trainer-worker": 2.5}
"""The most that `systemd-analyze security` may say of a unit, of 10; of all others `MOST_EXPOSED`."""
MOST_EXPOSED = 1.5
needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here"
)
each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def read(path: Path) -> configparser.ConfigParser:
    """A unit file as sections; of a key that stands several times, the last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def values(path: Path, key: str) -> list[str]:
    """Every value of a key, in order."""
    return re.findall(rf"(?m)^{key}=(.*)$", path.read_text(encoding="utf-8"))


def unit(name: str) -> Path:
    return ROOT / "etc" / f"{name}.service"


def test_the_services_are_those_of_the_documentation() -> None:
    told = set(
        re.findall(r"`(cis490-[\w-]+\.(?:service|timer))`", (ROOT / "etc" / "README.md").read_text("utf-8"))
    )
    assert told == {path.name for path in (*UNITS, *TIMERS)}


@each_unit
def test_a_unit_starts_a_module_that_exists_by_name_and_not_by_path(unit: Path) -> None:
    command = read(unit)["Service"]["ExecStart"].split()
    if not command[0].endswith("/python"):
        assert command[0] == "/usr/bin/caddy"
        return
    assert command[1] == "-m"
    assert ROOT.joinpath(*command[2].split(".")).with_suffix(".py").is_file()


@pytest.mark.parametrize("name", sorted(DAEMONS - {"cis490-caddy"}))
def test_a_unit_does_not_restart_on_a_wrong_configuration(name: str) -> None:
    assert read(unit(name))["Service"]["RestartPreventExitStatus"] == "78"


@pytest.mark.parametrize("name", sorted(DAEMONS))
def test_a_daemon_says_when_it_is_ready_and_is_started_again_when_it_falls(name: str) -> None:
    service = read(unit(name))["Service"]
    assert (service["Type"], service["Restart"]) == ("notify", "on-failure")


@pytest.mark.parametrize("name", sorted(DAEMONS - {"cis490-caddy"}))
def test_our_daemons_are_watched(name: str) -> None:
    assert int(read(unit(name))["Service"]["WatchdogSec"]) >= 60


def test_a_stop_reaches_the_workers_daemon_alone_and_in_the_end_everything() -> None:
    service = read(unit("cis490-trainer-worker"))["Service"]
    assert service["KillMode"] == "mixed"
    assert service.get("SendSIGKILL", "yes") == "yes"


@pytest.mark.parametrize("timer", TIMERS, ids=lambda timer: timer.stem)
def test_a_timer_has_its_service_and_makes_up_for_a_run_that_was_missed(timer: Path) -> None:
    assert timer.with_suffix(".service").is_file()
    assert read(timer)["Timer"]["Persistent"] == "yes"


def test_every_service_that_no_timer_starts_starts_at_boot() -> None:
    at_boot = {path.stem for path in UNITS if read(path).has_section("Install")}
    assert at_boot == {path.stem for path in UNITS} - {path.stem for path in TIMERS} == DAEMONS


@each_unit
def test_no_unit_holds_a_secret_or_puts_one_into_an_environment(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    assert re.findall(r"(?m)^(?:Environment|SetCredential\w*)=.*(?:TOKEN|SECRET|PASS|KEY).*$", text) == []
    assert "PassEnvironment" not in text


def test_the_receiver_gets_copies_of_the_keys_that_it_needs_and_of_no_others() -> None:
    given = {value.partition(":")[0] for value in values(unit("cis490-trainer-receiver"), "LoadCredential")}
    assert given == {
        "operator-token", "fleet.json", "root.pem", "clients.pem", "clients-key.pem", "clients-old.pem", "signing.pem",
        "signing-key.pem",
    }  # fmt: skip


def test_the_proxy_gets_its_own_key_alone() -> None:
    given = {value.partition(":")[0] for value in values(unit("cis490-caddy"), "LoadCredential")}
    assert given == {"server.pem", "server-key.pem", "root.pem"}


def test_no_trainer_runs_as_the_user_that_the_receivers_socket_belongs_to() -> None:
    """Who can open the socket can claim any identity, and trainers run code of whoever wrote a model."""
    assert (
        read(unit("cis490-trainer-receiver"))["Service"]["User"]
        != read(unit("cis490-trainer-worker"))["Service"]["User"]
    )
    assert read(unit("cis490-trainer-receiver"))["Service"]["RuntimeDirectoryMode"] == "0750"


@needs_analyze
@each_unit
def test_systemd_finds_no_fault_in_a_unit(unit: Path, tmp_path: Path) -> None:
    for path in (*UNITS, *TIMERS):  # they name each other
        here = path.read_text(encoding="utf-8").replace("/opt/cis490/.venv/bin/python", sys.executable)
        (tmp_path / path.name).write_text(here.replace("/usr/bin/caddy", sys.executable), encoding="utf-8")
    checked = [tmp_path / unit.name, *(tmp_path / timer.name for timer in TIMERS if timer.stem == unit.stem)]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, checked)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_analyze
@each_unit
def test_a_unit_is_locked_up_as_far_as_its_work_allows(unit: Path) -> None:
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    (level,) = re.findall(r"exposure level for \S+: ([\d.]+)", said)
    assert float(level) <= EXPOSURE.get(unit.stem, MOST_EXPOSED)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not here")
def test_shellcheck_finds_no_fault_in_the_scripts() -> None:
    done = subprocess.run(
        ["shellcheck", "-x", *map(str, SCRIPTS)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("install-training-worker.sh", {"--check", "--torch", "--uninstall"}),
        (
            "install-trainer-receiver.sh",
            {"--address", "--also-address", "--name", "--check", "--uninstall", "--delete-data"},
        ),
    ],
)
def test_an_installers_help_names_each_of_its_options(script: str, told: set[str]) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / script, "--help"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(re.findall(r"(?m)^ +(--[\w-]+)", done.stdout)) == told


@pytest.mark.parametrize("script", ["install-training-worker.sh", "install-trainer-receiver.sh"])
def test_an_installer_refuses_an_option_that_it_does_not_know(script: str) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / script, "--everything"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"scripts/{script} --help" in done.stderr


def test_a_token_given_as_an_argument_is_refused_and_not_repeated() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "install-training-worker.sh", "cis490-join-1.c2VjcmV0"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2
    assert "hosts add NAME" in done.stderr
    assert "c2VjcmV0" not in done.stdout + done.stderr


def test_the_installers_put_every_unit_in_its_place() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS if path.name.startswith("install-"))
    assert {path.name for path in (*UNITS, *TIMERS)} <= set(
        re.findall(r"cis490-[\w-]+\.(?:service|timer)", text)
    )
