"""A receiver made of canned answers on a loopback port: the real client talks to it over real HTTP."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from training.fleet import naming
from training.fleet.overview import Facts, overview

Json = dict[str, Any]


def job(name: str = "gbt-realistic", **changes: Any) -> Json:
    """One entry of `GET /v1/jobs`: pending, never claimed; ids count up with the name's letters."""
    model, _, mode = name.partition("-")
    row: Json = {
        "job_id": name.encode().hex().ljust(64, "0")[:64],
        "name": name,
        "model": model,
        "mode": mode,
        "priority": 10,
        "status": "pending",
        "claimed_by": None,
        "claimed_at": None,
        "heartbeat_at": None,
        "completed_at": None,
        "attempts": 0,
        "last_error": None,
        "artifact_id": None,
        "generation": 1,
        "held": False,
        "lapsed": False,
        "host_losses": 0,
        "program_failures": 0,
        "metrics": {},
        "stale": [],
        "progress": None,
    }
    return row | changes


def in_full(row: Json, **changes: Any) -> Json:
    """The answer's `job` of `GET /v1/job/{id}`."""
    spec = {
        "job_id": row["job_id"],
        "model": row["model"],
        "mode": row["mode"],
        "hyper": {"num_rounds": 100, "learning_rate": 0.05},
        "split_recipe": "host_disjoint",
        "train_hosts": [],
        "seed": 7,
        "name": row["name"],
        "priority": row["priority"],
        "require_cuda": False,
        "prefer_cuda": False,
        "min_vram_gib": 0.0,
        "min_ram_gib": 4.0,
        "allowed_hosts": [],
        "timeout_s": 3600.0,
        "stall_s": None,
        "on_change": "keep",
        "line": 88,
    }
    return row | {"spec": spec, "attempts_log": [], "audit": []} | changes


def check(constraint: str, ok: bool, wanted: str = "any", found: str = "some", **texts: str) -> Json:
    """One constraint of an eligibility answer."""
    return {
        "constraint": constraint,
        "ok": ok,
        "wanted": wanted,
        "found": found,
        "message": "",
        "hint": "",
    } | texts


def host_verdict(name: str, *checks: Json, live: bool = True, seen_s_ago: float | None = 3.0) -> Json:
    """One host of an eligibility answer."""
    ok = all(one["ok"] for one in checks)
    return {"host": name, "live": live, "seen_s_ago": seen_s_ago, "eligible": ok, "checks": list(checks)}


def eligibility(row: Json, *hosts: Json, job_checks: tuple[Json, ...] = (), summary: str = "") -> Json:
    """The answer of `GET /v1/job/{id}/eligibility`."""
    return {
        "job_id": row["job_id"],
        "name": row["name"],
        "status": row["status"],
        "claimable": any(host["eligible"] for host in hosts),
        "summary": summary or f"{row['name']} waits.",
        "job_checks": list(job_checks),
        "hosts": list(hosts),
    }


def host_eligibility(worker: Json | None, *classes: Json, running: tuple[Json, ...] = ()) -> Json:
    """The answer of `GET /v1/host/{name}/eligibility`."""
    return {
        "host": worker,
        "running": list(running),
        "classes": list(classes),
        "summary": "pi is free.",
        "next": "cis490-jobs status",
    }


def waiting(*checks: Json, jobs: tuple[str, ...] = ("gbt-realistic",), n_jobs: int = 1) -> Json:
    """One class of it."""
    blocked = "; ".join(one["message"] for one in checks if not one["ok"])
    return {
        "n_jobs": n_jobs,
        "jobs": list(jobs),
        "eligible": not blocked,
        "checks": list(checks),
        "summary": blocked or "can start here",
    }


def worker(host: str = "pi", **changes: Any) -> Json:
    """One entry of `GET /v1/workers`."""
    capability: Json = {
        "hostname": host,
        "os": "linux",
        "cores": 4,
        "ram_gib": 7.7,
        "has_cuda": False,
        "models": ["gbt", "mlp"],
        "python_version": "3.11.2",
    }
    row: Json = {
        "host": host,
        "capability": capability,
        "effective": capability,
        "last_seen_at": 0.0,
        "live": True,
        "busy": 0,
        "slots": 1,
        "paused_reason": None,
        "mismatches": [],
        "eligible_jobs": 4,
    }
    return row | changes


