"""Upload speed: PUT of one artifact to a real receiver, beside SHA-256 alone and write+fsync alone.

    python -m benchmarks.upload [--size-mib 1024] [--rounds 3] [--folder DIR] [--cut N]

A client process sends the file over loopback. The three are measured in turn within each round, so that a drift of the
machine's speed meets them alike. While an upload runs, another process asks for GET /v1/health and sends a heartbeat
every 10 ms. With `--cut N` the connection goes through a proxy that cuts it N times, at random bytes.

Prints a JSON line per round and one with the medians: MB/s (10^6 bytes), `ratio` = upload : min(sha256, disk), where
`disk` is the faster of a plain write with one fsync and one that syncs every 32 MiB; the receiver's growth in memory
(peak - idle, MiB), and p99 and longest answer times (ms). Needs 3 times the size as free disk space in DIR.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from cis490.blobs.pipeline import SYNC_EVERY_BYTES
from cis490.files import sync_data
from training.fleet.client import FleetClient, Unreachable
from training.fleet.types import Capability

BLOCK_BYTES = 1024 * 1024
EVERY_S = 0.01
ROOT = Path(__file__).resolve().parents[1]
SPAWN = get_context("spawn")


def make_file(path: Path, size: int) -> str:
    """A file of random bytes; its digest."""
    state, source = hashlib.sha256(), random.Random()
    with open(path, "wb") as file:
        for _ in range(size // BLOCK_BYTES):
            block = source.randbytes(BLOCK_BYTES)
            state.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return state.hexdigest()


def sha_alone(size: int) -> float:
    """MB/s of SHA-256 over blocks in memory."""
    block, state = random.Random(0).randbytes(BLOCK_BYTES), hashlib.sha256()
    begin = time.perf_counter()
    for _ in range(size // BLOCK_BYTES):
        state.update(block)
    return size / (time.perf_counter() - begin) / 1e6


def disk_alone(path: Path, size: int, sync_every: int) -> float:
    """MB/s of writing a file and making it durable, with a sync every so many bytes."""
    block = random.Random(0).randbytes(BLOCK_BYTES)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    begin = time.perf_counter()
    for number in range(1, size // BLOCK_BYTES + 1):
        os.write(descriptor, block)
        if number * BLOCK_BYTES % sync_every == 0:
            sync_data(descriptor)
    os.fsync(descriptor)
    took_s = time.perf_counter() - begin
    os.close(descriptor)
    path.unlink()
    return size / took_s / 1e6


@contextmanager
def receiver(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A receiver process with jobs to claim, and its port."""
    jobs = "".join(
        f'[[jobs]]\nname = "job-{n}"\nmodel = "gbt"\nmode = "realistic"\nseed = {n}\n' for n in range(64)
    )
    (folder / "manifest.toml").write_text(f'name = "upload"\n{jobs}', "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "training.fleet.receiver", "--listen-addr", f"127.0.0.1:{port}", "--manifest",
        str(folder / "manifest.toml"), "--db", str(folder / "jobs.db"), "--store-root", str(folder / "models"),
        "--incoming-root", str(folder / "incoming"), "--index-path", str(folder / "models" / "index.jsonl"),
        "--log-level", "ERROR", "--max-artifact-bytes", str(1 << 40),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        client, end = FleetClient(f"http://127.0.0.1:{port}"), time.monotonic() + 30
        while True:
            try:
                client.health()
                break
            except Unreachable:
                if time.monotonic() > end or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield process, port
    finally:
        process.terminate()
        process.wait()


def memory_mib(pid: int, key: str) -> float:
    """`VmRSS` or `VmHWM` of a process."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def probe(port: int, path: str, method: str, headers: dict[str, str], stop: Event, found: Any) -> None:
    """In a process of its own: one request every EVERY_S until told to stop; their times in ms go to `found`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times: list[float] = []
    due = time.perf_counter()
    while not stop.is_set():
        begin = time.perf_counter()
        connection.request(method, path, headers=headers)
        connection.getresponse().read()
        times.append((time.perf_counter() - begin) * 1000)
        due = max(due + EVERY_S, begin)
        time.sleep(max(0.0, due - time.perf_counter()))
    found.put(times)


def send(port: int, job: str, token: str, path: str, digest: str, found: Any) -> None:
    """In a process of its own: the upload; its seconds go to `found`."""
    client = FleetClient(f"http://127.0.0.1:{port}", host="bench")
    begin = time.perf_counter()
    for _ in range(100):
        try:
            client.upload(job, token, Path(path), digest)
            break
        except Unreachable:
            time.sleep(0.05)
    found.put(time.perf_counter() - begin)


class CuttingProxy:
    """Passes bytes on to the receiver and cuts the connection after each of the given numbers of bytes."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._target, self._cuts = port, cuts
        self.passed_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._back, args=(far, near), daemon=True).start()
            threading.Thread(target=self._forth, args=(near, far), daemon=True).start()

    def _back(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(65536):
                target.sendall(block)
        except OSError:
            pass

    def _forth(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(1 << 18):
                target.sendall(block)
                self.passed_bytes += len(block)
                if self._cuts and self.passed_bytes >= self._cuts[0]:
                    self._cuts.pop(0)
                    break
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()


def upload(folder: Path, file: Path, digest: str, cuts: int) -> dict[str, float]:
    """One upload to a fresh receiver, and what others felt of it."""
    size = file.stat().st_size
    with receiver(folder) as (process, port):
        client = FleetClient(f"http://127.0.0.1:{port}", host="bench")
        lease, other = (
            FleetClient(f"http://127.0.0.1:{port}", host=host).claim(Capability(), request_id=host)
            for host in ("bench", "other")
        )
        assert lease is not None and other is not None
        stop, health, beats, took = SPAWN.Event(), SPAWN.Queue(), SPAWN.Queue(), SPAWN.Queue()
        beat = {"X-Lab-Host": "other", "X-Lease-Token": other.lease_token or ""}
        probes = [
            SPAWN.Process(target=probe, args=(port, "/v1/health", "GET", {}, stop, health)),
            SPAWN.Process(
                target=probe, args=(port, f"/v1/job/{other.job_id}/heartbeat", "POST", beat, stop, beats)
            ),
        ]
        for one in probes:
            one.start()
        time.sleep(1.0)
        idle_mib = memory_mib(process.pid, "VmRSS")
        proxy = CuttingProxy(port, sorted(random.Random().sample(range(size), cuts))) if cuts else None
        sender = SPAWN.Process(
            target=send,
            args=(proxy.port if proxy else port, lease.job_id, lease.lease_token, str(file), digest, took),
        )
        sender.start()
        took_s = took.get()
        sender.join()
        peak_mib = memory_mib(process.pid, "VmHWM")
        stop.set()
        times = {"health": sorted(health.get()), "heartbeat": sorted(beats.get())}
        for one in probes:
            one.join()
        if proxy is not None:
            proxy.close()
        client.close()
    found = {"upload_mb_s": size / took_s / 1e6, "grown_mib": peak_mib - idle_mib}
    for name, values in times.items():
        found[f"{name}_p99_ms"] = values[int(len(values) * 0.99)]
        found[f"{name}_max_ms"] = values[-1]
    if proxy is not None:
        found["resent_share"] = max(0.0, proxy.passed_bytes / size - 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cut", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: a temporary one")
    options = parser.parse_args()
    size = options.size_mib * BLOCK_BYTES
    folder = Path(tempfile.mkdtemp(prefix="cis490-upload-", dir=options.folder))
    rounds: list[dict[str, float]] = []
    try:
        for number in range(options.rounds):
            file, place = folder / "artifact", folder / f"round-{number}"
            place.mkdir()
            digest = make_file(file, size)
            found = {
                "sha_mb_s": sha_alone(size),
                "disk_plain_mb_s": disk_alone(folder / "disk", size, size + 1),
                "disk_stepped_mb_s": disk_alone(folder / "disk", size, SYNC_EVERY_BYTES),
                **upload(place, file, digest, options.cut),
            }
            limit = min(found["sha_mb_s"], max(found["disk_plain_mb_s"], found["disk_stepped_mb_s"]))
            found["ratio"] = found["upload_mb_s"] / limit
            rounds.append(found)
            print(json.dumps({"round": number, **_rounded(found)}), flush=True)
            shutil.rmtree(place)
    finally:
        shutil.rmtree(folder)
    medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    worst = {key: max(one[key] for one in rounds) for key in rounds[0] if key.endswith("max_ms")}
    print(json.dumps({"size_mib": options.size_mib, "medians": _rounded(medians), "worst": _rounded(worst)}))


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4 if "share" in key or key == "ratio" else 1) for key, value in values.items()}


if __name__ == "__main__":
    main()
