"""One lab for the whole matrix: a proxied receiver, everybody of `matrix.WHO`, and jobs in every state."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cis490.pki import certificates as pki
from tests.access.matrix import Row
from tests.factories import artifacts
from tests.factories.fleet import cpu_host
from tests.factories.fleet_pki import key_of, leaf_of
from tests.factories.live_receiver import TOKEN, Answer
from tests.factories.proxied_fleet import Build, ProxiedFleet, SiteName, proxied_fleet
from training.dashboard.session import COOKIE
from training.fleet import join_token
from training.fleet.types import DatasetPin

UNKNOWN: Final = "0" * 64
BUNDLE: Final = artifacts.packed(artifacts.files())
ARTIFACT: Final = hashlib.sha256(BUNDLE).hexdigest()
WITHOUT_TOKEN: Final = ("O1", "S")
RESULT: Final = b"what a training leaves"
_HOSTS = "".join(f'[[hosts]]\nname = "{name}"\nslots = 60\n' for name in ("a", "b", "spare", "parted"))
_SEEDS = range(40)
_JOBS = "".join(
    f'[[jobs]]\nname = "gbt-{seed}"\nmodel = "gbt"\nmode = "realistic"\nseed = {seed}\nallowed_hosts = ["a", "b"]\n'
    f'[[jobs]]\nname = "parked-{seed}"\nmodel = "mlp"\nmode = "realistic"\nseed = {seed}\nallowed_hosts = ["spare"]\n'
    for seed in _SEEDS
)
MANIFEST: Final = f'name = "matrix"\n{_HOSTS}{_JOBS}'


@dataclass(frozen=True)
class Held:
    """A job that a host holds, and its lease token."""

    job_id: str
    name: str
    token: str


@dataclass
class Lab:
    """Whom the cells speak of, and what they ask for."""

    fleet: ProxiedFleet
    people: dict[str, tuple[Path | None, SiteName]]
    """The credentials of everybody, and the site that they use."""
    cookie: str
    held: dict[str, Held] = field(default_factory=dict)
    done: Held = Held("", "", "")
    parked: int = 0
    results: int = 0

    def ask(self, who: str, row: Row) -> Answer:
        """What this one is answered when asking this."""
        method, pattern = row.endpoint.split(" ")
        sent = _sent(self, who, row)
        path = pattern.replace("{name:path}", "plots/roc.csv").replace("{digest}", sent.subject)
        path = re.sub(r"\{(id|name)\}", sent.subject, path).replace("{role}", "host")
        path = path.replace("{file}", "style.css") + sent.query
        headers = dict(sent.headers)
        if who not in WITHOUT_TOKEN:
            headers["X-Operator-Token"] = TOKEN
        if who == "S":
            # a login ends the one before it
            cookie = log_in(self.fleet) if row.endpoint == "POST /login" else self.cookie
            headers["Cookie"] = f"{COOKIE}={cookie}"
        if who == "L":
            return self.fleet.receiver.send(method, path, sent.body, headers)
        identity, site = self.people[who]
        if pattern == "/v1/events":  # a stream: its beginning is the answer
            return self._begin(identity, site, path, headers)
        return self.fleet.send(identity, method, path, sent.body, headers, site=site, kept=True)

    def _begin(self, identity: Path | None, site: SiteName, path: str, headers: Mapping[str, str]) -> Answer:
        return self.fleet.send(identity, "HEAD", path, None, headers, site=site, kept=True)

    # -- jobs

    def lease(self, host: str) -> Held:
        """A job that this host holds: the one of before, or a new one."""
        queue, found = self.fleet.receiver.queue, self.held.get(host)
        if found is not None:
            lease = queue.leases.get(found.job_id)
            if lease is not None and lease.host == host and lease.token == found.token:
                return found
        claimed = queue.claim(host, cpu_host(), with_token=True)
        assert claimed.row is not None, claimed.reason
        assert claimed.lease is not None
        assert claimed.lease.token is not None
        self.held[host] = Held(claimed.row.job_id, claimed.row.name, claimed.lease.token)
        return self.held[host]

    def waiting(self) -> Held:
        """A job that nobody asks for: the same one until it is used up."""
        queue, name = self.fleet.receiver.queue, f"parked-{self.parked}"
        return Held(next(row.job_id for row in queue.list_jobs() if row.name == name), name, "")

    def cancelled(self) -> Held:
        """One that can be put back, each time another."""
        found = self.waiting()
        self.parked += 1
        assert self.fleet.receiver.queue.cancel(found.job_id)
        return found

    def completed(self) -> Held:
        """A job whose result is `ARTIFACT`."""
        return self.done

    def upload(self, held: Held, data: bytes) -> str:
        """Send this as the host `a`; the artifact's id."""
        digest = hashlib.sha256(data).hexdigest()
        headers = {"X-Content-SHA256": digest, "X-Lease-Token": held.token}
        answer = self.fleet.send(self.people["W"][0], "PUT", f"/v1/model/{held.job_id}", data, headers)
        assert answer.status in (200, 201), answer
        return digest

    def complete_one(self) -> None:
        self.done = self.lease("a")
        artifact_id = self.upload(self.done, BUNDLE)
        assert self.fleet.receiver.queue.complete(
            self.done.job_id, "a", artifact_id=artifact_id, token=self.done.token
        )

    # -- joining

    def token(self) -> join_token.JoinToken:
        """A fresh one, for the host `spare`."""
        path, headers = "/v1/identity/host/spare/token", {"X-Operator-Token": TOKEN}
        identity, site = self.people["O"]
        answer = self.fleet.send(identity, "POST", path, None, headers, site=site, kept=True)
        assert answer.status == 200, answer
        return join_token.parse(answer.body["token"])