class FakeApi:
    """Use as a context manager; `url` is where it answers. What it knows may be changed at any time."""

    def __init__(self, *jobs: Json, token: str = "secret") -> None:
        self.jobs = list(jobs)
        self.in_full: dict[str, Json] = {}
        self.eligible: dict[str, Json] = {}
        self.workers: list[Json] = []
        self.stuck: list[Json] = []
        self.idle: Json = {}
        self.artifacts: dict[str, bytes] = {}
        self.token = token
        self.refusals: dict[str, tuple[int, Json]] = {}
        """Path -> (status, body) that is answered instead."""
        self.seen: list[str] = []
        """`METHOD path body` of each request, in order."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeApi:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def get(self, path: str, query: dict[str, list[str]]) -> tuple[int, Json | bytes]:
        """The answer of a read."""
        if path == "/v1/jobs":
            wanted = query.get("status")
            return 200, {"jobs": [row for row in self.jobs if not wanted or row["status"] in wanted]}
        if path == "/v1/workers":
            return 200, {"workers": self.workers}
        if path == "/v1/overview":
            facts = Facts(1.7e9, 1.7e9 - 60, self.jobs, (), self.workers, name="lab", stuck=self.stuck)
            return 200, overview(facts)
        if path == "/v1/resolve":
            return self._resolve(query)
        kind, _, rest = path.removeprefix("/v1/").partition("/")
        if kind == "host" and rest.endswith("/eligibility"):
            return 200, self.idle or host_eligibility(next(iter(self.workers), None))
        if kind == "model" and rest in self.artifacts:
            return 200, self.artifacts[rest]
        found = next((row for row in self.jobs if rest.startswith(row["job_id"])), None)
        if kind == "job" and found is not None:
            if rest.endswith("/eligibility"):
                return 200, self.eligible.get(found["name"]) or eligibility(found, host_verdict("pi"))
            return 200, {"job": self.in_full.get(found["name"]) or in_full(found)}
        return 404, {"error": f"no {kind} {rest}"}

    def _resolve(self, query: dict[str, list[str]]) -> tuple[int, Json]:
        if "job" in query:
            found = naming.resolve(self.jobs, query["job"][0])
        else:
            found = naming.resolve(self.workers, query["host"][0], name_key="host", id_key=None)
        if found.row is not None:
            return 200, dict(found.row)
        told = {
            "candidates": list(found.candidates),
            "ids": list(found.ids),
            "did_you_mean": found.did_you_mean,
        }
        return 404, {"error": "no such thing", **told}

    def post(self, path: str) -> tuple[int, Json]:
        """The answer of an operator verb whose token was right."""
        if path == "/v1/manifest/reload":
            counts = {"added": 2, "updated": 0, "unchanged": 12, "removed": 0, "retrained": 0}
            return 200, {
                "ok": True,
                "counts": counts,
                "n_jobs": 14,
                "manifest_digest": "ab" * 32,
                "warnings": [],
            }
        return 200, {"ok": True}


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # headers and body in one segment: two would wait 40 ms for an acknowledgement

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            api.seen.append(f"GET {self.path}")
            self._answer(*(api.refusals.get(url.path) or api.get(url.path, parse_qs(url.query))))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            api.seen.append(f"POST {self.path} {body}".strip())
            if self.headers.get("X-Operator-Token") != api.token:
                self._answer(401, {"error": "the operator token is wrong or missing"})
                return
            self._answer(*(api.refusals.get(self.path) or api.post(self.path)))

        def _answer(self, status: int, body: Json | bytes) -> None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header(
                "Content-Type", "application/octet-stream" if isinstance(body, bytes) else "application/json"
            )
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any, **__: Any) -> None:
            """Quiet."""

    return Handler
