"""Benign profiles: what an ordinary small server or desktop does."""

import contextlib
import random
import sqlite3
import time
import zlib
from collections.abc import Mapping
from typing import Final

from collection.profiles.base import (
    CHUNK_BYTES,
    Profile,
    burn,
    content,
    file_name,
    log_lines,
    make_files,
    pace,
    request,
    serve,
    wait_about,
)
from collection.sandbox import Sandbox


def interactive(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Sporadic short work, as when somebody edits a file."""
    while box.running:
        burn(p["burst_ms"] * rng.uniform(0.5, 1.5))
        box.write("notes.txt", log_lines(p["save_bytes"]))
        wait_about(box, p["period_ms"], p["jitter_percent"], rng)


def build(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """A build: short compilers one after the other, up to `workers` at once, each leaving an object file."""
    number = 0
    while box.running:
        for _ in range(p["workers"]):
            box.run_short(round(p["functions"] * rng.uniform(0.5, 1.5)), wait=False)
        number += 1
        box.write(f"object-{number % 50:02d}.o", content(p["functions"] * 40), offset=0)
        wait_about(box, p["period_ms"], 50, rng)


def web(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """A server on the loopback interface and its client."""
    listener = box.listen()
    port = int(listener.getsockname()[1])
    box.spawn(lambda child: serve(child, listener, p["reply_bytes"]))
    listener.close()
    while box.running:
        request(box, port, p["request_bytes"], p["reply_bytes"])
        burn(p["burst_ms"])
        wait_about(box, p["period_ms"], p["jitter_percent"], rng)


def backup(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Reads a file set again and again and writes a compressed copy."""
    while box.running:
        for number in range(p["file_count"]):
            offset = 0
            while box.running:
                started = time.monotonic()
                data = box.read(file_name(number), offset, CHUNK_BYTES)
                if not data:
                    break
                offset += len(data)
                box.write("backup.bin", zlib.compress(data, p["zlib_level"]))
                pace(box, len(data), p["rate_kib_s"], started)
            box.write("backup.bin", b"end of file\n", sync=True)
        box.delete("backup.bin")


def database(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Small transactions, each on disk before the next, with reads in between."""
    with contextlib.closing(sqlite3.connect(box.path("data.db"))) as db:
        db.executescript("PRAGMA temp_store=MEMORY; PRAGMA synchronous=FULL;")
        db.execute("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, body BLOB)")
        while box.running:
            rows = max(1, round(p["rows"] * rng.uniform(0.5, 1.5)))
            # Each page is written twice: to the journal and to the file; 8 KiB for the header pages.
            box.charge(2 * rows * p["row_bytes"] + 8192)
            with db:
                bodies = [(box.random_bytes(p["row_bytes"]),) for _ in range(rows)]
                db.executemany("INSERT INTO item (body) VALUES (?)", bodies)
            db.execute("SELECT count(*), max(length(body)) FROM item").fetchone()
            wait_about(box, p["period_ms"], p["jitter_percent"], rng)


def transcode(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Steady processor work on a stream, and steady writing of its result."""
    number = 0
    while box.running:
        started = time.monotonic()
        burn(p["work_ms"] * rng.uniform(0.7, 1.3))
        # The name goes round after 16 MiB, so that the file stays small.
        box.write("stream.out", box.random_bytes(CHUNK_BYTES), offset=number % 256 * CHUNK_BYTES)
        number += 1
        pace(box, CHUNK_BYTES, p["rate_kib_s"], started)


def cron(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Now and then a handful of short programs."""
    while box.running:
        for _ in range(p["jobs"]):
            box.run_short(round(p["functions"] * rng.uniform(0.5, 1.5)), wait=True)
            box.write("cron.log", log_lines(400))
        wait_about(box, p["period_ms"], p["jitter_percent"], rng)


def logs(box: Sandbox, p: Mapping[str, int], rng: random.Random) -> None:
    """Appends to a log; when it is long enough, compresses it and deletes the original."""
    number = 0
    while box.running:
        started = time.monotonic()
        line_bytes = round(16_384 * rng.uniform(0.5, 1.5))
        box.write("service.log", log_lines(line_bytes))
        if box.size_bytes("service.log") > p["rotate_kib"] * 1024:
            packed = zlib.compress(box.read("service.log", 0, p["rotate_kib"] * 2048), p["zlib_level"])
            box.write(f"service-{number % 5}.log.z", packed, offset=0, sync=True)
            box.delete("service.log")
            number += 1
        pace(box, line_bytes, p["rate_kib_s"], started)


_FILES: Final = {"file_count": (6, 24), "file_kib": (32, 384)}

BENIGN: Final = (
    Profile(
        "interactive",
        "desktop",
        "benign",
        {
            "period_ms": (150, 1200),
            "jitter_percent": (10, 90),
            "burst_ms": (5, 80),
            "save_bytes": (200, 8000),
        },
        interactive,
    ),
    Profile(
        "build",
        "development",
        "benign",
        {"period_ms": (120, 600), "functions": (50, 900), "workers": (1, 2)},
        build,
    ),
    Profile(
        "web",
        "service",
        "benign",
        {
            "period_ms": (15, 300),
            "jitter_percent": (10, 90),
            "request_bytes": (50, 1500),
            "reply_bytes": (500, 60_000),
            "burst_ms": (1, 15),
        },
        web,
    ),
    Profile(
        "backup",
        "storage",
        "benign",
        _FILES | {"rate_kib_s": (300, 2500), "zlib_level": (1, 6)},
        backup,
        make_files,
    ),
    Profile(
        "database",
        "service",
        "benign",
        {"period_ms": (30, 250), "jitter_percent": (10, 90), "rows": (1, 30), "row_bytes": (100, 800)},
        database,
    ),
    Profile("transcode", "media", "benign", {"rate_kib_s": (200, 2500), "work_ms": (3, 60)}, transcode),
    Profile(
        "cron",
        "maintenance",
        "benign",
        {"period_ms": (1000, 3500), "jitter_percent": (5, 40), "jobs": (2, 8), "functions": (50, 900)},
        cron,
    ),
    Profile(
        "logs",
        "maintenance",
        "benign",
        {"rate_kib_s": (60, 1500), "rotate_kib": (128, 1024), "zlib_level": (1, 9)},
        logs,
    ),
)
