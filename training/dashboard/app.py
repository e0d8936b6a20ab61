"""The pages, put together: `mount` adds them to the receiver's application, after the interface.

They are a client of `GET /v1/...` and show what it answers (docs/design/dashboard.md). What a page module brings is
described in pages.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from training.dashboard import (
    actions,
    events_page,
    fleet_page,
    forms,
    health_page,
    host_page,
    job_page,
    jobs_page,
    login_page,
    models_page,
    pages,
)
from training.dashboard.api import Api
from training.dashboard.assets import Assets
from training.dashboard.pages import Action, Page, Shared
from training.dashboard.session import Sessions

MODULES = (
    actions, fleet_page, jobs_page, job_page, host_page, models_page, events_page, health_page, login_page,
)  # fmt: skip


def mount(
    app: Starlette,
    api: Api,
    *,
    operator_tokens: tuple[str, ...],
    now_s: Callable[[], float],
    wall_s: Callable[[], float],
    random_text: Callable[[], str] = lambda: secrets.token_urlsafe(32),
) -> None:
    """Serve the pages from `app`. `now_s` measures sessions, `wall_s` is the time that the pages show."""
    shared = Shared(api, Assets(), wall_s, Sessions(now_s, random_text), operator_tokens)
    app.state.dashboard = shared
    app.router.routes.extend(routes(shared.assets))


def routes(assets: Assets) -> list[Route]:
    """Every page, its `.json` twin, every form, and the static files."""
    made = [Route("/static/{file}", assets.serve, methods=["GET"])]
    for module in MODULES:
        forms: tuple[Action, ...] = getattr(module, "ACTIONS", ())
        found: tuple[Page, ...] = getattr(module, "PAGES", ())
        made += [Route(form.path, form.handler, methods=list(form.methods)) for form in forms]
        for page in found:
            made += [
                Route(pages.twin(page.path), pages.json_handler(page), methods=["GET"]),
                Route(page.path, pages.html_handler(page), methods=["GET"]),
            ]
    return made


def to_login(request: Request) -> Response:
    """For a person who is not logged in, where that is needed to see anything."""
    path = pages.path_of(request)
    return forms.to_login(path, dict(request.query_params)) if path != "/" else pages.see_other("/login")


def wants_page(request: Request) -> bool:
    """Whether an error is for a person with a browser: outside the interface, and HTML is what was asked for."""
    path = pages.path_of(request)
    return (
        not path.startswith("/v1/")
        and not path.endswith(".json")
        and "text/html" in request.headers.get("accept", "")
        and hasattr(request.app.state, "dashboard")
    )


async def error_page(request: Request, status: int, error: str) -> Response:
    """The page for an error that no page answered itself: an address that is none, a method, a defect."""
    if status == 404:
        error = f"There is no page at {pages.path_of(request)[:200]}."
    return await pages.failed(request, status, error)
