"""Who is logged in: sessions in the receiver's memory, and how often a wrong token may be tried.

Clock and randomness are passed in. A session lives at most `SESSION_S`; a restart ends all of them. What the
browser holds is a random id; here only its sha256 is kept, so that a look-up tells nothing about ids by its time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from training.dashboard.api import name_of

COOKIE = "cis490_operator"
SESSION_S = 12 * 3600.0
MAX_SESSIONS = 100
MAX_WRONG = 10
WRONG_WINDOW_S = 300.0
MAX_MESSAGES = 5


@dataclass(slots=True)
class Session:
    """One login. `csrf` stands in every form that this person is shown."""

    csrf: str
    ends_at_s: float
    """On the store's clock."""
    owner: str = ""
    """Whom the certificate named that came with the login; it counts for that one alone. "": no certificate did."""
    _messages: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_MESSAGES))

    def say(self, message: str) -> None:
        """Show this on the next page that the person opens."""
        self._messages.append(message)

    def take_messages(self) -> tuple[str, ...]:
        taken = tuple(self._messages)
        self._messages.clear()
        return taken

    def has_csrf(self, given: str) -> bool:
        return same(given, self.csrf)


class Sessions:
    """At most `MAX_SESSIONS`; one more ends the oldest. `random_text` gives an unguessable text of 256 bits."""

    def __init__(self, now_s: Callable[[], float], random_text: Callable[[], str]) -> None:
        self._now_s, self._random_text = now_s, random_text
        self._by_digest: OrderedDict[str, Session] = OrderedDict()
        self._wrong_at_s: dict[str, deque[float]] = {}
        """Of each operator with a certificate, and of everybody without one together."""

    def __len__(self) -> int:
        return len(self._by_digest)

    def start(self, owner: str = "") -> tuple[str, Session]:
        """A new session and the id that its cookie carries."""
        self._expire()
        while len(self._by_digest) >= MAX_SESSIONS:
            self._by_digest.popitem(last=False)
        given, made = self._random_text(), Session(self._random_text(), self._now_s() + SESSION_S, owner)
        self._by_digest[_digest(given)] = made
        return given, made

    def get(self, given: str) -> Session | None:
        """The session with this id, unless it has expired."""
        self._expire()
        return self._by_digest.get(_digest(given)) if given else None

    def of(self, request: Request) -> Session | None:
        """The session that the request's cookie names. Who is revoked cannot go on by leaving the certificate away."""
        found = self.get(request.cookies.get(COOKIE, ""))
        return found if found is None or found.owner in ("", name_of(request.scope)) else None

    def end(self, given: str) -> None:
        self._by_digest.pop(_digest(given), None)

    def wait_s(self, owner: str = "") -> float:
        """How long until a token may be tried again; 0: now.

        Without a certificate all wrong tries count together: behind a proxy every browser has the same address.
        """
        tried = self._wrong_at_s.get(owner)
        if tried is None or len(tried) < MAX_WRONG:
            return 0.0
        return max(0.0, tried[0] + WRONG_WINDOW_S - self._now_s())

    def wrong(self, owner: str = "") -> None:
        """A wrong token was tried."""
        self._wrong_at_s.setdefault(owner, deque(maxlen=MAX_WRONG)).append(self._now_s())

    def _expire(self) -> None:
        now_s = self._now_s()
        while self._by_digest:  # all live equally long, so the oldest ends first
            first = next(iter(self._by_digest))
            if self._by_digest[first].ends_at_s > now_s:
                return
            del self._by_digest[first]


def same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(
        hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest(),
        hashlib.sha256(expected.encode("utf-8", "surrogatepass")).digest(),
    )


def is_ours(request: Request) -> bool:
    """Whether a form was sent by a page of this receiver: browsers say so, and scripts elsewhere cannot forge it.

    Current browsers send `Sec-Fetch-Site`; older ones an `Origin`. A client that sends neither is no browser, so
    nobody can make it send anything unknowingly.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host", "")


def set_cookie(response: Response, request: Request, given: str) -> None:
    response.set_cookie(
        COOKIE, given, max_age=int(SESSION_S), path="/", secure=_is_https(request), httponly=True, samesite="strict"
    )  # fmt: skip


def drop_cookie(response: Response, request: Request) -> None:
    response.delete_cookie(COOKIE, path="/", secure=_is_https(request), httponly=True, samesite="strict")


def _is_https(request: Request) -> bool:
    """By the proxy's word too: a client that forges it gets nothing but a cookie that it will not send back."""
    return "https" in (request.scope["scheme"], request.headers.get("x-forwarded-proto"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def local_path(text: str) -> str:
    """`text` where it is a path of this receiver, else `/`: a link to the login must not lead elsewhere.

    Browsers read `//host`, `/\\host` and control characters as the beginning of another address.
    """
    is_local = text.startswith("/") and not text.startswith(("//", "/\\")) and "\\" not in text
    return text if is_local and text.isprintable() and text.isascii() and len(text) <= 2000 else "/"