@dataclass(frozen=True)
class _Sent:
    subject: str = ""
    """What stands for {id}, {name} or {digest}."""
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""


def _sent(lab: Lab, who: str, row: Row) -> _Sent:
    """The request of one row, as somebody who means it would send it."""
    special = _SPECIAL.get(row.endpoint)
    if special is not None:
        return special(lab, row.about)
    subject, headers = _subject(lab, row)
    body = _BODIES.get(row.endpoint)
    if row.endpoint == "PUT /v1/model/{id}":
        lab.results += 1
        body = b"result %d" % lab.results
        headers["X-Content-SHA256"] = hashlib.sha256(body).hexdigest()
    if row.endpoint == "POST /v1/job/{id}/complete" and row.about == "own":
        if who == "W":
            lab.upload(lab.lease("a"), RESULT)
        body = {"artifact_id": hashlib.sha256(RESULT).hexdigest()}
    query = "?job=gbt-1" if row.endpoint == "GET /v1/resolve" else ""
    return _Sent(subject, body, headers, query)


def _subject(lab: Lab, row: Row) -> tuple[str, dict[str, str]]:
    about, _, how = row.about.partition(", ")
    headers: dict[str, str] = {}
    if "as another" in (about, how):
        headers["X-Lab-Host"] = "b"
    if about == "itself":
        return "a", {"X-Lab-Host": "a"}
    if about == "unknown":
        return ("nobody-here" if "{name}" in row.endpoint else UNKNOWN), headers
    if about == "artifact":
        return ARTIFACT, headers
    if about == "spare":
        return "spare", headers
    held: Callable[[], Held] | None = {
        "own": lambda: lab.lease("a"),
        "another's": lambda: lab.lease("b"),
        "waiting": lab.waiting,
        "cancelled": lab.cancelled,
        "completed": lab.completed,
    }.get(about)
    if held is None:
        return ARTIFACT, headers
    found = held()
    if found.token:
        headers["X-Lease-Token"] = "wrong" if how == "wrong token" else found.token
    return (found.name if "{name}" in row.endpoint else found.job_id), headers


_BODIES: dict[str, Any] = {
    "POST /v1/job/claim": {"capability": {"cores": 4}},
    "POST /v1/job/{id}/complete": {"artifact_id": UNKNOWN},
    "POST /v1/job/{id}/fail": {"error": "x"},
    "POST /v1/job/{id}/log": {"offset": 0, "text": "a line\n"},
}


