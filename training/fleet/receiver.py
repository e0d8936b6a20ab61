"""The trainer-receiver: assembly of the application, and `python -m training.fleet.receiver`.

Back ends are chosen in one place, `build()`. Until client certificates are wired the receiver knows
hosts only by what they say (`--worker-auth header`), so it listens on loopback or a Unix socket alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cis490.ballast import Ballast, is_disk_full
from cis490.blobs import BlobError
from cis490.database.sqlite import DatabaseError
from cis490.failpoints import failpoint
from cis490.files import free_bytes
from cis490.locks import Held, hold
from cis490.logs import configure, event
from training.dashboard import app as pages
from training.fleet import coordinator as parts
from training.fleet import reaper, routes
from training.fleet.coordinator import Coordinator
from training.fleet.direct import Direct
from training.fleet.eligibility import Rules
from training.fleet.http_io import Problem, answer
from training.fleet.in_process import InProcess
from training.fleet.ledger import QueueUnavailable
from training.fleet.manifest import TrainingManifestError, canonical_path
from training.fleet.queue import JobQueue
from training.fleet.request_times import RequestTimes
from training.fleet.routes import ROUTES
from training.fleet.store import ModelStore
from training.fleet.types import Manifest
from training.trainer.registry import load_plugins

log = logging.getLogger(__name__)
GIB = 1024**3
EXIT_UNAVAILABLE, EXIT_CANNOT_WRITE, EXIT_CONFIG = 69, 73, 78
DEFAULT_PORT = 8445
BACKLOG = 2048
FULL_BYTES = 1024 * 1024
"""With less than this free, a database that does not open is taken to want room."""


def make_app(
    *,
    queue: JobQueue,
    store: ModelStore,
    manifest_path: str | Path,
    operator_token: str | None = None,
    max_artifact_bytes: int = GIB,
    sweep_every_s: float = 60.0,
    manifest: Manifest | None = None,
    ballast: Ballast | None = None,
    dashboard: bool = True,
) -> Starlette:
    """The application over a queue and a store.

    The manifest's *policy* is in force from here on (its jobs enter the queue by a reload, or by
    `build`). Pass `manifest` when it is applied already. A manifest file that is broken admits no
    host until a reload succeeds; one that does not exist names no hosts. `dashboard` serves the pages too, at `/`.
    """
    app_parts = Coordinator(
        queue=queue,
        store=store,
        manifest_path=Path(manifest_path),
        operator_token=operator_token,
        max_artifact_bytes=max_artifact_bytes,
    )
    app_parts.ballast, app_parts.sweep_every_s = ballast, sweep_every_s
    app_parts.request_times = RequestTimes({item.handler: item.path for item in ROUTES})
    if manifest is None:
        _adopt_policy(app_parts)
    else:
        app_parts.adopt(manifest)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(
            reaper.run(
                queue,
                app_parts.writer,
                every_s=sweep_every_s,
                on_change=app_parts.changed,
                on_sweep=app_parts.after_sweep,
                ballast=ballast,
            )
        )
        app_parts.notifier.start()
        try:
            yield
        finally:
            sweeping.cancel()
            await app_parts.notifier.close()
            await app_parts.cleaner.stop()
            await asyncio.to_thread(app_parts.close)

    app = Starlette(
        routes=[Route(item.path, item.handler, methods=[item.method]) for item in ROUTES],
        exception_handlers={**ON_ERROR, Exception: _defect},
        middleware=[
            Middleware(
                Direct,
                claim=routes.claim,
                verbs=routes.LEASE_VERBS,
                on_error=ON_ERROR,
                times=app_parts.request_times,
            )
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would repeat whatever Host the client sent
    app.state.coordinator = app_parts
    if dashboard:
        pages.mount(
            app, InProcess(app, app_parts.operator_token), operator_token=app_parts.operator_token,
            now_s=queue.clock.now_s, wall_s=queue.clock.wall_s,
        )  # fmt: skip
    return app


def _adopt_policy(app_parts: Coordinator) -> None:
    path = app_parts.manifest_path
    if not path.exists():
        event(log, "manifest.missing", path=str(path))
        return
    try:
        found, digest = parts.read_manifest(path)
    except TrainingManifestError as error:
        event(log, "manifest.faulty", path=str(path), error=str(error))
        app_parts.queue.matcher.policy(Rules(names_hosts=True), {})  # nothing fails open
        return
    app_parts.queue.adopt_policy(found, trainer_digest=digest)
    app_parts.adopt(found)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {
        404: f"no such endpoint: {request.url.path[:200]}",
        405: f"{request.method} is not possible here",
    }
    text = known.get(error.status_code, error.detail)
    if pages.wants_page(request):
        out = await pages.error_page(request, error.status_code, text)
    else:
        out = answer({"error": text}, error.status_code)
    out.headers.update(error.headers or {})
    return out


async def _unavailable(request: Request, error: Exception) -> Response:
    out = answer({"error": f"the queue cannot write right now, nothing was changed: {error}"}, 503)
    out.headers["Retry-After"] = "5"
    return out


async def _defect(request: Request, error: Exception) -> Response:
    """Something nobody thought of: in JSON at least, and in the log with its name."""
    event(log, "receiver.defect", level=logging.ERROR, path=request.url.path, error=repr(error))
    return answer(
        {"error": "the receiver met a defect of its own; its log has the details (receiver.defect)"}, 500
    )


async def _broken(request: Request, error: Exception) -> Response:
    """The receiver's own disk or database fails: not the request's fault, and worth trying again."""
    event(log, "receiver.broken", level=logging.ERROR, path=request.url.path, error=repr(error))
    out = answer(
        {"error": f"the receiver's disk or database fails; the operator must look at it: {error}"}, 503
    )
    out.headers["Retry-After"] = "30"
    return out


ON_ERROR: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Problem: _problem,
    HTTPException: _http_error,
    QueueUnavailable: _unavailable,
    OSError: _broken,
    sqlite3.Error: _broken,
    DatabaseError: _broken,
    BlobError: _broken,
}


# -- the program


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the receiver can be told; the defaults are those of `arguments()`."""

    listen: ListenAddress
    manifest: Path
    db: Path
    store_root: Path
    incoming_root: Path
    index_path: Path
    operator_token: str | None
    stale_after_s: float
    heartbeat_s: float
    sweep_every_s: float
    max_artifact_bytes: int
    dashboard: bool = True


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: a Unix socket path, or a loopback host and port (0: any free one)."""

    unix_path: str | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return self.unix_path or f"{self.host}:{self.port}"


def listen_address(text: str) -> ListenAddress:
    """Parse `127.0.0.1:8445`, `[::1]:8445`, `localhost:8445`, a bare port, or `unix:/path`.

    Raises ValueError with a sentence; anything but loopback is refused because hosts are not
    authenticated yet.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise _bad_address(text, "a Unix socket without an absolute path", "unix:/run/cis490.sock")
        return ListenAddress(unix_path=path)
    host, _, port_text = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if ":" in host and not text.startswith("["):
        raise _bad_address(text, "an IPv6 address without brackets", f"[::1]:{DEFAULT_PORT}")
    if not port_text.isascii() or not port_text.isdecimal() or int(port_text) > 65535:
        raise _bad_address(text, "no port from 0 to 65535", f"127.0.0.1:{DEFAULT_PORT}")
    if not _is_loopback(host):
        found = "an address that other machines reach, while a host is whoever it says it is (--worker-auth header)"
        hint = f"127.0.0.1:{port_text}, and put an authenticating proxy in front"
        raise _bad_address(text, found, hint)
    return ListenAddress(host=host, port=int(port_text))


