"""A shorter way to the handlers that workers call all the time: no search through the routes, same handlers.

Under load most of a claim's time is HTTP; of that, a third was finding the route and wrapping the call. These
requests are recognised by their path alone. What is not recognised, and what goes wrong before an answer, takes
exactly the way that it takes for every other endpoint.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from training.fleet.request_times import RequestTimes

Handler = Callable[[Request], Awaitable[Response]]
OnError = Callable[[Request, Exception], Awaitable[Response]]
_PREFIX = "/v1/job/"


class _Request(Request):
    """As Starlette's, but looks for a goodbye without a cancelled task: that cost as much as half a claim."""

    async def is_disconnected(self) -> bool:
        if not self._is_disconnected:
            waiting = self.receive()
            try:
                waiting.send(None)  # type: ignore[attr-defined]  # every server's `receive` is a coroutine function
            except StopIteration as found:  # a message was there
                self._is_disconnected = found.value["type"] == "http.disconnect"
            else:
                waiting.close()  # type: ignore[attr-defined]
        return self._is_disconnected


class Direct:
    """ASGI middleware: `POST /v1/job/claim` and `POST /v1/job/{id}/VERB` straight to their handlers."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        claim: Handler,
        verbs: Mapping[str, Handler],
        on_error: Mapping[type[Exception], OnError],
        times: RequestTimes | None = None,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`times` is told of every request, until its answer begins."""
        self._app, self._claim, self._verbs, self._on_error = app, claim, verbs, on_error
        self._times, self._clock_s = times or RequestTimes({}), clock_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handler(scope)
        if handler is None:
            await self._timed(scope, receive, send)
            return
        started_s = self._clock_s()
        request = _Request(scope, receive)
        try:
            response = await handler(request)
        except Exception as error:
            answer = self._answer_to(error)
            if answer is None:  # a defect: the layer around this one logs and answers it
                raise
            response = await answer(request, error)
        self._times.note(handler, "POST", response.status_code, self._clock_s() - started_s)
        await response(scope, receive, send)

    async def _timed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ordinary way; which handler was found stands in the scope afterwards."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = self._clock_s()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                took_s = self._clock_s() - started_s
                self._times.note(scope.get("endpoint"), scope["method"], message["status"], took_s)
            await send(message)

        await self._app(scope, receive, noting)

    def _handler(self, scope: Scope) -> Handler | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        path: str = scope["path"]
        if path == "/v1/job/claim":
            return self._claim
        if not path.startswith(_PREFIX):
            return None
        job_id, _, verb = path[len(_PREFIX) :].partition("/")
        handler = self._verbs.get(verb)
        if handler is not None and job_id:
            scope["path_params"] = {"id": job_id}
            return handler
        return None

    def _answer_to(self, error: Exception) -> OnError | None:
        """As Starlette looks them up: the nearest class of the error's that has one."""
        found = (self._on_error.get(kind) for kind in type(error).__mro__)
        return next((answer for answer in found if answer is not None), None)
