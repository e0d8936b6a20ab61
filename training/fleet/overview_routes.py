"""HTTP endpoints: the fleet on one screen, and names instead of ids."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from training.fleet import enrolment_store, explain, naming, redaction, views
from training.fleet.coordinator import Coordinator
from training.fleet.endpoint import Endpoint
from training.fleet.http_io import Problem, answer, peer_of
from training.fleet.lease_answers import coordinator_of
from training.fleet.overview import Facts
from training.fleet.overview import overview as assembled
from training.fleet.peers import Peer
from training.fleet.rows import job_row
from training.fleet.types import RowKind

MAX_WORD_CHARS = 200


async def overview(request: Request) -> Response:
    """The fleet on one screen: a sentence, the hosts, what runs, what needs a person."""
    app, peer = coordinator_of(request), peer_of(request)
    trouble = app.trouble()
    rules = app.queue.matcher.rules
    policy = {
        "trainer": rules.trainer,
        "trainer_digest": rules.trainer_digest,
        "unknown_hosts": rules.unknown_hosts if rules.names_hosts else "allow",
    }
    return await asyncio.to_thread(lambda: answer(assembled(_facts(app, trouble, peer)) | {"policy": policy}))


def _facts(app: Coordinator, trouble: dict[str, str], peer: Peer) -> Facts:
    queue, manifest = app.queue, app.manifest
    leases = queue.live_leases()

    def rows(kind: RowKind) -> list[dict[str, Any]]:
        found = [queue.with_heartbeat(job_row(raw)) for raw in queue.read("job_noteworthy", kind=kind)]
        told = (views.job(row, leases.get(row.job_id), queue.reference) for row in found)
        return [redaction.job(peer, one) for one in told]

    expected = app.expectations.of_fleet(queue)
    return Facts(
        at=queue.clock.wall_s(),
        started_at=app.started_at,
        jobs=rows("job"),
        shadows=rows("shadow"),
        workers=queue.workers(),
        manifest_hosts=list(queue.matcher.hosts),
        name=None if manifest is None else manifest.name,
        path=str(app.manifest_path),
        digest=None if manifest is None else manifest.digest,
        n_manifest_jobs=0 if manifest is None else len(manifest.jobs),
        stuck=explain.stuck(queue, queue.clock.now_s()),
        estimates={job_id: one.to_dict() for job_id, one in expected.jobs.items()},
        done_estimate=expected.done,
        trouble=trouble,
        fleet_paused=queue.matcher.rules.paused_reason,
        usage=app.telemetry.usages(),
        counts=queue.counts(),
        certificates=enrolment_store.certificate_ends(queue),
        n_waiting=sum(int(row["n"]) for row in queue.read("class_waiting")),
    )


async def resolve(request: Request) -> Response:
    """What a word on a command line names: `?job=WORD` or `?host=WORD`."""
    app, asked = coordinator_of(request), request.query_params
    given = [key for key in ("job", "host") if key in asked]
    if len(given) != 1 or len(asked.getlist(given[0])) != 1:
        raise Problem(400, "give exactly one of ?job=WORD and ?host=WORD")
    word = asked[given[0]]
    if not 0 < len(word) <= MAX_WORD_CHARS:
        raise Problem(400, f"{given[0]} has {len(word)} characters, expected 1 to {MAX_WORD_CHARS}")
    found = await asyncio.to_thread(_job if given[0] == "job" else _host, app, word)
    if isinstance(found, naming.Resolved):
        raise Problem(
            404,
            _unknown(given[0], word, found),
            candidates=list(found.candidates),
            ids=list(found.ids),
            did_you_mean=found.did_you_mean,
        )
    return answer(found)


def _job(app: Coordinator, word: str) -> dict[str, Any] | naming.Resolved:
    """A job, or else a verification run: a name that a job has always means the job."""
    rows = [dict(row) for row in app.queue.read("job_names")]
    first: naming.Resolved | None = None
    for kind in ("job", "shadow"):
        found = naming.resolve([row for row in rows if row["kind"] == kind], word)
        if found.row is not None:
            return {**found.row, "held": bool(found.row["held"])}
        first = first or found
        if found.candidates and found.did_you_mean is None:
            return found  # it fits several: nothing that comes later is meant
    assert first is not None
    return first


def _host(app: Coordinator, word: str) -> dict[str, Any] | naming.Resolved:
    matcher = app.queue.matcher
    names = sorted({*list(matcher.hosts), *list(matcher.seen), *list(matcher.drained)})
    found = naming.resolve([{"host": name} for name in names], word, name_key="host", id_key=None)
    return found if found.row is None else dict(found.row)


def _unknown(kind: str, word: str, found: naming.Resolved) -> str:
    if found.candidates and found.did_you_mean is None:
        return f"{word!r} may mean any of {len(found.candidates)} {kind}s: {', '.join(found.candidates)}"
    guess = f"; did you mean {found.did_you_mean}?" if found.did_you_mean else ""
    return f"no {kind} is called {word!r}{guess}"


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/overview", overview, "reader"),
    Endpoint("GET", "/v1/resolve", resolve, "reader"),
)
