"""What the handlers work with: the queue behind its writer, the store, and the manifest in force."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cis490.ballast import Ballast
from cis490.episodes import dataset
from cis490.failpoints import failpoint
from cis490.logs import event
from cis490.pki.authority import Authority
from training.fleet import audit_trail
from training.fleet import manifest as manifests
from training.fleet import plan as plans
from training.fleet.artifact_files import ArtifactFiles
from training.fleet.enrolment import WrongSecrets
from training.fleet.event_bus import EventBus
from training.fleet.expectations import Remembered
from training.fleet.gc import Cleaner
from training.fleet.http_io import OperatorTokens
from training.fleet.manifest_faults import Fault, TrainingManifestError
from training.fleet.notifier import Notifier
from training.fleet.open_requests import OpenRequests
from training.fleet.peers import Peer
from training.fleet.queue import JobQueue
from training.fleet.request_times import RequestTimes
from training.fleet.standing import Standing
from training.fleet.store import ModelStore
from training.fleet.telemetry import Telemetry
from training.fleet.turns import whose_turn
from training.fleet.types import DatasetPin, Manifest, Retention
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
        former_operator_token: str | None = None,
    ) -> None:
        self.queue, self.store, self.manifest_path = queue, store, manifest_path
        self.operator_token = operator_tokens(operator_token, former_operator_token)
        self.max_artifact_bytes = max_artifact_bytes
        self.authority: Authority | None = None
        """Issues certificates; None: nobody can be enrolled here."""
        self.standing = Standing(queue)
        self.open_requests = OpenRequests(self.counts)
        self.wrong_secrets = WrongSecrets()
        self.artifact_files = ArtifactFiles(store.path_of)
        self.events = EventBus(
            lambda after, limit: audit_trail.after(queue, after, limit), lambda: audit_trail.span(queue)[1]
        )
        queue.on_audit = self.events.committed
        folder = queue.folder
        self.telemetry = Telemetry(
            None if folder is None else folder / "logs", queue.clock, self.events.publish
        )
        self.notifier = Notifier(queue, self.events, lambda: self.ballast)
        self.expectations = Remembered()
        self.event_streams = 0
        """Open streams of `GET /v1/events`."""
        self.request_times = RequestTimes({})
        self.exposition: object = None
        """The registry of `GET /metrics` (`training.fleet.metrics.Exposition`), once somebody has asked."""
        self.started_seq = audit_trail.span(queue)[1]
        """The newest event when this process began to serve: counters count from there."""
        self.ballast: Ballast | None = None
        """Given up when the disk is full; while it is not held, no claim and no upload is accepted."""
        self.manifest: Manifest | None = None
        """In force; None until one could be read."""
        self.started_at = queue.clock.wall_s()
        self.datasets: dict[str, DatasetPin] = queue.datasets()
        """Every dataset that was ever pinned here: a job claimed before a reload may still need its own."""
        self.sweep_every_s = 60.0
        self.swept_at_s = queue.clock.now_s()
        """When leases were last looked through, on the queue's clock; for whoever asks after the receiver's health."""
        self._round_s = time.monotonic()
        self._writer: Writer | None = None
        self.waiters = Waiters(
            lambda waiting, news_only: self.write(lambda: whose_turn(queue, waiting, news_only=news_only))
        )
        self.cleaner = Cleaner(queue, store, self.write, self.telemetry)
        self._reloading = asyncio.Lock()
        self.plans = plans.Plans()
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

    @property
    def retention(self) -> Retention:
        """The rules of the manifest in force; none while there is no manifest that could be read."""
        return self.manifest.retention if self.manifest is not None else Retention()

    def counts(self, peer: Peer) -> bool:
        """Is the certificate that this request came with good now, as far as revocation and its end go?"""
        if not peer.serial:
            return True
        is_over = self.queue.clock.wall_s() > peer.not_after_s
        return not is_over and self.standing.is_denied(peer.role, peer.name, peer.serial) is None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self.telemetry.close()

    def reaper_ticked(self) -> None:
        """The reaper's timer has come round, whatever comes of its sweep."""
        self._round_s = time.monotonic()

    def reaper_age_s(self) -> float:
        """How long ago that was, without the time in which this machine was suspended."""
        return time.monotonic() - self._round_s

    async def after_sweep(self) -> None:
        """What is due from time to time, beside the leases."""
        self.swept_at_s = self.queue.clock.now_s()
        self.open_requests.look()
        await self.store.expire_partials(self.queue.may_upload)
        await self.telemetry.look(lambda: asyncio.to_thread(self.queue.workers))
        await self.cleaner.daily(self.retention)

    def trouble(self) -> dict[str, str]:
        """A sentence for each of `disk`, `writer` and `reaper` that does not work as it should."""
        found = {}
        if self.ballast is not None and not self.ballast.is_held:
            found["disk"] = self.ballast.refusal
        if self.writer.trouble:
            found["writer"] = self.writer.trouble
        silent_s = self.queue.clock.now_s() - self.swept_at_s
        if silent_s > 3 * self.sweep_every_s:
            found["reaper"] = (
                f"leases were last looked through {silent_s:.0f} s ago; see reaper.failed in the log"
            )
        return found

    def changed(self) -> None:
        """Something may have become claimable: call those claims that wait and would now get a job."""
        self.waiters.changed()

    def stop_waiting(self) -> None:
        """The process is to end; called from the signal's handler, on the loop's own thread."""
        self.stopping = True
        self.waiters.call_all()
        self.events.close()
        self.store.stop_receiving()

    async def plan(self, text: str | None = None, name: str = "") -> plans.Plan:
        """What a reload of the manifest file, or of `text`, would do. Raises `TrainingManifestError`."""
        async with self._reloading:
            found, digest = await asyncio.to_thread(read_manifest, self.manifest_path, text, name)
            in_force = self.manifest
            picture = await self.write(lambda: plans.look(self.queue, found, in_force))
            made = await asyncio.to_thread(plans.make, picture, found, digest, preview=text is not None)
        made.body["manifest"]["own_path"] = str(self.manifest_path)
        if text is None:
            self.plans.keep(made)
        return made

    async def reload(
        self, plan_id: str | None = None, *, actor: str = "operator"
    ) -> tuple[dict[str, int], Manifest]:
        """Read the manifest and put it in force; with `plan_id` only if that plan still holds.

        Raises `TrainingManifestError` or `plan.PlanRefused`; the old one then stays.
        """
        # One after the other, in the order of the requests: an older file must not win over a newer one.
        async with self._reloading:
            made = None if plan_id is None else self.plans.named(plan_id)
            found, digest = await asyncio.to_thread(read_manifest, self.manifest_path)
            in_force = self.manifest
            if made is not None and made.was_applied(found, digest, in_force):
                return made.applied, found  # the answer was lost, and the request came again
            failpoint("coordinator.reload_read")
            counts = await self.write(
                lambda: plans.put_in_force(self.queue, found, digest, made, in_force, actor=actor)
            )
            if isinstance(counts, plans.Refusal):
                if counts.fresh is not None:
                    self.plans.keep(counts.fresh)
                raise plans.PlanRefused(counts)
            self.changed()
            self.adopt(found)
            if made is not None:
                made.applied.update(counts)
            failpoint("coordinator.reload_applied")
        event(
            log,
            "manifest.applied",
            digest=found.digest[:12],
            jobs=len(found.jobs),
            hosts=len(found.hosts),
            actor=actor,
            **counts,
        )
        return counts, found

    def adopt(self, found: Manifest) -> None:
        """This manifest is in force from now on; the dataset that it pins is served."""
        self.manifest = found
        self.notifier.configure(found.notify, found.name, os.environ)
        if found.dataset is not None:
            self.datasets[found.dataset.dataset_id] = found.dataset


def operator_tokens(current: str | None, former: str | None = None) -> OperatorTokens | None:
    """None when there is none. A former one without a current one opens nothing."""
    now = (current or "").strip()
    return OperatorTokens(now, (former or "").strip()) if now else None


def read_manifest(path: Path, text: str | None = None, name: str = "") -> tuple[Manifest, str]:
    """The manifest, its dataset verified, and the digest of the trainer it will be trained with: the
    receiver's own checkout. `text` is read as if it stood at `path`; messages call it `name`.
    Raises TrainingManifestError."""
    where = name or path.name
    found = manifests.load(path) if text is None else manifests.loads(text, where, path.parent, path.stem)
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
            hint = "pin the id of that file, or put the right file there"
            fault = Fault(
                None,
                "[dataset]",
                str(error),
                "the episodes that id names",
                hint,
                manifest,
                "dataset.file",
                "E122",
            )
            raise TrainingManifestError((fault,)) from error
