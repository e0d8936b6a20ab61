"""The artifact store: what an upload may leave behind, and what it never does."""

import asyncio
import errno
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cis490.blobs import local
from cis490.clock import ManualClock
from cis490.digest import sha256_bytes
from training.fleet.store import IngestResult, ModelStore, is_valid_id

CONTENT = b"weights " * 1000
DIGEST = sha256_bytes(CONTENT)
OTHER = sha256_bytes(b"something else")
JOB = "0" * 64


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    return tmp_path / "incoming-models"


@pytest.fixture
def index(root: Path) -> Path:
    return root / "index.jsonl"


OpenStore = Callable[[], ModelStore]


@pytest.fixture
def reopen(root: Path, incoming: Path, index: Path) -> OpenStore:
    """The store as a new process would find it."""
    return lambda: ModelStore(root, incoming, index, reserve_bytes=0, clock=ManualClock(wall_s=1234.5))


@pytest.fixture
def store(reopen: OpenStore) -> ModelStore:
    return reopen()


async def stream(*chunks: bytes, error: BaseException | None = None) -> AsyncIterator[bytes]:
    """A request body; with `error`, the client is gone after the last chunk."""
    for chunk in chunks:
        yield chunk
    if error is not None:
        raise error


async def upload(
    store: ModelStore,
    body: AsyncIterator[bytes] | None = None,
    *,
    expected: str = DIGEST,
    job_id: str = JOB,
    model: str = "gbt",
    mode: str = "realistic",
    worker: str = "lab-1",
    max_bytes: int = 1 << 30,
    provenance: Mapping[str, object] | None = None,
    offset: int | None = None,
    is_last: bool = True,
) -> IngestResult:
    return await store.ingest_stream(
        job_id=job_id,
        model=model,
        mode=mode,
        worker=worker,
        expected_sha256=expected,
        body=body if body is not None else stream(CONTENT),
        max_bytes=max_bytes,
        epoch=3,
        generation=2,
        provenance=provenance,
        offset=offset,
        is_last=is_last,
    )


def rows(index: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in index.read_text().splitlines()] if index.exists() else []


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_upload_is_stored_where_the_contract_says(store: ModelStore, root: Path) -> None:
    result = asyncio.run(upload(store))
    assert result == IngestResult("stored", DIGEST, len(CONTENT), DIGEST)
    assert (root / "gbt_realistic" / DIGEST / "bundle.tar.zst").read_bytes() == CONTENT
    assert store.path_of(DIGEST) == root / "gbt_realistic" / DIGEST / "bundle.tar.zst"
    assert store.size_of(DIGEST) == len(CONTENT)


def test_each_ingest_writes_one_index_row(store: ModelStore, index: Path) -> None:
    asyncio.run(upload(store, provenance={"git_commit": "abc", "took": [1, 2.5, None]}))
    assert rows(index) == [
        {
            "at": 1234.5,
            "job_id": JOB,
            "model": "gbt",
            "mode": "realistic",
            "worker": "lab-1",
            "epoch": 3,
            "generation": 2,
            "artifact_id": DIGEST,
            "size_bytes": len(CONTENT),
            "status": "stored",
            "provenance": {"git_commit": "abc", "took": [1, 2.5, None]},
        }
    ]


def test_the_same_bytes_again_are_kept_once_and_indexed_for_their_job(
    store: ModelStore, root: Path, index: Path
) -> None:
    asyncio.run(upload(store))
    result = asyncio.run(upload(store, job_id="another-job", worker="lab-2"))
    assert result == IngestResult("already-present", DIGEST, len(CONTENT), DIGEST)
    assert files_below(root) == [f"gbt_realistic/{DIGEST}/bundle.tar.zst", "index.jsonl"]
    assert [(row["job_id"], row["worker"], row["status"]) for row in rows(index)] == [
        (JOB, "lab-1", "stored"),
        ("another-job", "lab-2", "already-present"),
    ]


def test_the_same_bytes_of_another_model_stand_on_its_shelf_too(store: ModelStore, root: Path) -> None:
    asyncio.run(upload(store))
    assert asyncio.run(upload(store, mode="oracle")).status == "already-present"
    first, second = (root / f"gbt_{mode}" / DIGEST / "bundle.tar.zst" for mode in ("realistic", "oracle"))
    assert first.samefile(second)


def test_an_artifact_and_its_row_are_there_after_a_restart(reopen: OpenStore, index: Path) -> None:
    asyncio.run(upload(reopen()))
    again = reopen()
    assert again.size_of(DIGEST) == len(CONTENT)
    assert asyncio.run(upload(again)).status == "already-present"
    assert len(rows(index)) == 2


