"""Data sets: identity, archive, and archives made by somebody who means harm."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cis490.episodes.dataset import DatasetError, dataset_id, iter_episodes, pack, unpack, verify_folder
from cis490.episodes.format import EpisodeError, episode_id
from cis490.zstd import zstd
from tests.factories.minimal_episode import META, episode_bytes

Fill = Callable[[tarfile.TarFile], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of three episodes on two hosts."""
    for host, variant in (("lab-b", 1), ("lab-a", 2), ("lab-a", 1)):
        path = tmp_path / "recorded" / host / f"{variant:03d}.episode"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(episode_bytes(host, variant))
    return tmp_path / "recorded"


def make_archive(tmp_path: Path, fill: Fill) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        fill(tar)
    archive = tmp_path / "hostile.tar.zst"
    archive.write_bytes(zstd.compress(buffer.getvalue()))
    return archive


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def test_the_identity_depends_on_the_episodes_only() -> None:
    one, two = "1" * 64, "2" * 64
    assert dataset_id([two, one]) == dataset_id([one, two])
    assert dataset_id([one, two]) == hashlib.sha256(f"cis490-dataset-v1\n{one}\n{two}\n".encode()).hexdigest()


def test_an_episode_that_is_there_twice_is_refused() -> None:
    with pytest.raises(DatasetError, match="twice"):
        dataset_id(["1" * 64, "1" * 64])


def test_episodes_come_sorted_by_path(folder: Path) -> None:
    found = [(path.relative_to(folder).as_posix(), meta.variant) for path, meta, _ in iter_episodes(folder)]
    assert found == [("lab-a/001.episode", 1), ("lab-a/002.episode", 2), ("lab-b/001.episode", 1)]


def test_a_folder_without_episodes_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"found no <host>/<name>\.episode"):
        list(iter_episodes(tmp_path))


def test_what_was_packed_is_unpacked_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    packed = pack(folder, tmp_path / "a.tar.zst")
    assert unpack(tmp_path / "a.tar.zst", tmp_path / "new" / "set", packed) == 3
    originals = {path.relative_to(folder): path.read_bytes() for path in folder.glob("*/*")}
    copies = {p.relative_to(tmp_path / "new/set"): p.read_bytes() for p in (tmp_path / "new/set").glob("*/*")}
    assert copies == originals
    assert verify_folder(tmp_path / "new" / "set", packed) == 3


def test_packing_twice_gives_the_same_bytes_whatever_the_files_dates(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a")
    for path in folder.glob("*/*"):
        path.write_bytes(path.read_bytes())
        path.chmod(0o600)
    pack(folder, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_damaged_episode_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / "lab-a" / "001.episode").write_bytes(episode_bytes()[:-1])
    with pytest.raises(EpisodeError, match=r"001.episode: the payload has"):
        pack(folder, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_name_that_could_not_be_unpacked_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / "lab-a" / "001.episode").rename(folder / "lab-a" / "a name.episode")
    with pytest.raises(DatasetError, match="cannot be packed"):
        pack(folder, tmp_path / "a")


def test_what_no_host_would_unpack_is_not_packed(folder: Path, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in folder.glob("*/*"))
    with pytest.raises(DatasetError, match="make several data sets of them"):
        pack(folder, tmp_path / "a", max_total_bytes=size)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("change", ["changed", "missing", "added"])
def test_a_folder_that_is_not_the_data_set_is_told_apart(folder: Path, tmp_path: Path, change: str) -> None:
    expected = pack(folder, tmp_path / "a")
    path = folder / "lab-a" / "001.episode"
    if change == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    elif change == "missing":
        path.unlink()
    else:
        path.with_name("009.episode").write_bytes(episode_bytes("lab-a", 9))
    with pytest.raises(DatasetError, match=f"expected {expected}"):
        verify_folder(folder, expected)


def hostile_link(tar: tarfile.TarFile) -> None:
    add(tar, "lab-a/x.episode", type=tarfile.SYMTYPE, linkname="/etc/passwd")


def hostile_hard_link(tar: tarfile.TarFile) -> None:
    add(tar, "lab-a/x.episode", type=tarfile.LNKTYPE, linkname="lab-a/y.episode")


def hostile_sparse(tar: tarfile.TarFile) -> None:
    add(tar, "lab-a/x.episode", b"1" * 8, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})


