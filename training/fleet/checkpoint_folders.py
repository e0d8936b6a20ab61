"""Where trainers of this host write their checkpoints, one folder a job, and how long each folder is kept.

The worker never reads a checkpoint: the trainer verifies what it finds, and starts anew when it does not fit. A
folder that goes too early costs time and no result; one that stays too long costs room on the disk.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from cis490.digest import is_digest
from cis490.files import make_folders
from training.fleet.wire import CompleteRequest, FailRequest, ReleaseRequest

MAX_AGE_S = 7 * 86400.0
"""A job that nobody brought back to this host for so long has most likely been trained elsewhere."""
_MAY_COME_BACK = ("pending", "claimed", "running")


def is_kept_after(ending: CompleteRequest | FailRequest | ReleaseRequest | None) -> bool:
    """Is the checkpoint of any use once the receiver took this ending (None: of a worker that was killed)? Pure.

    A failure that is the program's own may have been caused by the checkpoint: the next try starts anew.
    """
    match ending:
        case CompleteRequest():
            return False
        case FailRequest():
            return ending.fail_class == "preempted"
        case _:
            return True


def is_kept_without_lease(job_status: object) -> bool:
    """The same when the receiver said that the lease is gone, by what it told of the job. Pure.

    A job that waits, or that another host trains, may be handed to this one again. Of a job that is completed,
    cancelled or failed, or not known any more, nothing is needed here.
    """
    return job_status in _MAY_COME_BACK


class CheckpointFolders:
    """The folders `<root>/<job_id>`; only the worker's own user may look into them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_folders(root)
        _close_to_others(root)

    def folder(self, job_id: str) -> Path:
        """Where it is, there or not. `job_id` must be a digest."""
        return self.root / job_id

    def prepare(self, job_id: str, *, is_resumed: bool) -> Path:
        """The folder for the next attempt: as the last one left it if `is_resumed`, else empty."""
        if not is_resumed:
            self.remove(job_id)
        folder = self.folder(job_id)
        make_folders(folder)
        _close_to_others(folder)
        return folder

    def remove(self, job_id: str) -> None:
        """Forget what was saved of this job."""
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def sweep(self, wall_s: float, leased: Collection[str]) -> None:
        """Remove what is older than a week at the wall time `wall_s`, and what is no job's. The jobs in `leased`
        are still owed to the receiver: theirs stay."""
        for path in self.root.iterdir():
            if path.name in leased:
                continue
            try:
                is_old = (
                    wall_s - path.stat().st_mtime > MAX_AGE_S
                )  # a folder's time moves with each checkpoint in it
            except FileNotFoundError:
                continue
            if is_old or not is_digest(path.name):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _close_to_others(folder: Path) -> None:
    if sys.platform != "win32":
        folder.chmod(0o700)
