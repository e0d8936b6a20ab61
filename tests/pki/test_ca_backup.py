"""Keys, queue and manifest in one encrypted file, and back on a machine that has lost them."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cis490.database.sqlite import connect
from cis490.locks import hold
from cis490.pki import age
from cis490.pki.authority import Fleet, open_authority
from cis490.pki.certificates import PkiError
from tests.factories.lab_queue import LabQueue
from training.fleet import ca, ca_backup, ca_files, ca_restore
from training.fleet.ca_backup import Places

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
PASSPHRASE = "a passphrase of the test"


@dataclass
class Machine:
    """A receiver's machine with a queue of three rows, and its backups."""

    root: Path
    capsys: pytest.CaptureFixture[str]
    now: datetime = NOW

    @property
    def places(self) -> Places:
        state, etc = self.root / "state", self.root / "etc"
        return Places(etc / "ca", state / "training_jobs.db", etc / "manifest.toml", etc / "operator-token")

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    def set_up(self) -> None:
        for name in ("state", "etc", "backups"):
            (self.root / name).mkdir()
        ca_files.init(self.places.ca, Fleet("lab.test", "192.168.1.7"), NOW)
        with closing(connect(str(self.places.db))) as db:
            db.execute("CREATE TABLE job (name TEXT)")
            db.executemany("INSERT INTO job VALUES (?)", [("a",), ("b",), ("c",)])
        self.places.manifest.write_text("[policy]\n", encoding="utf-8")
        self.places.token.write_text("operator-token-of-this-test\n", encoding="utf-8")
        self.places.token.chmod(0o600)

    def run(self, *words: object, passphrase: str = PASSPHRASE, fails: bool = False) -> str:
        places = self.places
        options = [
            "--dir",
            places.ca,
            "--db",
            places.db,
            "--manifest",
            places.manifest,
            "--token-file",
            places.token,
        ]
        argv = [str(word) for word in (*words, *options)]
        code = ca.main(argv, now=lambda: self.now, stdin=io.StringIO(passphrase), log2_work=4)
        out, err = self.capsys.readouterr()
        assert (code, bool(err)) == ((1, True) if fails else (0, False)), out + err
        return err if fails else out

    def backup(self, *options: object, fails: bool = False, passphrase: str = PASSPHRASE) -> Path:
        said = self.run("backup", "--out", self.backups, *options, fails=fails, passphrase=passphrase)
        return Path(said.split(":")[0])

    def jobs(self) -> list[str]:
        with closing(connect(str(self.places.db))) as db:
            return [row[0] for row in db.execute("SELECT name FROM job ORDER BY name")]

    def lose_everything(self) -> None:
        for name in ("state", "etc"):
            (self.root / name).rename(self.root / f"lost-{name}")
            (self.root / name).mkdir()


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Machine:
    made = Machine(tmp_path, capsys)
    made.set_up()
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def test_a_machine_that_lost_everything_gets_all_of_it_back(machine: Machine) -> None:
    before = contents(machine.root / "etc")
    file = machine.backup()
    machine.lose_everything()
    said = machine.run("restore", file)
    assert "lab.test as of 2026-11-22T14:00:00+00:00" in said
    assert contents(machine.root / "etc") == before
    assert open_authority(machine.places.ca).fleet.name == "lab.test"
    assert machine.jobs() == ["a", "b", "c"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (machine.places.db, machine.places.token)]
    assert modes == [0o600, 0o600]
    assert stat.S_IMODE(machine.places.ca.stat().st_mode) == 0o700


def test_restore_warns_of_revocations_that_the_backup_does_not_know(machine: Machine) -> None:
    file = machine.backup()
    machine.lose_everything()
    said = machine.run("restore", file)
    assert "revocations made after 2026-11-22T14:00:00+00:00 are lost: cis490-jobs hosts list" in said


def test_nothing_readable_is_in_the_file(machine: Machine) -> None:
    data = machine.backup().read_bytes()
    for secret in (b"PRIVATE KEY", b"operator-token-of-this-test", b"SQLite", b"lab.test", b"root.pem"):
        assert secret not in data


def test_the_file_and_all_that_lay_beside_meanwhile_are_private_and_gone(machine: Machine) -> None:
    file = machine.backup()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in machine.backups.iterdir()] == [file.name]
    left = {path.name for path in (machine.root / "state").iterdir()} - {"training_jobs.db", "backup.lock"}
    assert left == {"last-backup.json"}


