"""How soon a waiting worker has the job: from a job becoming claimable to the claim's answer, by idle waiters.

    python -m benchmarks.wake [--waiters 10,1000] [--rounds 60] [--folder DIR]

One receiver process per number of waiters runs at the same time; they take turns, so that a drift of the machine's
speed meets both alike. Each waiter is a host of its own with a claim that long-polls. In each round an operator
makes one job claimable (`requeue`), one waiter is answered, its job is cancelled and it waits again. The time counts
from before the requeue is sent until the claim's answer is read: two HTTP exchanges and two durable commits. Prints
one JSON line per number of waiters with latency quantiles, CPU and memory, and one with the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = "bench"
WAIT_S = 60
STUCK = 50
"""Jobs of as many classes that no waiter fits: a round has to look at every waiter for them."""


def serve(folder: Path) -> None:
    """The receiver under test: everything as in production, on a free port printed as the first line."""
    import uvicorn

    from training.fleet.queue import JobQueue
    from training.fleet.receiver import bind, make_app
    from training.fleet.receiver_settings import ListenAddress
    from training.fleet.store import ModelStore
    from training.fleet.types import JobSpec, Manifest

    def spec(number: int, **fields: float) -> JobSpec:
        return JobSpec(
            job_id=f"{number:064x}", model="gbt", mode="realistic", hyper={}, split_recipe="host_disjoint",
            train_hosts=(), seed=0, name=f"job-{number}", **fields,  # type: ignore[arg-type]
        )  # fmt: skip

    stuck = [spec(number, min_ram_gib=1000.0 + number) for number in range(1, STUCK + 1)]
    manifest = Manifest(name="bench", hosts={}, jobs=(spec(0), *stuck))
    queue = JobQueue(folder / "training_jobs.db", max_attempts=10**6)
    queue.apply_manifest(manifest)
    queue.cancel(f"{0:064x}")
    store = ModelStore(folder / "models", folder / "incoming", folder / "models" / "index.jsonl")
    app = make_app(
        queue=queue, store=store, manifest_path=folder / "none", manifest=manifest, operator_token=TOKEN
    )
    bound = bind(ListenAddress(port=0))
    print(bound.getsockname()[1], flush=True)
    uvicorn.Server(
        uvicorn.Config(app, http="httptools", loop="asyncio", ws="none", log_config=None, access_log=False)
    ).run(sockets=[bound])


@dataclass
class Server:
    """A running receiver, and what its clients measured."""

    waiters: int
    port: int
    process: subprocess.Popen[str]
    latencies_s: list[float] = field(default_factory=list)

    def rss_mib(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return float("nan")

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(folder: Path, waiters: int) -> Iterator[Server]:
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.wake", "--serve", "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Server(waiters, int(process.stdout.readline()), process)
    finally:
        process.terminate()
        process.wait()


class Line:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Line:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, path: str, body: object, *headers: str) -> dict[str, object]:
        data = json.dumps(body).encode()
        head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}", *headers, "", ""]
        self._writer.write("\r\n".join(head).encode() + data)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        found: dict[str, object] = json.loads(await self._reader.readexactly(length))
        return found

    def close(self) -> None:
        self._writer.close()


@dataclass
class Fleet:
    """The waiting claims of one receiver, and its operator."""

    lines: list[Line]
    operator: Line
    answered: asyncio.Queue[tuple[int, float]]
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    def wait_again(self, index: int) -> None:
        self.tasks[index] = asyncio.create_task(self._wait(index))

    async def _wait(self, index: int) -> None:
        while True:
            body = {"capability": {"ram_gib": 8.0, "cores": 2}, "wait_s": WAIT_S}
            answer = await self.lines[index].post("/v1/job/claim", body, f"X-Lab-Host: host-{index}")
            if answer.get("job_id"):
                self.answered.put_nowait((index, time.perf_counter()))
                return

    async def one_job(self) -> float:
        """Seconds from the requeue's sending to the claim's answer."""
        job, token = f"/v1/job/{0:064x}", f"X-Operator-Token: {TOKEN}"
        begin = time.perf_counter()
        sent = asyncio.create_task(self.operator.post(f"{job}/requeue", {}, token))
        index, end = await self.answered.get()
        await sent
        await self.operator.post(f"{job}/cancel", {}, token)
        self.wait_again(index)
        return end - begin


async def fleet_of(server: Server) -> Fleet:
    lines = [await Line.open(server.port) for _ in range(server.waiters)]
    found = Fleet(lines, await Line.open(server.port), asyncio.Queue())
    for index in range(server.waiters):
        found.wait_again(index)
    return found


async def at_rest(servers: list[Server]) -> None:
    """Until the arrivals are dealt with."""
    for _ in range(60):
        before = [item.cpu_s() for item in servers]
        await asyncio.sleep(1)
        if all(item.cpu_s() - cpu < 0.03 for item, cpu in zip(servers, before, strict=True)):
            return


async def measure(servers: list[Server], rounds: int, idle_s: float) -> None:
    alone = {item.waiters: item.rss_mib() for item in servers}
    fleets = [await fleet_of(item) for item in servers]
    await at_rest(servers)
    before, begin = [item.cpu_s() for item in servers], time.perf_counter()
    await asyncio.sleep(idle_s)
    idle_cpu = [
        (item.cpu_s() - cpu) / (time.perf_counter() - begin)
        for item, cpu in zip(servers, before, strict=True)
    ]
    for number in range(rounds + 5):
        for item, fleet in zip(servers, fleets, strict=True):
            took = await fleet.one_job()
            await asyncio.sleep(0.01)
            if number >= 5:  # the first ones pay for imports and first plans
                item.latencies_s.append(took)
    for item, cpu in zip(servers, idle_cpu, strict=True):
        cuts = statistics.quantiles(item.latencies_s, n=100)
        say(
            bench="wake", waiters=item.waiters, jobs=rounds, stuck_jobs=STUCK, p50_ms=round(cuts[49] * 1e3, 2),
            p99_ms=round(cuts[98] * 1e3, 2), idle_cpu_share=round(cpu, 4), rss_mib=round(item.rss_mib(), 1),
            kib_per_waiter=round((item.rss_mib() - alone[item.waiters]) * 1024 / item.waiters, 1),
        )  # fmt: skip
    for fleet in fleets:
        for task in fleet.tasks.values():
            task.cancel()
        for line in (*fleet.lines, fleet.operator):
            line.close()


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waiters", default="10,1000", help="claims that wait, comma-separated")
    parser.add_argument("--rounds", type=int, default=60, help="jobs per number of waiters")
    parser.add_argument("--idle-s", type=float, default=5.0, help="how long to watch them do nothing")
    parser.add_argument("--folder", type=Path, help="where the databases go")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    _many_files()
    if args.serve:
        serve(args.folder)
        return
    folder = Path(tempfile.mkdtemp(prefix="wake-bench-", dir=args.folder))
    counts = [int(text) for text in args.waiters.split(",")]
    try:
        with ExitStack() as stack:
            servers = [stack.enter_context(server(folder / str(count), count)) for count in counts]
            asyncio.run(measure(servers, args.rounds, args.idle_s))
        medians = [statistics.median(item.latencies_s) for item in servers]
        say(bench="ratio", p50_most_to_fewest=round(medians[-1] / medians[0], 2), goal="<= 1.5")
    finally:
        shutil.rmtree(folder)


def _many_files() -> None:
    """A socket for each waiter, on both sides."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
