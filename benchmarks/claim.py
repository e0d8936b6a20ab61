"""Claims per second over HTTP, by clients and by the number of waiting jobs. Every answer is a real, durable claim.

    python -m benchmarks.claim [--sizes 1000,10000,100000,1000000] [--clients 1,8,32] [--claims 300] [--folder DIR]

One receiver process per size runs at the same time over its own database; the sizes take turns in
short rounds, so that a drift of the machine's speed meets all of them alike. Prints one JSON line
per (clients, size) with claims/s and latency quantiles, one per receiver with its memory, and one with
the ratio of the median at the largest size to that at the smallest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.fleet.eligibility import Learned
from training.fleet.queue import JobQueue
from training.fleet.rows import dumps
from training.fleet.specs import spec_of
from training.fleet.sql import STATEMENTS
from training.fleet.types import HostSpec, Manifest

CLASSES = 50
HOST_RAM_GIB = 45.0
"""The claiming host fits the 47 classes that ask for no more (sizes compare with a tolerance of 6 %)."""
FITTING = 47
BODY = json.dumps({"capability": {"ram_gib": HOST_RAM_GIB, "cores": 2}}).encode()
ROUND = 60


def fill(queue: JobQueue, jobs: int) -> None:
    """`jobs` waiting jobs in 50 requirement classes, through the queue's own statement."""
    specs = [
        spec_of(
            {
                "job_id": "0" * 64,
                "model": "gbt",
                "mode": "realistic",
                "min_ram_gib": index + 1.0,
                "name": "bench",
            }
        )
        for index in range(CLASSES)
    ]
    with queue.atomic():
        classes = [queue.matcher.class_of(spec, Learned()) for spec in specs]

        def rows() -> Iterator[dict[str, object]]:
            for index in range(jobs):
                spec = specs[index % CLASSES].to_dict() | {"job_id": f"{index:064x}", "name": f"job-{index}"}
                yield {
                    "job_id": spec["job_id"], "name": spec["name"], "model": "gbt", "mode": "realistic",
                    "spec": dumps(spec), "priority": index * 7919 % 10, "class_id": classes[index % CLASSES],
                    "ready_at": None,
                }  # fmt: skip

        queue._connection.executemany(STATEMENTS["job_add"], rows())
    queue._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else the first claims pay for the filling
    os.sync()
    queue.matcher.forget()


def serve(folder: Path, jobs: int) -> None:
    """The receiver under test: everything as in production, on a free port printed as the first line."""
    import uvicorn

    from training.fleet.receiver import ListenAddress, bind, make_app
    from training.fleet.store import ModelStore

    queue = JobQueue(folder / "training_jobs.db")
    fill(queue, jobs)
    hosts = {"bench": HostSpec("bench", slots=10**9)}
    manifest = Manifest(name="bench", hosts=hosts, jobs=())
    queue.adopt_policy(manifest)
    store = ModelStore(folder / "models", folder / "incoming", folder / "models" / "index.jsonl")
    app = make_app(queue=queue, store=store, manifest_path=folder / "none", manifest=manifest)
    bound = bind(ListenAddress(port=0))
    print(bound.getsockname()[1], flush=True)
    uvicorn.Server(
        uvicorn.Config(app, http="httptools", loop="asyncio", ws="none", log_config=None, access_log=False)
    ).run(sockets=[bound])


@dataclass
class Server:
    """A running receiver with `jobs` waiting jobs."""

    jobs: int
    port: int
    process: subprocess.Popen[str]

    def rss_mib(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return float("nan")


@contextmanager
def server(folder: Path, jobs: int) -> Iterator[Server]:
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.claim", "--serve", str(jobs), "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Server(jobs, int(process.stdout.readline()), process)
    finally:
        process.terminate()
        process.wait()


async def claims(port: int, clients: int, total: int) -> tuple[float, list[float]]:
    """Wall seconds for `total` claims by `clients` keep-alive connections, and each claim's latency."""
    latencies: list[float] = []
    left = total

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/job/claim HTTP/1.1\r\nHost: x\r\nX-Lab-Host: bench\r\nContent-Length: {len(BODY)}\r\n\r\n"
        while left > 0:
            left -= 1
            begin = time.perf_counter()
            writer.write(head.encode() + BODY)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            latencies.append(time.perf_counter() - begin)
            if b'"job_id"' not in body:
                raise SystemExit(f"not a claim: {answer!r} {body!r}")
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - begin, latencies


def measure(servers: list[Server], clients: int, total: int) -> dict[int, float]:
    """Rounds over all servers in turn; prints a line per server; returns the median latency by size."""
    spent = {item.jobs: 0.0 for item in servers}
    seen: dict[int, list[float]] = {item.jobs: [] for item in servers}
    for turn in range(max(1, total // ROUND)):
        for item in servers if turn % 2 == 0 else reversed(servers):
            wall, latencies = asyncio.run(claims(item.port, clients, ROUND))
            spent[item.jobs] += wall
            seen[item.jobs] += latencies
    for item in servers:
        cuts = statistics.quantiles(seen[item.jobs], n=100)
        say(
            bench="claim", clients=clients, pending=item.jobs, classes=CLASSES, claims=len(seen[item.jobs]),
            claims_per_s=round(len(seen[item.jobs]) / spent[item.jobs], 1), p50_ms=round(cuts[49] * 1e3, 3),
            p99_ms=round(cuts[98] * 1e3, 3),
        )  # fmt: skip
    return {jobs: statistics.median(found) for jobs, found in seen.items()}


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,10000,100000,1000000", help="waiting jobs, comma-separated")
    parser.add_argument("--clients", default="1,8,32", help="connections at once, comma-separated")
    parser.add_argument("--claims", type=int, default=300, help="per size and number of clients")
    parser.add_argument(
        "--folder", type=Path, help="where the databases go (about 0.7 GB for the default sizes)"
    )
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.folder, args.serve)
        return
    sizes = [int(text) for text in args.sizes.split(",")]
    counts = [int(text) for text in args.clients.split(",")]
    left = min(sizes) * FITTING // CLASSES - args.claims * len(counts)
    if left < max(counts):
        parser.error(
            f"{args.claims} claims x {len(counts)} settings use up the fitting ones of {min(sizes)} jobs"
        )
    folder = Path(tempfile.mkdtemp(prefix="claim-bench-", dir=args.folder))
    try:
        run(folder, sizes, counts, args.claims)
    finally:
        shutil.rmtree(folder)


def run(folder: Path, sizes: list[int], counts: list[int], total: int) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        servers = [stack.enter_context(server(folder / str(jobs), jobs)) for jobs in sizes]
        for item in servers:
            asyncio.run(claims(item.port, 1, 1))  # imports, first plans
            say(bench="receiver", pending=item.jobs, rss_mib=round(item.rss_mib(), 1))
        for clients in counts:
            medians = measure(servers, clients, total)
            ratio = medians[max(sizes)] / medians[min(sizes)]
            say(bench="ratio", clients=clients, p50_largest_to_smallest=round(ratio, 2), goal="<= 1.5")
        for item in servers:
            say(bench="receiver", after="claims", pending=item.jobs, rss_mib=round(item.rss_mib(), 1))


if __name__ == "__main__":
    main()
