"""Every cell of (state x event x token) again, over HTTP: status codes, and that a refusal changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cis490.clock import ManualClock
from tests.contract.cell_lab import Evidence, Lab, check_accepted, check_unchanged
from tests.contract.lifecycle_cells import OPERATOR, REQUESTERS, Cell, cells
from tests.factories.fleet import cpu_host, job, job_id, manifest
from tests.factories.live_receiver import TOKEN, Answer, LiveReceiver, live_receiver
from training.fleet.lifecycle import PHASES

BUNDLES = {hashlib.sha256(data).hexdigest(): data for data in (b"the artifact", b"another artifact")}
ARTIFACT, OTHER = BUNDLES
STATUS = {"same": {200}, "renewed": {200}, "nothing": {200}, "taken": {200, 201}, "409": {409}, "410": {410}}
MANIFEST = 'name = "cells"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'


def over_http(cell: Cell) -> bool:
    """Not the reaper's event, and no history that takes the receiver itself down or its jobs away."""
    return cell.event != "expire" and "restart" not in cell.history and "hold" not in cell.history


CELLS = [cell for cell in cells() if over_http(cell)]


@contextmanager
def receiver_of(folder: Path) -> Iterator[tuple[LiveReceiver, ManualClock]]:
    """A receiver with both artifacts in its store, and a bystander that holds a job all the time."""
    clock = ManualClock()
    with live_receiver(folder, MANIFEST, clock=clock) as running:
        running.queue._connection.execute("PRAGMA synchronous = OFF")  # the disk is not what is tried here
        bystander = job("bystander", priority=9, allowed_hosts=("c",))
        running.queue.apply_manifest(manifest(bystander, job("none")))
        running.queue.claim("c", cpu_host())
        for digest, data in BUNDLES.items():
            put = running.worker(
                "PUT", f"/v1/model/{bystander.job_id}", data, host="c", **{"X-Content-SHA256": digest}
            )
            assert put.status == 201
        running.queue.heartbeat(bystander.job_id, "c")
        yield running, clock


def send(running: LiveReceiver, lab: Lab, cell: Cell) -> Answer:
    path, token = f"/v1/job/{lab.job_id}", lab.token_for(cell) if cell.who != OPERATOR.name else None
    headers: dict[str, str] = {"X-Lease-Token": token} if token is not None else {}
    worker: dict[str, tuple[str, str, Any]] = {
        "heartbeat": ("POST", f"{path}/heartbeat", None),
        "complete": ("POST", f"{path}/complete", {"artifact_id": ARTIFACT}),
        "other": ("POST", f"{path}/complete", {"artifact_id": OTHER}),
        "fail": ("POST", f"{path}/fail", {"error": "second"}),
        "release": ("POST", f"{path}/release", None),
        "upload": ("PUT", f"/v1/model/{lab.job_id}", BUNDLES[ARTIFACT]),
        "claim": ("POST", "/v1/job/claim", {"capability": cpu_host().to_dict()}),
        "claim_again": ("POST", "/v1/job/claim", {"capability": cpu_host().to_dict()}),
    }
    operator = {
        "cancel": ("cancel", None),
        "requeue": ("requeue", None),
        "force": ("requeue", {"force": True}),
    }
    if cell.event in operator:
        verb, body = operator[cell.event]
        return running.operator(f"{path}/{verb}", body)
    if cell.event == "upload":
        headers["X-Content-SHA256"] = ARTIFACT
    if cell.event in ("claim", "claim_again"):
        request = lab.last_request(cell.host) if cell.event == "claim_again" else "one more"
        headers |= {"X-Fleet-Protocol": "2", "X-Claim-Request": request}
    method, path, body = worker[cell.event]
    return running.worker(method, path, body, host=cell.host, **headers)


