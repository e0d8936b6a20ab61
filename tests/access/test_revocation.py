"""From token to revocation through a real Caddy: what is under way ends, over connections that stay open."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cis490.pki import certificates as pki
from tests.factories import command
from tests.factories.fleet import cpu_host
from tests.factories.fleet_pki import write_credentials
from tests.factories.live_receiver import TOKEN, Answer
from tests.factories.processes import wait_until
from tests.factories.proxied_fleet import BUILDS, ProxiedFleet, proxied_fleet
from training.fleet import exits, join_token
from training.fleet.credentials import About

MANIFEST = '[[hosts]]\nname = "a"\n[[hosts]]\nname = "b"\n'
EFFECTIVE_S = 5.0
"""What is promised."""


@pytest.fixture(scope="module", params=BUILDS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedFleet]:
    with proxied_fleet(tmp_path_factory.mktemp("revoke"), MANIFEST, build=request.param) as found:
        yield found


@pytest.fixture(scope="module")
def operator(fleet: ProxiedFleet) -> Path:
    return fleet.pki.operator("olga")


def operate(fleet: ProxiedFleet, operator: Path, path: str) -> Answer:
    return fleet.send(operator, "POST", path, None, {"X-Operator-Token": TOKEN}, site="operators")


def joined(fleet: ProxiedFleet, operator: Path, name: str) -> Path:
    """A host that joined at the join site with a token: its folder of credentials."""
    token = join_token.parse(operate(fleet, operator, f"/v1/identity/host/{name}/token").body["token"])
    key = pki.new_key()
    body = {
        "secret": token.secret,
        "role": token.role,
        "name": token.name,
        "csr_pem": pki.make_request(key, name).decode(),
    }
    answer = fleet.send(None, "POST", "/v1/enrol/join", body, site="join")
    assert answer.status == 200, answer
    about = About(**{field: answer.body[field] for field in About.__slots__})
    folder = fleet.pki.folder / f"joined-{name}-{time.monotonic_ns()}"
    chain = pki.load_certificates(answer.body["certificate_pem"].encode())
    write_credentials(folder, about, fleet.pki.root.certificate, key, chain)
    return folder


def test_a_claim_that_waits_and_the_connection_that_stays_open_are_refused_in_time(
    fleet: ProxiedFleet, operator: Path
) -> None:
    host = joined(fleet, operator, "a")
    body = {"capability": cpu_host().to_dict(), "wait_s": 50.0}
    assert fleet.send(host, "GET", "/v1/jobs", kept=True).status == 200
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fleet.send, host, "POST", "/v1/job/claim", body)
        wait_until(lambda: len(fleet.receiver.coordinator.waiters) == 1, "a claim that waits")
        assert operate(fleet, operator, "/v1/identity/host/a/revoke").status == 200
        assert waiting.result(timeout=EFFECTIVE_S).status == 401
    assert fleet.send(host, "GET", "/v1/jobs", kept=True).status == 401
    again = joined(fleet, operator, "a")
    assert fleet.send(again, "GET", "/v1/jobs").status == 200
    assert fleet.send(host, "GET", "/v1/jobs").status == 401


def test_a_stream_of_events_ends_in_time(fleet: ProxiedFleet, operator: Path) -> None:
    reader = fleet.pki.reader("rita")
    connection = fleet.connection(reader, "operators")
    connection.request("GET", "/v1/events")
    response = connection.getresponse()
    assert response.status == 200
    open_requests = fleet.receiver.coordinator.open_requests
    wait_until(lambda: len(open_requests) == 1, "an open stream")
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(_rest, response)
        assert operate(fleet, operator, "/v1/identity/reader/rita/revoke").status == 200
        ending.result(timeout=EFFECTIVE_S)
    connection.close()
    assert len(open_requests) == 0


def _rest(response: http.client.HTTPResponse) -> bytes:
    return response.read()


def test_an_operator_who_was_revoked_is_not_asked_for_the_token(fleet: ProxiedFleet) -> None:
    """Both are a 401. The last operator, who revoked himself, finds the way back in the message."""
    folder = fleet.pki.operator("otto", token=TOKEN)
    env = {exits.CREDENTIALS_VARIABLE: str(folder), "NO_COLOR": "1"}
    assert command.run("", "hosts", "list", env=env).code == exits.OK
    revoked = command.run("", "operators", "revoke", "otto", env=env)
    assert (revoked.code, revoked.err) == (exits.OK, ""), "done, though he may ask nothing any more"
    found = command.run("", "hosts", "list", env=env)
    assert found.code == exits.REFUSED
    assert "was revoked" in found.err
    assert "[E040]" in found.err
    assert "cis490-jobs operators add otto" in found.err
    assert "python -m training.fleet.ca operator OTHER" in found.err
    assert "put the operator token" not in found.err


def test_an_operator_without_the_token_is_asked_for_it(fleet: ProxiedFleet) -> None:
    folder = fleet.pki.operator("olaf")
    found = command.run(
        "", "hosts", "add", "a", env={exits.CREDENTIALS_VARIABLE: str(folder), "NO_COLOR": "1"}
    )
    assert "[E005]" in found.err
    assert f"put the operator token into {folder / 'operator-token'}" in found.err
