"""Every cell of the matrix, through a real Caddy of both versions: who asks what, and what is the answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.access.lab import Lab, lab_of, shown, why
from tests.access.matrix import CONTRACT, ROWS, WHO, Row
from tests.factories.proxied_fleet import BUILDS
from training.dashboard import app as pages
from training.dashboard.assets import Assets
from training.fleet.routes import ROUTES

# Half of it is as much as the quick suite has time for.
_MARKS = {"wheel": (), "debian": (pytest.mark.slow,)}


@pytest.fixture(scope="module", params=[pytest.param(build, marks=_MARKS[build]) for build in BUILDS])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_of(tmp_path_factory.mktemp("lab"), request.param) as found:
        yield found


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_everybody_gets_the_answer_that_the_matrix_says(lab: Lab, row: Row) -> None:
    answers = {who: lab.ask(who, row) for who in WHO}
    found = {who: shown(answer) for who, answer in answers.items()}
    wrong = {
        who: f"{found[who]}, not {row.cells[who]}: {why(answers[who])}"
        for who in WHO
        if found[who] != row.cells[who]
    }
    assert wrong == {}


def test_the_matrix_has_a_row_for_every_endpoint() -> None:
    known = {row.endpoint for row in ROWS if row.endpoint != "GET /v1/nothing"}
    interface = {endpoint for endpoint in known if "/v1/" in endpoint or endpoint in _OUTSIDE_V1}
    assert interface == {f"{item.method} {item.path}" for item in ROUTES}


def test_the_matrix_has_a_row_for_every_page_and_form() -> None:
    found = {
        f"{method} {route.path}"
        for route in pages.routes(Assets())
        for method in (route.methods or ())
        if method != "HEAD"
    }
    known = {row.endpoint for row in ROWS}
    assert {endpoint for endpoint in known if "/v1/" not in endpoint and endpoint not in _OUTSIDE_V1} == found


_OUTSIDE_V1 = {"GET /metrics", "GET /openapi.json"}


def test_the_matrix_says_about_a_job_of_ones_own_anothers_and_none_what_happens() -> None:
    by_endpoint: dict[str, set[str]] = {}
    for row in ROWS:
        by_endpoint.setdefault(row.endpoint, set()).add(row.about)
    leases = [f"{item.method} {item.path}" for item in ROUTES if item.who == "worker" and "{id}" in item.path]
    assert [
        endpoint for endpoint in leases if not by_endpoint[endpoint] >= {"own", "another's", "unknown"}
    ] == []
    assert set(CONTRACT) <= set(by_endpoint)
