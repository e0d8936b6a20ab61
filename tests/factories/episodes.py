"""Small synthetic episodes with a known signal, written through the real episode format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cis490.episodes.arrays import to_payload
from cis490.episodes.format import Channel, EpisodeMeta, Interval, encode

HZ = 10
CHANNELS = (
    Channel("sys.cpu.user", "ticks", "counter"),
    Channel("sys.mem.free", "KiB", "gauge"),
    Channel("block.write_bytes", "bytes", "counter"),
    Channel("tree.io.wchar", "bytes", "counter"),
    Channel("tree.processes", "processes", "gauge"),
)


@dataclass(frozen=True)
class Recipe:
    """One synthetic episode. Suspicious ones write to disk after the onset, benign ones use the processor;
    without `signal` both do the latter."""

    host: str
    family: str
    variant: int
    suspicious: bool
    seconds: float = 15.0
    onset_s: float = 4.0
    signal: bool = True
    started_at_s: int | None = None


def meta_of(recipe: Recipe, n_samples: int, channels: Sequence[Channel] = CHANNELS) -> EpisodeMeta:
    """Meta data for an episode of `n_samples` samples."""
    onset_us, end_us = int(recipe.onset_s * 1e6), int(recipe.seconds * 1e6)
    label: Literal["benign", "suspicious"] = "suspicious" if recipe.suspicious else "benign"
    return EpisodeMeta(
        host=recipe.host,
        profile=recipe.family,
        family=recipe.family,
        variant=recipe.variant,
        parameters={"size": recipe.variant},
        background="none",
        intervals=(
            Interval(0, onset_us, "benign", "baseline"),
            Interval(onset_us, end_us, label, "active"),
        ),
        hz=HZ,
        n_samples=n_samples,
        dropped_samples=0,
        channels=tuple(channels),
        kernel="test",
        cpu_count=2,
        tool_version="test",
        simulated=True,
        shape="test",
        licence="CC0-1.0",
        started_at_s=recipe.started_at_s,
    )


def columns_of(recipe: Recipe, seed: int) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Time in microseconds int64 (n,) and the raw values int64 (n,) of each channel."""
    rng = np.random.default_rng([seed, recipe.variant])
    n = int(recipe.seconds * HZ)
    t_us = np.arange(n, dtype=np.int64) * 100_000 + rng.integers(0, 5_000, n)
    active = t_us >= recipe.onset_s * 1e6
    writes = recipe.suspicious and recipe.signal
    level = 1 + len(recipe.host) + recipe.variant % 3
    written = rng.poisson(2_000 * level, n) * np.where(active & writes, 3, 1)
    used = rng.poisson(2 * level, n) + np.where(active & (not writes), rng.poisson(4, n), 0)
    values = {
        "sys.cpu.user": np.cumsum(used),
        "sys.mem.free": 1_000_000 * level + rng.integers(-500, 500, n),
        "block.write_bytes": np.cumsum(written),
        "tree.io.wchar": np.cumsum(np.where(active & writes, written, 0)),
        "tree.processes": np.where(active, 3, 1),
    }
    return t_us, {name: column.astype(np.int64) for name, column in values.items()}


def episode_bytes(
    recipe: Recipe,
    seed: int = 0,
    channels: Sequence[Channel] = CHANNELS,
    overwrite: Mapping[str, NDArray[np.int64]] | None = None,
) -> bytes:
    """The file of one episode; `overwrite` replaces raw columns by name."""
    t_us, columns = columns_of(recipe, seed)
    columns |= dict(overwrite or {})
    matrix = np.stack([t_us, *(columns[channel.name] for channel in channels)]).astype(np.int64)
    return encode(meta_of(recipe, len(t_us), channels), to_payload(matrix))


def write_episode(folder: Path, name: str, data: bytes) -> Path:
    """Write the file where a data set keeps it: `<host>/<name>.episode`, with the host in `name`."""
    path = folder / f"{name}.episode"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def recipes(hosts: Sequence[str] = ("lab-a", "lab-b", "lab-c"), per_host: int = 8) -> list[Recipe]:
    """`per_host` episodes of each host, one a minute: two benign and two suspicious families, each with its own
    variants."""
    families = (("compile", False), ("rewrite", True), ("web", False), ("beacon", True))
    return [
        Recipe(
            host,
            families[n % 4][0],
            variant=n // 4 + 10 * h,
            suspicious=families[n % 4][1],
            started_at_s=1_700_000_000 + 60 * n,
        )
        for h, host in enumerate(hosts)
        for n in range(per_host)
    ]


def write_dataset(
    folder: Path, chosen: Sequence[Recipe] | None = None, seed: int = 0, seconds: float | None = None
) -> Path:
    """A data set of synthetic episodes; returns the folder."""
    for n, recipe in enumerate(recipes() if chosen is None else chosen):
        made = recipe if seconds is None else replace(recipe, seconds=seconds)
        write_episode(folder, f"{recipe.host}/{n:03d}-{recipe.family}", episode_bytes(made, seed + n))
    return folder
