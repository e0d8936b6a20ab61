"""One row of the HTTP interface. Each module of routes has a tuple of them; `routes.ROUTES` is all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from training.fleet.peers import Who


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method and a path, who may ask, and the type of the JSON body (None: it takes none)."""

    method: Literal["GET", "POST", "PUT"]
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    who: Who
    body: type | None = None