def evidence(running: LiveReceiver, lab: Lab) -> tuple[Evidence, set[tuple[str, int]]]:
    """The database, memory, and the files of the store with their sizes."""
    folder = running.store_root.parent
    files = {
        (str(path.relative_to(folder)), path.stat().st_size)
        for root in (folder / "models", folder / "incoming")
        for path in root.rglob("*")
        if path.is_file()
    }
    return lab.evidence(), files


def try_cell(running: LiveReceiver, clock: ManualClock, cell: Cell, name: str) -> None:
    wanted = job(name, allowed_hosts=("a", "b"))
    bystander = job("bystander", priority=9, allowed_hosts=("c",))
    running.queue.apply_manifest(manifest(wanted, bystander))
    lab = Lab(running.queue, clock, wanted.job_id, cell.plain, artifacts=tuple(BUNDLES))
    lab.bystander = (job_id("bystander"), "c")
    lab.play(cell.history)
    assert lab.phase == cell.phase
    (before, files), rows = evidence(running, lab), lab.jobs()
    answer = send(running, lab, cell)
    assert answer.status in STATUS.get(cell.wanted, {200}), answer.body
    if cell.wanted in ("409", "410"):
        assert answer.body["error"], "a refusal says why"
    if cell.wanted in PHASES:
        check_accepted(cell, lab, before, rows)
    else:
        check_unchanged(cell, lab, before)
    if cell.wanted != "taken":
        assert evidence(running, lab)[1] == files, "the store is as it was"
    running.queue.cancel(wanted.job_id)  # whatever came of it: the next cell's hosts are free


@pytest.mark.parametrize("who", ["", OPERATOR.name, *(requester.name for requester in REQUESTERS)])
def test_the_receiver_answers_in_every_cell_as_the_table_says(tmp_path: Path, who: str) -> None:
    wrong: list[str] = []
    mine = [cell for cell in CELLS if cell.who == who]
    with receiver_of(tmp_path) as (running, clock):
        for number, cell in enumerate(mine):
            try:
                try_cell(running, clock, cell, f"cell-{number}")
            except AssertionError as error:
                wrong.append(f"{cell}: wanted {cell.wanted}: {error}")
                running.queue.cancel(job_id(f"cell-{number}"))
    assert not wrong, "\n".join(wrong)
    print(f"{len(mine)} cells over HTTP")


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    text = MANIFEST + '[[hosts]]\nname = "a"\n'
    with live_receiver(tmp_path_factory.mktemp("idle"), text) as running:
        assert running.operator("/v1/manifest/reload").status == 200
        yield running


EVENTS = ["heartbeat", "complete", "fail", "release", "upload"]


def lease_request(running: LiveReceiver, job_id: str, event: str, host: str) -> Answer:
    if event == "upload":
        digest = {"X-Content-SHA256": ARTIFACT}
        return running.worker("PUT", f"/v1/model/{job_id}", BUNDLES[ARTIFACT], host=host, **digest)
    body = {"artifact_id": ARTIFACT} if event == "complete" else None
    return running.worker("POST", f"/v1/job/{job_id}/{event}", body, host=host)


@pytest.mark.parametrize("event", EVENTS)
def test_an_unknown_job_is_404_for_every_event(idle: LiveReceiver, event: str) -> None:
    assert lease_request(idle, "f" * 64, event, "a").status == 404


@pytest.mark.parametrize("event", EVENTS)
def test_a_host_that_the_manifest_does_not_admit_is_403_for_every_event(
    idle: LiveReceiver, event: str
) -> None:
    (known,) = idle.send("GET", "/v1/jobs").body["jobs"]
    assert lease_request(idle, known["job_id"], event, "stranger").status == 403


@pytest.mark.parametrize("verb", ["cancel", "requeue"])
def test_an_unknown_job_is_404_and_a_wrong_token_401_for_every_verb(idle: LiveReceiver, verb: str) -> None:
    assert idle.operator(f"/v1/job/{'f' * 64}/{verb}").status == 404
    assert idle.operator(f"/v1/job/{'f' * 64}/{verb}", token=TOKEN + "x").status == 401
