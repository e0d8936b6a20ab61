"""What the handlers work with: the queue behind its writer, the store, and the manifest in force."""

from __future__ import annotations

import asyncio
import functools
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cis490.ballast import Ballast
from cis490.episodes import dataset
from cis490.failpoints import failpoint
from cis490.logs import event
from training.fleet import manifest as manifests
from training.fleet.manifest_faults import Fault, TrainingManifestError
from training.fleet.queue import JobQueue
from training.fleet.store import ModelStore
from training.fleet.turns import whose_turn
from training.fleet.types import DatasetPin, Manifest
from training.fleet.waiters import Waiters
from training.fleet.writer import Writer
from training.trainer.digest import trainer_digest

T = TypeVar("T")
log = logging.getLogger(__name__)
CHECKOUT = Path(__file__).resolve().parents[2]


class Coordinator:
    """One receiver's parts. Handlers find it at `request.app.state.coordinator`."""

    def __init__(
        self,
        *,
        queue: JobQueue,
        store: ModelStore,
        manifest_path: Path,
        operator_token: str | None,
        max_artifact_bytes: int,
    ) -> None:
        self.queue, self.store, self.manifest_path = queue, store, manifest_path
        self.operator_token = (operator_token or "").strip() or None
        self.max_artifact_bytes = max_artifact_bytes
        self.ballast: Ballast | None = None
        """Given up when the disk is full; while it is not held, no claim and no upload is accepted."""
        self.datasets: dict[str, DatasetPin] = queue.datasets()
        """Every dataset that was ever pinned here: a job claimed before a reload may still need its own."""
        self.sweep_every_s = 60.0
        self.swept_at_s = queue.clock.now_s()
        """When leases were last looked through, on the queue's clock; for whoever asks after the receiver's health."""
        self._writer: Writer | None = None
        self.waiters = Waiters(
            lambda waiting, news_only: self.write(lambda: whose_turn(queue, waiting, news_only=news_only))
        )
        self._reloading = asyncio.Lock()
        self.stopping = False
        """Set when the process is to end: claims that wait are answered at once, and so are uploads under way."""

    async def write(self, call: Callable[[], T]) -> T:
        """Run a call on the queue in the writer's next transaction; its result once committed."""
        return await self.writer.run(call)

    @property
    def writer(self) -> Writer:
        if self._writer is None:
            self._writer = Writer(self.queue, self.ballast)
        return self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def after_sweep(self) -> None:
        """What is due from time to time, beside the leases."""
        self.swept_at_s = self.queue.clock.now_s()
        await self.store.expire_partials(self.queue.may_upload)

    def changed(self) -> None:
        """Something may have become claimable: call those claims that wait and would now get a job."""
        self.waiters.changed()

    def stop_waiting(self) -> None:
        """The process is to end; called from the signal's handler, on the loop's own thread."""
        self.stopping = True
        self.waiters.call_all()
        self.store.stop_receiving()

    async def reload(self) -> tuple[dict[str, int], Manifest]:
        """Read the manifest and put it in force. Raises `TrainingManifestError`; the old one then stays."""
        # One after the other, in the order of the requests: an older file must not win over a newer one.
        async with self._reloading:
            found, digest = await asyncio.to_thread(read_manifest, self.manifest_path)
            failpoint("coordinator.reload_read")
            counts = await self.write(lambda: self.queue.apply_manifest(found, trainer_digest=digest))
            self.changed()
            self.adopt(found)
            failpoint("coordinator.reload_applied")
        event(
            log,
            "manifest.applied",
            digest=found.digest[:12],
            jobs=len(found.jobs),
            hosts=len(found.hosts),
            **counts,
        )
        return counts, found

    def adopt(self, found: Manifest) -> None:
        """Serve the dataset that this manifest pins, from now on."""
        if found.dataset is not None:
            self.datasets[found.dataset.dataset_id] = found.dataset


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest, its dataset verified, and the digest of the trainer it will be trained with: the
    receiver's own checkout. Raises TrainingManifestError."""
    found = manifests.load(path)
    if found.dataset is not None:
        stat = Path(found.dataset.path).stat()
        _verify(found.dataset, str(path), stat.st_size, stat.st_mtime_ns)
    return found, trainer_digest(CHECKOUT)


@functools.lru_cache(maxsize=8)
def _verify(pin: DatasetPin, manifest: str, size_bytes: int, changed_ns: int) -> None:
    """The file really holds the pinned episodes. Else every worker would find out by itself, hours later.

    Size and time of change are arguments so that an unchanged file is read once.
    """
    with tempfile.TemporaryDirectory(prefix="cis490-dataset-") as scratch:
        try:
            dataset.unpack(Path(pin.path), Path(scratch) / "episodes", pin.dataset_id)
        except dataset.DatasetError as error:
            fault = Fault(None, "[dataset]", str(error), "the episodes that id names", source=manifest)
            raise TrainingManifestError((fault,)) from error
