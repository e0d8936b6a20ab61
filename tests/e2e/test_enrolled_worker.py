"""A worker with a certificate, as a process, behind a real Caddy: a long break costs neither place nor results."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cis490.digest import sha256_bytes
from tests.factories import artifacts
from tests.factories.fleet_pki import leaf_of
from tests.factories.live_receiver import TOKEN
from tests.factories.processes import wait_until
from tests.factories.proxied_fleet import ProxiedFleet, proxied_fleet
from training.fleet import join
from training.fleet.client import FleetClient
from training.fleet.types import Capability
from training.fleet.wire import CompleteRequest
from training.fleet.worker_state import StateFolder, record_of

MANIFEST = """
[[hosts]]
name = "pc-1"

[[jobs]]
model = "gbt"
mode = "oracle"
"""
Start = Callable[[Path], "Worker"]


class Worker:
    """A running one; its log goes to a file."""

    def __init__(self, folder: Path, credentials: Path) -> None:
        self.log = folder / "worker.log"
        command = [
            sys.executable, "-m", "training.fleet.worker", "--credentials", str(credentials), "--state-dir",
            str(folder / "state"), "--poll-s", "0.1", "--trainer-module", "tests.factories.stub_trainer",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def says(self, words: str) -> bool:
        return words in self.log.read_text("utf-8")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ProxiedFleet]:
    with proxied_fleet(tmp_path, MANIFEST, build="wheel", operator_token=TOKEN) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Worker] = []

    def begin(credentials: Path) -> Worker:
        started.append(Worker(tmp_path, credentials))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait(20)
        print(one.log.read_text("utf-8"))


@pytest.fixture
def operator(fleet: ProxiedFleet) -> FleetClient:
    folder = fleet.pki.operator("ada")
    return FleetClient(fleet.pki.fleet.operators_url, credentials=folder, operator_token=TOKEN)


def test_a_result_in_the_spool_is_delivered_although_the_certificate_expired_29_days_ago(
    fleet: ProxiedFleet, operator: FleetClient, start: Start, tmp_path: Path
) -> None:
    identity = fleet.pki.host("pc-1")
    client = FleetClient(fleet.pki.fleet.workers_url, host="pc-1", credentials=identity)
    answer = client.claim(Capability(cores=1, models=["gbt"]), request_id="before the break")
    assert answer is not None
    data = artifacts.packed(artifacts.files())
    state = StateFolder(tmp_path / "state")
    record = state.save(record_of(answer))
    state.bundle(record).write_bytes(data)
    (state.job_folder(record) / "out").mkdir(parents=True)
    late = fleet.pki.host("pc-1", expired=timedelta(days=29))
    before = leaf_of(late).serial_number
    start(late)
    wait_until(lambda: operator.job(record.job_id)["status"] == "completed", "the result")
    assert operator.job(record.job_id)["artifact_id"] == sha256_bytes(data)
    assert leaf_of(late).serial_number != before


def test_a_worker_that_was_revoked_and_enrolled_again_goes_on_without_a_restart(
    fleet: ProxiedFleet, operator: FleetClient, start: Start
) -> None:
    operator.pause_fleet("so that claims wait")
    identity = fleet.pki.host("pc-1")
    worker = start(identity)
    wait_until(lambda: operator.workers() != [], "a claim, which now waits")
    operator.revoke_identity("host", "pc-1", "lost")
    wait_until(lambda: worker.says("worker.claim_failing"), "the refusal")
    assert worker.says("was revoked")
    refused_at = float(operator.workers()[0]["last_seen_at"])
    line = operator.join_token("host", "pc-1")["token"]
    world = join.Outside({}, io.BytesIO(line.encode()), io.StringIO(), io.StringIO())
    assert join.main(["--credentials", str(identity), "--skip-trainer"], world) == join.OK
    wait_until(lambda: float(operator.workers()[0]["last_seen_at"]) > refused_at, "its return")
    assert worker.process.poll() is None
    if sys.platform != "win32":  # and its stop does not wait for the answer to its claim
        worker.process.terminate()
        assert worker.process.wait(15) == 0
        assert worker.says("worker.stopped")


def test_a_worker_whose_credentials_are_no_hosts_does_not_start(fleet: ProxiedFleet, start: Start) -> None:
    worker = start(fleet.pki.operator("ada"))
    assert worker.process.wait(20) == 78
    assert worker.says("belongs to the operator ada")
    assert worker.says("cis490-jobs hosts add")


def test_what_the_worker_owes_is_what_may_leave_says(tmp_path: Path) -> None:
    """The two look at the same files."""
    from training.fleet.leaving import undelivered
    from training.fleet.worker_state import LeaseRecord

    state = StateFolder(tmp_path / "state")
    record = LeaseRecord("ab" * 32, "gbt-oracle", 3, 30.0, "token")
    state.save(record)
    assert undelivered(state.root) == []
    state.bundle(record).write_bytes(b"packed")
    assert undelivered(state.root) == ["gbt-oracle"]
    state.bundle(record).unlink()
    state.job_folder(record).mkdir()
    state.end_file(record).write_text("{}")
    assert undelivered(state.root) == ["gbt-oracle"]
    state.end_file(record).unlink()
    state.save(LeaseRecord("ab" * 32, "gbt-oracle", 3, 30.0, "token", CompleteRequest("cd" * 32)))
    assert undelivered(state.root) == ["gbt-oracle"]
    state.drop(record, keeps_checkpoint=False)
    assert undelivered(state.root) == []
