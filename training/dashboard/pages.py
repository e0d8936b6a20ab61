"""The page helper: what every page of the dashboard is made with.

A page module has `PAGES`, a tuple of `Page(path, template, data)`, and, where it takes forms, `ACTIONS`, a tuple of
`Action(path, handler)`; `app.py` lists the modules. `data` is `async (Ask) -> dict`: what the page shows, as JSON. The
same dict is the page's `.json` twin (`/job/x` and `/job/x.json`; `/` and `/index.json`), so it holds plain JSON values.
`view`, where given, adds what only the HTML needs (a drawn chart): it runs in a thread together with the template.

In a template: `data` (that dict), the names that `view` gave, `page` (see `Frame`), the filters of `words.py` and the
macros of `templates/macros.html`. A template extends `base.html` and fills `title`, `heading` and `content`; each part
that follows events without a reload is a `<section id="..." data-live>`. There is no inline script and no style
attribute: the Content-Security-Policy refuses both.

Files: app.py (routes, errors), pages.py (this), session.py and forms.py (who is it, is it meant), actions.py (what the
operator may do), words.py (filters), assets.py (static files), static/live.js (updates), templates/base.html (frame).
"""

from __future__ import annotations

import asyncio
import functools
import gzip
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from training.dashboard import words
from training.dashboard.api import Api, Refusal, Viewer, viewer_of
from training.dashboard.assets import Assets
from training.dashboard.session import Session, Sessions, local_path

HERE = Path(__file__).resolve().parent
POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # not `no-referrer`: with that a browser sends `Origin: null` with our own forms, which says nothing
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
GZIP_FROM_BYTES = 1024
REFRESH_HEADER = "x-refresh"
"""live.js sends it: the page is fetched for what changed, nobody reads its messages now."""


OPEN_TO_ALL = Viewer("", may_read=True, may_log_in=True)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a page's `data` is given: who asks for what, and the interface to answer it from."""

    api: Api
    path: Mapping[str, str]
    query: Mapping[str, str]
    now_s: float
    """UTC seconds since the epoch."""
    session: Session | None = None

    async def get(self, path: str, /, **query: str | int | float) -> dict[str, Any]:
        """The JSON answer of `GET path`. Raises Refusal, which becomes the page's error."""
        return await self.api.get(path, **query)

    async def maybe(self, path: str, /, **query: str | int | float) -> dict[str, Any] | None:
        """As `get`, but None where the receiver refuses: for a part that a page can do without."""
        try:
            return await self.api.get(path, **query)
        except Refusal:
            return None


