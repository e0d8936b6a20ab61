"""Payload bytes <-> numpy arrays.

Byte order of a payload: each row of the int64 matrix (time, then the channels) is replaced by its first value
followed by the differences between neighbours; the little-endian bytes of the result are written plane by plane:
byte 0 of every element, then byte 1, up to byte 7. Most differences are small, so most planes are zeros and
compress well. Differences wrap modulo 2**64, which makes the transform lossless for every int64 matrix.
"""

import numpy as np
from numpy.typing import NDArray

from cis490.episodes.format import EpisodeError, EpisodeMeta


def to_payload(matrix: NDArray[np.int64]) -> bytes:
    """Bytes of `matrix`: int64 (1 + channels, samples), row 0 = time in microseconds since the start."""
    if matrix.ndim != 2 or matrix.dtype != np.int64:
        raise ValueError(f"expected a two-dimensional int64 matrix, found {matrix.dtype} {matrix.shape}")
    steps = np.diff(matrix.astype("<u8"), axis=1, prepend=np.uint64(0))
    planes = steps.astype("<u8").reshape(-1, 1).view(np.uint8).T
    return planes.tobytes()


def from_payload(meta: EpisodeMeta, payload: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Time `t_us` int64 (n,) and values int64 (n, channels) of a payload that `parse` accepted.

    Raises `EpisodeError` when time does not start at or after 0 or does not grow from sample to sample.
    """
    rows = 1 + len(meta.channels)
    planes = np.frombuffer(payload, dtype=np.uint8).reshape(8, rows * meta.n_samples)
    steps = np.ascontiguousarray(planes.T).view("<u8").reshape(rows, meta.n_samples)
    matrix = np.cumsum(steps, axis=1, dtype=np.uint64).view(np.int64)
    t_us = matrix[0].copy()
    if t_us[0] < 0 or bool(np.any(t_us[1:] <= t_us[:-1])):
        raise EpisodeError(
            f"episode of profile {meta.profile!r} on host {meta.host!r}: its time stamps do not grow from 0 on; "
            "the file was written by a faulty recorder, leave it out"
        )
    return t_us, np.ascontiguousarray(matrix[1:].T)
