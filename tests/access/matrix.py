"""Who may ask what: every endpoint and every page, times everybody who could ask. Data; test_matrix.py tries each cell.

    join, workers, pages   nobody: no certificate, at each of the proxy's three sites
    W    a host of the manifest        W'   a host with a good certificate that the manifest does not name
    Wx   a host, expired certificate   Wr   a host, revoked certificate
    R    a reader                      O1   an operator without the operator token
    O    an operator                   S    a browser at the operators' site, logged in, without a certificate
    L    a process on the receiver's machine, at its Unix socket, past the proxy

A cell is the answer's status, or `tls`: refused before any request was read. Everybody but O1 and S sends the operator
token along, so a stolen token alone is seen to open nothing. Hosts send the lease token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

WHO: Final = ("join", "workers", "pages", "W", "W'", "Wx", "Wr", "R", "O1", "O", "S", "L")
CONTRACT: Final = (
    "POST /v1/job/claim", "POST /v1/job/{id}/heartbeat", "POST /v1/job/{id}/complete", "POST /v1/job/{id}/fail",
    "PUT /v1/model/{id}", "GET /v1/jobs", "GET /v1/workers", "POST /v1/job/{id}/cancel", "POST /v1/job/{id}/requeue",
    "POST /v1/manifest/reload", "GET /v1/health",
)  # fmt: skip
"""The endpoints of the first design, which docs/security.md shows one by one."""


@dataclass(frozen=True, slots=True)
class Row:
    """An endpoint or page, what the request is about, and the answer for each of `WHO`."""

    endpoint: str
    about: str
    """`own`: a job that W holds; `another's`: one that another host holds; `unknown`: none that there is; ..."""
    cells: dict[str, str]

    def __str__(self) -> str:
        return f"{self.endpoint} ({self.about})" if self.about else self.endpoint


# Heads: what it is about, then WHO.
_TABLE = """
#                                                   join workers pages W   W'  Wx  Wr  R   O1  O   S   L
POST /v1/job/claim                    |             | 403 tls 401     200 403 tls 401 403 403 403 403 401
POST /v1/job/claim                    | itself      | 403 tls 401     200 403 tls 401 403 403 403 403 401
POST /v1/job/claim                    | as another  | 403 tls 401     403 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/heartbeat           | own         | 403 tls 401     200 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/heartbeat           | own, wrong token | 403 tls 401 410 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/heartbeat           | own, as another | 403 tls 401 403 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/heartbeat           | another's   | 403 tls 401     410 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/heartbeat           | unknown     | 403 tls 401     404 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/complete            | own         | 403 tls 401     200 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/complete            | own, not uploaded | 403 tls 401 409 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/complete            | another's   | 403 tls 401     410 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/complete            | unknown     | 403 tls 401     404 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/fail                | own         | 403 tls 401     200 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/fail                | another's   | 403 tls 401     410 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/fail                | unknown     | 403 tls 401     404 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/release             | own         | 403 tls 401     200 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/release             | another's   | 403 tls 401     410 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/release             | unknown     | 403 tls 401     404 403 tls 401 403 403 403 403 401
PUT /v1/model/{id}                    | own         | 403 tls 401     201 403 tls 401 403 403 403 403 401
PUT /v1/model/{id}                    | another's   | 403 tls 401     410 403 tls 401 403 403 403 403 401
PUT /v1/model/{id}                    | unknown     | 403 tls 401     404 403 tls 401 403 403 403 403 401
GET /v1/job/{id}/upload               | own         | 403 tls 401     200 403 tls 401 403 403 403 403 401
GET /v1/job/{id}/upload               | another's   | 403 tls 401     410 403 tls 401 403 403 403 403 401
GET /v1/job/{id}/upload               | unknown     | 403 tls 401     404 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/log                 | own         | 403 tls 401     200 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/log                 | another's   | 403 tls 401     410 403 tls 401 403 403 403 403 401
POST /v1/job/{id}/log                 | unknown     | 403 tls 401     404 403 tls 401 403 403 403 403 401
GET /v1/dataset/{digest}              |             | 403 tls 401     200 403 tls 401 200 200 200 200 401
GET /v1/dataset/{digest}              | unknown     | 403 tls 401     404 403 tls 401 404 404 404 404 401

GET /v1/jobs                          |             | 403 tls 401     200 403 tls 401 200 200 200 200 401
GET /v1/workers                       |             | 403 tls 401     200 403 tls 401 200 200 200 200 401
GET /v1/health                        |             | 200 tls 200     200 200 tls 401 200 200 200 200 200
GET /openapi.json                     |             | 403 tls 401     200 403 tls 401 200 200 200 200 401
GET /v1/job/{id}                      | own         | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/job/{id}                      | unknown     | 403 tls 401     403 403 tls 401 404 404 404 404 401
GET /v1/job/{id}/eligibility          | own         | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/job/{id}/log                  | own         | 403 tls 401     403 403 tls 401 403 200 200 200 401
GET /v1/job/{id}/progress             | own         | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/host/{name}                   | itself      | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/host/{name}                   | unknown     | 403 tls 401     403 403 tls 401 404 404 404 404 401
GET /v1/host/{name}/eligibility       | itself      | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/host/{name}/history           | itself      | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/hosts/history                 |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/model/{id}                    | artifact    | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/model/{id}                    | unknown     | 403 tls 401     403 403 tls 401 404 404 404 404 401
GET /v1/model/{id}/files              | artifact    | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/model/{id}/file/{name:path}   | artifact    | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/model/{id}/lineage            | artifact    | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/model/{id}/provenance         | artifact    | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/models                        |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/overview                      |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/resolve                       |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/events                        |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/audit                         |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /metrics                          |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /v1/identities                    |             | 403 tls 401     403 403 tls 401 200 200 200 200 401

