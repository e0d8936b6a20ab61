"""The trainer-receiver: assembly of the application, and `python -m training.fleet.receiver`.

Back ends are chosen in one place, `build()`. It listens on loopback or a Unix socket alone: other machines come through
the proxy in front, and are who their certificates say (`--worker-auth mtls`, `access`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import FrameType

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from cis490.ballast import Ballast, is_disk_full
from cis490.blobs import BlobError
from cis490.database.sqlite import DatabaseError
from cis490.failpoints import failpoint
from cis490.files import free_bytes
from cis490.locks import Held, hold
from cis490.logs import configure, event
from cis490.pki.authority import Authority, open_authority
from cis490.pki.certificates import PkiError
from cis490.sd_notify import Systemd, systemd
from training.dashboard import app as pages
from training.fleet import coordinator as parts
from training.fleet import reaper, routes, watchdog
from training.fleet.access import Access, ByCertificate, ByHeader, Doors, Identify
from training.fleet.coordinator import Coordinator
from training.fleet.direct import Direct
from training.fleet.eligibility import Rules, admission
from training.fleet.http_io import Problem, answer, peer_of
from training.fleet.in_process import InProcess
from training.fleet.ledger import QueueUnavailable
from training.fleet.manifest import TrainingManifestError
from training.fleet.peer_certificates import PeerCertificates
from training.fleet.peers import Denied, WorkerAuth
from training.fleet.queue import JobQueue
from training.fleet.quotas import DAY_S, Limits, Quotas
from training.fleet.receiver_settings import (
    GIB,
    ListenAddress,
    Settings,
    arguments,
    check_access,
    listen_address,
    operator_tokens,
)
from training.fleet.request_times import RequestTimes
from training.fleet.routes import ROUTES
from training.fleet.store import ModelStore
from training.fleet.types import Manifest
from training.trainer.registry import load_plugins

log = logging.getLogger(__name__)
EXIT_UNAVAILABLE, EXIT_CANNOT_WRITE, EXIT_CONFIG = 69, 73, 78
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
    worker_auth: WorkerAuth = "header",
    authority: Authority | None = None,
    former_operator_token: str | None = None,
    host_limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Starlette:
    """The application over a queue and a store.

    The manifest's *policy* is in force from here on (its jobs enter the queue by a reload, or by
    `build`). Pass `manifest` when it is applied already. A manifest file that is broken admits no
    host until a reload succeeds; one that does not exist names no hosts. `dashboard` serves the pages too, at `/`.
    With `worker_auth="mtls"` everybody is who the certificate says that the proxy hands on, issued by `authority`;
    whoever can connect counts as the proxy, and each host keeps to `host_limits`. `former_operator_token` is accepted
    too, while tokens are rotated.
    """
    app_parts = Coordinator(
        queue=queue,
        store=store,
        manifest_path=Path(manifest_path),
        operator_token=operator_token,
        max_artifact_bytes=max_artifact_bytes,
        former_operator_token=former_operator_token,
    )
    app_parts.authority = authority
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
                on_tick=app_parts.reaper_ticked,
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

    found_routes = [Route(item.path, item.handler, methods=[item.method]) for item in ROUTES]
    app = Starlette(
        routes=found_routes,
        exception_handlers={**ON_ERROR, Exception: _defect},
        middleware=[
            Middleware(
                Access,
                identify=_identify(worker_auth, app_parts, lambda scope: _has_session(app, scope)),
                doors=Doors(
                    [(item, route.path_regex) for item, route in zip(ROUTES, found_routes, strict=True)]
                ),
                on_denied=_denied,
                quotas=_quotas(queue, host_limits),
                clock=queue.clock,
            ),
            Middleware(
                Direct,
                claim=routes.claim,
                verbs=routes.LEASE_VERBS,
                on_error=ON_ERROR,
                times=app_parts.request_times,
            ),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would repeat whatever Host the client sent
    app.state.coordinator = app_parts
    if dashboard:
        tokens = app_parts.operator_token
        pages.mount(
            app, InProcess(app, tokens.current if tokens else None), operator_tokens=tokens.all if tokens else (),
            now_s=queue.clock.now_s, wall_s=queue.clock.wall_s,
        )  # fmt: skip
    return app


def _identify(
    worker_auth: WorkerAuth, app_parts: Coordinator, has_session: Callable[[Scope], bool]
) -> Identify:
    if worker_auth == "header":
        return ByHeader()
    if app_parts.authority is None:
        raise ValueError("worker_auth='mtls' needs the authority whose certificates count")
    matcher = app_parts.queue.matcher
    return ByCertificate(
        PeerCertificates(app_parts.authority).read,
        denied_because=app_parts.standing.is_denied,
        # Without the queue's lock, which a transaction may hold: nobody else's request shall wait for it.
        is_admitted=lambda host: admission(host, matcher.hosts.get(host), matcher.rules).ok,
        wall_s=app_parts.queue.clock.wall_s,
        has_session=has_session,
    )


def _quotas(queue: JobQueue, limits: Limits) -> Quotas:
    made, wall_s = Quotas(limits), queue.clock.wall_s()
    rows = queue.read("uploads_since", after=wall_s - DAY_S)
    made.load(((row["host"], row["size_bytes"], wall_s - row["at"]) for row in rows), queue.clock.now_s())
    return made


def _has_session(app: Starlette, scope: Scope) -> bool:
    """Whether the request comes from a browser that has logged in."""
    shared = getattr(app.state, "dashboard", None)
    return shared is not None and shared.sessions.of(Request(scope)) is not None


async def _denied(request: Request, why: Denied) -> Response:
    """What `Access` refused: in JSON, or for a person with a browser as a page, or a way to the login."""
    if not pages.wants_page(request):
        return answer({"error": why.error}, why.status)
    if why.status == 401 and peer_of(request).site == "operators":
        return pages.to_login(request)
    return await pages.error_page(request, why.status, why.error)


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


def build(settings: Settings, manifest: Manifest, trainer: str) -> tuple[Starlette, JobQueue]:
    """Choose the back ends and put the receiver together: SQLite and the local disk. Raises PkiError."""
    authority = None if settings.ca_dir is None else open_authority(settings.ca_dir)
    ballast = Ballast(settings.db.with_name("ballast"))
    queue = _open(settings, manifest, trainer, ballast)
    store = ModelStore(settings.store_root, settings.incoming_root, settings.index_path)
    app = make_app(
        queue=queue,
        store=store,
        worker_auth=settings.worker_auth,
        authority=authority,
        former_operator_token=settings.former_operator_token,
        host_limits=settings.host_limits,
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
        check_access(listen, args.worker_auth, args.ca_dir)
        tokens = operator_tokens(args.operator_token_file, args.operator_token_env, os.environ)
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
        operator_token=tokens[0], former_operator_token=tokens[1], stale_after_s=args.stale_after_s,
        heartbeat_s=args.heartbeat_s, sweep_every_s=args.sweep_every_s, max_artifact_bytes=args.max_artifact_bytes,
        dashboard=not args.no_dashboard, worker_auth=args.worker_auth, ca_dir=args.ca_dir,
        host_limits=Limits(args.host_requests_per_min, args.host_uploads_at_once, args.host_bytes_per_day),
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
    except PkiError as error:
        return _refuse(EXIT_CONFIG, f"--ca-dir: {error}  [E206]")
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
        """Tells systemd how it is. Answers the claims that wait before it lets the connections end."""

        watching: asyncio.Task[None] | None = None

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                manager.ready(f"serving on {listen}")
                self.watching = asyncio.create_task(_keep_alive(manager, app.state.coordinator))

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if self.watching is not None:
                self.watching.cancel()
            manager.stopping("ending connections")
            await super().shutdown(sockets)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.coordinator.stop_waiting()
            super().handle_exit(sig, frame)

    manager = systemd()
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


async def _keep_alive(manager: Systemd, app_parts: Coordinator) -> None:
    """The parts that a sign of life to systemd speaks for."""
    if manager.watchdog_s is not None:
        await watchdog.keep_receiver(
            manager,
            writer_turn=lambda: app_parts.write(lambda: None),
            reaper_age_s=app_parts.reaper_age_s,
            reaper_limit_s=3 * app_parts.sweep_every_s,
        )


def _shown(bound: socket.socket) -> str:
    name = bound.getsockname()
    return name if isinstance(name, str) else f"{name[0]}:{name[1]}"


if __name__ == "__main__":
    raise SystemExit(main())
