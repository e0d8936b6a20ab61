"""Log in with the operator token, log out."""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.responses import Response

from training.dashboard import forms, pages, session
from training.dashboard.api import name_of
from training.dashboard.pages import Action


async def login(request: Request) -> Response:
    """The form, and its answer: a session in a cookie, or a sentence."""
    shared = pages.shared_of(request)
    if request.method != "POST":
        wanted = session.local_path(request.query_params.get("next", "/"))
        if shared.sessions.of(request) is not None:
            return pages.see_other(wanted)
        return await _form(request, wanted)
    try:
        fields = await forms.read(request)
    except forms.FormError as refused:
        return refused.response
    wanted, expected = session.local_path(fields.get("next", "/")), shared.operator_tokens
    if not expected:
        return await _form(request, wanted, 403)
    owner = name_of(request.scope)
    wait_s = shared.sessions.wait_s(owner)
    if wait_s > 0:
        minutes = math.ceil(wait_s / 60)
        error = f"Too many wrong tokens were tried. Try again in {minutes} min; cis490-jobs works meanwhile."
        later = await _form(request, wanted, 429, error)
        later.headers["Retry-After"] = str(math.ceil(wait_s))
        return later
    given = fields.get("token", "").strip()
    if sum(session.same(given, one) for one in expected) == 0:  # all are compared, whichever fits
        shared.sessions.wrong(owner)
        error = "That is not the operator token: the value of $CIS490_OPERATOR_TOKEN in the receiver's environment."
        return await _form(request, wanted, 403, error)
    shared.sessions.end(request.cookies.get(session.COOKIE, ""))  # of a login before
    cookie, _ = shared.sessions.start(owner)
    done = pages.see_other(wanted)
    session.set_cookie(done, request, cookie)
    return done


async def _form(request: Request, wanted: str, status: int = 200, error: str = "") -> Response:
    leads = "" if wanted == "/" else wanted
    return await pages.render(
        request, "login.html", {"next": wanted, "leads": leads, "error": error}, status=status
    )


async def logout(request: Request) -> Response:
    """End the session; with GET a button that does."""
    shared = pages.shared_of(request)
    if request.method != "POST":
        return await pages.render(request, "logout.html", {})
    try:
        await forms.read_as_operator(request)
    except forms.FormError as refused:
        return refused.response
    shared.sessions.end(request.cookies.get(session.COOKIE, ""))
    done = pages.see_other("/")
    session.drop_cookie(done, request)
    return done


ACTIONS = (Action("/login", login), Action("/logout", logout))
