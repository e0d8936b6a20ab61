"""The smallest valid episode: two channels, three samples."""

from dataclasses import replace

import numpy as np

from cis490.episodes.arrays import to_payload
from cis490.episodes.format import Channel, EpisodeMeta, Interval, encode

META = EpisodeMeta(
    host="lab-a",
    profile="backup",
    family="storage",
    variant=7,
    parameters={"rate_kib_s": 300},
    background="none",
    intervals=(Interval(0, 100_000, "benign", "baseline"), Interval(100_000, 200_000, "benign", "active")),
    hz=10,
    n_samples=3,
    dropped_samples=0,
    channels=(Channel("sys.cpu.user", "ticks", "counter"), Channel("tree.fds", "descriptors", "gauge")),
    kernel="Linux 6.1",
    cpu_count=2,
    tool_version="cis490-collection 1",
    simulated=True,
    shape="cpuset 0; quota 60 %",
    licence="CC0-1.0",
)
MATRIX = np.array([[3, 100_004, 200_001], [10, 12, 15], [4, 5, 4]], dtype=np.int64)
PAYLOAD = to_payload(MATRIX)


def episode_bytes(host: str = "lab-a", variant: int = 7) -> bytes:
    """A valid file; another variant gives another episode."""
    return encode(replace(META, host=host, variant=variant), PAYLOAD)