def hostile_twice(tar: tarfile.TarFile) -> None:
    add(tar, "lab-a/x.episode", b"1")
    add(tar, "lab-a/x.episode", b"2")


def hostile_header(tar: tarfile.TarFile) -> None:
    add(tar, "lab-a/x.episode", pax_headers={"comment": "x" * 3_000_000})


HOSTILE: list[tuple[Fill, str]] = [
    (hostile_link, "not a regular file"),
    (hostile_hard_link, "not a regular file"),
    (hostile_sparse, "not a regular file"),
    (hostile_twice, "cannot be unpacked"),
    (hostile_header, "not a regular file"),
    (lambda tar: add(tar, "lab-a/x.episode", type=tarfile.CHRTYPE), "not a regular file"),
    (lambda tar: add(tar, "lab-a/x.episode", type=tarfile.DIRTYPE), "not a regular file"),
    (lambda tar: add(tar, "lab-a/x.episode", b"0" * 2_000_000), "unpacks to more than 1000000 bytes"),
    (lambda tar: add(tar, "lab-a/x.episode", b"1", type=tarfile.GNUTYPE_SPARSE), "not a regular file"),
    (lambda tar: add(tar, "a" * 120 + "/x.episode", b"1"), "not a regular file"),
    (lambda tar: None, "found no <host>"),
]
NAMES = [
    "../x.episode",
    "lab-a/../../x.episode",
    "/etc/x.episode",
    "x.episode",
    ".hidden/x.episode",
    "lab-a/.x.episode",
    "lab-a/deep/x.episode",
    "lab-a/x.txt",
    "lab-a/x y.episode",
    "lab-a\\x.episode",
    "C:/x.episode",
    "lab-a/x.episode\n",
]


@pytest.mark.parametrize(("fill", "says"), HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, fill: Fill, says: str) -> None:
    assert_refused(tmp_path, make_archive(tmp_path, fill), says)


@pytest.mark.parametrize("name", NAMES)
def test_a_member_with_another_name_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    archive = make_archive(tmp_path, lambda tar: add(tar, name, episode_bytes()))
    assert_refused(tmp_path, archive, "expected only <host>/<name>.episode")


@pytest.mark.parametrize("cut", [0, 10, -5])
def test_an_archive_cut_short_is_refused_and_leaves_nothing(folder: Path, tmp_path: Path, cut: int) -> None:
    archive = tmp_path / "hostile.tar.zst"
    pack(folder, archive)
    archive.write_bytes(archive.read_bytes()[:cut])
    assert_refused(tmp_path, archive, "cannot be unpacked")


def test_an_archive_of_another_data_set_is_refused_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "hostile.tar.zst"
    pack(folder, archive)
    assert_refused(tmp_path, archive, "a file was added, lost or changed")


def test_an_existing_folder_is_left_alone(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a"
    packed = pack(folder, archive)
    before = sorted(folder.glob("**/*"))
    with pytest.raises(DatasetError, match="exists already"):
        unpack(archive, folder, packed)
    assert sorted(folder.glob("**/*")) == before


def assert_refused(tmp_path: Path, archive: Path, says: str) -> None:
    before = sorted(tmp_path.glob("**/*"))
    only = dataset_id([episode_id(episode_bytes())])
    with pytest.raises(DatasetError, match=says):
        unpack(archive, tmp_path / "new", only, max_total_bytes=1_000_000)
    assert sorted(tmp_path.glob("**/*")) == before


def test_the_bound_on_size_does_not_refuse_what_fits(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, lambda tar: add(tar, f"{META.host}/x.episode", episode_bytes()))
    only = dataset_id([episode_id(episode_bytes())])
    assert unpack(archive, tmp_path / "new", only, max_total_bytes=20_000) == 1