# -- enrolment


def _request() -> str:
    return pki.make_request(pki.new_key(), "spare").decode("ascii")


def _join(lab: Lab, about: str) -> _Sent:
    secret = lab.token().secret if about == "good token" else "A" * 22
    return _Sent(body={"secret": secret, "role": "host", "name": "spare", "csr_pem": _request()})


def _renew(lab: Lab, about: str) -> _Sent:
    return _Sent(body={"csr_pem": _request()})


def _renew_late(lab: Lab, about: str) -> _Sent:
    identity, _ = lab.people["Wx" if about == "expired" else "Wr"]
    assert identity is not None
    csr = _request()
    proof = key_of(identity).sign(b"cis490-renew-late-1\n" + csr.encode(), ec.ECDSA(hashes.SHA256()))
    body = {
        "certificate_pem": pki.chain_pem(leaf_of(identity)).decode("ascii"),
        "csr_pem": csr,
        "signature": base64.b64encode(proof).decode("ascii"),
    }
    return _Sent(body=body)


# -- pages


def _login(lab: Lab, about: str) -> _Sent:
    token = TOKEN if about == "right token" else "wrong"
    return _Sent(body=urlencode({"token": token, "next": "/"}).encode(), headers=_FORM)


_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
_SPECIAL: dict[str, Callable[[Lab, str], _Sent]] = {
    "POST /login": _login,
    "POST /v1/enrol/join": _join,
    "POST /v1/enrol/renew": _renew,
    "POST /v1/enrol/renew-late": _renew_late,
}


# -- the lab itself


@contextmanager
def lab_of(folder: Path, build: Build) -> Iterator[Lab]:
    """The lab behind this Caddy."""
    with proxied_fleet(folder, MANIFEST, build=build, max_artifact_bytes=4 << 20) as fleet:
        packed = folder / "dataset.tar.zst"
        packed.write_bytes(BUNDLE)
        fleet.receiver.coordinator.datasets[ARTIFACT] = DatasetPin(ARTIFACT, str(packed))
        fleet.receiver.queue._connection.execute(
            "PRAGMA synchronous = OFF"
        )  # the disk is not what is tried here
        made = fleet.pki
        people: dict[str, tuple[Path | None, SiteName]] = {
            "join": (None, "join"),
            "workers": (None, "workers"),
            "pages": (None, "operators"),
            "W": (made.host("a"), "workers"),
            "W'": (made.host("stranger"), "workers"),
            "Wx": (made.host("a", expired=True), "workers"),
            "Wr": (made.host("parted"), "workers"),
            "R": (made.reader("rita"), "operators"),
            "O1": (made.operator("olga"), "operators"),
            "O": (made.operator("otto"), "operators"),
            "S": (None, "operators"),
        }
        lab = Lab(fleet, people, log_in(fleet))
        fleet.receiver.queue.claim("spare", cpu_host(models=[]))  # it has called once, so that it is known
        revoked = fleet.send(
            people["O"][0], "POST", "/v1/identity/host/parted/revoke", None, {"X-Operator-Token": TOKEN},
            site="operators",
        )  # fmt: skip
        assert revoked.status == 200, revoked
        lab.complete_one()
        yield lab


def log_in(fleet: ProxiedFleet) -> str:
    """As a browser at the operators' site does; the cookie."""
    answer = fleet.send(
        None, "POST", "/login", urlencode({"token": TOKEN, "next": "/"}).encode(),
        {"Content-Type": "application/x-www-form-urlencoded"}, site="operators",
    )  # fmt: skip
    assert answer.status == 303, answer
    return answer.headers["set-cookie"].partition(";")[0].partition("=")[2]


def shown(answer: Answer) -> str:
    """A cell as the matrix writes it."""
    return str(answer.status) if answer.status else "tls"


def why(answer: Answer) -> str:
    """For the message of a wrong cell."""
    return json.dumps(answer.body)[:200] if answer.body is not None else repr(answer.raw[:120])
