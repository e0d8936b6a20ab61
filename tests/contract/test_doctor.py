"""`cis490-jobs doctor`: each thing is broken for real, and the doctor must name it, and what mends it."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cis490 import locks
from cis490.ballast import Ballast
from cis490.locks import hold
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from tests.factories.small_disk import small_disk
from training.fleet import capability, cli, doctor, doctor_receiver, doctor_worker, exits
from training.fleet.capability import Survey
from training.fleet.types import Capability
from training.fleet.verbs import Terminal

MANIFEST = '[[hosts]]\nname = "lab-1"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
DEAD = "http://127.0.0.1:9"
"""The port of the discard service, on which nothing listens."""


@dataclass
class Machine:
    """A receiver's and a worker's folders, and the command line with all of it spelled out."""

    folder: Path
    receiver: LiveReceiver | None
    env: dict[str, str]
    wall_s: float | None = None

    @property
    def live(self) -> LiveReceiver:
        assert self.receiver is not None
        return self.receiver

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.toml"

    def now(self) -> float:
        return time.time() if self.wall_s is None else self.wall_s

    def run(self, *argv: str, url: str | None = None) -> tuple[int, list[dict[str, str]]]:
        code, out, _ = self.text("--json", *argv, url=url)
        return code, json.loads(out)["findings"]

    def text(self, *argv: str, url: str | None = None) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        env = {"CIS490_RECEIVER_URL": url or (self.receiver.url if self.receiver else DEAD), **self.env}
        places = (
            "--manifest", str(self.manifest), "--db", str(self.folder / "training_jobs.db"),
            "--store-root", str(self.folder / "models"), "--incoming-root", str(self.folder / "incoming"),
            "--state-dir", str(self.folder / "worker"), "--host", "lab-1",
        )  # fmt: skip
        code = cli.run(["doctor", *argv, *places], Terminal(env, out, err, self.now, self.now, 80))
        return code, out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The survey of the machine takes seconds; no service of this machine counts; a tight disk is no fault here."""
    from training.fleet.coordinator import CHECKOUT
    from training.trainer.digest import trainer_digest

    found = Capability(cores=2, models=["gbt"], ram_gib=4.0, trainer_digest=trainer_digest(CHECKOUT))
    monkeypatch.setattr(capability, "survey", lambda **_: Survey(found))
    monkeypatch.setattr(doctor, "ENV_FILES", ())
    monkeypatch.setattr(doctor, "TIGHT_BYTES", 1)
    monkeypatch.setattr(doctor, "FULL_BYTES", 1)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """All in order: a receiver that serves and holds its lock, a worker that holds its own."""
    ballast = Ballast(tmp_path / "ballast", size_bytes=1)
    ballast.restore()
    for name in ("spool", "leases"):
        (tmp_path / "worker" / name).mkdir(parents=True)
    with (
        live_receiver(tmp_path, MANIFEST, ballast=ballast) as running,
        hold(tmp_path / "training_jobs.db.lock"),
        hold(tmp_path / "worker" / "worker.lock"),
    ):
        assert running.operator("/v1/manifest/reload").status == 200
        assert running.worker("POST", "/v1/job/claim", {"capability": {}}, host="lab-1").status == 200
        yield Machine(tmp_path, running, {"CIS490_OPERATOR_TOKEN": TOKEN})


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a receiver that was stopped in good order, and of a worker; to be copied."""
    folder = tmp_path_factory.mktemp("stopped")
    ballast = Ballast(folder / "ballast", size_bytes=1)
    ballast.restore()
    for name in ("spool", "leases"):
        (folder / "worker" / name).mkdir(parents=True)
    with live_receiver(folder, MANIFEST, ballast=ballast):
        pass
    return folder


@pytest.fixture
def files(stopped: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine of which only the files tell: its receiver does not answer, though somebody holds the locks."""
    folder = tmp_path / "machine"
    shutil.copytree(stopped, folder)
    with hold(folder / "training_jobs.db.lock"), hold(folder / "worker" / "worker.lock"):
        yield Machine(folder, None, {})


