"""Claims per second over HTTP, by clients and by the number of waiting jobs. Every answer is a real, durable claim.

    python -m benchmarks.claim [--sizes 1000,10000,100000,1000000] [--clients 1,8,32] [--claims 300] [--folder DIR]
                               [--rounds 5] [--round-s 1.0]

One receiver process per size runs at the same time over its own database; the sizes take turns in
short rounds, so that a drift of the machine's speed meets all of them alike. Prints one JSON line
per (clients, size) with claims/s and latency quantiles, one per receiver with its memory, and one with
the ratio of the median at the largest size to that at the smallest.

Then the comparison (`--rounds 0` leaves it out, `--sizes none` leaves out the rest): with 32 clients, the
receiver against the same receiver with one transaction for each claim, and against a Starlette handler that
only decodes and answers; on the disk as it is and with 10 ms more for each fsync. They take turns, on one core,
the load on another. The ratios are medians of the ratios within a round. `loop_lag` is how late the
receiver's event loop was for a timer of 5 ms during the load.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import claim_load
from benchmarks.claim_load import Round, load
from training.fleet.eligibility import Learned
from training.fleet.queue import JobQueue
from training.fleet.rows import dumps
from training.fleet.specs import spec_of
from training.fleet.sql import STATEMENTS
from training.fleet.types import HostSpec, Manifest
from training.fleet.writer import Writer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

CLASSES = 50
HOST_RAM_GIB = 45.0
"""The claiming host fits the 47 classes that ask for no more (sizes compare with a tolerance of 6 %)."""
FITTING = 47
BODY = json.dumps({"capability": {"ram_gib": HOST_RAM_GIB, "cores": 2}}).encode()
ROUND = 60
HEAD = f"POST /v1/job/claim HTTP/1.1\r\nHost: x\r\nX-Lab-Host: bench\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
COMPARED = 32
"""Clients at once in the comparison."""
SLOWER_MS = 10.0
PROBE_S = 0.005
KINDS = {"batches": "group commit", "single": "one transaction per claim", "trivial": "a Starlette handler"}


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


def serve(folder: Path, jobs: int, kind: str) -> None:
    """The receiver under test: everything as in production, on a free port printed as the first line."""
    import uvicorn

    from training.fleet.connections import server_config
    from training.fleet.receiver import bind
    from training.fleet.receiver_settings import ListenAddress

    app = Probe(trivial() if kind == "trivial" else receiver(folder, jobs, 1 if kind == "single" else None))
    bound = bind(ListenAddress(port=0))
    print(bound.getsockname()[1], flush=True)
    gc.freeze()
    uvicorn.Server(server_config(app)).run(sockets=[bound])


def receiver(folder: Path, jobs: int, max_batch: int | None) -> ASGIApp:
    """The receiver's application over `jobs` waiting jobs."""
    from training.fleet.receiver import make_app
    from training.fleet.store import ModelStore

    queue = JobQueue(folder / "training_jobs.db")
    fill(queue, jobs)
    hosts = {"bench": HostSpec("bench", slots=10**9)}
    manifest = Manifest(name="bench", hosts=hosts, jobs=())
    queue.adopt_policy(manifest)
    store = ModelStore(folder / "models", folder / "incoming", folder / "models" / "index.jsonl")
    app = make_app(queue=queue, store=store, manifest_path=folder / "none", manifest=manifest)
    if max_batch is not None:
        app.state.coordinator._writer = Writer(queue, max_batch=max_batch)
    return app


