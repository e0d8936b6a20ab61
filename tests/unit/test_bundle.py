"""Bundles: equal files give equal bytes, and no archive writes where it should not.

The archives of the hostile corpus are made here byte by byte, independently of the code under test.
"""

import io
import os
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cis490.digest import sha256_file
from cis490.zstd import zstd
from training.fleet.bundle import BundleError, BundleInfo, Limits, extract, pack

TREE = {"metrics.json": b"{}", "model.txt": b"tree\n" * 400, "plots/roc.svg": b"<svg/>", "plots/a/deep": b""}


def make_tree(folder: Path, tree: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# ---------------------------------------------------------------------------------------------- the good cases


def test_a_packed_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    pack(make_tree(tmp_path / "out", TREE), tmp_path / "bundle.tar.zst")
    names = extract(tmp_path / "bundle.tar.zst", tmp_path / "back")
    assert names == sorted(TREE)
    assert read_tree(tmp_path / "back") == TREE


def test_pack_tells_the_digest_and_size_of_what_it_wrote(tmp_path: Path) -> None:
    info = pack(make_tree(tmp_path / "out", TREE), tmp_path / "bundle.tar.zst")
    path = tmp_path / "bundle.tar.zst"
    assert info == BundleInfo(sha256_file(path), path.stat().st_size)


def test_the_order_and_time_of_writing_and_the_modes_leave_no_trace(tmp_path: Path) -> None:
    first = make_tree(tmp_path / "one", TREE)
    second = make_tree(tmp_path / "two", dict(reversed(TREE.items())))
    for path in second.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1, 2**31))
    (second / "empty folder").mkdir()
    assert pack(first, tmp_path / "one.tar.zst") == pack(second, tmp_path / "two.tar.zst")


@pytest.mark.parametrize("change", [{"metrics.json": b"{ }"}, {"extra": b""}, {"plots/roc.svg2": b"<svg/>"}])
def test_any_other_content_gives_another_digest(tmp_path: Path, change: dict[str, bytes]) -> None:
    first = pack(make_tree(tmp_path / "one", TREE), tmp_path / "one.tar.zst")
    assert pack(make_tree(tmp_path / "two", TREE | change), tmp_path / "two.tar.zst").sha256 != first.sha256


