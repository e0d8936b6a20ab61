"""A receiver of a few lines for the worker's tests: real HTTP on a loopback port, its answers set by the test.

It grants the jobs it was given, one after the other, and keeps every request. By assigning `answer` a test
makes it refuse, and with `down` it hangs up on everybody, as a receiver does that is being restarted.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]
TOKEN = "a-secret-token"
TIMEOUT_S = 15.0
"""Longest wait of a test for something that is to happen; a test that needs it has failed."""


@dataclass(frozen=True)
class Seen:
    """A request as it came. `verb` is its last word: claim, heartbeat, model, dataset, ..."""

    verb: str
    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Json:
        value: Json = json.loads(self.raw)
        return value


def lease(name: str = "gbt-realistic", *, epoch: int = 1, heartbeat_s: float = 30.0, **spec: Any) -> Json:
    """A claim's answer; the job's id comes from its name. `hyper` tells the stub trainer what to do."""
    job_id = hashlib.sha256(name.encode()).hexdigest()
    model, _, mode = name.partition("-")
    values = {"job_id": job_id, "name": name, "model": model, "mode": mode, "hyper": {}, **spec}
    return {
        "job_id": job_id,
        "name": name,
        "spec": values,
        "attempts": 1,
        "model": model,
        "mode": mode,
        "hyper": values["hyper"],
        "epoch": epoch,
        "lease_s": 600.0,
        "heartbeat_s": heartbeat_s,
        "dataset_id": "d" * 64,
        "lease_token": f"{TOKEN}-{epoch}",
    }


@dataclass
class FakeReceiver:
    """Use it as a context manager."""

    jobs: deque[Json] = field(default_factory=deque)
    answer: dict[str, Callable[[Seen], tuple[int, Json | bytes]]] = field(default_factory=dict)
    """By verb; takes the place of the usual answer. Bytes are sent as they are, as text/html."""
    datasets: dict[str, bytes] = field(default_factory=dict)
    down: bool = False
    seen: list[Seen] = field(default_factory=list)
    """Requests that were answered, in order."""
    hung_up: list[Seen] = field(default_factory=list)
    """Requests that got no answer."""

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._lease_s: Any = 600.0
        self._server = _Server(self)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def verbs(self) -> list[str]:
        """What was answered so far, heartbeats and log lines left out: when they come is not told by the protocol."""
        return [one.verb for one in self.seen if one.verb not in ("heartbeat", "log")]

    def of(self, verb: str) -> list[Seen]:
        return [one for one in self.seen if one.verb == verb]

    def wait_for(self, verb: str, count: int = 1) -> Seen:
        """The `count`-th request of that kind, once it was answered."""
        self.wait_until(lambda: len(self.of(verb)) >= count, f"{count} x {verb}")
        return self.of(verb)[count - 1]

    def wait_for_hang_ups(self, count: int) -> None:
        """Until so many requests came while the receiver was down."""
        self.wait_until(lambda: len(self.hung_up) >= count, f"{count} requests during the outage")

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(is_so, TIMEOUT_S), f"waited for {what}; seen: {self.verbs()}"

    # -- called by the handler ---------------------------------------------------------------------------

    def note(self, seen: Seen, *, answered: bool) -> None:
        with self._changed:
            (self.seen if answered else self.hung_up).append(seen)
            self._changed.notify_all()

    def reply(self, seen: Seen) -> tuple[int, Json | bytes]:
        if seen.verb in self.answer:
            return self.answer[seen.verb](seen)
        if seen.verb == "claim":
            answer = self.jobs.popleft() if self.jobs else {"job": None, "reason": "no job is pending"}
            self._lease_s = answer.get("lease_s", self._lease_s)
            return 200, answer
        if seen.verb == "model":
            found = hashlib.sha256(seen.raw).hexdigest()
            if found != seen.headers["X-Content-SHA256"]:
                return 400, {"status": "sha-mismatch", "actual_sha256": found}
            return 201, {"status": "stored", "artifact_id": found, "size_bytes": len(seen.raw)}
        return 200, {"ok": True, "lease_s": self._lease_s}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakeReceiver) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A worker that was killed hangs up; that is no error of the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output clean."""

    def _answer(self) -> None:
        assert isinstance(self.server, _Server)
        fake = self.server.fake
        words = self.path.partition("?")[0].strip("/").split("/")
        verb = words[1] if words[1] in ("model", "dataset") else words[-1]
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = Seen(verb, self.command, self.path, dict(self.headers.items()), raw)
        if fake.down:
            self.close_connection = True
            fake.note(seen, answered=False)
            return
        known = fake.datasets.get(words[-1]) if verb == "dataset" and verb not in fake.answer else None
        status, body = (200, known) if known is not None else fake.reply(seen)
        fake.note(seen, answered=True)  # before the answer: the test may look as soon as it is there
        if known is not None:
            self._send(status, known, "application/zstd")
        elif isinstance(body, bytes):
            self._send(status, body, "text/html")
        else:
            self._send(status, json.dumps(body).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
