"""What a profile is, and the building blocks that benign profiles and stand-ins share.

Both labels use the same blocks and overlapping ranges, so that no single number (rate, file size, period) gives
the label away.
"""

import hashlib
import math
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cis490.episodes.format import Label
from collection.sandbox import Sandbox

CHUNK_BYTES: Final = 65_536
_TEXT: Final = b"2024-05-01 12:00:00 INFO service=demo request handled status=200 bytes=5120 took_ms=12\n"

Work = Callable[[Sandbox, Mapping[str, int], random.Random], None]


def nothing_to_prepare(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Preparation of a profile that needs no files."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of workload.

    `ranges`: parameter -> (lowest, highest), unit in the name. `prepare` runs before the recording starts, `run`
    inside it and until the sandbox's time is over. Profiles of one `family` behave alike.
    """

    name: str
    family: str
    label: Label
    ranges: Mapping[str, tuple[int, int]]
    run: Work
    prepare: Work = nothing_to_prepare

    def draw(self, rng: random.Random) -> dict[str, int]:
        """Parameters, log-uniform in their ranges: a rate of 200 to 400 is as likely as one of 1000 to 2000."""
        return {
            name: round(math.exp(rng.uniform(math.log(low), math.log(high))))
            for name, (low, high) in sorted(self.ranges.items())
        }


def burn(milliseconds: float) -> None:
    """Use the processor for `milliseconds` of CPU time of this process."""
    until = time.process_time() + milliseconds / 1000
    data = b"x" * 4096
    while time.process_time() < until:
        data = hashlib.sha256(data).digest() * 128


def burn_share(box: Sandbox, slice_ms: int, duty_percent: int) -> None:
    """One slice of steady work: busy for `duty_percent` of `slice_ms`, then a wait."""
    busy_ms = slice_ms * duty_percent / 100
    burn(busy_ms)
    box.pause((slice_ms - busy_ms) / 1000)


def wait_about(box: Sandbox, period_ms: int, jitter_percent: int, rng: random.Random) -> None:
    """Wait for a period that varies by up to `jitter_percent` either way."""
    box.pause(period_ms / 1000 * (1 + rng.uniform(-1, 1) * min(jitter_percent, 100) / 100))


def content(size_bytes: int) -> bytes:
    """File content as found on a disk: half text that compresses, half random."""
    half = size_bytes // 2
    return (_TEXT * (half // len(_TEXT) + 1))[:half] + Sandbox.random_bytes(size_bytes - half)


def log_lines(size_bytes: int) -> bytes:
    """About `size_bytes` of log text."""
    return _TEXT * max(1, size_bytes // len(_TEXT))


def file_name(number: int) -> str:
    """Name of the n-th file of a file set."""
    return f"file-{number:03d}.dat"


def make_files(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """A file set: `file_count` files of `file_kib` KiB give or take a half, all on disk when this returns."""
    for number in range(p["file_count"]):
        size = round(p["file_kib"] * 1024 * rng.uniform(0.5, 1.5))
        box.delete(file_name(number))
        box.write(file_name(number), content(size), sync=True)


def pace(box: Sandbox, size_bytes: int, rate_kib_s: int, started: float) -> None:
    """Wait so long that `size_bytes`, whose handling began at `started`, take as long as the rate says."""
    box.pause(max(0.0, size_bytes / 1024 / rate_kib_s - (time.monotonic() - started)))


def serve(box: Sandbox, listener: socket.socket, reply_bytes: int) -> None:
    """Answer each connection's requests with `reply_bytes` until the time is over."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % reply_bytes + content(reply_bytes)
    while box.running:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection:
            connection.settimeout(1.0)
            try:
                while connection.recv(CHUNK_BYTES):
                    connection.sendall(reply)
            except OSError:
                continue


def drain(box: Sandbox, listener: socket.socket) -> None:
    """Accept connections and throw away what arrives, until the time is over."""
    while box.running:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection:
            connection.settimeout(0.5)
            while box.running:
                try:
                    if not connection.recv(CHUNK_BYTES):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break


def request(box: Sandbox, port: int, request_bytes: int, reply_bytes: int) -> None:
    """One connection to our own server: send a request, read the reply, close."""
    connection = box.connect(port)
    if connection is None:
        return
    with connection:
        try:
            connection.sendall(b"GET /" + b"a" * request_bytes + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            left = reply_bytes
            while left > 0 and (data := connection.recv(CHUNK_BYTES)):
                left -= len(data)
        except OSError:
            return