@pytest.mark.parametrize(
    "sizes", [[0], [], [1], [1 << 20], [(1 << 20) - 1, 2], [5 << 20], [65536] * 40, [3, 0, 1 << 20]]
)
def test_any_chunking_of_a_body_gives_the_same_bytes(store: ModelStore, sizes: list[int]) -> None:
    chunks = [bytes([n % 251 + 1]) * size for n, size in enumerate(sizes)]
    content = b"".join(chunks)
    result = asyncio.run(upload(store, stream(*chunks), expected=sha256_bytes(content)))
    assert (result.status, result.size_bytes) == ("stored", len(content))
    path = store.path_of(result.artifact_id)
    assert path is not None
    assert path.read_bytes() == content


def test_a_wrong_digest_is_reported_with_the_right_one_and_leaves_nothing(
    store: ModelStore, root: Path, incoming: Path
) -> None:
    result = asyncio.run(upload(store, expected=OTHER))
    assert result == IngestResult("sha-mismatch", None, len(CONTENT), DIGEST)
    assert files_below(root) == files_below(incoming) == []
    assert store.path_of(DIGEST) is None
    assert store.path_of(OTHER) is None


def test_a_false_claim_to_have_a_known_artifact_gets_no_row(store: ModelStore, index: Path) -> None:
    asyncio.run(upload(store))
    liar = asyncio.run(upload(store, stream(b"not it"), expected=DIGEST, worker="liar"))
    assert (liar.status, liar.artifact_id, liar.actual_sha256) == (
        "sha-mismatch",
        None,
        sha256_bytes(b"not it"),
    )
    assert [row["worker"] for row in rows(index)] == ["lab-1"]
    assert store.size_of(DIGEST) == len(CONTENT)


def test_a_body_of_exactly_the_limit_is_stored(store: ModelStore) -> None:
    assert asyncio.run(upload(store, max_bytes=len(CONTENT))).status == "stored"


@pytest.mark.parametrize("known", [False, True])
def test_a_body_over_the_limit_is_not_read_further_and_leaves_nothing(
    store: ModelStore, root: Path, incoming: Path, known: bool
) -> None:
    if known:
        asyncio.run(upload(store))
    before = files_below(root)
    taken: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            taken.append(1)
            yield bytes(1 << 20)

    result = asyncio.run(upload(store, endless(), max_bytes=3 << 20))
    assert (result.status, result.artifact_id, result.actual_sha256) == ("too-large", None, None)
    assert len(taken) == 4
    assert files_below(incoming) == []
    assert files_below(root) == before


def test_what_a_client_sent_before_it_disconnected_is_kept_and_continued(
    reopen: OpenStore, index: Path, incoming: Path
) -> None:
    store = reopen()
    with pytest.raises(ConnectionResetError):
        asyncio.run(upload(store, stream(CONTENT[:3000], error=ConnectionResetError())))
    assert rows(index) == []
    assert [path.read_bytes() for path in incoming.iterdir()] == [CONTENT[:3000]]
    for later in (store, reopen()):  # in the same life of the process, and in the next one
        assert asyncio.run(later.offset_of(JOB, 3, DIGEST)) == 3000
        assert asyncio.run(later.offset_of(JOB, 3)) == 3000
        assert asyncio.run(later.offset_of(JOB, 4, DIGEST)) == 0
    result = asyncio.run(upload(reopen(), stream(CONTENT[3000:]), offset=3000))
    assert (result.status, result.size_bytes) == ("stored", len(CONTENT))
    assert files_below(incoming) == []


def test_a_client_that_disconnects_while_it_proves_a_known_artifact_leaves_no_file(
    store: ModelStore, index: Path, incoming: Path
) -> None:
    asyncio.run(upload(store))
    before = rows(index)
    with pytest.raises(ConnectionResetError):
        asyncio.run(upload(store, stream(CONTENT[:3000], error=ConnectionResetError())))
    assert files_below(incoming) == []
    assert rows(index) == before
    result = asyncio.run(upload(store, stream(CONTENT[3000:]), offset=3000))
    assert result.status == "already-present"


def test_a_cancelled_upload_keeps_what_came(store: ModelStore, root: Path, incoming: Path) -> None:
    async def cancel_in_the_middle() -> None:
        waiting = asyncio.Event()

        async def stalled() -> AsyncIterator[bytes]:
            yield CONTENT[:3000]
            waiting.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(upload(store, stalled()))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_in_the_middle())
    assert files_below(root) == []
    assert [path.read_bytes() for path in incoming.iterdir()] == [CONTENT[:3000]]