POST /v1/job/{id}/cancel              | own         | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/job/{id}/cancel              | unknown     | 403 tls 401     403 403 tls 401 403 401 404 401 401
POST /v1/job/{id}/cancel              | completed   | 403 tls 401     403 403 tls 401 403 401 409 401 401
POST /v1/job/{id}/requeue             | cancelled   | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/job/{id}/requeue             | unknown     | 403 tls 401     403 403 tls 401 403 401 404 401 401
POST /v1/job/{id}/requeue             | completed   | 403 tls 401     403 403 tls 401 403 401 409 401 401
POST /v1/job/{id}/verify              | completed   | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/job/{id}/verify              | unknown     | 403 tls 401     403 403 tls 401 403 401 404 401 401
POST /v1/job/{id}/pause               | waiting     | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/job/{id}/resume              | waiting     | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/manifest/plan                |             | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/manifest/reload              |             | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/host/{name}/drain            | spare       | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/host/{name}/drain            | unknown     | 403 tls 401     403 403 tls 401 403 401 404 401 401
POST /v1/host/{name}/undrain          | spare       | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/host/{name}/resume           | spare       | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/fleet/resume                 |             | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/fleet/pause                  |             | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/gc                           |             | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/notify/test                  |             | 403 tls 401     403 403 tls 401 403 401 409 401 401

GET /v1/enrol/ca                      |             | 200 tls 403     403 403 tls 401 403 403 403 403 403
POST /v1/enrol/join                   | good token  | 200 tls 403     403 403 tls 401 403 403 403 403 403
POST /v1/enrol/join                   | bad token   | 403 tls 403     403 403 tls 401 403 403 403 403 403
POST /v1/enrol/renew                  |             | 403 tls 401     200 403 tls 401 200 200 200 403 401
POST /v1/enrol/renew-late             | expired     | 200 tls 403     403 403 tls 401 403 403 403 403 403
POST /v1/enrol/renew-late             | revoked     | 403 tls 403     403 403 tls 401 403 403 403 403 403
POST /v1/identity/{role}/{name}/token | spare       | 403 tls 401     403 403 tls 401 403 401 200 401 401
POST /v1/identity/{role}/{name}/revoke| unknown     | 403 tls 401     403 403 tls 401 403 401 200 401 401
GET /v1/nothing                       |             | 403 tls 401     404 403 tls 401 404 404 404 404 401

GET /                                 |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /index.json                       |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /jobs                             |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /jobs.json                        |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /job/{name}                       | own         | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /job/{name}.json                  | own         | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /host/{name}                      | itself      | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /host/{name}.json                 | itself      | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /models                           |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /models.json                      |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /events                           |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /events.json                      |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /events.csv                       |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /health                           |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /health.json                      |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
GET /login                            |             | 403 tls 200     403 403 tls 401 403 200 200 303 401
GET /static/{file}                    |             | 403 tls 200     403 403 tls 401 200 200 200 200 401

# Forms: GET shows the question. POST here lacks the login's own word (CSRF), as if another page had sent it.
GET /logout                           |             | 403 tls 401     403 403 tls 401 200 200 200 200 401
POST /logout                          |             | 403 tls 401     403 403 tls 401 303 303 303 403 401
POST /login                           | right token | 403 tls 303     403 403 tls 401 403 303 303 303 401
POST /login                           | wrong token | 403 tls 403     403 403 tls 401 403 403 403 403 401
GET /job/{name}/cancel                | own         | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /job/{name}/cancel               | own         | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /job/{name}/requeue               | own         | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /job/{name}/requeue              | own         | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /job/{name}/pause                 | own         | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /job/{name}/pause                | own         | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /job/{name}/resume                | own         | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /job/{name}/resume               | own         | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /job/{name}/verify                | own         | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /job/{name}/verify               | own         | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /host/{name}/drain                | spare       | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /host/{name}/drain               | spare       | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /host/{name}/undrain              | spare       | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /host/{name}/undrain             | spare       | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /host/{name}/resume               | spare       | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /host/{name}/resume              | spare       | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /fleet/pause                      |             | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /fleet/pause                     |             | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /fleet/resume                     |             | 403 tls 401     403 403 tls 401 303 303 303 200 401
POST /fleet/resume                    |             | 403 tls 401     403 403 tls 401 303 303 303 403 401
GET /health/notify                    |             | 403 tls 401     403 403 tls 401 303 303 303 303 401
POST /health/notify                   |             | 403 tls 401     403 403 tls 401 303 303 303 403 401
"""


def _rows(text: str) -> Iterator[Row]:
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        endpoint, about, cells = line.split("|")
        yield Row(endpoint.strip(), about.strip(), dict(zip(WHO, cells.split(), strict=True)))


ROWS: Final = tuple(_rows(_TABLE))
