"""Power cuts at every moment of the store's work: nothing promised is lost, no name holds what it does not name.

Every call that changes the disk is recorded. After each of them, a number of the trees that a power cut could leave
is built, and the real store is opened on it. Removing any of the syncs must be noticed.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from cis490.digest import sha256_bytes, sha256_file
from tests.faults.crash_disk import Disk, Op, Recorder, build
from training.fleet.store import ModelStore

FIRST, SECOND = b"first " * 100, b"second " * 100
TREES = 64


def open_store(folder: Path) -> ModelStore:
    return ModelStore(
        folder / "models", folder / "incoming", folder / "models" / "index.jsonl", reserve_bytes=0
    )


async def ingest(
    store: ModelStore,
    job: str,
    content: bytes,
    *,
    mode: str = "realistic",
    span: tuple[int, int] | None = None,
) -> str:
    async def body() -> AsyncIterator[bytes]:
        yield content if span is None else content[slice(*span)]

    result = await store.ingest_stream(
        job_id=job, model="gbt", mode=mode, worker="lab-1", expected_sha256=sha256_bytes(content), body=body(),
        max_bytes=1 << 20, offset=None if span is None else span[0], is_last=span is None or span[1] == len(content),
    )  # fmt: skip
    return result.status


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Op]:
    """Every way in which an artifact comes into the store; each answer is a mark."""
    base = tmp_path_factory.mktemp("recorded")
    recorder = Recorder(base)

    def answered(job: str, content: bytes, status: str) -> None:
        assert status in ("stored", "already-present"), status
        recorder.mark(f"{job} {sha256_bytes(content)}")

    with pytest.MonkeyPatch.context() as patch, recorder.recording(patch):
        store = open_store(base)
        answered("a", FIRST, asyncio.run(ingest(store, "a", FIRST)))
        assert asyncio.run(ingest(store, "b", SECOND, span=(0, 300))) == "partial"
        answered("b", SECOND, asyncio.run(ingest(store, "b", SECOND, span=(300, len(SECOND)))))
        answered("c", FIRST, asyncio.run(ingest(store, "c", FIRST, mode="oracle")))
        answered("d", FIRST, asyncio.run(ingest(store, "d", FIRST)))
        assert asyncio.run(ingest(store, "e", b"never finished", span=(0, 5))) == "partial"
        again = open_store(base)
        assert asyncio.run(ingest(again, "e", b"never finished", span=(0, 0))) == "wrong-offset"
    return recorder.ops


def faults_of(tree: Path, marks: Sequence[str]) -> list[str]:
    """What is wrong with a store that is opened after a power cut."""
    store, faults = open_store(tree), []
    text = (tree / "models" / "index.jsonl").read_text() if (tree / "models" / "index.jsonl").exists() else ""
    rows = {(row["job_id"], row["artifact_id"]) for row in map(json.loads, text.splitlines())}
    for mark in marks:
        job, digest = mark.split()
        path = store.path_of(digest)
        if path is None:
            faults.append(f"the artifact of {job} was answered and is lost")
        if (job, digest) not in rows:
            faults.append(f"the index row of {job} was answered and is lost")
    faults += [
        f"{path.relative_to(tree)} does not hold what it names"
        for path in (tree / "models").glob("*/*/bundle.tar.zst")
        if sha256_file(path) != path.parent.name
    ]
    return faults


def strike_everywhere(ops: Sequence[Op], folder: Path, *, until_fault: bool = False) -> tuple[int, list[str]]:
    """Cut the power after each call; (trees tried, what was found)."""
    draw, tried, found = random.Random(490), 0, []
    for end in range(len(ops) + 1):
        disk, seen = Disk(ops[:end]), set()
        for tree in disk.trees(draw, TREES):
            key = tuple(sorted(tree.items()))
            if key in seen:
                continue
            seen.add(key)
            place = folder / "tree"
            place.mkdir()
            build(tree, place)
            tried += 1
            found += [f"after {end} calls: {fault}" for fault in faults_of(place, disk.marks)]
            shutil.rmtree(place)
            if found and until_fault:
                return tried, found
    return tried, found


def test_no_power_cut_loses_what_was_answered_or_gives_a_name_a_wrong_content(
    recorded: list[Op], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "os.fsync", lambda _: None
    )  # the store that is opened on a tree need not wait for our disk
    tried, found = strike_everywhere(recorded, tmp_path)
    print(f"{len(recorded)} calls, {tried} trees")
    assert found == []
    assert tried > 200


SYNCS: dict[str, Callable[[Op], bool]] = {
    "the artifact's bytes": lambda op: op.kind == "sync" and op.path.startswith("incoming/"),
    "the index row": lambda op: op.kind == "sync" and op.path.endswith("index.jsonl"),
    "the digest's folder": lambda op: op.kind == "sync-folder" and op.path.count("/") == 2,
    "the shelf": lambda op: op.kind == "sync-folder" and op.path.count("/") == 1,
    "the store's root": lambda op: op.kind == "sync-folder" and op.path == "models",
    "the folder above it": lambda op: op.kind == "sync-folder" and op.path == ".",
}


@pytest.mark.parametrize("missing", SYNCS)
def test_a_missing_sync_is_noticed(
    recorded: list[Op], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """So the test above would fail if the store forgot it."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    ops = [op for op in recorded if not SYNCS[missing](op)]
    assert len(ops) < len(recorded)
    _, found = strike_everywhere(ops, tmp_path, until_fault=True)
    assert found


def test_every_sync_of_the_store_is_one_of_those(recorded: list[Op]) -> None:
    syncs = [op for op in recorded if op.kind.startswith("sync")]
    unnamed = [op for op in syncs if not any(is_one(op) for is_one in SYNCS.values())]
    assert unnamed == []
