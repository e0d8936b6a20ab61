"""The outermost layer: which endpoint a request means, who sends it, and what is refused before anything else runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from cis490.clock import ManualClock
from training.fleet.access import Access, ByCertificate, ByHeader, Doors, page_denied
from training.fleet.coordinator import operator_tokens
from training.fleet.http_io import PEER, OperatorTokens, answer, peer_of
from training.fleet.peers import OPEN, Certified, Denied, Peer, Unidentified, Who
from training.fleet.quotas import Limits, Quotas
from training.fleet.routes import LEASE_VERBS, ROUTES

ROUTER = [Route(item.path, item.handler, methods=[item.method]) for item in ROUTES]
DOORS = Doors([(item, route.path_regex) for item, route in zip(ROUTES, ROUTER, strict=True)])
NOW_S = 1000.0
GOOD = Certified("host", "a", "5f", 0.0, 2 * NOW_S)


def scope_of(
    method: str = "GET", path: str = "/v1/jobs", headers: dict[str, str] | None = None
) -> dict[str, Any]:
    sent = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "headers": sent,
        "query_string": b"",
        "root_path": "",
    }


def through(site: str, certificate: str = "") -> dict[str, str]:
    return {"X-Fleet-Peer-Site": site, "X-Fleet-Peer-Certificate": certificate}


# -- which endpoint


def routed(method: str, path: str) -> Who | None:
    """By the router itself: the first of the table that matches path and method."""
    for item, route in zip(ROUTES, ROUTER, strict=True):
        if route.matches({"type": "http", "method": method, "path": path, "root_path": ""})[0] == Match.FULL:
            return item.who
    return None


@pytest.mark.parametrize("item", ROUTES, ids=lambda item: f"{item.method} {item.path}")
def test_every_endpoint_has_its_own_door(item: Any) -> None:
    path = re.sub(r"{\w+(:path)?}", "abc", item.path)
    assert DOORS.who(item.method, path) == item.who


def test_head_goes_through_the_door_of_get() -> None:
    assert DOORS.who("HEAD", "/v1/overview") == "reader"


PIECES = st.sampled_from(
    [*sorted({piece for item in ROUTES for piece in item.path.split("/") if not piece.startswith("{")}),
     "abc", "", ".", "..", "a\n", "\n", "%2F", "jobs\n", "é", "claim", "{id}"]
)  # fmt: skip


@given(st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]), st.lists(PIECES, max_size=6), st.booleans())
def test_whatever_the_router_would_serve_has_the_same_door(
    method: str, pieces: list[str], line: bool
) -> None:
    """Also with empty parts and line ends in the path: a door that misses what the router finds lets anybody in."""
    path = "/" + "/".join(pieces) + ("\n" if line else "")
    assert DOORS.who(method, path) == routed(method, path)


@pytest.mark.parametrize("verb", LEASE_VERBS)
@pytest.mark.parametrize("job_id", ["abc", "x y", "ä", "%"])
def test_the_short_way_to_lease_verbs_is_for_workers(verb: str, job_id: str) -> None:
    """`direct` finds these by their path alone."""
    assert DOORS.who("POST", f"/v1/job/{job_id}/{verb}") == "worker"


# -- who sends it


def identify(
    found: Certified | Exception = GOOD,
    *,
    denied_because: Callable[[str, str, str], str | None] = lambda *_: None,
    admitted: bool = True,
    session: bool = False,
    now_s: float = NOW_S,
) -> ByCertificate:
    def read(header: bytes) -> Certified:
        if isinstance(found, Exception):
            raise found
        return found

    return ByCertificate(
        read, denied_because=denied_because, is_admitted=lambda host: admitted, wall_s=lambda: now_s,
        has_session=lambda scope: session,
    )  # fmt: skip


def peer(headers: dict[str, str], **how: Any) -> Peer:
    return identify(**how)(scope_of(headers=headers))


def test_a_good_certificate_makes_a_peer_of_its_role_and_name() -> None:
    assert peer(through("workers", "x")) == Peer("host", "a", "workers", "5f", 2 * NOW_S, True)


def test_a_host_that_the_manifest_does_not_name_is_known_as_such() -> None:
    assert not peer(through("workers", "x"), admitted=False).is_in_manifest


def test_whoever_comes_past_the_proxy_is_nobody() -> None:
    assert peer({}) == Peer("nobody")
    assert peer({}, session=True) == Peer("nobody"), "a login counts at the operators' site alone"


@pytest.mark.parametrize("site", ["join", "workers", "operators"])
def test_without_a_certificate_everybody_is_nobody(site: str) -> None:
    assert peer(through(site)).role == "nobody"


def test_a_login_counts_at_the_operators_site_alone() -> None:
    assert peer(through("operators"), session=True).role == "session"
    assert peer(through("workers"), session=True).role == "nobody"
    assert peer(through("join"), session=True).role == "nobody"


def test_a_certificate_says_more_than_a_login() -> None:
    assert peer(through("operators", "x"), session=True).role == "host"


def test_a_certificate_is_refused_from_the_second_on_in_which_it_ends() -> None:
    """On every request: a connection that is kept open outlives it."""
    assert peer(through("workers", "x"), now_s=2 * NOW_S).name == "a"
    with pytest.raises(Unidentified, match=r"host a expired 0\.0 h ago: it is renewed at the join site"):
        peer(through("workers", "x"), now_s=2 * NOW_S + 1)


def test_a_certificate_that_begins_later_names_the_clock() -> None:
    with pytest.raises(Unidentified, match="not valid yet, for 10 s: compare the clocks"):
        peer(through("workers", "x"), now_s=-10.0)


def test_the_deny_list_is_asked_with_the_certificates_own_serial() -> None:
    asked: list[tuple[str, str, str]] = []

    def deny(*what: str) -> str:
        asked.append((what[0], what[1], what[2]))
        return "stolen"

    with pytest.raises(Unidentified, match="host a was revoked: stolen"):
        peer(through("workers", "x"), denied_because=deny)
    assert asked == [("host", "a", "5f")]


@pytest.mark.parametrize(
    "headers",
    [
        [("x-fleet-peer-certificate", "x")],
        [("x-fleet-peer-site", "cellar"), ("x-fleet-peer-certificate", "x")],
        [("x-fleet-peer-site", "")],
        [("x-fleet-peer-site", "Workers")],
        [("x-fleet-peer-site", "workers"), ("x-fleet-peer-site", "operators"), ("x-fleet-peer-certificate", "x")],
        [("x-fleet-peer-site", "workers"), ("x-fleet-peer-certificate", "x"), ("x-fleet-peer-certificate", "y")],
        [("x-fleet-peer-site", "workers"), ("x-fleet-peer-certificate", ""), ("x-fleet-peer-certificate", "y")],
    ],
)  # fmt: skip
def test_what_no_proxy_of_ours_says_is_nobody_and_refused(headers: list[tuple[str, str]]) -> None:
    scope = scope_of() | {"headers": [(name.encode(), value.encode()) for name, value in headers]}
    with pytest.raises(Unidentified, match=r"etc/Caddyfile\.example"):
        identify()(scope)


# -- pages


@pytest.mark.parametrize(
    ("sender", "path", "status"),
    [
        (Peer("nobody", site="operators"), "/login", None),
        (Peer("nobody", site="operators"), "/static/live.js", None),
        (Peer("nobody", site="operators"), "/", 401),
        (Peer("nobody", site="operators"), "/login/x", 401),
        (Peer("nobody", site="operators"), "/health", 401),
        (Peer("nobody"), "/login", 401),
        (Peer("nobody", site="join"), "/login", 403),
        (Peer("nobody", site="join"), "/static/live.js", 403),
        (Peer("session", site="operators"), "/job/x", None),
        (Peer("reader", "r", "operators"), "/job/x", None),
        (Peer("reader", "r", "operators"), "/login", 403),
        (Peer("operator", "o", "operators"), "/login", None),
        (Peer("nobody", site="operators"), "/logout", 401),
        (Peer("operator", "o", "operators"), "/job/x", None),
        (Peer("host", "a", "workers"), "/", 403),
        (Peer("host", "a", "workers"), "/login", 403),
        (Peer("host", "a", "workers"), "/v1/none-such", None),  # which is 404 then
        (Peer("host", "a", "workers", is_in_manifest=False), "/v1/none-such", 403),
        (Peer("nobody", site="operators"), "/v1/none-such", 401),
        (OPEN, "/", None),
    ],
)
def test_who_may_see_pages(sender: Peer, path: str, status: int | None) -> None:
    found = page_denied(sender, path)
    assert (None if found is None else found.status) == status


# -- the layer as a whole


class Behind:
    """What lies behind: answers 200 and remembers who came."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.read = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.peers.append(peer_of(Request(scope)))
        more = scope["method"] == "PUT"
        while more:
            message = await receive()
            self.read += message.get("body", b"")
            more = message.get("more_body", False)
        await answer({})(scope, receive, send)


