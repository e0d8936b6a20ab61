"""The real receiver on a loopback port, in a thread of the test: no mock stands between client and queue."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import queue as queues
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import uvicorn

from cis490.ballast import Ballast
from cis490.clock import Clock, SystemClock
from training.fleet import manifest as manifests
from training.fleet.connections import server_config
from training.fleet.coordinator import Coordinator
from training.fleet.queue import JobQueue
from training.fleet.quotas import Limits
from training.fleet.receiver import bind, make_app
from training.fleet.receiver_settings import ListenAddress
from training.fleet.store import ModelStore

if TYPE_CHECKING:
    from cis490.pki.authority import Authority

TOKEN = "operator-token-of-this-test"


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    raw: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = str(path)

    def connect(self) -> None:
        """Called when the first request needs it."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class LiveReceiver:
    """Where it listens, and its parts for tests that look inside."""

    port: int
    """0 when it listens on `unix_path`."""
    queue: JobQueue
    store: ModelStore
    manifest: Path
    store_root: Path
    coordinator: Coordinator
    unix_path: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self) -> http.client.HTTPConnection:
        """A new one, to the port or the Unix socket."""
        if self.unix_path is not None:
            return UnixConnection(self.unix_path)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def send(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One plain HTTP request, as a client in any language would send it. A dict goes as JSON."""
        connection = self.connection()
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        try:
            connection.request(method, path, body=data, headers=dict(headers or {}))  # type: ignore[arg-type]
            response = connection.getresponse()
            raw = response.read()
            parsed = json.loads(raw) if raw[:1] in (b"{", b"[") else None
            return Answer(response.status, parsed, raw, {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()

    def worker(
        self, method: str, path: str, body: object = None, *, host: str = "a", **headers: str
    ) -> Answer:
        return self.send(method, path, body, {"X-Lab-Host": host, **headers})

    def operator(self, path: str, body: object = None, *, token: str = TOKEN) -> Answer:
        return self.send("POST", path, body, {"X-Operator-Token": token})


@contextmanager
def live_receiver(
    folder: Path,
    manifest: str,
    *,
    operator_token: str | None = TOKEN,
    clock: Clock | None = None,
    stale_after_s: float = 600.0,
    max_artifact_bytes: int = 1 << 20,
    ballast: Ballast | None = None,
    dashboard: bool = True,
    port: int = 0,
    unix_path: Path | None = None,
    worker_auth: Literal["header", "mtls"] = "header",
    authority: Authority | None = None,
    former_operator_token: str | None = None,
    host_limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Iterator[LiveReceiver]:
    """Start a receiver over `folder` with this manifest text (its jobs are in the queue), stop it at the end."""
    path = folder / "manifest.toml"
    path.write_text(manifest, encoding="utf-8")
    queue = JobQueue(folder / "training_jobs.db", clock=clock or SystemClock(), stale_after_s=stale_after_s)
    store = ModelStore(folder / "models", folder / "incoming", folder / "models" / "index.jsonl")
    app = make_app(
        queue=queue, store=store, manifest_path=path, operator_token=operator_token,
        max_artifact_bytes=max_artifact_bytes, ballast=ballast, dashboard=dashboard, worker_auth=worker_auth,
        authority=authority, former_operator_token=former_operator_token, host_limits=host_limits,
    )  # fmt: skip
    bound = bind(ListenAddress(port=port) if unix_path is None else ListenAddress(unix_path=str(unix_path)))
    server = uvicorn.Server(server_config(app))
    loops: queues.SimpleQueue[asyncio.AbstractEventLoop] = queues.SimpleQueue()

    async def serve() -> None:
        loops.put(asyncio.get_running_loop())
        await server.serve(sockets=[bound])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    loop = loops.get(timeout=20)
    running = LiveReceiver(
        bound.getsockname()[1] if unix_path is None else 0, queue, store, path, folder / "models",
        app.state.coordinator, unix_path,
    )  # fmt: skip
    try:
        running.send("GET", "/v1/health")
        queue.sync_from_manifest([job.to_dict() for job in manifests.load(path).jobs])
        yield running
    finally:
        with contextlib.suppress(RuntimeError):  # a test has stopped it already
            loop.call_soon_threadsafe(app.state.coordinator.stop_waiting)  # as a signal would
        server.should_exit = True
        thread.join(timeout=20)
        queue.close()
