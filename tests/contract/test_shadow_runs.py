"""Verification runs in the queue and over HTTP: a life of their own, and nothing of the job's is touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cis490.clock import ManualClock
from cis490.database import sqlite
from tests.factories.fleet import ARTIFACT, OTHER_ARTIFACT, job, job_id, manifest
from tests.factories.live_receiver import Answer, LiveReceiver, live_receiver
from training.fleet import shadows
from training.fleet.eligibility import Rules, requirement_of
from training.fleet.queue import JobQueue
from training.fleet.rows import JobRow
from training.fleet.specs import Reference
from training.fleet.sql import MIGRATIONS
from training.fleet.types import Capability, Gpu, HostSpec, JobSpec

X, Y = job("x", priority=-5), job("y", priority=-9)
LINUX = Capability(os="linux", arch="x86_64", cores=4, ram_gib=16.0, has_cuda=False)
ARM = replace(LINUX, arch="aarch64")
CLASS_OF_VERSION_3 = json.dumps(asdict(requirement_of(X)), sort_keys=True, separators=(",", ":"))


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    made = JobQueue(tmp_path / "q.db", clock=ManualClock())
    made.apply_manifest(manifest(X))
    yield made
    made.close()


def completed(queue: JobQueue, spec: JobSpec = X, host: str = "a", capability: Capability = LINUX) -> JobRow:
    """`spec`, trained by `host`."""
    assert queue.claim(host, capability).row is not None
    assert queue.complete(spec.job_id, host, artifact_id=ARTIFACT, metrics={"roc_auc": 0.8})
    return row_of(queue, spec.job_id)


def row_of(queue: JobQueue, job_id: str) -> JobRow:
    found = queue.get(job_id)
    assert found is not None
    return found


def started(queue: JobQueue, spec: JobSpec = X) -> JobRow:
    made = shadows.start(queue, spec.job_id)
    assert made.row is not None, made.reason
    return made.row


# -- what it is --------------------------------------------------------------------------------------------


def test_a_run_is_the_same_training_under_a_name_and_an_id_of_its_own(queue: JobQueue) -> None:
    job_row = completed(queue)
    run = started(queue)
    identity = (
        "model",
        "mode",
        "hyper",
        "split_recipe",
        "train_hosts",
        "seed",
        "require_cuda",
        "min_ram_gib",
    )
    assert {key: run.spec[key] for key in identity} == {key: job_row.spec[key] for key in identity}
    assert (run.name, run.status, run.kind) == ("x.verify-1", "pending", "shadow")
    assert (run.of_job_id, run.of_artifact_id) == (X.job_id, ARTIFACT)
    assert run.job_id == shadows.shadow_id(X.job_id, ARTIFACT, 1) != X.job_id


def test_every_real_job_goes_first(queue: JobQueue) -> None:
    completed(queue)
    run = started(queue)
    queue.apply_manifest(manifest(X, Y))
    claims = [queue.claim(host, LINUX).row for host in ("a", "b", "a")]
    assert [row.name if row else None for row in claims] == ["y", None, None]
    queue.fail(Y.job_id, "a", error="x", fail_class="bad_config")
    assert queue.claim("a", LINUX).row == replace(
        run, status="claimed", claimed_by="a", epoch=1, attempts=1, claimed_at=queue.clock.wall_s()
    )


def test_a_run_trains_on_the_data_of_the_artifact_whatever_was_pinned_since(queue: JobQueue) -> None:
    first, second = "1" * 64, "2" * 64
    queue.sync_from_manifest([X.to_dict()], reference=Reference(first, None))
    completed(queue)
    run = started(queue)
    queue.sync_from_manifest([X.to_dict()], reference=Reference(second, None))
    lease = queue.claim("a", LINUX).lease
    assert lease is not None
    assert (lease.job_id, lease.dataset_id) == (run.job_id, first)


@pytest.mark.parametrize("name", ["x", "n" * 64])
def test_its_name_is_a_legal_name(name: str) -> None:
    from cis490.files import is_safe_name

    made = {shadows.shadow_name(name, number) for number in (1, 2, 999)}
    assert len(made) == 3
    assert all(is_safe_name(one) for one in made)


# -- what it leaves alone ----------------------------------------------------------------------------------


def events_on(queue: JobQueue, run: JobRow) -> None:
    """Everything that may happen to a run."""
    queue.claim("a", LINUX)
    queue.heartbeat(run.job_id, "a")
    queue.release(run.job_id, "a")
    queue.claim("a", LINUX)
    queue.fail(run.job_id, "a", error="boom")
    queue.claim("a", LINUX)
    queue.complete(run.job_id, "a", artifact_id=OTHER_ARTIFACT, metrics={"roc_auc": 0.1})


def test_the_accepted_artifact_the_status_and_the_metrics_of_the_job_never_change(queue: JobQueue) -> None:
    before = completed(queue)
    events_on(queue, started(queue))
    assert row_of(queue, X.job_id) == before
    started(queue)
    queue.claim("a", LINUX)
    queue.fail(shadows.shadow_id(X.job_id, ARTIFACT, 2), "a", error="no", fail_class="bad_config")
    assert row_of(queue, X.job_id) == before
    assert len(queue.attempts(X.job_id)) == 1


def test_a_run_is_no_job_in_lists_and_counts(queue: JobQueue) -> None:
    completed(queue)
    run = started(queue)
    assert [row.name for row in queue.list_jobs()] == ["x"]
    assert [row.name for row in queue.list_jobs("pending")] == []
    assert [row.name for row in queue.list_jobs(kind="shadow")] == [run.name]
    assert queue.counts() == {"completed": 1}


@pytest.mark.parametrize("phase", ["pending", "running", "completed"])
def test_a_reload_leaves_a_run_as_it_is(queue: JobQueue, phase: str) -> None:
    completed(queue)
    run = started(queue)
    if phase != "pending":
        queue.claim("a", LINUX)
        queue.heartbeat(run.job_id, "a")
    if phase == "completed":
        queue.complete(run.job_id, "a", artifact_id=ARTIFACT)
    before = row_of(queue, run.job_id)
    for jobs in ([X], [Y], [], [replace(X, priority=7)]):
        queue.apply_manifest(manifest(*jobs))
        assert row_of(queue, run.job_id) == before
    queue.apply_manifest(manifest(X))
    assert started(queue).name == "x.verify-2" if phase == "completed" else True


def test_a_run_survives_a_restart_of_the_receiver(tmp_path: Path) -> None:
    clock = ManualClock()
    first = JobQueue(tmp_path / "q.db", clock=clock)
    first.apply_manifest(manifest(X))
    completed(first)
    run = started(first)
    first.close()
    again = JobQueue(tmp_path / "q.db", clock=clock)
    assert row_of(again, run.job_id) == run
    claimed = again.claim("a", LINUX).row
    assert claimed is not None
    assert claimed.job_id == run.job_id
    again.close()


def test_a_database_from_before_there_were_runs_keeps_its_jobs_and_can_have_them(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = sqlite.connect(str(path))
    sqlite.migrate(old, MIGRATIONS[:3])
    old.execute("INSERT INTO requirement_class (key) VALUES (?)", (CLASS_OF_VERSION_3,))
    for number, status in enumerate(("pending", "running", "completed", "failed", "cancelled")):
        spec = job(status)
        old.execute(
            "INSERT INTO job (job_id, name, model, mode, spec, priority, class_id, status, epoch, claimed_by,"
            " artifact_id) VALUES (?, ?, ?, ?, ?, ?, 1, ?, 1, 'a', ?)",
            (
                spec.job_id,
                status,
                spec.model,
                spec.mode,
                json.dumps(spec.to_dict()),
                number,
                status,
                ARTIFACT,
            ),
        )
        old.execute(
            "INSERT INTO attempt (job_id, epoch, generation, host, claimed_at) VALUES (?, 1, 1, 'a', 0)",
            (spec.job_id,),
        )
    old.execute(
        "INSERT INTO worker (host, capability, first_seen_at, last_seen_at) VALUES ('a', ?, 0, 0)",
        (json.dumps(LINUX.to_dict()),),
    )
    old.close()
    queue = JobQueue(path, clock=ManualClock())
    assert {row.name: (row.status, row.kind) for row in queue.list_jobs()} == {
        status: (status, "job") for status in ("pending", "running", "completed", "failed", "cancelled")
    }
    assert started(queue, job("completed")).of_artifact_id == ARTIFACT
    assert queue.heartbeat(job_id("running"), "a"), "who trained during the update goes on"
    queue.close()


# -- what is refused ---------------------------------------------------------------------------------------


def test_only_what_is_completed_can_be_verified(queue: JobQueue) -> None:
    assert shadows.start(queue, X.job_id).reason == "x is pending: only what is completed can be verified"
    unknown = shadows.start(queue, "f" * 64)
    assert (unknown.http_status, unknown.reason) == (404, f"no job {'f' * 64}")


def test_a_second_run_waits_until_the_first_has_ended(queue: JobQueue) -> None:
    completed(queue)
    run = started(queue)
    refused = shadows.start(queue, X.job_id)
    assert (refused.http_status, refused.told) == (409, {"shadow_job_id": run.job_id})
    assert refused.reason == "x.verify-1 is pending: it verifies x already"
    queue.claim("a", LINUX)
    queue.complete(run.job_id, "a", artifact_id=ARTIFACT)
    assert started(queue).name == "x.verify-2"


@pytest.mark.parametrize(
    ("reference", "stale"),
    [
        (Reference("2" * 64, "e" * 64), ["data changed"]),
        (Reference("1" * 64, "f" * 64), ["trainer changed"]),
    ],
)
def test_a_stale_result_is_not_verified_and_the_answer_says_what_has_changed(
    queue: JobQueue, reference: Reference, stale: list[str]
) -> None:
    queue.sync_from_manifest([X.to_dict()], reference=Reference("1" * 64, "e" * 64))
    completed(queue)
    queue.sync_from_manifest([X.to_dict()], reference=reference)
    refused = shadows.start(queue, X.job_id)
    assert (refused.http_status, refused.told) == (409, {"stale": stale})
    assert "a comparison would say nothing" in refused.reason


def test_a_run_of_an_earlier_artifact_is_in_nobodys_way(queue: JobQueue) -> None:
    """Else `verify` would attach to it, and its verdict would be of an artifact that is not the accepted one."""
    completed(queue)
    earlier = started(queue)
    assert queue.requeue(X.job_id, force=True)
    assert queue.claim("a", LINUX).row is not None
    assert queue.complete(X.job_id, "a", artifact_id=OTHER_ARTIFACT)
    now = started(queue)
    assert (earlier.of_artifact_id, now.of_artifact_id) == (ARTIFACT, OTHER_ARTIFACT)
    assert (now.name, row_of(queue, earlier.job_id).status) == ("x.verify-2", "pending")
    assert shadows.start(queue, X.job_id).told == {"shadow_job_id": now.job_id}


@pytest.mark.parametrize("fails", [True, False])
def test_runs_count_neither_for_nor_against_a_host(tmp_path: Path, fails: bool) -> None:
    """A verification is an extra: it takes no host from the jobs, and does not hide that jobs fail on it."""
    jobs = [job(f"j{number}") for number in range(4)]
    queue = JobQueue(tmp_path / "two.db", clock=ManualClock())
    queue.apply_manifest(manifest(jobs[0], pause_after_failures=2))
    completed(queue, jobs[0])
    if not fails:
        queue.apply_manifest(manifest(*jobs[:2], pause_after_failures=2))
        failed_for_good(queue, jobs[1].job_id)
    run = started(queue, jobs[0])
    if fails:
        failed_for_good(queue, run.job_id)
        again = started(queue, jobs[0])
        failed_for_good(queue, again.job_id)
        assert queue.matcher.seen["a"].paused_reason is None
    else:
        assert queue.claim("a", LINUX).row is not None
        assert queue.complete(run.job_id, "a", artifact_id=ARTIFACT)
        assert queue.matcher.seen["a"].failures_in_a_row == 1
    queue.close()


def failed_for_good(queue: JobQueue, wanted: str) -> None:
    while row_of(queue, wanted).status == "pending":
        claimed = queue.claim("a", LINUX).row
        assert claimed is not None
        assert queue.fail(claimed.job_id, "a", error="no", fail_class="program")


def test_a_run_of_a_run_is_refused(queue: JobQueue) -> None:
    completed(queue)
    run = started(queue)
    assert X.job_id in shadows.start(queue, run.job_id).reason


def test_a_run_is_cancelled_like_a_job_and_is_not_queued_again(queue: JobQueue) -> None:
    completed(queue)
    run = started(queue)
    refused = queue.requeue(run.job_id)
    assert (refused.http_status, "cis490-jobs verify" in refused.reason) == (409, True)
    assert queue.cancel(run.job_id)
    assert row_of(queue, run.job_id).status == "cancelled"
    assert not queue.requeue(run.job_id, force=True)
    assert row_of(queue, run.job_id).status == "cancelled"
    assert started(queue).name == "x.verify-2", "a cancelled one is in nobody's way"


# -- which hosts -------------------------------------------------------------------------------------------


def test_only_hosts_like_the_one_that_trained_it_may_verify(queue: JobQueue) -> None:
    queue.claim("b", ARM)
    queue.release(X.job_id, "b")
    queue.clock.advance(1000)  # type: ignore[attr-defined]
    completed(queue)
    queue.claim("c", LINUX)
    queue.claim("d", replace(LINUX, os="windows"))
    made = shadows.start(queue, X.job_id)
    assert made.hosts == ("a", "c")
    assert made.row is not None
    assert made.row.spec["allowed_hosts"] == ["a", "c"]
    found = queue.explain(made.row.job_id)
    assert found is not None
    refused = {
        host["host"]: [check["constraint"] for check in host["checks"] if not check["ok"]]
        for host in found["hosts"]
    }
    assert refused["d"] == ["allowed_hosts"]
    assert "allowed_hosts" not in refused["a"] + refused["c"]


def test_a_gpu_that_the_manifest_takes_from_a_host_puts_it_among_those_without(queue: JobQueue) -> None:
    seen = {"a": LINUX, "b": replace(LINUX, has_cuda=True, gpus=[Gpu("H100", 80.0)]), "c": LINUX}
    seen = {name: replace(one, torch_version="2.13.0") for name, one in seen.items()}
    net, lowered = replace(X, model="cnn"), {"b": HostSpec("b", capability=Capability(has_cuda=False))}
    assert shadows.hosts_for(net, "a", seen, {}, Rules()) == ("a", "c")
    assert shadows.hosts_for(net, "a", seen, lowered, Rules()) == ("a", "b", "c")
    assert shadows.hosts_for(net, "b", seen, lowered, Rules()) == ("a", "b", "c")


def test_the_jobs_own_hosts_and_the_hosts_policies_count_too() -> None:
    seen = dict.fromkeys("abcd", LINUX)
    policies = {"c": HostSpec("c", deny_jobs=("gbt",)), "d": HostSpec("d", allow_jobs=("mlp",))}
    rules = Rules()
    assert shadows.hosts_for(X, "a", seen, policies, rules) == ("a", "b")
    assert shadows.hosts_for(replace(X, allowed_hosts=("b", "c")), "a", seen, policies, rules) == ("b",)
    denied = Rules(names_hosts=True)
    assert shadows.hosts_for(X, "a", seen, policies, denied) == (), "a and b are not in the manifest any more"


def test_without_a_host_of_the_same_class_the_refusal_says_which_class(queue: JobQueue) -> None:
    completed(queue)
    queue.claim("b", ARM)
    queue.apply_manifest(manifest(replace(X, allowed_hosts=("b",))))
    refused = shadows.start(queue, X.job_id)
    assert refused.http_status == 409
    assert refused.reason.startswith(
        "no known host like a (linux, x86_64, cpu), which trained x, may train it"
    )


def test_a_host_that_is_forgotten_leaves_nothing_to_compare_with(queue: JobQueue) -> None:
    completed(queue)
    queue.matcher.unsee("a", None)
    assert "trained on a, which is not known any more" in shadows.start(queue, X.job_id).reason


# -- over HTTP ---------------------------------------------------------------------------------------------

MANIFEST = 'name = "t"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
BUNDLE = b"the bytes of an artifact"
DIGEST = hashlib.sha256(BUNDLE).hexdigest()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        yield running


def train(receiver: LiveReceiver, data: bytes = BUNDLE) -> str:
    """One job from its claim to its end; returns its id."""
    capability = {"os": "linux", "arch": "x86_64", "has_cuda": False}
    claimed = receiver.worker("POST", "/v1/job/claim", {"capability": capability}).body["job_id"]
    digest = hashlib.sha256(data).hexdigest()
    sent = receiver.worker("PUT", f"/v1/model/{claimed}", data, **{"X-Content-SHA256": digest})
    assert sent.status in (200, 201)
    done = receiver.worker("POST", f"/v1/job/{claimed}/complete", {"artifact_id": digest})
    assert done.status == 200
    return str(claimed)


def rows(receiver: LiveReceiver, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = receiver.send("GET", f"/v1/jobs{query}").body["jobs"]
    return found


def verify(receiver: LiveReceiver, wanted: str) -> Answer:
    return receiver.operator(f"/v1/job/{wanted}/verify")


def test_an_operator_starts_a_run_and_a_worker_does_it_like_any_job(receiver: LiveReceiver) -> None:
    original = train(receiver)
    answer = verify(receiver, original)
    assert answer.status == 200
    run = answer.body["shadow_job_id"]
    assert answer.body == {
        "ok": True, "shadow_job_id": run, "name": "gbt-realistic.verify-1", "hosts": ["a"],
    }  # fmt: skip
    before = rows(receiver)
    assert [row["kind"] for row in before] == ["job"]
    assert train(receiver) == run
    (shadow,) = rows(receiver, "?kind=shadow")
    assert (shadow["status"], shadow["kind"], shadow["of_job_id"]) == ("completed", "shadow", original)
    assert shadow["artifact_id"] == shadow["of_artifact_id"] == DIGEST
    assert rows(receiver) == before
    assert rows(receiver, "?kind=shadow&status=pending") == []


def test_the_index_row_says_which_run_an_artifact_is_of(receiver: LiveReceiver) -> None:
    original = train(receiver)
    run = verify(receiver, original).body["shadow_job_id"]
    train(receiver)
    first, second = (
        json.loads(line) for line in (receiver.store_root / "index.jsonl").read_text().splitlines()
    )
    assert "kind" not in first["provenance"]
    told = {key: second["provenance"][key] for key in ("kind", "of_job_id", "of_artifact_id")}
    assert told == {"kind": "shadow", "of_job_id": original, "of_artifact_id": DIGEST}
    assert (second["job_id"], second["status"]) == (run, "already-present"), "equal bytes are stored once"


def test_refusals_are_409_with_what_helps(receiver: LiveReceiver) -> None:
    pending = rows(receiver)[0]["job_id"]
    refused = verify(receiver, pending)
    assert (refused.status, refused.body["ok"]) == (409, False)
    original = train(receiver)
    run = verify(receiver, original).body["shadow_job_id"]
    again = verify(receiver, original)
    assert (again.status, again.body["shadow_job_id"]) == (409, run)
    assert verify(receiver, "f" * 64).status == 404
    assert receiver.send("POST", f"/v1/job/{original}/verify").status == 401
    assert receiver.send("GET", "/v1/jobs?kind=ghost").status == 400


def test_an_open_run_is_cancelled_by_its_id(receiver: LiveReceiver) -> None:
    run = verify(receiver, train(receiver)).body["shadow_job_id"]
    assert receiver.operator(f"/v1/job/{run}/cancel").body == {"ok": True}
    refused = receiver.operator(f"/v1/job/{run}/requeue")
    assert (refused.status, refused.body["ok"]) == (409, False)
    assert job_id("x") != run
