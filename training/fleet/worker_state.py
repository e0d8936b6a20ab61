"""What a worker remembers across its own death, as files in its state folder:

    worker.lock              held by the living worker; its pid stands in it
    claim-request            id of a claim whose answer has not been written down yet
    leases/<key>.json        one lease each (mode 0600: it holds the token), and how it is to end once that is known
    spool/<key>.tar.zst      a finished result on its way to the receiver
    jobs/<key>/              a trainer's working folder
    checkpoints/<job_id>/    what a trainer needs to go on where it was interrupted; see `checkpoint_folders`
    datasets/<dataset_id>/   verified data sets, kept

<key> is the first 12 characters of the job's id and the lease's epoch: `3f1c0a9b2d4e-7`. A lease file is the
last thing to go, after everything that belongs to it was delivered or is known to be useless.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cis490.digest import is_digest, sha256_bytes, short
from cis490.failpoints import failpoint
from cis490.files import atomic_write, is_safe_name, make_folders
from cis490.locks import Held, hold
from training.fleet.checkpoint_folders import CheckpointFolders
from training.fleet.wire import ClaimAnswer, CompleteRequest, FailRequest, ReleaseRequest

Ending = CompleteRequest | FailRequest | ReleaseRequest
"""The request that ends a lease; the worker owes it to the receiver until it got a final answer."""

_KINDS: dict[str, type[CompleteRequest] | type[FailRequest] | type[ReleaseRequest]] = {
    "complete": CompleteRequest,
    "fail": FailRequest,
    "release": ReleaseRequest,
}


class InUse(Exception):
    """Another worker holds the state folder."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease that this worker was granted and has not got rid of yet."""

    job_id: str
    name: str
    epoch: int
    heartbeat_s: float
    token: str | None = field(repr=False)
    ending: Ending | None = None
    """None while the trainer is at work."""
    lease_s: float = 600.0
    """A lease file of an earlier version does not tell; it needs none, since its trainer is dead."""

    @property
    def key(self) -> str:
        return f"{short(self.job_id)}-{self.epoch}"


def record_of(answer: ClaimAnswer) -> LeaseRecord:
    """What is to be remembered of a claim's answer."""
    return LeaseRecord(
        answer.job_id,
        answer.name,
        answer.epoch,
        answer.heartbeat_s,
        answer.lease_token,
        lease_s=answer.lease_s,
    )


class StateFolder:
    """The files described above. Raises OSError when the folder cannot be used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.leases = root / "leases"
        self.spool = root / "spool"
        self.jobs = root / "jobs"
        self.datasets = root / "datasets"
        for folder in (self.leases, self.spool, self.jobs, self.datasets):
            make_folders(folder)
        if sys.platform != "win32":
            self.leases.chmod(0o700)
        self.checkpoints = CheckpointFolders(root / "checkpoints")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; InUse, naming the other's pid, when somebody else does."""
        try:
            with hold(self.root / "worker.lock"):
                yield
        except Held as error:
            raise InUse(
                f"another worker (pid {error.pid}) uses the state folder {self.root}; stop it "
                "(systemctl stop cis490-trainer-worker), or give this one a --state-dir and a --host of its own"
            ) from None

    def mark(self, record: LeaseRecord) -> str:
        """Names this worker's attempt among all processes of the machine, other fleets' workers' too."""
        return f"{record.key}@{sha256_bytes(str(self.root.resolve()).encode())}"

    # -- leases --------------------------------------------------------------------------------------

    def records(self) -> tuple[list[LeaseRecord], list[Path]]:
        """All leases, oldest first, and the files that are none. OSError for one that cannot be read just now."""
        found: list[LeaseRecord] = []
        damaged: list[Path] = []
        for path in sorted(self.leases.glob("*.json"), key=lambda one: one.stat().st_mtime):
            try:
                found.append(_decode(json.loads(path.read_bytes())))
            except (ValueError, TypeError, KeyError):
                damaged.append(path)
        return found, damaged

    def save(self, record: LeaseRecord) -> LeaseRecord:
        """Write the lease down, durably; returns it."""
        atomic_write(self._lease(record), json.dumps(_encode(record), indent=1).encode(), mode=0o600)
        return record

    def drop(self, record: LeaseRecord, *, keeps_checkpoint: bool) -> None:
        """Forget the lease and all that belongs to it; the job's checkpoint too, unless it `keeps_checkpoint`."""
        shutil.rmtree(self.job_folder(record), ignore_errors=True)
        if not keeps_checkpoint:
            self.checkpoints.remove(record.job_id)
        failpoint("worker.folder_dropped")
        self.bundle(record).unlink(missing_ok=True)
        failpoint("worker.bundle_dropped")
        self._lease(record).unlink(missing_ok=True)
        failpoint("worker.lease_dropped")

    def bundle(self, record: LeaseRecord) -> Path:
        """Where the packed result lies until it is delivered."""
        return self.spool / f"{record.key}.tar.zst"

    def job_folder(self, record: LeaseRecord) -> Path:
        """The trainer's working folder."""
        return self.jobs / record.key

    def log_folder(self, record: LeaseRecord) -> Path:
        """Where the guard writes what the trainer prints."""
        return self.job_folder(record) / "log"

    def end_file(self, record: LeaseRecord) -> Path:
        """Where the guard writes how the trainer ended, in case that the worker is dead by then."""
        return self.job_folder(record) / "end.json"

    def _lease(self, record: LeaseRecord) -> Path:
        return self.leases / f"{record.key}.json"

    # -- the rest ------------------------------------------------------------------------------------

    def claim_request(self, new_id: Callable[[], str]) -> str:
        """Id of the next claim: the last one as long as no lease came of it, also after a crash in between."""
        path = self.root / "claim-request"
        with contextlib.suppress(OSError, ValueError):
            known = path.read_text("ascii").strip()
            if is_safe_name(known):  # what is none would be refused, for ever
                return known
        made = new_id()
        atomic_write(path, made.encode("ascii"))
        return made

    def claim_answered(self) -> None:
        """The lease is written down: the next claim is another one."""
        (self.root / "claim-request").unlink(missing_ok=True)

    def dataset(self, dataset_id: str) -> Path:
        """Folder of a data set; it is verified if it is there."""
        return self.datasets / dataset_id

    def sweep(self, wall_s: float) -> None:
        """Remove what a killed worker left half done, and what has grown old. Call it while no job runs."""
        records = self.records()[0]
        keys = {record.key for record in records}
        self.checkpoints.sweep(wall_s, {record.job_id for record in records})
        for folder in self.jobs.iterdir():
            shutil.rmtree(folder, ignore_errors=True)
        for path in self.spool.iterdir():
            if path.name.removesuffix(".tar.zst") not in keys:
                path.unlink(missing_ok=True)
        for path in self.datasets.iterdir():
            if not is_digest(path.name):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _encode(record: LeaseRecord) -> dict[str, Any]:
    value = asdict(record)
    if record.ending is not None:
        kind = next(name for name, cls in _KINDS.items() if isinstance(record.ending, cls))
        value["ending"] = {"kind": kind, **asdict(record.ending)}
    return value


def _decode(value: dict[str, Any]) -> LeaseRecord:
    """Raises ValueError, TypeError or KeyError for anything but what `_encode` made."""
    ending: Ending | None = None
    if value["ending"] is not None:
        fields = dict(value["ending"])
        ending = _KINDS[fields.pop("kind")](**fields)
    record = LeaseRecord(**{**value, "ending": ending})
    if not is_digest(record.job_id) or not isinstance(record.epoch, int):
        raise ValueError("job_id or epoch is damaged")  # they become paths
    return record