def the_one(findings: list[dict[str, str]], area: str, check: str) -> dict[str, str]:
    (found,) = [one for one in findings if (one["area"], one["check"]) == (area, check)]
    return found


def others(findings: list[dict[str, str]], *expected: tuple[str, str]) -> list[dict[str, str]]:
    """What is not in order beside what was broken."""
    return [one for one in findings if one["state"] != "OK" and (one["area"], one["check"]) not in expected]


def test_a_fleet_in_order_has_nothing_to_mend(machine: Machine) -> None:
    code, findings = machine.run()
    assert others(findings) == []
    assert code == exits.OK
    assert {one["area"] for one in findings} == {"receiver", "worker", "fleet"}


@pytest.mark.parametrize("side", ["receiver", "worker"])
def test_only_the_side_that_was_asked_for_is_looked_at(machine: Machine, side: str) -> None:
    _, findings = machine.run(f"--{side}")
    assert {one["area"] for one in findings} == {side, "fleet"}


def test_without_a_receiver_or_a_worker_on_this_machine_only_the_receiver_is_asked(
    machine: Machine, tmp_path: Path
) -> None:
    out = io.StringIO()
    env = {
        "CIS490_RECEIVER_URL": machine.live.url,
        "CIS490_TRAINING_MANIFEST": str(tmp_path / "none"),
        **machine.env,
    }
    argv = ["doctor", "--json", "--db", str(tmp_path / "none.db"), "--state-dir", str(tmp_path / "none")]
    code = cli.run(argv, Terminal(env, out, io.StringIO(), lambda: 0.0, lambda: 0.0, 80))
    assert code == exits.OK
    assert {one["area"] for one in json.loads(out.getvalue())["findings"]} == {"fleet"}


# -- what is broken, and by whom it has to be found


def _break_manifest(machine: Machine) -> None:
    machine.manifest.write_text(MANIFEST + "model = 7\nmodle = 1\n", encoding="utf-8")


def _remove_manifest(machine: Machine) -> None:
    machine.manifest.unlink()


def _no_store(machine: Machine) -> None:
    (machine.folder / "models").rename(machine.folder / "elsewhere")


def _read_only_store(machine: Machine) -> None:
    (machine.folder / "models").chmod(0o555)


def _store_is_a_file(machine: Machine) -> None:
    _no_store(machine)
    (machine.folder / "models").write_text("x")


def _newer_database(machine: Machine) -> None:
    _on_database(machine, "PRAGMA user_version = 999")


def _older_database(machine: Machine) -> None:
    _on_database(machine, "PRAGMA user_version = 4")


def _on_database(machine: Machine, statement: str) -> None:
    connection = sqlite3.connect(machine.folder / "training_jobs.db")
    connection.execute(statement)
    connection.commit()
    connection.close()


def _no_database(machine: Machine) -> None:
    (machine.folder / "training_jobs.db").rename(machine.folder / "moved.db")


def _not_a_database(machine: Machine) -> None:
    _no_database(machine)
    (machine.folder / "training_jobs.db").write_bytes(b"not a database" * 1000)


