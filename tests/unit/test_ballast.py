"""Space put aside for a full disk: given up once, restored when there is room for it and for as much again."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490 import ballast as module
from cis490.ballast import Ballast, is_disk_full
from cis490.files import free_bytes

SIZE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here (not root?)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    filler = folder / "filler"
    filler.write_bytes(bytes(free_bytes(folder) - leave_bytes))
    return filler


def test_the_file_is_really_allocated(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", size_bytes=SIZE)
    assert [ballast.is_held, ballast.restore(), ballast.is_held] == [False, True, True]
    found = (tmp_path / "ballast").stat()
    assert found.st_size == SIZE
    assert found.st_blocks * 512 >= SIZE


def test_giving_it_up_frees_its_space_once(small_disk: Path) -> None:
    ballast = Ballast(small_disk / "ballast", size_bytes=SIZE)
    ballast.restore()
    fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "row").write_bytes(bytes(SIZE // 2))
    assert ballast.give_up()
    (small_disk / "row").write_bytes(bytes(SIZE // 2))
    assert not ballast.give_up(), "there is nothing left to give"


def test_it_is_restored_only_when_as_much_again_stays_free(small_disk: Path) -> None:
    ballast = Ballast(small_disk / "ballast", size_bytes=SIZE)
    ballast.restore()
    ballast.give_up()
    filler = fill(small_disk, leave_bytes=2 * SIZE - 65536)
    assert not ballast.restore()
    assert not (small_disk / "ballast").exists()
    filler.unlink()
    assert ballast.restore()
    assert ballast.is_held


def test_a_folder_that_cannot_be_looked_into_holds_no_ballast_and_raises_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    ballast = Ballast(folder / "ballast", size_bytes=SIZE)
    assert ballast.restore()
    folder.rename(tmp_path / "gone")
    folder.write_text("no folder any more")
    assert (ballast.restore(), ballast.is_held) == (False, False)


def test_a_sqlite_database_goes_on_in_the_space_of_the_ballast(small_disk: Path) -> None:
    """What it is for: the commit that failed succeeds when it is tried again."""
    ballast = Ballast(small_disk / "ballast", size_bytes=SIZE)
    ballast.restore()
    database = sqlite3.connect(small_disk / "jobs.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE note (text)")
    fill(small_disk)
    with pytest.raises(sqlite3.OperationalError) as caught:
        database.execute("INSERT INTO note VALUES (zeroblob(100000))")
    assert is_disk_full(caught.value)
    assert ballast.give_up()
    database.execute("INSERT INTO note VALUES (zeroblob(100000))")
    assert database.execute("SELECT count(*) FROM note").fetchone() == (1,)
    database.close()


def test_the_file_of_an_earlier_process_is_taken_over_on_a_full_disk(small_disk: Path) -> None:
    Ballast(small_disk / "ballast", size_bytes=SIZE).restore()
    fill(small_disk)
    again = Ballast(small_disk / "ballast", size_bytes=SIZE)
    assert again.restore()


@pytest.mark.parametrize("content", [b"", b"cut short", bytes(SIZE + 1)])
def test_a_file_of_another_size_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ballast"
    path.write_bytes(content)
    assert Ballast(path, size_bytes=SIZE).restore()
    assert path.stat().st_size == SIZE


def test_a_file_with_holes_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "ballast"
    path.touch()
    os.truncate(path, SIZE)
    assert Ballast(path, size_bytes=SIZE).restore()
    assert path.stat().st_blocks * 512 >= SIZE


def test_a_file_that_vanished_is_noticed_at_the_next_tick(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", size_bytes=SIZE)
    ballast.restore()
    (tmp_path / "ballast").unlink()
    assert ballast.restore()
    assert (tmp_path / "ballast").exists()


def test_an_allocation_that_fails_half_way_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: int, __: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_reserve", fails)
    assert not Ballast(tmp_path / "ballast", size_bytes=SIZE).restore()
    assert list(tmp_path.iterdir()) == []
    assert [record.message for record in caplog.records] == ["ballast.missing"]


def test_without_fallocate_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "ballast"
    assert Ballast(path, size_bytes=SIZE + 1).restore()
    assert path.stat().st_size == SIZE + 1


def test_a_file_that_cannot_be_removed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ballast = Ballast(tmp_path / "ballast", size_bytes=SIZE)
    ballast.restore()

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", fails)
    assert not ballast.give_up()
    assert caplog.records[-1].message == "ballast.stuck"
    assert not ballast.is_held


def test_a_refusal_says_which_folder_and_what_to_do(tmp_path: Path) -> None:
    text = Ballast(tmp_path / "ballast", size_bytes=SIZE).refusal
    assert str(tmp_path) in text
    assert str(2 * SIZE) in text
    assert "df -h" in text


def test_a_full_disk_is_known_by_code_wherever_it_stands_in_the_chain() -> None:
    full = OSError(errno.ENOSPC, "full")
    outer = RuntimeError("the commit failed")
    outer.__cause__ = full
    assert is_disk_full(full)
    assert is_disk_full(outer)
    assert is_disk_full(OSError(errno.EDQUOT, "quota"))
    assert not is_disk_full(OSError(errno.EIO, "broken"))
    assert not is_disk_full(sqlite3.OperationalError("database is locked"))
    assert not is_disk_full(None)