@dataclass(frozen=True, slots=True)
class Page:
    """A page and its `.json` twin. `path` is Starlette's form, such as `/job/{name}`."""

    path: str
    template: str
    data: Callable[[Ask], Awaitable[dict[str, Any]]]
    view: Callable[[dict[str, Any], Ask], Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """A form: GET shows it (or a question to confirm), POST carries it out."""

    path: str
    handler: Callable[[Request], Awaitable[Response]]
    methods: tuple[str, ...] = ("GET", "POST")


@dataclass(frozen=True, slots=True)
class Frame:
    """What `base.html` shows around the content."""

    path: str
    """Of this page, with its query: where a login leads back to."""
    json_path: str
    """Of its twin; "" where it has none."""
    now_s: float
    session: Session | None
    messages: tuple[str, ...] = ()
    can_operate: bool = False
    """The receiver has an operator token, and this person may log in with it."""
    viewer: Viewer = OPEN_TO_ALL
    nav: tuple[tuple[str, str], ...] = (
        ("/", "Fleet"), ("/jobs", "Jobs"), ("/models", "Models"), ("/events", "Events"), ("/health", "Health"),
    )  # fmt: skip

    @property
    def here(self) -> str:
        """The entry of the navigation that this page belongs to."""
        first = self.path.partition("?")[0]
        part = "/" + first.strip("/").partition("/")[0]
        return {"/job": "/jobs", "/host": "/"}.get(part, part)


@dataclass(slots=True)
class Shared:
    """One dashboard's parts; handlers find it at `request.app.state.dashboard`."""

    api: Api
    assets: Assets
    wall_s: Callable[[], float]
    sessions: Sessions
    operator_tokens: tuple[str, ...] = ()
    """What the login accepts: the current one, and during a rotation the former one."""


def shared_of(request: Request) -> Shared:
    found: Shared = request.app.state.dashboard
    return found


def ask_of(request: Request) -> Ask:
    """What a page's `data` needs, from the request."""
    shared = shared_of(request)
    return Ask(
        shared.api.seen_by(request.scope),
        dict(request.path_params),
        dict(request.query_params),
        shared.wall_s(),
        shared.sessions.of(request),
    )


@functools.lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates, with autoescape on for every one of them: names, errors and log lines come from workers."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, auto_reload=False,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(words.FILTERS)
    made.globals.update(words.GLOBALS)
    return made


async def render(
    request: Request,
    template: str,
    data: Mapping[str, Any],
    *,
    status: int = 200,
    view: Callable[[], Mapping[str, Any]] | None = None,
    has_twin: bool = False,
) -> Response:
    """The page as HTML, with the security headers; drawn and packed in a thread, so that nobody waits for it."""
    shared = shared_of(request)
    session: Session | None = shared.sessions.of(request)
    is_refresh = REFRESH_HEADER in request.headers
    viewer = viewer_of(request.scope)
    frame = Frame(
        path=local_path(_with_query(request, path_of(request))),
        json_path=_with_query(request, twin(path_of(request))) if has_twin else "",
        now_s=shared.wall_s(),
        session=session,
        messages=() if session is None or is_refresh else session.take_messages(),
        can_operate=bool(shared.operator_tokens) and viewer.may_log_in,
        viewer=viewer,
    )
    packs = "gzip" in request.headers.get("accept-encoding", "")

    def draw() -> tuple[bytes, bool]:
        names = dict(view()) if view is not None else {}
        text = (
            environment()
            .get_template(template)
            .render(data=data, page=frame, static=shared.assets.url, **names)
        )
        return _packed(text.encode(), packs)

    body, is_packed = await asyncio.to_thread(draw)
    return _response(body, is_packed, status, "text/html; charset=utf-8")


def twin(path: str) -> str:
    """Where a page is as JSON."""
    return "/index.json" if path == "/" else f"{path}.json"


def path_of(request: Request) -> str:
    """The path that was asked for. Not `request.url.path`: that one is put together with the Host header."""
    found: str = request.scope["path"]
    return found


def _with_query(request: Request, path: str) -> str:
    query = request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _packed(body: bytes, packs: bool) -> tuple[bytes, bool]:
    if not packs or len(body) < GZIP_FROM_BYTES:
        return body, False
    return gzip.compress(body, 5, mtime=0), True


def _response(body: bytes, is_packed: bool, status: int, kind: str) -> Response:
    headers = {**HEADERS, "Vary": "Accept-Encoding, Cookie"}
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    return Response(body, status, headers, kind)


def html_handler(page: Page) -> Callable[[Request], Awaitable[Response]]:
    """Answers `page.path` with HTML; a refusal of the interface becomes a page that says so."""

    async def handler(request: Request) -> Response:
        ask = ask_of(request)
        try:
            data = await page.data(ask)
        except Refusal as refusal:
            return await refused(request, refusal)
        view = page.view
        return await render(
            request,
            page.template,
            data,
            view=None if view is None else lambda: view(data, ask),
            has_twin=True,
        )

    return handler


def json_handler(page: Page) -> Callable[[Request], Awaitable[Response]]:
    """Answers the page's twin: the same data, as JSON."""

    async def handler(request: Request) -> Response:
        try:
            data, status = await page.data(ask_of(request)), 200
        except Refusal as refusal:
            data, status = dict(refusal.body), refusal.status
        packs = "gzip" in request.headers.get("accept-encoding", "")
        body, is_packed = await asyncio.to_thread(lambda: _packed(msgspec.json.encode(data), packs))
        return _response(body, is_packed, status, "application/json")

    return handler


async def refused(request: Request, refusal: Refusal) -> Response:
    """A page for what the interface refused: its sentence, and where to go on."""
    return await failed(request, refusal.status, str(refusal), refusal.body)


async def failed(
    request: Request, status: int, error: str, more: Mapping[str, Any] | None = None
) -> Response:
    """The error page. `more` may hold `did_you_mean`, `candidates`, `next`, `hint` of an answer."""
    return await render(
        request, "error.html", {"status": status, "error": error, **(more or {})}, status=status
    )


def see_other(location: str) -> Response:
    """303: the browser goes on with GET, and a reload does not send the form again. `location` is a path of ours."""
    return Response(status_code=303, headers={**HEADERS, "Location": location})