@pytest.mark.parametrize("offset", [0, 2999, 3001])
def test_a_wrong_offset_reads_nothing_and_names_the_right_one(
    store: ModelStore, incoming: Path, offset: int
) -> None:
    asyncio.run(upload(store, stream(CONTENT[:3000]), offset=0, is_last=False))
    refused = asyncio.run(upload(store, stream(error=AssertionError("was read")), offset=offset))
    assert (refused.status, refused.size_bytes) == ("wrong-offset", 3000)
    assert [path.read_bytes() for path in incoming.iterdir()] == [CONTENT[:3000]]


def test_an_interrupted_upload_expires_after_a_day_or_with_its_attempt(
    reopen: OpenStore, root: Path, incoming: Path, index: Path
) -> None:
    clock = ManualClock(wall_s=time.time())
    store = ModelStore(root, incoming, index, reserve_bytes=0, clock=clock)

    def left_after_expiry(*, live: bool) -> list[str]:
        asyncio.run(upload(store, stream(CONTENT[:3000]), offset=None, is_last=False))
        asked: list[tuple[str, int]] = []

        def is_live(job_id: str, epoch: int) -> bool:
            asked.append((job_id, epoch))
            return live

        asyncio.run(store.expire_partials(is_live))
        assert set(asked) <= {(JOB, 3)}
        return files_below(incoming)

    assert len(left_after_expiry(live=True)) == 1
    assert left_after_expiry(live=False) == []
    clock.advance(24 * 3600 + 60.0)
    assert left_after_expiry(live=True) == []
    assert asyncio.run(store.offset_of(JOB, 3)) == 0


