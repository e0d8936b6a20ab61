"""A path that is written differently opens nothing: who may ask is decided by the path that is then served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access.test_through_the_proxy import answers_to, request_text
from tests.factories.live_receiver import TOKEN
from tests.factories.proxied_fleet import BUILDS, ProxiedFleet, SiteName, proxied_fleet

MANIFEST = 'name = "paths"\n[[hosts]]\nname = "a"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
CLOSED = ("GET /v1/audit", "POST /v1/manifest/reload", "GET /metrics", "GET /", "GET /jobs")
"""To hosts, to hosts that the manifest does not name, and to nobody."""
WRITTEN = (
    "{path}", "/{path}", "{path}/", "{path}//", "/.{path}", "/x/..{path}", "/login/..{path}", "/static/..{path}",
    "/static/%2e%2e{path}", "/static/..%2f{path}", "/v1/health/../..{path}", "/v1/enrol/ca/../../..{path}",
    "/v1/job/claim/../../..{path}", "/login;{path}", "{path};x", "{path}%00", "{path}%20", "{path}?", "{path}#",
    "%2f{path}", "http://receiver.cis490.internal{path}", "https://other.example{path}",
)  # fmt: skip


@pytest.fixture(scope="module", params=BUILDS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedFleet]:
    with proxied_fleet(tmp_path_factory.mktemp("paths"), MANIFEST, build=request.param) as found:
        yield found


@pytest.mark.parametrize("request_line", CLOSED)
def test_no_way_of_writing_a_path_opens_it(fleet: ProxiedFleet, request_line: str) -> None:
    method, path = request_line.split(" ")
    people: tuple[tuple[Path | None, SiteName], ...] = (
        (fleet.pki.host("a"), "workers"), (fleet.pki.host("stranger"), "workers"), (None, "operators"), (None, "join"),
    )  # fmt: skip
    headers = {"Connection": "close", "X-Operator-Token": TOKEN, "X-HTTP-Method-Override": "GET"}
    opened = [
        (way, site, answer.status)
        for way in WRITTEN
        for identity, site in people
        for answer in answers_to(
            fleet, identity, request_text(f"{method} {way.format(path=path)}", "", headers), site
        )
        if not 400 <= answer.status < 500
    ]
    assert opened == []