def trivial() -> ASGIApp:
    """What this stack does at best: Starlette decodes a JSON body and answers, and nothing else happens."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import Route

    from training.fleet import wire
    from training.fleet.http_io import answer, decode

    async def claim(request: Request) -> Any:
        body = await decode(request, wire.ClaimRequest)
        return answer({"job_id": "", "wait_s": body.wait_s})

    return Starlette(routes=[Route("/v1/job/claim", claim, methods=["POST"])])


class Probe:
    """The application, and how late its loop is for a timer of 5 ms; `GET /lag` answers that and starts anew."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._late_s = app, [0.0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            asyncio.get_running_loop().call_later(PROBE_S, self._tick, time.perf_counter() + PROBE_S)
        if scope.get("path") != "/lag":
            await self._app(scope, receive, send)
            return
        late, self._late_s = sorted(self._late_s), [0.0]
        body = json.dumps({"p99_ms": late[len(late) * 99 // 100] * 1e3, "max_ms": late[-1] * 1e3}).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _tick(self, due: float) -> None:
        now = time.perf_counter()
        self._late_s.append(max(0.0, now - due))
        asyncio.get_running_loop().call_later(PROBE_S, self._tick, now + PROBE_S)


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

    def lag(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/lag", timeout=60) as answer:
            found: dict[str, float] = json.load(answer)
            return found


@contextmanager
def server(
    folder: Path,
    jobs: int,
    kind: str = "batches",
    *,
    env: dict[str, str] | None = None,
    core: int | None = None,
) -> Iterator[Server]:
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.claim", "--serve", str(jobs), "--folder", str(folder)]
    process = subprocess.Popen(
        [*command, "--kind", kind], stdout=subprocess.PIPE, text=True, env=os.environ | (env or {})
    )
    if core is not None:
        claim_load.pin(process.pid, core)
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
        while left > 0:
            left -= 1
            begin = time.perf_counter()
            writer.write(HEAD + BODY)
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


def compare(folder: Path, rounds: int, round_s: float) -> None:
    """Group commit against one transaction per claim and against a trivial handler; prints the ratios."""
    _compare(folder / "as-is", rounds, round_s, ("batches", "single", "trivial"), None, "as it is")
    environment = claim_load.slow_disk(folder, SLOWER_MS)
    if environment is None:
        say(bench="compare", disk=f"+{SLOWER_MS:g} ms per fsync", skipped="no C compiler (cc) here")
    else:
        _compare(
            folder / "slow",
            rounds,
            round_s,
            ("batches", "single"),
            environment,
            f"+{SLOWER_MS:g} ms per fsync",
        )


def _compare(
    folder: Path,
    rounds: int,
    round_s: float,
    kinds: tuple[str, ...],
    environment: dict[str, str] | None,
    disk: str,
) -> None:
    jobs = int(rounds * round_s * 10_000) + 20_000
    with ExitStack() as stack:
        servers = {
            kind: stack.enter_context(server(folder / kind, jobs, kind, env=environment, core=0))
            for kind in kinds
        }
        if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
            all_cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, all_cores - {0})
            stack.callback(os.sched_setaffinity, 0, all_cores)
        found: dict[str, list[Round]] = {kind: [] for kind in kinds}
        for item in servers.values():
            _load(item, 0.3)
            item.lag()
        for turn in range(rounds):
            for kind in kinds if turn % 2 == 0 else reversed(kinds):
                found[kind].append(_load(servers[kind], round_s))
        for kind in kinds:
            _say_compared(disk, KINDS[kind], found[kind], servers[kind].lag())
    goal = {"single": ">= 3" if environment is None else ">= 12", "trivial": ">= 0.55"}
    for kind in kinds[1:]:
        ratios = [one.per_s / other.per_s for one, other in zip(found["batches"], found[kind], strict=True)]
        say(
            bench="compare", disk=disk, clients=COMPARED, over=KINDS[kind], ratio=round(statistics.median(ratios), 2),
            lowest=round(min(ratios), 2), highest=round(max(ratios), 2), goal=goal[kind],
        )  # fmt: skip


def _load(item: Server, seconds: float) -> Round:
    return load(
        item.port, HEAD + BODY, expected=b'"job_id"', clients=COMPARED, seconds=seconds,
        server_pid=item.process.pid,
    )  # fmt: skip


def _say_compared(disk: str, kind: str, rounds: list[Round], lag: dict[str, float]) -> None:
    latencies = [value for one in rounds for value in one.latencies_s]
    cuts, wall = statistics.quantiles(latencies, n=100), sum(one.wall_s for one in rounds)
    say(
        bench="compare", disk=disk, kind=kind, clients=COMPARED, claims_per_s=round(len(latencies) / wall, 1),
        p50_ms=round(cuts[49] * 1e3, 2), p99_ms=round(cuts[98] * 1e3, 2),
        load_cpu_share=round(sum(one.own_cpu_s for one in rounds) / wall, 2),
        server_cpu_share=round(sum(one.server_cpu_s for one in rounds) / wall, 2),
        loop_lag_p99_ms=round(lag["p99_ms"], 1), loop_lag_max_ms=round(lag["max_ms"], 1),
    )  # fmt: skip


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
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison; 0 leaves it out")
    parser.add_argument("--round-s", type=float, default=1.0, help="seconds of each round of the comparison")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.folder, args.serve, args.kind)
        return
    sizes = [] if args.sizes == "none" else [int(text) for text in args.sizes.split(",")]
    counts = [int(text) for text in args.clients.split(",")]
    left = min(sizes) * FITTING // CLASSES - args.claims * len(counts) if sizes else 0
    if sizes and left < max(counts):
        parser.error(
            f"{args.claims} claims x {len(counts)} settings use up the fitting ones of {min(sizes)} jobs"
        )
    folder = Path(tempfile.mkdtemp(prefix="claim-bench-", dir=args.folder))
    try:
        if sizes:
            run(folder, sizes, counts, args.claims)
        if args.rounds:
            compare(folder / "compare", args.rounds, args.round_s)
    finally:
        shutil.rmtree(folder)


def run(folder: Path, sizes: list[int], counts: list[int], total: int) -> None:
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