def test_the_tar_inside_is_canonical_and_readable_by_others(tmp_path: Path) -> None:
    pack(make_tree(tmp_path / "out", TREE), tmp_path / "bundle.tar.zst")
    packed = (tmp_path / "bundle.tar.zst").read_bytes()
    data = zstd.decompress(packed)
    assert zstd.get_frame_info(packed).decompressed_size == len(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = [(m.name, m.isreg(), m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar]
    assert found == [(name, True, 0o644, 0, 0, 0, "", "") for name in sorted(TREE)]


def test_the_bytes_of_a_bundle_never_change_between_releases(tmp_path: Path) -> None:
    """The tar inside, that is: the zstd frame may differ with the library's release."""
    pack(make_tree(tmp_path / "out", TREE), tmp_path / "bundle.tar.zst")
    (tmp_path / "tar").write_bytes(zstd.decompress((tmp_path / "bundle.tar.zst").read_bytes()))
    assert sha256_file(tmp_path / "tar") == "4742c56ad3e1d9bc300f9c81122919b89b9945c7d8754cf09c7e3c717c6a04ee"


def test_extract_fills_an_empty_folder(tmp_path: Path) -> None:
    pack(make_tree(tmp_path / "out", TREE), tmp_path / "b")
    (tmp_path / "back").mkdir()
    extract(tmp_path / "b", tmp_path / "back")
    assert read_tree(tmp_path / "back") == TREE


def test_extract_does_not_touch_a_folder_that_holds_something(tmp_path: Path) -> None:
    pack(make_tree(tmp_path / "out", TREE), tmp_path / "b")
    make_tree(tmp_path / "back", {"mine": b"keep"})
    with pytest.raises(BundleError, match="it is there already; name a new folder"):
        extract(tmp_path / "b", tmp_path / "back")
    assert read_tree(tmp_path / "back") == {"mine": b"keep"}


def test_extract_does_not_follow_a_link_that_stands_for_the_target(tmp_path: Path) -> None:
    pack(make_tree(tmp_path / "out", TREE), tmp_path / "b")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "back").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="it is there already"):
        extract(tmp_path / "b", tmp_path / "back")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_extract_wants_the_parent_folder_to_exist(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        extract(tmp_path / "b", tmp_path / "no" / "back")


def test_a_missing_archive_is_an_error_of_the_caller_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        extract(tmp_path / "none", tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(make_tree(tmp_path / "out", TREE), tmp_path / "b")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        extract(tmp_path / "b", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "out"]


# ----------------------------------------------------------------------------------------- what is not packed


def _link(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")


def _folder_link(folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent, target_is_directory=True)


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def _file(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")

    return write


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot hold these names")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_link, "'link' is a link"),
        (_folder_link, "'link' is a link"),
        (_pipe, "'pipe' is a link, device or pipe"),
        (_file("a\\b"), "not portable"),
        (_file("a:b"), "not portable"),
        (_file("what?"), "not portable"),
        (_file("nul.txt"), "not portable"),
        (_file("COM1"), "not portable"),
        (_file("dot."), "not portable"),
        (_file("space "), "not portable"),
        (_file("con/x"), "not portable"),
        (_file("new\nline"), "not portable"),
        (_file("caf\u00e9"), "not portable"),
        (_file("\udcff"), "not portable"),
        (_file("a" * 101), "has 101 characters"),
        (_file(f"{'d' * 60}/{'f' * 40}"), "has 101 characters"),
        (_file("Model", "model"), "differ in case only"),
        (_file("Plots/a", "plots/b"), "differ in case only"),
    ],
)
def test_a_tree_that_not_every_system_can_hold_is_not_packed(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(make_tree(tmp_path / "out", TREE))
    (tmp_path / "bundle").write_bytes(b"the last good one")
    with pytest.raises(BundleError, match=message):
        pack(tmp_path / "out", tmp_path / "bundle")
    assert (tmp_path / "bundle").read_bytes() == b"the last good one"


def test_a_folder_without_files_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "out" / "empty").mkdir(parents=True)
    with pytest.raises(BundleError, match="there is no file in it"):
        pack(tmp_path / "out", tmp_path / "bundle")


def test_a_bundle_is_not_written_into_the_folder_it_packs(tmp_path: Path) -> None:
    make_tree(tmp_path / "out", TREE)
    with pytest.raises(BundleError, match="would become part of the next one"):
        pack(tmp_path / "out", tmp_path / "out" / "bundle")


@pytest.mark.parametrize("limits", [Limits(max_files=3), Limits(max_total_bytes=1999)])
def test_a_tree_beyond_the_limits_is_not_packed(tmp_path: Path, limits: Limits) -> None:
    make_tree(tmp_path / "out", TREE)
    with pytest.raises(BundleError, match="more than"):
        pack(tmp_path / "out", tmp_path / "bundle", limits=limits)
    assert not (tmp_path / "bundle").exists()


# --------------------------------------------------------------------------------------- the hostile corpus


def entry(
    name: bytes,
    data: bytes = b"x",
    *,
    kind: bytes = b"0",
    link: bytes = b"",
    prefix: bytes = b"",
    size: bytes | None = None,
    mode: bytes = b"0000644\0",
    mtime: bytes = b"00000000000\0",
    magic: bytes = b"ustar\x0000",
    checksum: bytes | None = None,
    padding: bytes | None = None,
) -> bytes:
    """One tar entry, with any field set to what a careful writer would never put there."""
    size = b"%011o\0" % len(data) if size is None else size
    head = name.ljust(100, b"\0") + mode + b"0000000\0" * 2 + size + mtime
    tail = (
        kind
        + link.ljust(100, b"\0")
        + magic
        + bytes(64)
        + b"0000000\0" * 2
        + prefix.ljust(155, b"\0")
        + bytes(12)
    )
    block = head + (checksum or b"%06o\0 " % (sum(head + tail) + 8 * 32)) + tail
    assert len(block) == 512
    return block + data + (bytes(-len(data) % 512) if padding is None else padding)


END = bytes(1024)
GOOD = entry(b"good")


def frame(tar: bytes) -> bytes:
    return bytes(zstd.compress(tar, 3))


def archive(*entries: bytes) -> bytes:
    return frame(b"".join(entries) + END)


def streamed(blocks: Iterable[bytes]) -> bytes:
    compressor = zstd.ZstdCompressor()
    return b"".join([*(compressor.compress(block) for block in blocks), compressor.flush()])


def bomb(gib: float = 1 / 16) -> list[bytes]:
    """Zeros, in blocks: about 32 KiB of zstd for each GiB."""
    return [bytes(16 << 20)] * int(gib * 64)


def wide_window() -> bytes:
    """A frame that asks its reader for 128 MiB of memory."""
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=options)
    return compressor.compress(GOOD) + compressor.compress(END) + compressor.flush()


def written_by_tarfile(format_: int, name: str) -> bytes:
    """What a general tar program makes of a long name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    return frame(buffer.getvalue())


def hardlink_chain() -> bytes:
    """Links to links to a name outside, in steps that are each short."""
    links = [entry(b"l%04d" % n, b"", kind=b"1", link=b"l%04d" % (n - 1)) for n in range(1, 500)]
    return archive(entry(b"l0000", b"", kind=b"2", link=b"../../victim"), *links)


@dataclass(frozen=True)
class Hostile:
    """One archive and a part of the message that refuses it."""

    name: str
    data: Callable[[], bytes]
    message: str = "is not portable"


def names(*pairs: tuple[str, bytes]) -> list[Hostile]:
    return [Hostile(label, lambda raw=raw: archive(entry(raw))) for label, raw in pairs]  # type: ignore[misc]


def single(label: str, message: str, *entries: bytes) -> Hostile:
    return Hostile(label, lambda: archive(*entries), message)


def raw(label: str, message: str, data: Callable[[], bytes]) -> Hostile:
    return Hostile(label, data, message)


PAX_PATH = b"24 path=../../../victim\n"
BASE_256 = b"\x80" + bytes(10) + b"\x01"
NEGATIVE = b"\xff" * 12
LIMITS = Limits(max_files=20, max_total_bytes=100_000)

CORPUS = [
    *names(
        ("parent", b"../victim"),
        ("parent inside", b"a/../../victim"),
        ("parent at the end", b"a/.."),
        ("parent alone", b".."),
        ("absolute", b"/tmp/victim"),
        ("absolute, two slashes", b"//victim"),
        ("drive letter", b"C:/victim"),
        ("drive letter, backslash", b"C:\\victim"),
        ("drive-relative", b"C:victim"),
        ("UNC", b"\\\\host\\share\\victim"),
        ("UNC, slashes", b"//host/share/victim"),
        ("device path", b"\\\\?\\C:\\victim"),
        ("backslash parent", b"..\\victim"),
        ("backslash inside", b"a\\b"),
        ("alternate stream", b"good:stream"),
        ("NUL inside", b"good\0/../victim"),
        ("newline inside", b"a\nb"),
        ("escape sequence", b"\x1b[2J"),
        ("delete character", b"a\x7f"),
        ("reserved CON", b"CON"),
        ("reserved aux.h", b"aux.h"),
        ("reserved NUL.txt", b"NUL.txt"),
        ("reserved COM1", b"com1.log"),
        ("reserved LPT9 as folder", b"LPT9/x"),
        ("reserved, space before the dot", b"prn .txt"),
        ("reserved CONIN$", b"CONIN$"),
        ("trailing dot", b"victim."),
        ("trailing space", b"victim "),
        ("trailing dots in a folder", b"a.../b"),
        ("leading ./", b"./victim"),
        ("./ inside", b"a/./victim"),
        ("dot alone", b"."),
        ("empty name", b""),
        ("slash alone", b"/"),
        ("trailing slash", b"folder/"),
        ("empty component", b"a//b"),
        ("wildcard", b"*"),
        ("quote", b'a"b'),
    ),
    single("not ASCII", "is not ASCII", entry("caf\u00e9".encode())),
    single("not UTF-8", "is not ASCII", entry(b"\xff\xfe")),
    single("symbolic link", "is a symbolic link", entry(b"l", b"", kind=b"2", link=b"/etc/passwd")),
    single(
        "write through a symbolic link",
        "is a symbolic link",
        entry(b"l", b"", kind=b"2", link=b".."),
        entry(b"l/victim"),
    ),
    single("hard link outside", "is a hard link", entry(b"l", b"", kind=b"1", link=b"../victim")),
    single("hard link inside", "is a hard link", GOOD, entry(b"l", b"", kind=b"1", link=b"good")),
    raw("chain of hard links", "is a symbolic link", hardlink_chain),
    single("character device", "is a character device", entry(b"d", b"", kind=b"3")),
    single("block device", "is a block device", entry(b"d", b"", kind=b"4")),
    single("pipe", "is a pipe", entry(b"p", b"", kind=b"6")),
    single("folder entry", "is a folder", entry(b"f/", b"", kind=b"5")),
    single("contiguous file", "is a contiguous file", entry(b"c", kind=b"7")),
    single("sparse file", "is a sparse file", entry(b"s", kind=b"S")),
    single("pax path override", "is a pax header", entry(b"p", PAX_PATH, kind=b"x"), GOOD),
    single("pax global path override", "is a pax header", entry(b"p", PAX_PATH, kind=b"g"), GOOD),
    single("GNU long name", "is a GNU long name", entry(b"././@LongLink", b"../victim\0", kind=b"L"), GOOD),
    single("GNU long link", "is a GNU long link", entry(b"././@LongLink", b"../victim\0", kind=b"K"), GOOD),
    raw("pax from tarfile", "is a pax header", lambda: written_by_tarfile(tarfile.PAX_FORMAT, "n" * 200)),
    raw("GNU from tarfile", "is a GNU long name", lambda: written_by_tarfile(tarfile.GNU_FORMAT, "n" * 200)),
    single("old tar type", "written by another program", entry(b"good", kind=b"\0")),
    single("unknown type", "written by another program", entry(b"good", kind=b"Z")),
    single("old tar magic", "written by another program", entry(b"good", magic=bytes(8))),
    single("GNU magic", "written by another program", entry(b"good", magic=b"ustar  \0")),
    single("prefix that leads outside", "written by another program", entry(b"victim", prefix=b"../..")),
    single("link name on a file", "written by another program", entry(b"good", link=b"/etc/passwd")),
    single("set-user-id mode", "written by another program", entry(b"good", mode=b"0006755\0")),
    single("a time", "written by another program", entry(b"good", mtime=b"14000000000\0")),
    single("bad checksum", "is damaged", entry(b"good", checksum=b"000000\0 ")),
    single("text after the name's NUL", "is not portable", entry(b"good\0junk")),
    single("negative size", "malformed size", entry(b"good", size=NEGATIVE)),
    single("base-256 size", "malformed size", entry(b"good", size=BASE_256)),
    single("huge base-256 size", "malformed size", entry(b"good", size=b"\x80" + b"\xff" * 11)),
    single("size that is no number", "malformed size", entry(b"good", size=b"0x000000001\0")),
    single("size with a sign", "malformed size", entry(b"good", size=b"-0000000001\0")),
    single("size padded with spaces", "malformed size", entry(b"good", size=b"          1\0")),
    single("empty size", "malformed size", entry(b"good", size=bytes(12))),
    single("huge size", "more than 100000 bytes", entry(b"good", size=b"77777777777\0")),
    single("size beyond the data", "more than|ends in the middle", entry(b"good", size=b"00000200000\0")),
    single("padding that hides data", "padding after 'good' is not zero", entry(b"good", padding=b"!" * 511)),
    single("name twice", "is there twice", GOOD, GOOD),
    single("case clash", "differ in case only", entry(b"A"), entry(b"a")),
    single("case clash of folders", "differ in case only", entry(b"A/x"), entry(b"a/y")),
    single("case clash of file and folder", "differ in case only", entry(b"A"), entry(b"a/y")),
    single("file, then folder", "both a file and a folder", entry(b"a"), entry(b"a/b")),
    single("folder, then file", "both a file and a folder", entry(b"a/b"), entry(b"a")),
    single("names out of order", "must be sorted", entry(b"b"), entry(b"a")),
    single("deep nesting", "is not portable", entry(b"d/" * 50)),
    single(
        "deep nesting into the prefix", "another program", entry(b"d/" * 49 + b"d", prefix=b"d/" * 77 + b"d")
    ),
    single("too many files", "more than 20 files", *(entry(b"f%03d" % n) for n in range(21))),
    single("too many bytes", "more than 100000 bytes", entry(b"a", bytes(99_999)), entry(b"b", bytes(2))),
    single("no file at all", "there is no file in it"),
    raw(
        "bomb: one file",
        "more than 100000 bytes",
        lambda: streamed([entry(b"z", b"", size=b"10000000000\0"), *bomb()]),
    ),
    raw("bomb: zeros after the end", "follows the end", lambda: streamed([GOOD, END, *bomb()])),
    raw("bomb: zeros from the start", "follows the end", lambda: streamed(bomb())),
    raw("huge window", "no zstd frame that can be read", wide_window),
    raw("no zstd at all", "no zstd frame", lambda: GOOD + END),
    raw("gzip", "no zstd frame", lambda: b"\x1f\x8b\x08\x00" + bytes(100)),
    raw("empty file", "zstd frame ends in the middle", lambda: b""),
    raw("only a magic number", "zstd frame ends in the middle", lambda: b"\x28\xb5\x2f\xfd"),
    raw(
        "truncated zstd",
        "zstd frame ends in the middle",
        lambda: archive(entry(b"r", os.urandom(5000)))[:-10],
    ),
    raw("damaged zstd", "no zstd frame", lambda: archive(GOOD)[:6] + b"\xff" * 20),
    raw("truncated tar: in a header", "tar ends in the middle", lambda: frame(GOOD[:300])),
    raw(
        "truncated tar: in the data", "tar ends in the middle", lambda: frame(entry(b"a", bytes(5000))[:2000])
    ),
    raw("truncated tar: no end", "tar ends in the middle", lambda: frame(GOOD)),
    raw("truncated tar: half an end", "tar ends in the middle", lambda: frame(GOOD + bytes(512))),
    raw("empty frame", "tar ends in the middle", lambda: frame(b"")),
    raw(
        "one zero block, then more",
        "single block of zeros",
        lambda: frame(GOOD + bytes(512) + entry(b"h") + END),
    ),
    raw("garbage after the tar", "follows the end", lambda: frame(GOOD + END + b"garbage")),
    raw("zeros after the tar", "follows the end", lambda: frame(GOOD + END + bytes(512))),
    raw("a second tar", "follows the end", lambda: frame(GOOD + END + entry(b"h") + END)),
    raw("garbage after the frame", "follows the end", lambda: archive(GOOD) + b"garbage"),
    raw(
        "one byte after a block", "follows the end", lambda: archive(entry(b"r", os.urandom(90_000))) + b"\0"
    ),
    raw("a second frame", "follows the end", lambda: archive(GOOD) + archive(entry(b"h"))),
    raw(
        "a skippable frame in front",
        "ends in the middle",
        lambda: b"\x50\x2a\x4d\x18\0\0\0\0" + archive(GOOD),
    ),
]


def test_the_corpus_is_made_of_archives_that_would_pass_but_for_their_fault(tmp_path: Path) -> None:
    """Guards the tests below: the builder's plain entry is accepted."""
    (tmp_path / "b").write_bytes(archive(entry(b"a/b"), GOOD))
    assert extract(tmp_path / "b", tmp_path / "back", limits=LIMITS) == ["a/b", "good"]
    assert read_tree(tmp_path / "back") == {"a/b": b"x", "good": b"x"}


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: hostile.name)
def test_a_hostile_archive_is_refused_and_writes_nothing_anywhere(tmp_path: Path, hostile: Hostile) -> None:
    box = make_tree(tmp_path / "box" / "inner", {"victim": b"untouched"}).parent
    path = tmp_path / "bundle.tar.zst"
    path.write_bytes(hostile.data())
    for file in (box / "inner").rglob("*"):
        os.utime(file, (1, 1))
    with pytest.raises(BundleError, match=hostile.message) as caught:
        extract(path, box / "inner" / "target", limits=LIMITS)
    assert str(path) in str(caught.value)
    assert read_tree(tmp_path) == {"bundle.tar.zst": path.read_bytes(), "box/inner/victim": b"untouched"}
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["box", "bundle.tar.zst", "inner", "victim"]
    assert (box / "inner" / "victim").stat().st_mtime == 1


