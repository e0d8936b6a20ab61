"""Retention over HTTP and from the command line: what goes, what is said of it, what an upload in between meets."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cis490.clock import ManualClock
from tests.factories.live_receiver import TOKEN, Answer, LiveReceiver, live_receiver
from tests.factories.processes import wait_until
from training.fleet import cli, exits, retention
from training.fleet import gc as gc_steps
from training.fleet.retention import JobFacts, Made
from training.fleet.types import Retention
from training.fleet.verbs import Terminal

DAY_S = retention.DAY_S
JOB = '[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
RULES = "[retention]\nartifact_days = 2\naudit_days = 3\nlog_days = 4\nshadow_days = 1\n"
CAPABILITY = {"os": "linux", "arch": "x86_64", "cores": 4, "has_cuda": False}
OLD, NEW = b"the old model", b"the new model"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def receiver(tmp_path: Path, clock: ManualClock) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, RULES + JOB, clock=clock) as running:
        yield running


def claim(receiver: LiveReceiver) -> str:
    return str(receiver.worker("POST", "/v1/job/claim", {"capability": CAPABILITY}).body["job_id"])


def put(receiver: LiveReceiver, job_id: str, content: bytes) -> Answer:
    return receiver.worker("PUT", f"/v1/model/{job_id}", content, **{"X-Content-SHA256": sha(content)})


def train(receiver: LiveReceiver, content: bytes) -> str:
    job_id = claim(receiver)
    assert put(receiver, job_id, content).status in (200, 201)
    done = receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": sha(content)})
    assert done.status == 200
    return job_id


def gc(receiver: LiveReceiver, *, dry_run: bool = False) -> dict[str, object]:
    answer = receiver.operator("/v1/gc", {"dry_run": dry_run})
    assert answer.status == 200, answer.body
    return dict(answer.body)


def superseded(receiver: LiveReceiver, clock: ManualClock) -> str:
    """A job trained twice, both times long ago."""
    job_id = train(receiver, OLD)
    assert receiver.operator(f"/v1/job/{job_id}/requeue", {"force": True}).status == 200
    train(receiver, NEW)
    clock.advance(3 * DAY_S)
    return job_id


def test_an_artifact_that_was_superseded_goes_and_is_said_to_be_gone(
    receiver: LiveReceiver, clock: ManualClock
) -> None:
    superseded(receiver, clock)
    why = "superseded: gbt-realistic has a newer result"
    going = [{"artifact_id": sha(OLD), "job": "gbt-realistic", "size_bytes": len(OLD), "why": why}]
    before = gc(receiver, dry_run=True)
    assert (before["dry_run"], before["artifacts"]) == (True, going)
    assert receiver.send("GET", f"/v1/model/{sha(OLD)}").status == 200, "a dry run removes nothing"
    done = gc(receiver)
    assert done == before | {"dry_run": False}
    assert done["freed_bytes"] == len(OLD)
    gone = receiver.send("GET", f"/v1/model/{sha(OLD)}")
    assert (gone.status, why in gone.body["error"], "removed_at" in gone.body) == (410, True, True)
    assert receiver.send("GET", f"/v1/model/{sha(NEW)}").raw == NEW
    assert gc(receiver)["artifacts"] == []
    rows = [json.loads(line) for line in (receiver.store_root / "index.jsonl").read_text().splitlines()]
    assert [(one["status"], one["artifact_id"]) for one in rows] == [
        ("stored", sha(OLD)), ("stored", sha(NEW)), ("removed", sha(OLD)),
    ]  # fmt: skip
    trail = receiver.queue.read("audit_of_host", host="")
    assert [(one["event"], one["actor"]) for one in trail] == [("gc", "operator")]
    assert list((receiver.store_root.parent / "incoming").iterdir()) == [], "nothing is left in the bin"


def test_the_days_of_a_result_count_from_when_a_newer_one_came(
    receiver: LiveReceiver, clock: ManualClock
) -> None:
    job_id = train(receiver, OLD)
    clock.advance(1000 * DAY_S)
    receiver.operator(f"/v1/job/{job_id}/requeue", {"force": True})
    train(receiver, NEW)
    clock.advance(DAY_S)
    assert gc(receiver)["artifacts"] == []
    clock.advance(1.1 * DAY_S)
    assert [one["artifact_id"] for one in gc(receiver)["artifacts"]] == [sha(OLD)]  # type: ignore[attr-defined]


def test_without_a_word_nothing_is_removed(receiver: LiveReceiver, clock: ManualClock) -> None:
    superseded(receiver, clock)
    answer = receiver.operator("/v1/gc")
    assert (answer.status, answer.body["dry_run"], len(answer.body["artifacts"])) == (200, True, 1)
    assert receiver.send("GET", f"/v1/model/{sha(OLD)}").status == 200


@pytest.mark.parametrize(("body", "status"), [({"dry_run": "no"}, 400), (b"{", 400)])
def test_what_is_no_request_is_refused(receiver: LiveReceiver, body: object, status: int) -> None:
    assert receiver.operator("/v1/gc", body).status == status
    assert receiver.operator("/v1/gc", {}, token="wrong").status == 401


def test_an_upload_that_was_never_completed_goes_once_its_attempt_is_over(
    receiver: LiveReceiver, clock: ManualClock
) -> None:
    job_id = claim(receiver)
    assert put(receiver, job_id, OLD).status == 201
    clock.advance(3 * DAY_S)
    assert gc(receiver)["artifacts"] == [], "its attempt may still complete with it"
    assert receiver.worker("POST", f"/v1/job/{job_id}/fail", {"error": "x"}).status == 200
    done = receiver.operator("/v1/gc", {"dry_run": False}).body
    why = "uploaded by attempt 1 of gbt-realistic, which did not complete with it"
    assert [one["why"] for one in done["artifacts"]] == [why]


def test_an_artifact_that_comes_again_is_there_again(receiver: LiveReceiver, clock: ManualClock) -> None:
    job_id = superseded(receiver, clock)
    gc(receiver)
    receiver.operator(f"/v1/job/{job_id}/requeue", {"force": True})
    train(receiver, OLD)
    assert receiver.send("GET", f"/v1/model/{sha(OLD)}").raw == OLD
    assert receiver.queue.read("removed") == []


def test_an_upload_of_the_same_bytes_while_they_are_removed_is_sent_again_and_not_lost(
    receiver: LiveReceiver, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is taken away after the upload found it there, and before the upload is recorded."""
    job_id = superseded(receiver, clock)
    receiver.operator(f"/v1/job/{job_id}/requeue", {"force": True})
    claim(receiver)
    store, finish = receiver.store, receiver.store._finish

    def taken_away_at_the_worst_moment(*given: object) -> object:
        done = finish(*given)  # type: ignore[arg-type]
        store.take_away(sha(OLD))
        return done

    with monkeypatch.context() as patch:
        patch.setattr(store, "_finish", taken_away_at_the_worst_moment)
        assert put(receiver, job_id, OLD).status == 503
    done = receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": sha(OLD)})
    assert done.status == 409, "it was not recorded"
    assert put(receiver, job_id, OLD).status == 201
    assert receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": sha(OLD)}).status == 200
    assert receiver.send("GET", f"/v1/model/{sha(OLD)}").raw == OLD