def _bad_address(text: str, found: str, instead: str) -> ValueError:
    return ValueError(
        f"--listen-addr: found {text!r}, {found}; expected HOST:PORT on loopback, or unix:/PATH; "
        f"write --listen-addr {instead}  [E201]"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def build(settings: Settings, manifest: Manifest, trainer: str) -> tuple[Starlette, JobQueue]:
    """Choose the back ends and put the receiver together: SQLite and the local disk."""
    ballast = Ballast(settings.db.with_name("ballast"))
    queue = _open(settings, manifest, trainer, ballast)
    store = ModelStore(settings.store_root, settings.incoming_root, settings.index_path)
    app = make_app(
        queue=queue,
        store=store,
        manifest_path=settings.manifest,
        operator_token=settings.operator_token,
        max_artifact_bytes=settings.max_artifact_bytes,
        sweep_every_s=settings.sweep_every_s,
        manifest=manifest,
        ballast=ballast,
        dashboard=settings.dashboard,
    )
    ballast.restore()
    return app, queue


def _open(settings: Settings, manifest: Manifest, trainer: str, ballast: Ballast) -> JobQueue:
    """The queue with the manifest in force; on a full disk once more in the space that was put aside."""

    def opened() -> JobQueue:
        queue = JobQueue(settings.db, stale_after_s=settings.stale_after_s, heartbeat_s=settings.heartbeat_s)
        failpoint("receiver.rebuilt")
        try:
            counts = queue.apply_manifest(manifest, trainer_digest=trainer)
        except BaseException:
            queue.close()
            raise
        for fault in load_plugins():
            event(log, "model.left_out", level=logging.WARNING, reason=fault)
        event(log, "manifest.applied", path=str(settings.manifest), jobs=len(manifest.jobs), **counts)
        return queue

    try:
        return opened()
    except (DatabaseError, QueueUnavailable, sqlite3.Error) as error:
        # SQLite calls it an I/O error when there is no room for its shared memory file
        is_full = is_disk_full(error) or free_bytes(settings.db.parent) < FULL_BYTES
        if not (is_full and ballast.give_up()):
            raise
    return opened()


def arguments() -> argparse.ArgumentParser:
    """The command line, in one place: the documentation is checked against it."""
    parser = argparse.ArgumentParser(
        prog="python -m training.fleet.receiver",
        description="Coordinate the training fleet: hands out jobs, takes artifacts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    lib = Path("/var/lib/cis490")
    parser.add_argument(
        "--listen-addr", default=f"127.0.0.1:{DEFAULT_PORT}", help="HOST:PORT, PORT or unix:/path"
    )
    parser.add_argument(
        "--manifest", type=Path, default=canonical_path(), help="the one file an operator edits"
    )
    parser.add_argument("--db", type=Path, default=lib / "training_jobs.db", help="the queue's SQLite file")
    parser.add_argument("--store-root", type=Path, default=lib / "models", help="where artifacts lie")
    parser.add_argument(
        "--incoming-root", type=Path, default=lib / "incoming-models", help="where uploads arrive"
    )
    parser.add_argument(
        "--index-path", type=Path, default=lib / "models" / "index.jsonl", help="a row for each artifact"
    )
    parser.add_argument(
        "--operator-token-env", default="CIS490_OPERATOR_TOKEN", help="variable with the token"
    )
    parser.add_argument(
        "--log-level",
        default="INFO",
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="from which level on to log",
    )
    parser.add_argument(
        "--worker-auth", default="header", choices=["header"], help="how a host proves its name"
    )
    parser.add_argument(
        "--stale-after-s", type=_seconds, default=600.0, help="lease: silence that loses a job"
    )
    parser.add_argument("--heartbeat-s", type=_seconds, default=30.0, help="how often workers shall report")
    parser.add_argument(
        "--sweep-every-s", type=_seconds, default=60.0, help="how often stale leases are looked for"
    )
    parser.add_argument(
        "--max-artifact-bytes", type=_bytes, default=GIB, help="larger uploads are refused (413)"
    )
    parser.add_argument(
        "--no-dashboard", action="store_true", help="serve the interface below /v1/ only, no pages"
    )
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e7:
        raise argparse.ArgumentTypeError(
            f"found {text!r}; expected seconds above 0, at most 10000000; write a number, such as 60  [E203]"
        )
    return value


def _bytes(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value <= 0:
        raise argparse.ArgumentTypeError(
            f"found {text!r}; expected a whole number of bytes above 0; write a number, such as {GIB}  [E203]"
        )
    return value


def bind(address: ListenAddress) -> socket.socket:
    """A listening socket; a Unix socket is created 0660, readable by its group (the proxy) alone."""
    if address.unix_path is None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        # With the protocol named, asyncio switches TCP_NODELAY on for every connection; without, each answer
        # waits 40 ms for the client's delayed acknowledgement.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address.host, address.port))
        bound.listen(BACKLOG)
        return bound
    path = Path(address.unix_path)
    if path.is_socket():
        path.unlink()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        bound.bind(str(path))
    finally:
        os.umask(before)
    bound.listen(BACKLOG)
    return bound


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Exit codes: 0 stopped, 69 the address is taken, 73 a folder cannot be written,
    78 the manifest does not load or an option makes no sense; 69 also when another receiver has the database."""
    parser = arguments()
    args = parser.parse_args(argv)
    configure(args.log_level)
    try:
        listen = listen_address(args.listen_addr)
        manifest, trainer = parts.read_manifest(args.manifest)
    except (ValueError, TrainingManifestError, OSError) as error:
        return _refuse(EXIT_CONFIG, str(error))
    if args.heartbeat_s >= args.stale_after_s:
        return _refuse(
            EXIT_CONFIG,
            f"--heartbeat-s: found {args.heartbeat_s:g}; expected less than --stale-after-s, which is "
            f"{args.stale_after_s:g}: a worker that reports no more often than its lease lasts loses every job; "
            f"write --heartbeat-s {args.stale_after_s / 20:g}  [E202]",
        )
    settings = Settings(
        listen=listen, manifest=args.manifest, db=args.db, store_root=args.store_root,
        incoming_root=args.incoming_root, index_path=args.index_path,
        operator_token=os.environ.get(args.operator_token_env), stale_after_s=args.stale_after_s,
        heartbeat_s=args.heartbeat_s, sweep_every_s=args.sweep_every_s, max_artifact_bytes=args.max_artifact_bytes,
        dashboard=not args.no_dashboard,
    )  # fmt: skip
    try:
        settings.db.parent.mkdir(parents=True, exist_ok=True)
        with hold(settings.db.with_name(settings.db.name + ".lock")):
            app, queue = build(settings, manifest, trainer)
            return _serve(app, queue, listen)
    except Held as error:
        return _refuse(
            EXIT_UNAVAILABLE,
            f"another receiver (pid {error.pid}) serves {settings.db}; stop it, or use another --db",
        )
    except (OSError, DatabaseError, BlobError, QueueUnavailable, sqlite3.Error) as error:
        return _refuse(EXIT_CANNOT_WRITE, str(error))


def _refuse(code: int, text: str) -> int:
    print(f"cis490-trainer-receiver cannot start: {text}", file=sys.stderr)
    return code


def _serve(app: Starlette, queue: JobQueue, listen: ListenAddress) -> int:
    import uvicorn

    from training.fleet.connections import server_config

    try:
        bound = bind(listen)
    except OSError as error:
        queue.close()
        return _refuse(
            EXIT_UNAVAILABLE, f"it cannot listen on {listen}: {error}. Is another program using it?"
        )

    class Server(uvicorn.Server):
        """Answers the claims that wait before it lets the connections end."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.coordinator.stop_waiting()
            super().handle_exit(sig, frame)

    server = Server(server_config(app))
    for number in (signal.SIGTERM, signal.SIGINT):
        # Before uvicorn listens to signals one ends it as soon as it runs. After its orderly end it raises them once
        # more; then there is still the database to close.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    event(log, "receiver.listening", address=_shown(bound))
    gc.freeze()  # what was imported stays: the collector need not walk through it again while requests wait
    failpoint("receiver.before_listening")
    server.run(sockets=[bound])
    failpoint("receiver.before_close")
    queue.close()
    failpoint("receiver.closed")
    event(log, "receiver.stopped")
    return 0


def _shown(bound: socket.socket) -> str:
    name = bound.getsockname()
    return name if isinstance(name, str) else f"{name[0]}:{name[1]}"


if __name__ == "__main__":
    raise SystemExit(main())
