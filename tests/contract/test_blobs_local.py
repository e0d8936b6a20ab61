"""The local disk as a blob back end: the common promises, and what only a disk can get wrong."""

import errno
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cis490.blobs import BlobError, Blobs, NoSpace, local
from cis490.blobs.local import LocalBlobs, LocalWriter
from tests.contract.blob_contract import CONTENT, DIGEST, SHELF, BlobContract, Reopen, put, read


def fail_with(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


class TestLocalBlobs(BlobContract):
    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen:
        def open_store() -> Blobs:
            return LocalBlobs(tmp_path / "root", incoming=tmp_path / "incoming")

        return open_store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    return tmp_path / "incoming"


def test_a_blob_lies_where_people_look_for_it(root: Path) -> None:
    blobs = LocalBlobs(root, file_name="bundle.tar.zst")
    put(blobs)
    assert blobs.path_of(DIGEST) == root / SHELF / DIGEST / "bundle.tar.zst"
    assert (root / SHELF / DIGEST / "bundle.tar.zst").read_bytes() == CONTENT


def test_two_shelves_share_one_copy(root: Path) -> None:
    blobs = LocalBlobs(root)
    put(blobs, shelf="a")
    put(blobs, shelf="b")
    assert (root / "a" / DIGEST / "blob").samefile(root / "b" / DIGEST / "blob")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_links_fail_the_second_shelf_gets_a_copy(
    root: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    blobs = LocalBlobs(root, incoming=incoming)
    put(blobs, shelf="a")
    monkeypatch.setattr(os, "link", fail_with(code))
    put(blobs, shelf="b")
    assert not (root / "a" / DIGEST / "blob").samefile(root / "b" / DIGEST / "blob")
    assert (root / "b" / DIGEST / "blob").read_bytes() == CONTENT
    assert list(incoming.iterdir()) == []


def test_nothing_stays_in_incoming(root: Path, incoming: Path) -> None:
    blobs = LocalBlobs(root, incoming=incoming)
    put(blobs)
    put(blobs)
    writer = blobs.create()
    writer.write(b"never finished")
    assert len(list(incoming.iterdir())) == 1
    writer.discard()
    assert list(incoming.iterdir()) == []


def test_rests_of_a_killed_process_are_removed_at_start_and_other_files_left_alone(
    root: Path, incoming: Path
) -> None:
    incoming.mkdir()
    (incoming / "upload-0123.part").write_bytes(b"half")
    (incoming / "README").write_bytes(b"not ours")
    LocalBlobs(root, incoming=incoming)
    assert [path.name for path in incoming.iterdir()] == ["README"]


def test_the_reserve_is_never_touched(root: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = LocalBlobs(root, incoming=incoming, reserve_bytes=1000)
    monkeypatch.setattr(local, "free_bytes", lambda _: 1000 + 10)
    writer = blobs.create()
    writer.write(bytes(10))
    with pytest.raises(NoSpace, match=r"1010 bytes free; 11 more would touch the reserve of 1000 bytes"):
        writer.write(bytes(11))
    writer.discard()
    assert list(incoming.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_no_space_and_leaves_nothing(
    root: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    blobs = LocalBlobs(root, incoming=incoming)
    writer = blobs.create()
    writer.write(CONTENT)
    monkeypatch.setattr(os, call, fail_with(code))
    with pytest.raises(NoSpace, match="the disk is full"):
        writer.commit(SHELF)
    writer.discard()
    assert list(incoming.iterdir()) == []
    assert blobs.path_of(DIGEST) is None


def test_another_error_of_the_disk_passes_through_and_leaves_nothing(
    root: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LocalBlobs(root, incoming=incoming).create()
    writer.write(CONTENT)
    monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output") as caught:
        writer.commit(SHELF)
    assert not isinstance(caught.value, BlobError)
    writer.discard()
    assert list(incoming.iterdir()) == []


def test_a_named_part_outlives_its_process_and_is_hashed_again(root: Path) -> None:
    first = LocalBlobs(root).part("job.1")
    first.write(CONTENT[:3])
    first.suspend()
    again = LocalBlobs(root)
    assert [(part.name, part.size_bytes) for part in again.parts()] == [("job.1", 3)]
    writer = again.part("job.1")
    assert writer.resume() == 3
    writer.write(CONTENT[3:])
    assert writer.commit(SHELF)
    assert read(again, DIGEST) == CONTENT
    assert again.parts() == []


def test_a_part_is_not_read_again_in_one_life_of_the_process(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LocalBlobs(root).part("job.1")
    writer.write(CONTENT[:3])
    writer.suspend()
    monkeypatch.setattr(LocalWriter, "_hash_again", fail_with(errno.EIO))
    assert writer.resume() == 3
    writer.write(CONTENT[3:])
    assert writer.commit(SHELF)


def test_a_part_whose_file_is_gone_starts_anew(root: Path) -> None:
    writer = LocalBlobs(root).part("job.1")
    writer.write(b"gone")
    writer.suspend()
    (root / ".incoming" / "part-job.1").unlink()
    assert writer.resume() == 0
    writer.write(CONTENT)
    assert (writer.digest(), writer.commit(SHELF)) == (DIGEST, True)


def test_other_bytes_hashed_than_written_are_never_kept(root: Path) -> None:
    writer = LocalBlobs(root).create()
    writer.append(CONTENT)
    with pytest.raises(ValueError, match="were hashed and"):
        writer.commit(SHELF)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "x" * 201])
def test_what_is_no_name_of_a_part_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a part"):
        LocalBlobs(root).part(name)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no folders")
def test_content_is_durable_before_its_name_and_its_name_before_the_answer(
    root: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = LocalBlobs(root, incoming=incoming)
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        known = [root, root / SHELF, root / SHELF / DIGEST]
        same = [
            str(path.relative_to(root.parent))
            for path in known
            if path.exists() and path.stat().st_ino == status.st_ino
        ]
        calls.append(f"sync {'file' if stat.S_ISREG(status.st_mode) else same[0]}")
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    put(blobs)
    names = ["sync file", "rename", f"sync root/{SHELF}/{DIGEST}", f"sync root/{SHELF}", "sync root"]
    assert calls == names
    # Known already: its name may come from a process that was killed before it could sync.
    calls.clear()
    blobs.place(DIGEST, SHELF)
    assert calls == names[2:]


def test_discarding_waits_for_a_running_sync(
    root: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the sync would go to a descriptor that is closed, or that another file was given meanwhile."""
    in_sync, go_on = threading.Event(), threading.Event()

    def slow_sync(_: int) -> None:
        in_sync.set()
        assert go_on.wait(timeout=30)

    monkeypatch.setattr(local, "sync_data", slow_sync)
    writer = LocalBlobs(root, incoming=incoming).create()
    writer.write(CONTENT)
    syncing = threading.Thread(target=writer.sync)
    discarding = threading.Thread(target=writer.discard)
    syncing.start()
    assert in_sync.wait(timeout=30)
    discarding.start()
    assert len(list(incoming.iterdir())) == 1
    go_on.set()
    syncing.join(timeout=30)
    discarding.join(timeout=30)
    assert list(incoming.iterdir()) == []


def test_folders_between_which_no_rename_is_possible_are_refused_at_start(
    root: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", fail_with(errno.EXDEV))
    with pytest.raises(BlobError, match="must be writable folders of one file system"):
        LocalBlobs(root, incoming=incoming)
    assert [*root.iterdir(), *incoming.iterdir()] == []


def test_an_empty_folder_of_a_crash_is_no_blob_and_no_obstacle(root: Path) -> None:
    """A power cut between making the digest's folder and the rename leaves this."""
    (root / SHELF / DIGEST).mkdir(parents=True)
    blobs = LocalBlobs(root)
    assert blobs.size_of(DIGEST) is None
    assert put(blobs) == (DIGEST, True)
    assert read(blobs, DIGEST) == CONTENT