def test_what_somebody_came_to_need_in_between_stays(
    receiver: LiveReceiver, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt uploads the same bytes after the removal was written down, and before the file goes."""
    job_id = superseded(receiver, clock)
    receiver.operator(f"/v1/job/{job_id}/requeue", {"force": True})
    claim(receiver)
    store, note = receiver.store, receiver.store.note_removed

    def then_it_is_uploaded(artifact_id: str, size_bytes: int, why: str) -> None:
        note(artifact_id, size_bytes, why)
        assert put(receiver, job_id, OLD).status == 200

    monkeypatch.setattr(store, "note_removed", then_it_is_uploaded)
    assert gc(receiver)["artifacts"] == []
    assert receiver.send("GET", f"/v1/model/{sha(OLD)}").raw == OLD
    last = (receiver.store_root / "index.jsonl").read_text().splitlines()[-1]
    assert (json.loads(last)["status"], receiver.queue.read("removed")) == ("kept", [])


def test_what_became_the_newest_result_of_a_job_in_between_stays(
    receiver: LiveReceiver, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and writing down an attempt completes with the same bytes, and its job is queued again."""
    job_id = superseded(receiver, clock)
    assert receiver.operator(f"/v1/job/{job_id}/requeue", {"force": True}).status == 200
    look = gc_steps.look

    def then_it_is_trained_again(*given: Any) -> object:
        found = look(*given)
        train(receiver, OLD)
        assert receiver.operator(f"/v1/job/{job_id}/requeue", {"force": True}).status == 200
        return found

    monkeypatch.setattr(gc_steps, "look", then_it_is_trained_again)
    assert gc(receiver)["artifacts"] == []
    assert receiver.send("GET", f"/v1/model/{sha(OLD)}").raw == OLD


def test_a_file_that_cannot_be_removed_is_told_and_tried_again(
    receiver: LiveReceiver, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    superseded(receiver, clock)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(receiver.store, "note_removed", broken)
        done = gc(receiver)
        assert (done["ok"], done["artifacts"]) == (False, [])
        assert "Input/output error" in str(done["faults"])
        assert run(receiver, "gc", "--yes")[0] == exits.REFUSED
    assert len(gc(receiver)["artifacts"]) == 1  # type: ignore[arg-type]


def test_a_verification_run_goes_with_its_attempts_and_the_next_one_is_not_taken_for_it(
    receiver: LiveReceiver, clock: ManualClock
) -> None:
    job_id = train(receiver, NEW)
    first = receiver.operator(f"/v1/job/{job_id}/verify").body["shadow_job_id"]
    assert train(receiver, OLD) == first
    clock.advance(3 * DAY_S)
    done = gc(receiver)
    assert (done["n_shadows"], [one["artifact_id"] for one in done["artifacts"]]) == (1, [sha(OLD)])  # type: ignore[attr-defined]
    assert receiver.send("GET", f"/v1/job/{first}").status == 404
    assert receiver.queue.attempts(first) == []
    second = receiver.operator(f"/v1/job/{job_id}/verify").body
    assert (second["name"], second["shadow_job_id"] != first) == ("gbt-realistic.verify-2", True)


def test_the_trail_is_cut_but_for_the_latest_row_of_each(receiver: LiveReceiver, clock: ManualClock) -> None:
    job_id = train(receiver, NEW)
    for verb in ("drain", "undrain"):
        receiver.operator(f"/v1/host/a/{verb}")
    clock.advance(4 * DAY_S)
    assert gc(receiver, dry_run=True)["n_audit"] == gc(receiver)["n_audit"] == 3
    assert [one["event"] for one in receiver.queue.audit(job_id)] == ["complete"]
    assert [one["event"] for one in receiver.queue.read("audit_of_host", host="a")] == ["undrain"]
    assert gc(receiver)["n_audit"] == 0


def test_logs_go_by_their_own_rule_but_never_of_an_attempt_under_way(
    receiver: LiveReceiver, clock: ManualClock
) -> None:
    logs = receiver.coordinator.telemetry.logs
    assert logs is not None
    job_id = claim(receiver)
    logs.append((job_id, 1), 0, b"hello\n")
    logs.append((job_id, 7), 0, b"of another attempt\n")
    clock.step_wall(10 * 365 * DAY_S)  # the files' own times are the machine's
    assert gc(receiver, dry_run=True)["n_logs"] == 1
    done = gc(receiver)
    assert (done["n_logs"], done["freed_bytes"]) == (1, len(b"of another attempt\n"))
    assert logs.epochs(job_id) == [1]


def test_a_file_that_no_row_names_is_left_alone(receiver: LiveReceiver, clock: ManualClock) -> None:
    train(receiver, NEW)
    foreign = receiver.store_root / "gbt_realistic" / sha(b"foreign") / "bundle.tar.zst"
    foreign.parent.mkdir()
    foreign.write_bytes(b"foreign")
    clock.advance(1000 * DAY_S)
    gc(receiver)
    assert foreign.read_bytes() == b"foreign"


def test_it_runs_once_a_day_by_itself(receiver: LiveReceiver, clock: ManualClock) -> None:
    superseded(receiver, clock)
    app = receiver.coordinator

    def sweep() -> None:
        asyncio.run_coroutine_threadsafe(app.cleaner.daily(app.retention), server_loop(receiver)).result(5)

    sweep()
    wait_until(lambda: receiver.store.path_of(sha(OLD)) is None, "the daily run")
    wait_until(lambda: len(receiver.queue.read("gc_last")) == 1, "the end of the daily run")
    (last,) = receiver.queue.read("gc_last")
    clock.advance(DAY_S / 2)
    sweep()
    assert app.cleaner._daily is not None
    wait_until(app.cleaner._daily.done, "nothing more")
    assert receiver.queue.read("gc_last")[0]["at"] == last["at"], "not twice a day"
    clock.advance(DAY_S)
    sweep()
    wait_until(lambda: receiver.queue.read("gc_last")[0]["at"] > last["at"], "the next day's run")


def test_a_daily_run_that_fails_harms_nobody_and_comes_again(
    receiver: LiveReceiver, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    superseded(receiver, clock)
    app, loop = receiver.coordinator, server_loop(receiver)

    def broken() -> dict[str, int]:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(receiver.store, "sizes", broken)
        asyncio.run_coroutine_threadsafe(app.cleaner.daily(app.retention), loop).result(5)
        assert app.cleaner._daily is not None
        wait_until(app.cleaner._daily.done, "the run that fails")
    assert receiver.queue.read("gc_last") == []
    assert receiver.send("GET", "/v1/health").body["status"] == "ok"
    asyncio.run_coroutine_threadsafe(app.cleaner.daily(app.retention), loop).result(5)
    wait_until(lambda: len(receiver.queue.read("gc_last")) == 1, "the next run")
    assert receiver.store.path_of(sha(OLD)) is None


def test_without_rules_nothing_ever_runs(tmp_path: Path) -> None:
    with live_receiver(tmp_path, JOB) as receiver:
        app = receiver.coordinator
        claim(receiver)
        asyncio.run_coroutine_threadsafe(app.cleaner.daily(app.retention), server_loop(receiver)).result(5)
        assert app.cleaner._daily is None


def server_loop(receiver: LiveReceiver) -> asyncio.AbstractEventLoop:
    (loop,) = receiver.coordinator.writer._gathering
    return loop


# -- the decision alone


def fact(name: str = "x", **values: object) -> JobFacts:
    plain: dict[str, object] = {
        "job_id": name, "name": name, "kind": "job", "status": "completed", "lapsed": False, "epoch": 2,
        "artifact_id": "new", "of_artifact_id": None, "ended_at": 0.0,
    }  # fmt: skip
    return JobFacts(**(plain | values))  # type: ignore[arg-type]


def decided(
    rules: Retention, *jobs: JobFacts, now: float = 10 * DAY_S, begun: frozenset[str] = frozenset()
) -> list[str]:
    found = retention.decide(
        rules, jobs=jobs, uploads=[Made("x", 1, "old", 0.0), Made("x", 2, "new", 1.0)],
        completed=[Made("x", 1, "old", 0.5), Made("x", 2, "new", 1.5)], stored={"old": 1, "new": 2}, begun=begun,
        now=now,
    )  # fmt: skip
    return [one.artifact_id for one in found.artifacts]


def test_an_artifact_goes_only_by_the_rule_and_only_when_it_is_older() -> None:
    assert decided(Retention(artifact_days=2.0), fact()) == ["old"]
    assert decided(Retention(), fact()) == []
    assert decided(Retention(artifact_days=20.0), fact()) == []
    assert decided(Retention(artifact_days=2.0), fact(), now=-5 * DAY_S) == [], (
        "a clock set back removes nothing"
    )


def test_a_removal_that_was_begun_is_finished_whatever_the_rules_say_today() -> None:
    assert decided(Retention(), fact(), begun=frozenset({"old"})) == ["old"]
    assert decided(Retention(), fact(artifact_id="old"), begun=frozenset({"old"})) == []


def test_a_held_job_keeps_its_artifact_and_a_requeued_one_its_newest() -> None:
    rules = Retention(artifact_days=2.0)
    assert decided(rules, fact(artifact_id=None, status="pending")) == ["old"]
    assert decided(rules, fact(of_artifact_id="old")) == []


@pytest.mark.parametrize(
    ("last", "now", "due"), [(None, 0.0, True), (0.0, DAY_S - 1, False), (0.0, DAY_S, True), (9e9, 0.0, True)]
)
def test_the_daily_run_is_due_after_a_day_and_when_the_clock_was_set_back(
    last: float | None, now: float, due: bool
) -> None:
    assert retention.is_due(last, now) == due


# -- the command line


def run(receiver: LiveReceiver, *argv: str, says: str | None = None) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    env = {"CIS490_RECEIVER_URL": receiver.url, "CIS490_OPERATOR_TOKEN": TOKEN}
    answers = None if says is None else io.StringIO(says)
    code = cli.run(argv, Terminal(env, out, err, lambda: 0.0, lambda: 0.0, 100, answers=answers))
    return code, out.getvalue(), err.getvalue()


def test_a_dry_run_lists_what_would_go(receiver: LiveReceiver, clock: ManualClock) -> None:
    superseded(receiver, clock)
    code, out, _ = run(receiver, "gc", "--dry-run")
    assert code == exits.OK
    assert out.splitlines()[:2] == [
        "WHAT\tID\tJOB\tSIZE\tWHY",
        f"artifact\t{sha(OLD)}\tgbt-realistic\t{len(OLD)}\tsuperseded: gbt-realistic has a newer result",
    ]
    assert receiver.store.path_of(sha(OLD)) is not None


def test_where_nobody_can_be_asked_nothing_goes_without_yes(
    receiver: LiveReceiver, clock: ManualClock
) -> None:
    superseded(receiver, clock)
    code, out, err = run(receiver, "gc")
    assert (code, out, "cis490-jobs gc --yes" in err) == (exits.USAGE, "", True)
    assert receiver.store.path_of(sha(OLD)) is not None
    assert run(receiver, "gc", "--yes")[0] == exits.OK
    assert receiver.store.path_of(sha(OLD)) is None


@pytest.mark.parametrize(
    ("says", "code"), [("y\n", exits.OK), ("Yes\n", exits.OK), ("\n", exits.REFUSED), ("", exits.REFUSED)]
)
def test_a_person_is_asked_after_the_list(
    receiver: LiveReceiver, clock: ManualClock, says: str, code: int
) -> None:
    superseded(receiver, clock)
    found, _, err = run(receiver, "gc", says=says)
    assert found == code
    assert sha(OLD)[:12] in err
    assert "Remove this for good? [y/N]" in err
    assert (receiver.store.path_of(sha(OLD)) is None) == (code == exits.OK)


def test_on_a_terminal_each_rule_stands_beside_its_number(receiver: LiveReceiver, clock: ManualClock) -> None:
    from training.fleet.render import View
    from training.fleet.verbs_steering import gc_list

    superseded(receiver, clock)
    shown = gc_list(View(0.0, 100), receiver.operator("/v1/gc").body)
    assert any(line.split()[:2] == [sha(OLD)[:12], "gbt-realistic"] for line in shown)
    assert any(
        "1         artifacts that nothing needs" in line and "older than 2 days" in line for line in shown
    ), shown
    assert shown[-2:] == [f"{len(OLD)} B would be freed; nothing was removed", "  next: cis490-jobs gc"]


def test_without_rules_it_says_how_to_have_some(tmp_path: Path) -> None:
    from training.fleet.render import View
    from training.fleet.verbs_steering import gc_list

    with live_receiver(tmp_path, JOB) as receiver:
        assert run(receiver, "gc")[0] == exits.OK, "there is nothing to ask about"
        shown = gc_list(View(0.0, 100), receiver.operator("/v1/gc").body)
    assert shown[0] == "the manifest has no [retention]: everything is kept"


def test_what_was_begun_under_rules_that_are_gone_is_listed_before_a_person_is_asked() -> None:
    from training.fleet.render import View
    from training.fleet.verbs_steering import gc_list

    begun = {"artifact_id": sha(OLD), "job": "gbt-realistic", "size_bytes": 13, "why": "superseded"}
    shown = gc_list(View(0.0, 100), {"dry_run": True, "rules": {}, "artifacts": [begun], "freed_bytes": 13})
    assert any(sha(OLD)[:12] in line for line in shown)
    assert not any("everything is kept" in line for line in shown)