def test_it_is_a_tar_that_other_programs_open(machine: Machine) -> None:
    """`age -d FILE | tar x`, on a machine where this program is not."""
    file = machine.backup()
    with file.open("rb") as source:
        data = b"".join(age.decrypt(source, PASSPHRASE))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert names[0] == "contents.json"
        assert {"ca/root-key.pem", "training_jobs.db", "training_manifest.toml", "operator-token"} < set(
            names
        )
        assert {member.mode for member in tar} == {0o600}
    listed = subprocess.run(["tar", "t"], input=data, capture_output=True, check=True)
    assert listed.stdout.decode().split() == names


# -- the database


def test_a_database_that_is_being_written_is_copied_as_of_one_moment(machine: Machine) -> None:
    """The receiver runs: it holds the lock, and a write is under way that is not committed."""
    lock = machine.places.db.with_name("training_jobs.db.lock")
    with hold(lock), closing(connect(str(machine.places.db))) as db:
        db.execute("INSERT INTO job VALUES ('d')")
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO job VALUES ('not committed')")
        file = machine.backup()
        db.execute("ROLLBACK")
    machine.lose_everything()
    machine.run("restore", file)
    assert machine.jobs() == ["a", "b", "c", "d"]


def test_a_running_receivers_files_are_never_copied_behind_sqlites_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint between the two files would leave a copy that never existed."""
    monkeypatch.setattr(shutil, "copyfile", None)
    with hold(machine.places.db.with_name("training_jobs.db.lock")):
        machine.backup()


def test_what_a_killed_receiver_left_in_its_journal_is_in_the_copy(machine: Machine) -> None:
    code = (
        "import os, sys; from cis490.database.sqlite import connect; db = connect(sys.argv[1]); "
        "db.execute(\"INSERT INTO job VALUES ('d')\"); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(machine.places.db)], check=False)
    assert machine.places.db.with_name("training_jobs.db-wal").stat().st_size > 0
    before = contents(machine.root / "state")
    file = machine.backup()
    after = contents(machine.root / "state")
    assert {name: after[name] for name in before} == before, "beside the original nothing has changed"
    assert set(after) - set(before) == {"last-backup.json", "backup.lock"}
    machine.lose_everything()
    machine.run("restore", file)
    assert machine.jobs() == ["a", "b", "c", "d"]


def test_a_database_at_rest_gets_no_side_files(machine: Machine) -> None:
    """Made by root they would lock out the receiver, which is another user."""
    machine.backup()
    assert not [
        path.name for path in machine.places.db.parent.iterdir() if path.name.endswith(("-wal", "-shm"))
    ]


def test_a_damaged_database_is_told_and_no_backup_pretends_to_have_it(machine: Machine) -> None:
    with closing(connect(str(machine.places.db))) as db:
        db.execute("BEGIN")
        db.executemany("INSERT INTO job VALUES (?)", [(f"{n:0100}",) for n in range(2000)])
        db.execute("COMMIT")
    with machine.places.db.open("rb+") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 8192)
    said = machine.run("backup", "--out", machine.backups, fails=True)
    assert "training_jobs.db is damaged" in said or "cannot be copied" in said
    assert not list(machine.backups.iterdir())


def test_damage_that_can_be_copied_is_told_as_well(machine: Machine) -> None:
    with machine.places.db.open("rb+") as file:
        file.seek(36)  # the number of free pages, which the list of them does not have
        file.write(b"\x00\x00\x00\x05")
    said = machine.run("backup", "--out", machine.backups, fails=True)
    assert "training_jobs.db is damaged: " in said
    assert "Restore an older backup; this one was not made" in said


def test_a_database_that_changes_while_it_is_copied_is_tried_again_later(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.copyfile

    def and_then_the_receiver_starts(source: Path, target: Path) -> None:
        real(source, target)
        with closing(connect(str(machine.places.db))) as db:
            db.execute("INSERT INTO job VALUES ('d')")

    monkeypatch.setattr(shutil, "copyfile", and_then_the_receiver_starts)
    said = machine.run("backup", "--out", machine.backups, fails=True)
    assert "changed while it was copied: the receiver has just started" in said


# -- where it goes


def test_a_new_machine_without_queue_and_manifest_has_a_backup_of_its_keys(machine: Machine) -> None:
    for path in (machine.places.db, machine.places.manifest, machine.places.token):
        path.unlink()
    said = machine.run("backup", "--out", machine.backups)
    assert said.count(",") >= 2
    assert f"not there, and so not in it: {machine.places.db}, {machine.places.manifest}" in said
    (file,) = machine.backups.iterdir()
    machine.lose_everything()
    machine.run("restore", file)
    open_authority(machine.places.ca)
    assert not machine.places.db.exists()


def test_of_those_in_a_folder_the_newest_stay(machine: Machine) -> None:
    (machine.backups / "cis490-lab-test-notes.txt").write_text("mine")
    (machine.backups / "cis490-other-20200101T000000Z.age").write_text("another fleet's")
    made = []
    for _ in range(5):
        made.append(machine.backup("--keep", 3))
        machine.now += timedelta(days=1)
    left = {path.name for path in machine.backups.iterdir()}
    others = {"cis490-lab-test-notes.txt", "cis490-other-20200101T000000Z.age"}
    assert left == {*others, *(path.name for path in made[-3:])}


def test_a_file_by_name_is_replaced_and_nothing_else_removed(machine: Machine) -> None:
    out = machine.backups / "b.age"
    machine.run("backup", "--out", out)
    machine.run("backup", "--out", out)
    assert [path.name for path in machine.backups.iterdir()] == ["b.age"]


def test_the_note_for_the_doctor_can_be_read_by_others(machine: Machine) -> None:
    before = os.umask(0o077)
    try:
        machine.backup()
    finally:
        os.umask(before)
    note = machine.places.db.with_name("last-backup.json")
    assert stat.S_IMODE(note.stat().st_mode) == 0o644


def test_two_backups_at_once_are_refused(machine: Machine) -> None:
    with hold(machine.places.db.with_name("backup.lock")):
        assert "another backup is being made" in machine.run("backup", "--out", machine.backups, fails=True)


def test_what_an_interrupted_backup_left_goes_with_the_next(machine: Machine) -> None:
    """A plain copy of the queue among it."""
    left = [machine.places.db.with_name(".backup-00.tmp"), machine.places.db.with_name(".backup-00.tmp-wal")]
    left.append(machine.backups / ".cis490-lab-test-20261122T140000Z.age.00.tmp")
    for path in left:
        path.write_bytes(b"x")
    machine.backup()
    assert not [path for path in left if path.exists()]


def test_a_folder_that_is_not_there_is_told_with_its_command(machine: Machine) -> None:
    said = machine.run("backup", "--out", machine.root / "no" / "b.age", fails=True)
    assert "sudo install -d -m 0700" in said


def test_a_short_passphrase_is_refused(machine: Machine) -> None:
    said = machine.run("backup", "--out", machine.backups, passphrase="short", fails=True)
    assert "expected at least 12" in said


def test_a_disk_without_room_is_told_before_it_is_full(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ca_backup, "free_bytes", lambda _: 1024**2)
    said = machine.run("backup", "--out", machine.backups, fails=True)
    assert "has 1 MiB free, and the copy needs" in said


# -- restore


@pytest.fixture
def file(machine: Machine) -> Path:
    return machine.backup()


def test_check_opens_and_compares_and_changes_nothing(machine: Machine, file: Path) -> None:
    before = contents(machine.root)
    said = machine.run("restore", file, "--check")
    assert "whole; lab.test" in said
    assert "training_jobs.db" in said
    assert contents(machine.root) == before


def test_what_is_there_is_not_touched_without_replace(machine: Machine, file: Path) -> None:
    before = contents(machine.root)
    said = machine.run("restore", file, fails=True)
    assert "exist; with --replace they are moved aside first, not deleted" in said
    assert contents(machine.root) == before


def test_with_replace_what_was_there_is_moved_aside(machine: Machine, file: Path) -> None:
    with closing(connect(str(machine.places.db))) as db:
        db.execute("INSERT INTO job VALUES ('later')")
        machine.now += timedelta(days=1)
        machine.run("restore", file, "--replace")
    assert machine.jobs() == ["a", "b", "c"]
    aside = machine.places.db.with_name("training_jobs.db.before-20261123T140000Z")
    with closing(connect(str(aside))) as db:
        assert db.execute("SELECT count(*) FROM job").fetchone()[0] == 4, "with its journal"
    assert (machine.places.ca.with_name("ca.before-20261123T140000Z") / "root-key.pem").exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="giving a file away needs root")
def test_the_queue_belongs_to_whom_its_folder_belongs(machine: Machine, file: Path) -> None:
    """Root restores it, and the receiver, which is another user, must be able to write it."""
    machine.lose_everything()
    shutil.chown(machine.root / "state", "nobody")
    machine.run("restore", file)
    assert (machine.places.db.owner(), machine.places.ca.owner()) == ("nobody", "root")


def test_a_part_can_be_put_back_alone(machine: Machine, file: Path) -> None:
    machine.lose_everything()
    machine.run("restore", file, "--only", "ca", "--only", "token")
    assert {path.name for path in (machine.root / "etc").iterdir()} == {"ca", "operator-token"}
    assert not list((machine.root / "state").iterdir())


def test_the_queue_of_a_running_receiver_is_not_replaced(machine: Machine, file: Path) -> None:
    with hold(machine.places.db.with_name("training_jobs.db.lock")):
        said = machine.run("restore", file, "--replace", fails=True)
    assert f"a receiver runs on {machine.places.db} (pid {os.getpid()}): sudo systemctl stop" in said
    assert machine.places.ca.exists()
    assert not machine.places.ca.with_name("ca.before-20261122T140000Z").exists()


def test_the_wrong_passphrase_and_damage_are_told_apart(machine: Machine, file: Path) -> None:
    said = machine.run("restore", file, passphrase="another passphrase", fails=True)
    assert "the passphrase is not the one of this file. Nothing was restored" in said
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "is damaged or cut short" in machine.run("restore", file, fails=True)
    assert "No such file" in machine.run("restore", machine.root / "none.age", fails=True)


def test_a_file_cut_short_at_any_piece_restores_nothing(machine: Machine, file: Path) -> None:
    data = file.read_bytes()
    machine.lose_everything()
    for left in range(0, len(data), 65_552):
        file.write_bytes(data[:left])
        machine.run("restore", file, fails=True)
        assert not list((machine.root / "etc").iterdir()), "nothing, and no folder with decrypted keys"


def packed(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(data), kind
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "ca/../../outside", "ca/sub/root.pem", "ca", "x"]
)
def test_names_that_no_backup_has_are_refused(machine: Machine, name: str) -> None:
    """Whoever knows the passphrase can write anything; it still lands nowhere but in its folder."""
    file = machine.root / "evil.age"
    tar = packed({name: b"x"})
    file.write_bytes(b"".join(age.encrypt([tar], PASSPHRASE, secrets.token_bytes, log2_work=4)))
    assert "which no backup of this program has" in machine.run("restore", file, fails=True)
    assert not (machine.root / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_what_is_no_plain_file_is_refused(machine: Machine, kind: bytes) -> None:
    file = machine.root / "evil.age"
    tar = packed({"ca/root.pem": b""}, kind)
    file.write_bytes(b"".join(age.encrypt([tar], PASSPHRASE, secrets.token_bytes, log2_work=4)))
    said = machine.run("restore", file, fails=True)
    assert "'ca/root.pem', which no backup of this program has" in said


MALFORMED: dict[str, Callable[[], bytes]] = {
    "no tar": lambda: b"hello" * 300,
    "an empty tar": lambda: packed({}),
    "a name twice": lambda: packed({"contents.json": b"{}"})[:1024] + packed({"contents.json": b"{}"}),
    "contents that are none": lambda: packed({"contents.json": b"[]"}),
    "another form": lambda: packed(
        {"contents.json": b'{"format": "x-9", "made_at": "", "fleet": "", "root_sha256": "", "files": {}}'}
    ),
    "a file that is not listed": lambda: packed(
        {
            "contents.json": b'{"format": "cis490-backup-1", "made_at": "", "fleet": "", '
            b'"root_sha256": "", "files": {}}',
            "operator-token": b"x",
        }
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_file_that_is_no_backup_is_refused(machine: Machine, what: str) -> None:
    file = machine.root / "odd.age"
    sealed = age.encrypt([MALFORMED[what]()], PASSPHRASE, secrets.token_bytes, log2_work=4)
    file.write_bytes(b"".join(sealed))
    said = machine.run("restore", file, fails=True)
    assert any(
        part in said for part in ("no backup of this program", "which no backup", "is damaged", "the form")
    )


def test_the_decrypted_folder_is_private_and_gone_afterwards(machine: Machine, file: Path) -> None:
    with ca_restore.opened(file, PASSPHRASE, machine.root) as found:
        assert stat.S_IMODE(found.folder.stat().st_mode) == 0o700
        modes = {stat.S_IMODE(path.stat().st_mode) for path in found.folder.rglob("*") if path.is_file()}
        assert modes == {0o600}
    assert not found.folder.exists()


def test_a_disk_that_fails_in_the_middle_leaves_what_was_moved_aside(
    machine: Machine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.rename, [2]

    def failing(source: Path, target: Path) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(5, "Input/output error", str(target))
        real(source, target)

    monkeypatch.setattr(os, "rename", failing)
    assert "Input/output error" in machine.run("restore", file, "--replace", fails=True)
    aside = machine.places.ca.with_name("ca.before-20261122T140000Z")
    assert (aside / "root-key.pem").exists()
    machine.run("restore", file, "--replace")
    open_authority(machine.places.ca)
    assert machine.jobs() == ["a", "b", "c"]


def test_a_disk_that_is_full_changes_nothing(
    machine: Machine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a receiver that is started meanwhile would find no queue, and begin with an empty one."""
    before = contents(machine.root)

    def full(source: object, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr(shutil, "copyfile", full)
    said = machine.run("restore", file, "--replace", fails=True)
    assert f"there is no room for it in {machine.places.db.parent}" in said
    assert "nothing was changed" in said
    assert contents(machine.root) == before


class TestRevocationsSinceTheBackup:
    """The queue that is moved aside knows what the backup does not."""

    @pytest.fixture
    def lab(self, machine: Machine) -> LabQueue:
        machine.places.db.unlink()
        found = LabQueue(machine.places.db, NOW)
        found.joined(0x01D)
        return found

    def test_stay_in_force(self, machine: Machine, lab: LabQueue) -> None:
        file = machine.backup()
        lab.revoke()
        said = machine.run("restore", file, "--replace")
        assert "1 revocation made since is kept" in said
        assert "revoke them again" not in said
        assert lab.denied(0x01D) == "lost"

    def test_and_who_was_let_in_again_stays_in(self, machine: Machine, lab: LabQueue) -> None:
        file = machine.backup()
        lab.revoke()
        lab.joined(0x2E3)
        machine.run("restore", file, "--replace")
        assert (lab.denied(0x01D), lab.denied(0x2E3)) == ("lost", None)

    def test_also_by_a_queue_that_was_begun_anew_in_between(self, machine: Machine, lab: LabQueue) -> None:
        """It does not know the certificate, and the backup does."""
        file = machine.backup()
        lab.forget()
        lab.revoke()
        machine.run("restore", file, "--replace")
        assert lab.denied(0x01D) == "lost"

    def test_who_slipped_in_while_the_queue_had_forgotten_is_out_again(
        self, machine: Machine, lab: LabQueue
    ) -> None:
        lab.revoke()
        file = machine.backup()
        lab.forget()
        lab.joined(0x2E3)
        machine.run("restore", file, "--replace")
        assert (lab.denied(0x01D), lab.denied(0x2E3)) == ("lost", "lost")

    def test_a_backup_that_is_newer_than_what_it_replaces_keeps_its_own(
        self, machine: Machine, lab: LabQueue
    ) -> None:
        older = machine.places.db.read_bytes()
        lab.revoke()
        lab.joined(0x2E3)
        file = machine.backup()
        machine.places.db.write_bytes(older)
        assert "0 revocations made since are kept" in machine.run("restore", file, "--replace")
        assert (lab.denied(0x01D), lab.denied(0x2E3)) == ("lost", None)

    def test_a_queue_that_cannot_be_read_is_said(self, machine: Machine, lab: LabQueue) -> None:
        file = machine.backup()
        lab.forget()
        machine.places.db.write_bytes(b"damaged" * 1000)
        said = machine.run("restore", file, "--replace")
        assert "are lost: cis490-jobs hosts list, and revoke them again" in said
        assert lab.denied(0x01D) is None


def test_a_folder_that_is_no_authority_cannot_be_backed_up(machine: Machine) -> None:
    (machine.places.ca / "clients.pem").unlink()
    with pytest.raises(PkiError, match=r"clients\.pem: cannot be read"):
        ca_backup.backup(machine.places, machine.backups, PASSPHRASE, NOW, log2_work=4)
