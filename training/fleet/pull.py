"""Fetch an artifact: download beside the target, verify, unpack, and only then let the folder appear."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

from cis490.digest import sha256_file
from training.fleet.bundle import BundleError, extract
from training.fleet.client import FleetClient
from training.fleet.tables import Row, row_of, size
from training.trainer.options import LEAKY_RECIPES

METRICS_FILE, CONFIG_FILE = "metrics.json", "config.json"
MAX_METRICS_BYTES = 1024 * 1024
MOST_METRICS = 20


class PullError(Exception):
    """The artifact is not in the folder; nothing was left behind. The message says what to do."""


Progress = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all)."""


def pull(
    client: FleetClient, artifact: str, folder: Path, progress: Progress, *, keep_bundle: bool = False
) -> tuple[dict[str, int], dict[str, object]]:
    """Leave the artifact's files in the new `folder`; returns their sizes in bytes and the headline metrics.

    Raises as `fetch` does.
    """
    names = fetch(client, artifact, folder, progress, keep_bundle=keep_bundle)
    return {name: (folder / name).stat().st_size for name in names}, headline(folder / METRICS_FILE)


def fetch(
    client: FleetClient, artifact: str, folder: Path, progress: Progress, *, keep_bundle: bool = False
) -> list[str]:
    """Leave the artifact's files in the new `folder`, with `keep_bundle` also the bundle; returns the files' names.

    Raises PullError when the folder is in use, the bytes are not the artifact's or the archive is bad;
    what the client raises passes through. Whatever goes wrong, `folder` holds all files or none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PullError(
            f"{folder} is there already and not empty\n  next: cis490-jobs pull ... --out ANOTHER_FOLDER"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cis490-pull-", dir=folder.parent) as work:
            archive = Path(work) / "bundle.tar.zst"
            _download(client, artifact, archive, progress)
            names = list(extract(archive, folder))
            if keep_bundle:
                archive.replace(folder / archive.name)
            return names
    except BundleError as fault:
        raise PullError(f"artifact {artifact[:12]} cannot be unpacked: {fault}") from fault
    except OSError as fault:
        raise PullError(f"{folder} cannot be written: {fault}") from fault


def _download(client: FleetClient, artifact: str, archive: Path, progress: Progress) -> None:
    try:
        size_bytes = client.download_model(artifact, archive, progress)
    finally:
        close = getattr(progress, "close", None)
        if close is not None:
            close()
    found = sha256_file(archive)
    if found != artifact:
        raise PullError(
            f"artifact {artifact[:12]}: the {size(size_bytes)} that came have sha256 {found[:12]}; "
            "nothing was kept\n  next: try again; if it stays so, the receiver's store is damaged"
        )


def headline(path: Path) -> dict[str, object]:
    """The plain figures of the test side in a trainer's metrics file (of the whole file when it has no such
    side): numbers, intervals, and None for what is not defined. Nothing when there is no readable file."""
    try:
        with path.open("rb") as stream:
            tree: object = json.loads(stream.read(MAX_METRICS_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    found = cast(Row, tree) if isinstance(tree, dict) else {}
    side = row_of(found, "test") or found
    figures = {key: value for key, value in side.items() if value is None or _is_figure(value)}
    return dict(list(figures.items())[:MOST_METRICS])


def is_leaky(folder: Path) -> bool:
    """Does the artifact's configuration say that its split shows the model what it is tested on?"""
    try:
        config: object = json.loads((folder / CONFIG_FILE).read_bytes()[:MAX_METRICS_BYTES])
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("split_recipe") in LEAKY_RECIPES


def _is_figure(value: object) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= 2 and all(_is_figure(item) for item in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)