def _damaged_database(machine: Machine) -> None:
    with open(machine.folder / "training_jobs.db", "r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 4096 * 6)


def _results_without_lease(machine: Machine) -> None:
    (machine.folder / "worker" / "spool" / "abc-1.tar.zst").write_bytes(b"x")


def _undelivered(machine: Machine) -> None:
    _results_without_lease(machine)
    (machine.folder / "worker" / "leases" / "abc-1.json").write_text("{}")


def _no_worker_folder(machine: Machine) -> None:
    (machine.folder / "worker").rename(machine.folder / "gone")


def _no_ballast(machine: Machine) -> None:
    (machine.folder / "ballast").unlink()


def _wrong_token(machine: Machine) -> None:
    machine.env["CIS490_OPERATOR_TOKEN"] = "another"


def _no_token(machine: Machine) -> None:
    del machine.env["CIS490_OPERATOR_TOKEN"]


def _clock_behind(machine: Machine) -> None:
    machine.wall_s = time.time() - 3600


def _not_reloaded(machine: Machine) -> None:
    machine.manifest.write_text(MANIFEST + "priority = 3\n", encoding="utf-8")


def _fleet_paused(machine: Machine) -> None:
    assert machine.live.operator("/v1/fleet/pause", {"reason": "a fire"}).status == 200


def _host_not_in_manifest(machine: Machine) -> None:
    machine.manifest.write_text(MANIFEST.replace("lab-1", "lab-2"), encoding="utf-8")
    assert machine.live.operator("/v1/manifest/reload").status == 200


def _no_jobs(machine: Machine) -> None:
    machine.manifest.write_text('[[hosts]]\nname = "lab-1"\n', encoding="utf-8")


Case = tuple[Callable[[Machine], None], str, str, str, str, str]
FILES: dict[str, Case] = {
    "a broken manifest": (_break_manifest, "receiver", "manifest", "FAIL", "manifest.toml", "then: cis490-jobs reload"),
    "no manifest": (_remove_manifest, "receiver", "manifest", "FAIL", "no such file", "training_manifest.toml.example"),
    "a manifest without jobs": (_no_jobs, "receiver", "manifest", "WARN", "nothing will be trained", "add [[jobs]]"),
    "a missing folder": (_no_store, "receiver", "store", "FAIL", "is not there", "install -d"),
    "a file where a folder should be": (_store_is_a_file, "receiver", "store", "FAIL", "no folder", "ls -la"),
    "a read-only folder": (_read_only_store, "receiver", "store", "FAIL", "", "ch"),
    "a database of a newer program": (_newer_database, "receiver", "database", "FAIL", "version 999", "git -C"),
    "a database of an older program": (_older_database, "receiver", "database", "WARN", "version 4", "restart"),
    "no database": (_no_database, "receiver", "database", "WARN", "is not there", "systemctl start"),
    "a damaged database": (_damaged_database, "receiver", "database", "FAIL", "damaged", "restore a backup"),
    "a file that is no database": (_not_a_database, "receiver", "database", "FAIL", "damaged", "restore a backup"),
    "no reserve": (_no_ballast, "receiver", "disk reserve", "WARN", "no job is handed out", "df -h"),
    "an undelivered result": (_undelivered, "worker", "results", "WARN", "1 result", "journalctl"),
    "a result without a lease": (_results_without_lease, "worker", "results", "WARN", "without a lease", "restart"),
    "no state folder": (_no_worker_folder, "worker", "state folder", "FAIL", "is not there", "install -d"),
}  # fmt: skip
ANSWERS: dict[str, Case] = {
    "a wrong token": (_wrong_token, "fleet", "operator token", "FAIL", "knows another one", "trainer-receiver.env"),
    "no token": (_no_token, "fleet", "operator token", "WARN", "is not set", "trainer-receiver.env"),
    "clocks that differ": (_clock_behind, "fleet", "clock", "WARN", "ahead of", "timedatectl"),
    "an edited manifest": (_not_reloaded, "fleet", "manifest", "WARN", "not in force", "cis490-jobs plan"),
    "a paused fleet": (_fleet_paused, "fleet", "pause", "WARN", "a fire", "cis490-jobs resume"),
    "a host that the manifest does not name": (
        _host_not_in_manifest, "worker", "manifest", "FAIL", "does not name lab-1", 'name = "lab-1"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FILES)
def test_a_fault_in_the_files_is_named_with_what_mends_it(files: Machine, fault: str) -> None:
    named(
        files,
        FILES[fault],
        {("fleet", "receiver"), ("worker", "process")} if "state" in fault else {("fleet", "receiver")},
    )


@pytest.mark.parametrize("fault", ANSWERS)
def test_a_fault_in_what_the_receiver_answers_is_named_with_what_mends_it(
    machine: Machine, fault: str
) -> None:
    named(machine, ANSWERS[fault], {("receiver", "clock")} if "clocks" in fault else set())


def named(machine: Machine, case: Case, follows: set[tuple[str, str]]) -> None:
    """The doctor finds this, and beside it nothing but what follows from it."""
    seed, area, check, state, part, fix = case
    seed(machine)
    code, findings = machine.run("--receiver", "--worker")
    found = next(
        one for one in findings if (one["area"], one["check"]) == (area, check) and one["state"] != "OK"
    )
    assert found["state"] == state
    assert part in found["found"]
    assert fix in found["fix"]
    assert code == (exits.REFUSED if any(one["state"] == "FAIL" for one in findings) else exits.OK)
    assert others(findings, (area, check), *follows) == []


def test_while_the_receiver_is_down_its_files_are_looked_at_all_the_same(tmp_path: Path) -> None:
    with live_receiver(tmp_path, MANIFEST) as running:
        pass
    (tmp_path / "training_jobs.db.lock").write_text("4711\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    machine = Machine(tmp_path, running, {})
    code, findings = machine.run("--receiver", url=DEAD)
    assert code == exits.REFUSED
    process = the_one(findings, "receiver", "process")
    assert (process["state"], "left over" in process["found"]) == ("FAIL", True), (
        "a stale lock is named as one"
    )
    assert "systemctl start cis490-trainer-receiver" in process["fix"]
    assert the_one(findings, "receiver", "database")["state"] == "OK"
    remote = the_one(findings, "fleet", "receiver")
    assert (remote["state"], "no answer" in remote["found"]) == ("FAIL", True)
    assert "systemctl start cis490-trainer-receiver" in remote["fix"]
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "it left nothing behind"


def test_a_worker_that_does_not_run_and_owes_results_is_a_fault(tmp_path: Path) -> None:
    with live_receiver(tmp_path, MANIFEST) as running:
        machine = Machine(tmp_path, running, {})
        for name in ("spool", "leases"):
            (tmp_path / "worker" / name).mkdir(parents=True)
        _undelivered(machine)
        (tmp_path / "worker" / "worker.lock").write_text("4711\n")
        code, findings = machine.run("--worker")
    assert code == exits.REFUSED
    assert "left over" in the_one(findings, "worker", "process")["found"]
    assert the_one(findings, "worker", "results")["state"] == "FAIL"
    assert "it delivers first" in the_one(findings, "worker", "results")["fix"]


def test_a_locked_database_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with live_receiver(tmp_path, MANIFEST) as running:
        pass
    holder = sqlite3.connect(tmp_path / "training_jobs.db")
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("CREATE TABLE held (x)")
    try:
        _, findings = Machine(tmp_path, running, {}).run("--receiver", url=DEAD)
    finally:
        holder.close()
    found = the_one(findings, "receiver", "database")
    assert (found["state"], "locked" in found["found"]) == ("FAIL", True), found
    assert "fuser" in found["fix"]


def test_a_receiver_without_a_token_is_told_from_a_wrong_token(tmp_path: Path) -> None:
    with live_receiver(tmp_path, MANIFEST, operator_token=None) as running:
        _, findings = Machine(tmp_path, running, {"CIS490_OPERATOR_TOKEN": "x"}).run("--worker")
    found = the_one(findings, "fleet", "operator token")
    assert "started without one" in found["found"]
    assert "CIS490_OPERATOR_TOKEN in /etc/cis490/trainer-receiver.env" in found["fix"]


def test_another_trainer_than_the_receivers_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Survey(Capability(models=["gbt"], trainer_digest="0" * 64))
    monkeypatch.setattr(capability, "survey", lambda **_: found)
    code, findings = machine.run("--worker")
    version = the_one(findings, "worker", "trainer version")
    assert (code, version["state"], "000000000000" in version["found"]) == (exits.REFUSED, "FAIL", True)
    assert "pull" in version["fix"]


def test_a_trainer_that_offers_nothing_is_a_fault(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Survey(Capability(models=[]), ("the trainer ended with exit code 1: no numpy",))
    monkeypatch.setattr(capability, "survey", lambda **_: found)
    code, findings = machine.run("--worker")
    trainer = the_one(findings, "worker", "trainer")
    assert (code, trainer["state"], "no numpy" in trainer["found"]) == (exits.REFUSED, "FAIL", True)


def test_a_check_that_breaks_is_a_finding_and_the_next_ones_go_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> Survey:
        raise RuntimeError("the driver hangs")

    monkeypatch.setattr(capability, "survey", broken)
    code, findings = machine.run()
    trainer = the_one(findings, "worker", "trainer")
    assert (code, trainer["state"], "the driver hangs" in trainer["found"]) == (exits.REFUSED, "FAIL", True)
    assert the_one(findings, "fleet", "receiver")["state"] == "OK"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="a small tmpfs needs root")
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FULL_BYTES", 1024 * 1024)
    try:
        with small_disk(tmp_path / "small", 8 * 1024 * 1024) as disk:
            (finding,) = doctor.folder("receiver", "store", disk.folder, doctor.RECEIVER_UNIT)
            assert finding.state == "OK"
            disk.fill(leave_bytes=4096)
            (finding,) = doctor.folder("receiver", "store", disk.folder, doctor.RECEIVER_UNIT)
    except PermissionError:
        pytest.skip("no tmpfs can be mounted here")
    assert (finding.state, "the disk is full" in finding.found) == ("FAIL", True)
    assert "cis490-jobs gc --dry-run" in finding.fix


def test_it_reads_what_the_services_are_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.fleet import doctor_receiver

    told = machine.folder / "receiver.env"
    told.write_text(
        f'# options\nRECEIVER_OPTIONS="--db {machine.folder}/training_jobs.db --stale-after-s 5"\n'
    )
    monkeypatch.setattr(doctor, "ENV_FILES", (told, machine.folder / "not there"))
    import argparse

    where = doctor_receiver.places(argparse.Namespace(), doctor.service_env())
    assert where.db == machine.folder / "training_jobs.db"
    assert where.store_root == Path("/var/lib/cis490/models")


def test_a_person_reads_lines_with_the_fix_below_and_a_pipe_gets_columns(machine: Machine) -> None:
    _fleet_paused(machine)
    _, out, _ = machine.text("--worker")
    assert out.splitlines()[0] == "STATE\tAREA\tCHECK\tFOUND\tFIX"
    findings = [doctor.Finding(**one) for one in machine.run("--worker")[1]]  # type: ignore[arg-type]
    shown = doctor.lines(findings)
    at = next(number for number, line in enumerate(shown) if line.startswith("WARN"))
    assert "fleet pause" in shown[at]
    assert shown[at + 1].strip() == "fix: cis490-jobs resume"
    assert shown[-1].startswith("0 to mend, 1 to look at, ")
    assert doctor.lines(findings[:1])[-1] == "all 1 in order"


def test_a_setting_that_makes_no_sense_is_refused_with_its_name(machine: Machine) -> None:
    machine.env["CIS490_POLL_S"] = "soon"
    code, out, err = machine.text()
    assert (code, out) == (exits.USAGE, "")
    assert "--poll-s" in err


def test_what_the_receiver_says_is_wrong_with_itself_is_passed_on(machine: Machine) -> None:
    assert machine.live.coordinator.ballast is not None
    machine.live.coordinator.ballast.give_up()
    _, findings = machine.run()
    disk: dict[str, Any] = the_one(findings, "fleet", "disk")
    assert (disk["state"], "full" in disk["found"], "df -h" in disk["fix"]) == ("FAIL", True, True)


def test_an_address_where_something_else_answers_is_no_receiver(machine: Machine) -> None:
    _, findings = machine.run("--worker", url=machine.live.url + "/elsewhere")
    found = the_one(findings, "fleet", "receiver")
    assert (found["state"], "it is no receiver" in found["found"]) == ("FAIL", True)


def test_the_manifests_word_about_a_host() -> None:
    import argparse

    own = doctor_worker.settings(argparse.Namespace(state_dir=None, host="x"), {})
    open_to_all: dict[str, object] = {
        "hosts": [],
        "policy": {"unknown_hosts": "allow", "trainer": "any", "trainer_digest": "a" * 64},
    }
    found = list(doctor_worker.against_receiver(own, open_to_all, "b" * 64))
    assert [(one.check, one.state) for one in found] == [("manifest", "OK"), ("trainer version", "WARN")]
    assert [one.state for one in doctor_worker.against_receiver(own, {}, None)] == ["FAIL"], (
        "an old receiver tells nothing"
    )


# -- single looks


def test_without_a_checkout_no_fix_names_a_file_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed from a wheel, neither the example manifest nor a repository lies beside the program."""
    where = doctor_receiver.Places(tmp_path / "m.toml", tmp_path / "q.db", tmp_path, tmp_path)
    with closing(sqlite3.connect(where.db)) as connection:
        connection.execute("PRAGMA user_version = 999")
    monkeypatch.setattr(doctor_receiver, "CHECKOUT", tmp_path / "site-packages")
    checks = doctor_receiver.checks(where, 0.0)
    fixes = [one.fix for name in ("manifest", "database") for one in checks[name]()]
    assert ["docs/manifest.md" in fixes[0], "newer version" in fixes[1]] == [True, True]
    assert not any("site-packages" in fix for fix in fixes)


def test_a_missing_library_is_named() -> None:
    (found,) = doctor.libraries("worker", ("json", "no_such_one|nor_this"), "worker")
    assert (found.state, found.found) == ("FAIL", "not installed: no_such_one or nor_this")
    assert "scripts/setup.sh" in found.fix


def test_a_folder_that_belongs_to_somebody_else_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs this, may write everywhere
    (found,) = doctor.folder("receiver", "store", tmp_path, doctor.RECEIVER_UNIT)
    assert (found.state, "cannot be written by" in found.found) == ("FAIL", True)
    assert "chown" in found.fix


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="a mount needs root")
def test_a_file_system_that_was_mounted_read_only_is_named(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "small", 8 * 1024 * 1024) as disk:
            command = ["mount", "-o", "remount,ro", str(disk.mount)]
            subprocess.run(command, check=True, capture_output=True)
            (found,) = doctor.folder("receiver", "store", disk.folder, doctor.RECEIVER_UNIT)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs can be mounted here")
    assert (found.state, "read-only" in found.found, "remount,rw" in found.fix) == ("FAIL", True, True)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_uploads_on_another_file_system_are_named(files: Machine) -> None:
    from training.fleet import doctor_receiver

    where = doctor_receiver.Places(
        files.manifest, files.folder / "training_jobs.db", files.folder / "models", Path("/dev/shm")
    )
    if where.store_root.stat().st_dev == where.incoming_root.stat().st_dev:
        pytest.skip("one file system")
    found = doctor.examine("receiver", {"folders": lambda: doctor_receiver._folders(where)})
    assert [one.state for one in found if "two file systems" in one.found] == ["FAIL"]


def test_a_lock_is_seen_and_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    assert locks.holder(path) is None
    path.write_text("4711\n")
    for listed in (True, False):
        if not listed:
            monkeypatch.setattr(locks, "_is_listed", lambda inode: None)  # a system that does not list locks
        assert locks.holder(path) is None
        with locks.hold(path):
            assert locks.holder(path) == str(os.getpid())
        assert locks.holder(path) is None