def test_a_part_that_cannot_be_removed_now_is_removed_by_a_later_sweep(
    store: ModelStore, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(upload(store, stream(CONTENT, error=ConnectionError("gone"))))
    discard = local.LocalWriter.discard

    def fail(writer: local.LocalWriter) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(local.LocalWriter, "discard", fail)
    with pytest.raises(OSError, match="I/O error"):
        asyncio.run(store.expire_partials(lambda job_id, epoch: False))
    monkeypatch.setattr(local.LocalWriter, "discard", discard)
    assert asyncio.run(store.expire_partials(lambda job_id, epoch: False)) == 1
    assert files_below(incoming) == []


def test_at_start_old_and_unknown_rests_go_and_young_parts_stay(
    root: Path, incoming: Path, index: Path
) -> None:
    incoming.mkdir()
    young, old = (incoming / f"part-{JOB}.{epoch}.{DIGEST}" for epoch in (1, 2))
    for path in (young, old, incoming / "part-no-name-of-ours"):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    ModelStore(root, incoming, index, clock=ManualClock(wall_s=time.time()))
    assert [path.name for path in incoming.iterdir()] == [young.name]


def test_an_attempt_has_one_interrupted_upload_at_a_time(store: ModelStore, incoming: Path) -> None:
    asyncio.run(upload(store, stream(CONTENT[:3000]), is_last=False))
    asyncio.run(upload(store, stream(b"other"), expected=OTHER, is_last=False))
    assert files_below(incoming) == [f"part-{JOB}.3.{OTHER}"]


def test_uploads_of_one_artifact_at_once_give_one_file_and_a_row_each(
    store: ModelStore, root: Path, incoming: Path, index: Path
) -> None:
    async def all_at_once() -> list[IngestResult]:
        chunks = [CONTENT[at : at + 1000] for at in range(0, len(CONTENT), 1000)]
        return await asyncio.gather(
            *(upload(store, stream(*chunks), worker=f"lab-{n}", job_id=f"job-{n}") for n in range(20))
        )

    results = asyncio.run(all_at_once())
    assert sorted(result.status for result in results) == ["already-present"] * 19 + ["stored"]
    assert files_below(root) == [f"gbt_realistic/{DIGEST}/bundle.tar.zst", "index.jsonl"]
    assert files_below(incoming) == []
    assert sorted(row["worker"] for row in rows(index)) == sorted(f"lab-{n}" for n in range(20))


def test_the_reserve_ends_an_upload_as_no_space_and_service_resumes_by_itself(
    store: ModelStore, root: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(local, "free_bytes", lambda _: len(CONTENT) - 1)
        result = asyncio.run(upload(store))
    assert (result.status, result.artifact_id) == ("no-space", None)
    assert files_below(root) == files_below(incoming) == []
    assert asyncio.run(upload(store)).status == "stored"


def test_the_default_reserve_is_64_mib(
    root: Path, incoming: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(str(root), str(incoming), str(index))
    monkeypatch.setattr(local, "free_bytes", lambda _: (64 << 20) + len(CONTENT) - 1)
    assert asyncio.run(upload(store)).status == "no-space"
    monkeypatch.setattr(local, "free_bytes", lambda _: (64 << 20) + len(CONTENT))
    assert asyncio.run(upload(store)).status == "stored"


def test_a_row_that_cannot_be_written_is_no_space_and_leaves_the_index_whole(
    store: ModelStore, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(upload(store))
    before = index.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        monkeypatch.setattr(local, "fsync_folder", lambda _: None)
        assert asyncio.run(upload(store, worker="lab-2")).status == "no-space"
    assert index.read_bytes() == before
    assert asyncio.run(upload(store, worker="lab-2")).status == "already-present"


@pytest.mark.parametrize(
    "torn",
    [
        b'{"at":1,"job_id":"',
        b'{"at":1}',
        b"\0" * 700,
        b'\0\0\0\0"x":1}\n',
        b"\xff\xfe\n",
        b"[1]\n",
        b"\n",
    ],
)
@pytest.mark.parametrize("whole_rows", [0, 2])
def test_a_torn_last_row_is_cut_at_start_with_a_warning(
    reopen: OpenStore, index: Path, caplog: pytest.LogCaptureFixture, torn: bytes, whole_rows: int
) -> None:
    index.parent.mkdir(parents=True)
    index.write_bytes(b'{"kept":true}\n' * whole_rows + torn)
    store = reopen()
    assert [record.message for record in caplog.records] == ["store.index_repaired"]
    asyncio.run(upload(store))
    assert [row.get("kept", row.get("status")) for row in rows(index)] == [True] * whole_rows + ["stored"]


@pytest.mark.parametrize("content", [b"", b'{"kept":true}\n', b'{"kept":true}\n{"kept":2}\n'])
def test_a_whole_index_is_left_alone(
    reopen: OpenStore, index: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    index.parent.mkdir(parents=True)
    index.write_bytes(content)
    reopen()
    assert index.read_bytes() == content
    assert not caplog.records


def test_rests_of_a_killed_receiver_are_removed_at_start(reopen: OpenStore, incoming: Path) -> None:
    incoming.mkdir()
    (incoming / "upload-00.part").write_bytes(b"half an upload")
    reopen()
    assert files_below(incoming) == []


@pytest.mark.parametrize("name", ["", "..", "../x", ".hidden", "a/b", "a b", "a\n", "x" * 65])
@pytest.mark.parametrize("field", ["job_id", "model", "mode", "worker"])
def test_a_malformed_name_is_refused_before_anything_is_read(
    store: ModelStore, root: Path, field: str, name: str
) -> None:
    names: dict[str, Any] = {field: name}
    with pytest.raises(ValueError, match=f"{field} .* is no name"):
        asyncio.run(upload(store, stream(error=AssertionError("was read")), **names))
    assert files_below(root) == []


@pytest.mark.parametrize("digest", ["", "../../x", DIGEST.upper(), DIGEST[:-1], DIGEST + "\n"])
def test_a_malformed_digest_is_refused_before_anything_is_read(store: ModelStore, digest: str) -> None:
    with pytest.raises(ValueError, match="expected 64 lower-case hexadecimal"):
        asyncio.run(upload(store, stream(error=AssertionError("was read")), expected=digest))


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}, b"bytes"])
def test_provenance_that_is_no_json_is_refused_before_anything_is_read(
    store: ModelStore, value: object
) -> None:
    with pytest.raises(ValueError, match=r"provenance of job .* cannot be written as JSON"):
        asyncio.run(upload(store, stream(error=AssertionError("was read")), provenance={"x": value}))


@pytest.mark.parametrize(
    "value", [None, 0, 7, True, [], {}, b"0" * 64, "", "../x", DIGEST.upper(), DIGEST + "\n"]
)
def test_what_is_no_artifact_id_is_never_found(store: ModelStore, value: object) -> None:
    asyncio.run(upload(store))
    assert not is_valid_id(value)
    assert store.path_of(value) is None
    assert store.size_of(value) is None


def test_an_unknown_artifact_has_no_path_and_no_size(store: ModelStore) -> None:
    assert is_valid_id(OTHER)
    assert store.path_of(OTHER) is None
    assert store.size_of(OTHER) is None
