"""Harmless stand-ins: they load the machine as some malware does and do nothing else.

They touch only files that they made themselves, put random bytes into them, talk to 127.0.0.1 only, and are
bounded in bytes, processes and time by the sandbox.
"""

import random
import time
import zlib
from collections.abc import Mapping
from typing import Final

from collection.profiles.base import (
    CHUNK_BYTES,
    Profile,
    burn,
    burn_share,
    drain,
    file_name,
    make_files,
    pace,
    request,
    serve,
    wait_about,
)
from collection.sandbox import Sandbox

SWEEP_PORTS: Final = range(20_000, 30_000)


def _overwrite(box: Sandbox, number: int, rate_kib_s: int) -> None:
    """Read one of our files piece by piece and overwrite each piece with random bytes."""
    offset = 0
    while box.running:
        started = time.monotonic()
        data = box.read(file_name(number), offset, CHUNK_BYTES)
        if not data:
            return
        noise = box.random_bytes(len(data))
        # A short piece is the file's end: on disk before the next file, as a backup does it.
        box.write(file_name(number), noise, offset=offset, sync=len(data) < CHUNK_BYTES)
        offset += len(data)
        pace(box, len(data), rate_kib_s, started)


def bulk_rewrite(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Overwrites a file set with random bytes, over and over."""
    while box.running:
        for number in range(p["file_count"]):
            _overwrite(box, number, p["rate_kib_s"])


def wipe(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Overwrites and deletes a file set; when nothing is left, makes a small new one."""
    while box.running:
        for number in range(p["file_count"]):
            _overwrite(box, number, p["rate_kib_s"])
            if box.running:
                box.delete(file_name(number))
                box.pause(p["gap_ms"] / 1000)
        if box.running:
            make_files(box, {"file_count": p["file_count"], "file_kib": min(p["file_kib"], 64)}, rng)


def beacon(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """A small exchange with our own server at nearly regular times, and a little work after each."""
    listener = box.listen()
    port = int(listener.getsockname()[1])
    box.spawn(lambda child: serve(child, listener, p["reply_bytes"]))
    listener.close()
    while box.running:
        request(box, port, p["request_bytes"], p["reply_bytes"])
        burn(p["burst_ms"])
        wait_about(box, p["period_ms"], p["jitter_percent"], rng)


def busy_hash(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Hashes without purpose at a steady share of the processor, in one or two processes."""

    def work(child: Sandbox) -> None:
        while child.running:
            burn_share(child, p["slice_ms"], p["duty_percent"])

    for _ in range(p["workers"] - 1):
        box.spawn(work)
    work(box)


def port_sweep(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Knocks at ports of 127.0.0.1 in random order, a few at a time; sends nothing."""
    ports = rng.sample(SWEEP_PORTS, len(SWEEP_PORTS))
    while box.running:
        for _ in range(p["ports"]):
            connection = box.connect(ports.pop() if ports else rng.choice(SWEEP_PORTS), timeout_s=0.2)
            if connection is not None:
                connection.close()
        wait_about(box, p["period_ms"], p["jitter_percent"], rng)


def staging(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Reads a file set, compresses it and streams it to our own sink on the loopback interface."""
    listener = box.listen()
    port = int(listener.getsockname()[1])
    box.spawn(lambda child: drain(child, listener))
    listener.close()
    connection = box.connect(port)
    while box.running and connection is not None:
        for number in range(p["file_count"]):
            offset = 0
            while box.running:
                started = time.monotonic()
                data = box.read(file_name(number), offset, CHUNK_BYTES)
                if not data:
                    break
                offset += len(data)
                connection.sendall(zlib.compress(data, p["zlib_level"]))
                pace(box, len(data), p["rate_kib_s"], started)
    if connection is not None:
        connection.close()


def spawn_burst(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Bursts of short-lived programs."""
    while box.running:
        for _ in range(p["jobs"]):
            box.run_short(round(p["functions"] * rng.uniform(0.5, 1.5)), wait=False)
        wait_about(box, p["period_ms"], p["jitter_percent"], rng)


_FILES: Final = {"file_count": (6, 24), "file_kib": (32, 384)}

STAND_INS: Final = (
    Profile(
        "bulk_rewrite",
        "destruction",
        "suspicious",
        _FILES | {"rate_kib_s": (300, 2500)},
        bulk_rewrite,
        make_files,
    ),
    Profile(
        "wipe",
        "destruction",
        "suspicious",
        _FILES | {"rate_kib_s": (200, 2500), "gap_ms": (1, 100)},
        wipe,
        make_files,
    ),
    Profile(
        "beacon",
        "command",
        "suspicious",
        {
            "period_ms": (100, 900),
            "jitter_percent": (5, 40),
            "request_bytes": (50, 1500),
            "reply_bytes": (200, 8000),
            "burst_ms": (3, 60),
        },
        beacon,
    ),
    Profile(
        "busy_hash",
        "compute",
        "suspicious",
        {"workers": (1, 2), "duty_percent": (20, 95), "slice_ms": (20, 200)},
        busy_hash,
    ),
    Profile(
        "port_sweep",
        "discovery",
        "suspicious",
        {"period_ms": (20, 300), "jitter_percent": (5, 60), "ports": (1, 20)},
        port_sweep,
    ),
    Profile(
        "staging",
        "exfiltration",
        "suspicious",
        _FILES | {"rate_kib_s": (300, 2500), "zlib_level": (1, 6)},
        staging,
        make_files,
    ),
    Profile(
        "spawn_burst",
        "spawning",
        "suspicious",
        {"period_ms": (250, 1500), "jitter_percent": (5, 40), "jobs": (1, 6), "functions": (20, 500)},
        spawn_burst,
    ),
)
