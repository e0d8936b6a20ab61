"""What every blob back end promises. A test module for a back end inherits `BlobContract` and provides `reopen`."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from cis490.blobs import Blobs, BlobWriter
from cis490.digest import Digest, sha256_bytes

CONTENT = b"a model"
DIGEST = sha256_bytes(CONTENT)
SHELF = "gbt_realistic"

Reopen = Callable[[], Blobs]


def put(blobs: Blobs, content: bytes = CONTENT, shelf: str = SHELF) -> tuple[Digest, bool]:
    """Store `content` in one go: its digest and whether it was new."""
    writer = blobs.create()
    writer.write(content)
    return writer.digest(), writer.commit(shelf)


def read(blobs: Blobs, digest: str) -> bytes:
    with blobs.open(digest) as file:
        return file.read()


class BlobContract:
    """Inherit and provide the fixture `reopen`: a function that opens the test's one store as a new process
    would find it. Each test begins with an empty store."""

    @pytest.fixture
    def blobs(self, reopen: Reopen) -> Blobs:
        return reopen()

    def test_a_committed_blob_is_read_back_by_its_digest(self, blobs: Blobs) -> None:
        digest, is_new = put(blobs)
        assert (digest, is_new) == (DIGEST, True)
        assert blobs.size_of(digest) == len(CONTENT)
        assert read(blobs, digest) == CONTENT

    def test_a_committed_blob_is_there_after_a_restart(self, reopen: Reopen) -> None:
        put(reopen())
        again = reopen()
        assert read(again, DIGEST) == CONTENT
        assert again.shelves_of(DIGEST) == [SHELF]

    def test_blocks_are_kept_in_order_whatever_their_sizes(self, blobs: Blobs) -> None:
        blocks = [bytes([n % 256]) * size for n, size in enumerate([1, 70_000, 0, 1_048_577, 3])]
        writer = blobs.create()
        for block in blocks:
            writer.write(block)
        assert writer.size_bytes == sum(map(len, blocks))
        writer.commit(SHELF)
        assert read(blobs, writer.digest()) == b"".join(blocks)

    def test_an_empty_blob_is_a_blob(self, blobs: Blobs) -> None:
        writer = blobs.create()
        assert writer.commit(SHELF)
        assert (blobs.size_of(writer.digest()), read(blobs, writer.digest())) == (0, b"")

    def test_the_content_can_be_read_from_any_place(self, blobs: Blobs) -> None:
        put(blobs)
        with blobs.open(DIGEST) as file:
            file.seek(2)
            assert file.read(5) == CONTENT[2:7]

    def test_nothing_is_visible_before_the_commit(self, blobs: Blobs) -> None:
        writer = blobs.create()
        writer.write(CONTENT)
        assert blobs.size_of(writer.digest()) is None
        assert blobs.shelves_of(DIGEST) == []
        writer.discard()

    def test_a_discarded_upload_leaves_nothing(self, blobs: Blobs) -> None:
        writer = blobs.create()
        writer.write(CONTENT)
        writer.discard()
        writer.discard()
        assert blobs.size_of(DIGEST) is None

    def test_discarding_after_the_commit_changes_nothing(self, blobs: Blobs) -> None:
        writer = blobs.create()
        writer.write(CONTENT)
        writer.commit(SHELF)
        writer.discard()
        assert read(blobs, DIGEST) == CONTENT

    @pytest.mark.parametrize("end", [lambda writer: writer.discard(), lambda writer: writer.commit(SHELF)])
    def test_an_ended_upload_takes_no_more(self, blobs: Blobs, end: Callable[[BlobWriter], object]) -> None:
        writer = blobs.create()
        writer.write(CONTENT)
        end(writer)
        with pytest.raises(ValueError, match="committed or discarded"):
            writer.write(b"more")
        with pytest.raises(ValueError, match="committed or discarded"):
            writer.commit(SHELF)

    def test_an_upload_that_was_never_ended_is_gone_after_a_restart(self, reopen: Reopen) -> None:
        abandoned = reopen().create()
        abandoned.write(CONTENT)
        assert reopen().size_of(DIGEST) is None
        abandoned.discard()

    def test_the_same_content_again_is_not_new_and_stays_readable(self, blobs: Blobs) -> None:
        assert [put(blobs)[1], put(blobs)[1]] == [True, False]
        assert read(blobs, DIGEST) == CONTENT

    def test_one_blob_can_stand_on_two_shelves(self, blobs: Blobs) -> None:
        assert [put(blobs, shelf="a")[1], put(blobs, shelf="b")[1]] == [True, False]
        assert blobs.shelves_of(DIGEST) == ["a", "b"]
        assert read(blobs, DIGEST) == CONTENT

    def test_a_known_blob_is_placed_on_one_more_shelf_without_its_bytes(self, blobs: Blobs) -> None:
        put(blobs, shelf="a")
        blobs.place(DIGEST, "b")
        blobs.place(DIGEST, "b")
        assert blobs.shelves_of(DIGEST) == ["a", "b"]

    def test_an_unknown_blob_cannot_be_placed_or_read(self, blobs: Blobs) -> None:
        put(blobs, b"another")
        with pytest.raises(FileNotFoundError):
            blobs.place(DIGEST, SHELF)
        with pytest.raises(FileNotFoundError):
            blobs.open(DIGEST)
        assert blobs.shelves_of(DIGEST) == []

    @pytest.mark.parametrize(
        "digest", [None, 7, "", "..", f"../{DIGEST}", DIGEST.upper(), DIGEST[:-1], f"{DIGEST}\n"]
    )
    def test_what_is_no_digest_is_never_found(self, blobs: Blobs, digest: object) -> None:
        put(blobs)
        assert blobs.size_of(digest) is None

    @pytest.mark.parametrize(
        "digest", ["", "..", f"../{SHELF}/{DIGEST}", DIGEST.upper(), f"{DIGEST}/../{DIGEST}"]
    )
    def test_what_is_no_digest_opens_nothing(self, blobs: Blobs, digest: str) -> None:
        put(blobs)
        with pytest.raises(FileNotFoundError):
            blobs.open(digest)
        assert blobs.shelves_of(digest) == []

    @pytest.mark.parametrize(
        "shelf", ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a b", "a\0", "a" * 200]
    )
    def test_what_is_no_shelf_name_is_refused_and_nothing_kept(self, blobs: Blobs, shelf: str) -> None:
        writer = blobs.create()
        writer.write(CONTENT)
        with pytest.raises(ValueError, match="no shelf name"):
            writer.commit(shelf)
        writer.discard()
        assert blobs.size_of(DIGEST) is None

    def test_uploads_of_one_content_at_once_all_succeed_and_one_is_new(self, blobs: Blobs) -> None:
        count = 8
        content = bytes(range(256)) * 1024
        ready = threading.Barrier(count)

        def upload(number: int) -> bool:
            writer = blobs.create()
            writer.write(content)
            ready.wait()
            return writer.commit(f"shelf-{number % 2}")

        with ThreadPoolExecutor(count) as pool:
            assert sorted(pool.map(upload, range(count))) == [False] * (count - 1) + [True]
        digest = hashlib.sha256(content).hexdigest()
        assert read(blobs, digest) == content
        assert blobs.shelves_of(digest) == ["shelf-0", "shelf-1"]

    def test_different_uploads_at_once_do_not_mix(self, blobs: Blobs) -> None:
        contents = [bytes([n]) * 100_000 for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            digests = list(pool.map(lambda content: put(blobs, content)[0], contents))
        assert [read(blobs, digest) for digest in digests] == contents
