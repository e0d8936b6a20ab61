"""Forms: reading them, and the three questions before one is carried out: from our own page, logged in, meant."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import Response

from training.dashboard import pages, session
from training.dashboard.session import Session

MAX_FORM_BYTES = 64 * 1024
MAX_FIELDS = 50


class FormError(Exception):
    """The form was not carried out; `response` says why."""

    def __init__(self, response: Response) -> None:
        super().__init__("the form was refused")
        self.response = response


async def read(request: Request) -> dict[str, str]:
    """The fields of a form that this receiver's own page sent; the last value where one was sent twice.

    Raises FormError for a form from elsewhere, or one too large.
    """
    if not session.is_ours(request):
        raise FormError(
            await pages.failed(
                request, 403, "This form was not sent by a page of this receiver. Nothing was changed."
            )
        )
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            error = f"The form has more than {MAX_FORM_BYTES} bytes. Nothing was changed."
            raise FormError(await pages.failed(request, 413, error))
    try:
        found = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:  # UnicodeDecodeError is one too
        raise FormError(
            await pages.failed(request, 400, "The form cannot be read. Nothing was changed.")
        ) from error
    return {key: values[-1] for key, values in found.items()}


async def read_as_operator(request: Request, keep: tuple[str, ...] = ()) -> tuple[dict[str, str], Session]:
    """The fields, sent by who is logged in and with that login's CSRF token. Raises FormError.

    Who is no longer logged in is led to the login and from there back to this form, with the fields of `keep` filled
    in; nothing is carried out on the way.
    """
    fields = await read(request)
    found = pages.shared_of(request).sessions.of(request)
    if found is None:
        kept = {key: fields[key] for key in keep if fields.get(key)}
        raise FormError(to_login(pages.path_of(request), kept))
    if not found.has_csrf(fields.get("csrf", "")):
        error = "This form belongs to another login. Nothing was changed. Go back, reload the page and send it again."
        raise FormError(await pages.failed(request, 403, error))
    return fields, found


def to_login(path: str, query: Mapping[str, str] | None = None) -> Response:
    """To the login, and afterwards to `path`."""
    wanted = f"{path}?{urlencode(query)}" if query else path
    return pages.see_other("/login?" + urlencode({"next": wanted}))
