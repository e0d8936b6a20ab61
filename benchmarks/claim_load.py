"""A load of claims that costs little itself, and a disk that can be made slow: tools of `benchmarks.claim`."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

SLOW_C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void wait_a_little(void) {
    const char *text = getenv("SLOW_FSYNC_US");
    long us = text ? atol(text) : 0;
    struct timespec span = {us / 1000000, us % 1000000 * 1000};
    if (us > 0) nanosleep(&span, 0);
}
static int then(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    wait_a_little();
    return real(fd);
}
int fsync(int fd) { return then("fsync", fd); }
int fdatasync(int fd) { return then("fdatasync", fd); }
"""


def slow_disk(folder: Path, fsync_ms: float) -> dict[str, str] | None:
    """Environment in which each fsync and fdatasync takes so much longer; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "slow.c", folder / "slow.so"
    source.write_text(SLOW_C, encoding="ascii")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SLOW_FSYNC_US": str(int(fsync_ms * 1000))}


@dataclass
class Round:
    """What one round of load found."""

    answers: int
    wall_s: float
    own_cpu_s: float
    """Of the load generator: near `wall_s` it would be the bottleneck itself."""
    server_cpu_s: float
    latencies_s: list[float] = field(repr=False)

    @property
    def per_s(self) -> float:
        return self.answers / self.wall_s


class _Client(asyncio.Protocol):
    """One keep-alive connection: the next request leaves as soon as the answer to the last one is there."""

    def __init__(self, request: bytes, expected: bytes, spent: list[float], ends_at: float) -> None:
        self.request, self.expected, self.spent, self.ends_at = request, expected, spent, ends_at
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.begun = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self.buffer) < end + 4 + length:
            return
        now = time.perf_counter()
        if self.expected not in self.buffer:
            self._finish(RuntimeError(f"not the answer to a claim: {self.buffer!r}"))
            return
        self.spent.append(now - self.begun)
        self.buffer = b""
        if now < self.ends_at:
            self._send()
        else:
            self._finish(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(error or RuntimeError("the receiver closed the connection"))

    def _finish(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
        self.transport.close()


def load(
    port: int, request: bytes, *, expected: bytes, clients: int, seconds: float, server_pid: int
) -> Round:
    """Ask from `clients` connections at once for so many seconds."""
    return asyncio.run(_load(port, request, expected, clients, seconds, server_pid))


async def _load(
    port: int, request: bytes, expected: bytes, clients: int, seconds: float, server_pid: int
) -> Round:
    loop = asyncio.get_running_loop()
    spent: list[float] = []
    own, server, begin = time.process_time(), cpu_s(server_pid), time.perf_counter()
    opened: list[_Client] = []

    def client() -> _Client:
        opened.append(_Client(request, expected, spent, begin + seconds))
        return opened[-1]

    await asyncio.gather(*(loop.create_connection(client, "127.0.0.1", port) for _ in range(clients)))
    await asyncio.gather(*(one.done for one in opened))
    wall = time.perf_counter() - begin
    return Round(len(spent), wall, time.process_time() - own, cpu_s(server_pid) - server, spent)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pin(pid: int, core: int) -> None:
    """Keep a process that has just started on this core, so that the load generator has another; where possible."""
    if hasattr(os, "sched_setaffinity") and core in os.sched_getaffinity(0):
        os.sched_setaffinity(pid, {core})
