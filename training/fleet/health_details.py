"""The receiver's own figures, as `GET /v1/health?details=1` tells them. Reads the disk: not for the event loop."""

from __future__ import annotations

import platform
import shutil
import sqlite3
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from training.fleet.coordinator import Coordinator

PACKAGES = ("cis490", "starlette", "uvicorn", "msgspec", "jinja2")


def details(app: Coordinator) -> dict[str, Any]:
    """Manifest in force, disks, database, ballast, sweeps, streams and versions; null is unknown."""
    manifest = app.manifest
    return {
        "started_at": app.started_at,
        "manifest": {
            "path": str(app.manifest_path),
            "digest": None if manifest is None else manifest.digest,
            "n_jobs": 0 if manifest is None else len(manifest.jobs),
        },
        "volumes": {
            name: _volume(folder) for name, folder in (("database", app.queue.folder), ("artifacts", app.store.root))
        },
        "db_size_bytes": app.queue.size_bytes(),
        "ballast_held": None if app.ballast is None else app.ballast.is_held,
        "last_sweep_age_s": max(0.0, app.queue.clock.now_s() - app.swept_at_s),
        "sweep_every_s": app.sweep_every_s,
        "event_streams": app.event_streams,
        "waiting_claims": len(app.waiters),
        "versions": {
            "python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "system": platform.platform(),
            **{name: _version(name) for name in PACKAGES},
        },
    }  # fmt: skip


def _volume(folder: Path | None) -> dict[str, Any] | None:
    """Space on the volume of this folder; None while the folder is not there."""
    try:
        found = None if folder is None else shutil.disk_usage(folder)
    except OSError:
        return None
    return (
        None if found is None else {"path": str(folder), "free_bytes": found.free, "total_bytes": found.total}
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout that was not installed
        return None