def test_a_bomb_is_stopped_before_it_unfolds(tmp_path: Path) -> None:
    """1 GiB of zeros, its end cut off: a reader that goes on to the end would complain of that instead."""
    data = streamed([GOOD, END, *bomb(gib=1.0)])
    (tmp_path / "bomb").write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match="follows the end"):
        extract(tmp_path / "bomb", tmp_path / "back", limits=LIMITS)


# ------------------------------------------------------------------------------------------------- properties

_PART = st.text(alphabet="abcXYZ019._- +@", min_size=1, max_size=8).filter(
    lambda part: part[-1] not in ". " and part.lower() not in {"con", "prn", "aux", "nul"}
)
_NAME = st.lists(_PART, min_size=1, max_size=4).map("/".join)
_DATA = st.one_of(st.binary(max_size=64), st.integers(0, 3000).map(bytes))


def _can_stand_together(tree: dict[str, bytes]) -> bool:
    folders = {"/".join(name.split("/")[:depth]) for name in tree for depth in range(1, name.count("/") + 1)}
    everything = [*tree, *folders]
    return len({name.lower() for name in everything}) == len(everything)


_TREES = st.dictionaries(_NAME, _DATA, min_size=1, max_size=8).filter(_can_stand_together)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=_TREES, order=st.randoms(use_true_random=False))
def test_any_tree_comes_back_and_its_digest_depends_on_content_alone(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes], order: object
) -> None:
    place = tmp_path_factory.mktemp("bundle")
    shuffled = list(tree.items())
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    first = pack(make_tree(place / "one", tree), place / "one.tar.zst")
    second = pack(make_tree(place / "two", dict(shuffled)), place / "two.tar.zst")
    assert first == second
    assert extract(place / "one.tar.zst", place / "back") == sorted(tree)
    assert read_tree(place / "back") == tree
    assert pack(place / "back", place / "three.tar.zst") == first


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2 * 512 + 1024 - 1), value=st.integers(0, 255))
def test_a_tar_with_one_byte_changed_is_refused_or_differs_in_a_files_content_only(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    """Whatever is accepted is what `pack` would write for it, byte by byte."""
    place = tmp_path_factory.mktemp("bundle")
    tar = bytearray(entry(b"good", b"12345") + END)
    tar[position] = value
    (place / "b").write_bytes(frame(bytes(tar)))
    try:
        extract(place / "b", place / "back")
    except BundleError:
        assert [path.name for path in place.iterdir()] == ["b"]
    else:
        pack(place / "back", place / "again")
        assert zstd.decompress((place / "again").read_bytes()) == tar
