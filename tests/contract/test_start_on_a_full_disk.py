"""A receiver that has to start while its disk is full: it comes up in the space put aside, and the operator can act."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.factories.fleet import cpu_host, job, manifest
from tests.factories.small_disk import RECEIVER_BYTES, SmallDisk, small_disk
from training.fleet.receiver import build
from training.fleet.receiver_settings import ListenAddress, Settings


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(tmp_path / "disk", RECEIVER_BYTES) as mounted:
            yield mounted
    except PermissionError as error:
        pytest.skip(str(error))


def _settings(folder: Path) -> Settings:
    return Settings(
        listen=ListenAddress(), manifest=folder / "none.toml", db=folder / "q.db", store_root=folder / "models",
        incoming_root=folder / "incoming", index_path=folder / "models" / "index.jsonl", operator_token="t",
        stale_after_s=600.0, heartbeat_s=30.0, sweep_every_s=60.0, max_artifact_bytes=1 << 20,
    )  # fmt: skip


@pytest.mark.parametrize("leave_bytes", [0, 64 * 1024], ids=["nothing left", "enough to open, not to write"])
def test_it_starts_and_operator_verbs_go_on(disk: SmallDisk, leave_bytes: int) -> None:
    settings, first = _settings(disk.folder), manifest(job("x"))
    app, queue = build(settings, first, "t" * 64)
    assert queue.claim("a", cpu_host()).row is not None
    queue.close()
    more = replace(first, jobs=(job("x"), *(job(f"new{n}") for n in range(200))))
    disk.fill(leave_bytes)
    app, queue = build(settings, more, "t" * 64)
    assert queue.counts() == {"claimed": 1, "pending": 200}
    assert not app.state.coordinator.ballast.is_held, "claims are refused until there is room"
    assert queue.cancel(job("x").job_id)
    queue.close()