async def refuse(request: Request, why: Denied) -> Response:
    return answer({"error": why.error}, why.status)


class Asked:
    """One layer and what is behind it."""

    def __init__(self, **how: Any) -> None:
        self.behind, self.clock = Behind(), ManualClock()
        how = {"identify": identify(), **how}
        self.access = Access(self.behind, doors=DOORS, on_denied=refuse, clock=self.clock, **how)

    def send(self, scope: dict[str, Any], *parts: bytes) -> tuple[int, dict[bytes, bytes]]:
        parts = parts or (b"",)
        waiting: list[Message] = [
            {"type": "http.request", "body": part, "more_body": index < len(parts)}
            for index, part in enumerate(parts, 1)
        ]
        sent: list[Message] = []

        async def receive() -> Message:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self.access(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"])


def test_who_passes_arrives_as_the_peer_that_was_found() -> None:
    asked = Asked()
    assert asked.send(scope_of(headers=through("workers", "x")))[0] == 200
    assert [one.name for one in asked.behind.peers] == ["a"]


def test_who_is_refused_reaches_nothing() -> None:
    asked = Asked(identify=identify(Unidentified("no certificate")))
    assert asked.send(scope_of(headers=through("workers", "x")))[0] == 401
    assert asked.send(scope_of("GET", "/v1/health", through("workers", "x")))[0] == 401, (
        "it claims to be somebody"
    )
    assert Asked().send(scope_of("GET", "/v1/overview", through("workers", "x")))[0] == 403
    assert asked.behind.peers == []


def test_a_peer_that_the_request_brings_along_is_not_overruled_by_headers() -> None:
    """Only the server and `in_process` make scopes; a client cannot put anything there."""
    asked = Asked()
    scope = scope_of(headers=through("workers", "x")) | {PEER: Peer("reader", "r", "operators")}
    assert asked.send(scope)[0] == 200
    assert [one.role for one in asked.behind.peers] == ["reader"]


def test_a_handler_that_is_reached_in_another_way_fails() -> None:
    with pytest.raises(KeyError):
        peer_of(Request(scope_of()))


@pytest.mark.parametrize("name", ["X-Fleet-Peer-Site", "X-Fleet-Peer-Certificate", "X-Fleet-Peer-Uri"])
@pytest.mark.parametrize("path", ["/v1/health", "/v1/jobs", "/", "/none"])
def test_without_identities_whatever_came_through_a_proxy_is_refused(name: str, path: str) -> None:
    asked = Asked(identify=ByHeader())
    assert asked.send(scope_of("GET", path, {name: "workers"}))[0] == 403
    assert asked.send(scope_of("GET", path, {"X-Lab-Host": "a"}))[0] == 200
    assert asked.behind.peers == [OPEN]


# -- the operator's second secret


@pytest.mark.parametrize(
    ("given", "fits"),
    [(b"new", True), (b"old", True), (b"", False), (b"newold", False), (b"ne", False), (b"\xff", False)],
)
def test_during_a_rotation_two_tokens_fit(given: bytes, fits: bool) -> None:
    assert OperatorTokens("new", "old").fits(given) == fits


def test_without_a_rotation_nothing_fits_but_the_token() -> None:
    assert OperatorTokens("new").fits(b"new")
    assert not OperatorTokens("new").fits(b"")


def test_a_former_token_without_a_current_one_opens_nothing() -> None:
    assert operator_tokens(None, "old") is None
    assert operator_tokens(" ", "old") is None


def test_tokens_are_not_shown_by_accident() -> None:
    shown = repr(OperatorTokens("new-secret", "old-secret"))
    assert "secret" not in shown


# -- quotas


PUT = {"method": "PUT", "path": "/v1/model/abc"}


def upload(size: int) -> dict[str, Any]:
    return scope_of(**PUT, headers=through("workers", "x") | {"Content-Length": str(size)})


class TestQuotas:
    def test_a_host_over_its_requests_gets_429_with_the_time_to_wait(self) -> None:
        asked = Asked(quotas=Quotas(Limits(requests_per_min=2)))
        claim = scope_of("POST", "/v1/job/claim", through("workers", "x"))
        assert [asked.send(dict(claim))[0] for _ in range(3)] == [200, 200, 429]
        assert asked.send(dict(claim))[1][b"retry-after"] == b"30"

    def test_reading_counts_as_well(self) -> None:
        """The list of all jobs costs more than a heartbeat, and how much of an upload is there asks the writer."""
        asked = Asked(quotas=Quotas(Limits(requests_per_min=2)))
        assert [asked.send(scope_of(headers=through("workers", "x")))[0] for _ in range(3)] == [200, 200, 429]

    def test_an_operator_has_none(self) -> None:
        who = identify(Certified("operator", "o", "5f", 0.0, 2 * NOW_S))
        asked = Asked(identify=who, quotas=Quotas(Limits(requests_per_min=1)))
        assert {asked.send(scope_of("POST", "/v1/gc", through("operators", "x")))[0] for _ in range(5)} == {
            200
        }

    def test_an_upload_arrives_whole_and_counts_with_what_arrived(self) -> None:
        asked = Asked(quotas=Quotas(Limits(bytes_per_day=10)))
        assert asked.send(upload(10), b"1234", b"56")[0] == 200
        assert asked.behind.read == b"123456"
        assert asked.send(upload(4), b"")[0] == 200
        assert asked.send(upload(5), b"")[0] == 429
        asked.clock.advance(26 * 3600.0)
        assert asked.send(upload(5), b"")[0] == 200

    def test_an_upload_that_ends_in_a_defect_is_over_all_the_same(self) -> None:
        asked = Asked(quotas=Quotas(Limits(uploads_at_once=1)))

        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            raise RuntimeError("a defect")

        asked.access._app = broken
        with pytest.raises(RuntimeError):
            asked.send(upload(1), b"1")
        asked.access._app = asked.behind
        assert asked.send(upload(1), b"1")[0] == 200

    @pytest.mark.parametrize("length", ["", "x", "-1", "1" * 19, "१"])
    def test_a_length_that_is_none_is_left_to_the_handler(self, length: str) -> None:
        sent = scope_of(**PUT, headers=through("workers", "x") | {"Content-Length": length})
        assert Asked().send(sent, b"1")[0] == 200

    def test_a_host_that_meets_a_quota_again_and_again_is_mentioned_once_a_minute(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked = Asked(quotas=Quotas(Limits(requests_per_min=1)))
        claim = scope_of("POST", "/v1/job/claim", through("workers", "x"))
        for _ in range(20):
            asked.send(dict(claim))
        assert len(caplog.records) == 1
        asked.clock.advance(61.0)
        for _ in range(20):
            asked.send(dict(claim))
        assert len(caplog.records) == 2
