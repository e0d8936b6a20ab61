"""The worker's loop in one process: a real client and real trainers, a receiver and a clock that the test leads."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cis490.episodes.dataset import pack
from tests.factories.fake_receiver import TOKEN, FakeReceiver, Json, Seen, lease
from tests.factories.minimal_episode import episode_bytes
from tests.factories.worker_bench import DATASET, Bench, left_behind
from training.fleet import bundle
from training.fleet.client import FleetError, LeaseGone, Refused, Unreachable
from training.fleet.delivery import verdict
from training.fleet.wire import CompleteRequest, FailRequest, ReleaseRequest
from training.fleet.worker_settings import OPTIONS, SettingsError, WorkerSettings, read
from training.fleet.worker_state import LeaseRecord, StateFolder


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with FakeReceiver() as fake:
        yield fake


@pytest.fixture
def bench(receiver: FakeReceiver, tmp_path: Path) -> Bench:
    return Bench(receiver, tmp_path)


def refuse(status: int, **body: Any) -> Callable[[Seen], tuple[int, Json | bytes]]:
    return lambda seen: (status, {"error": "no", **body})


def in_turn(*answers: tuple[int, Json]) -> Callable[[Seen], tuple[int, Json | bytes]]:
    """Each answer once, the last one for ever."""
    left = list(answers)
    return lambda seen: left.pop(0) if len(left) > 1 else left[0]


OK: tuple[int, Json] = (200, {"ok": True})


# -- one job -----------------------------------------------------------------------------------------------


def test_a_job_is_trained_delivered_and_forgotten(bench: Bench, tmp_path: Path) -> None:
    progress = [
        {"event": "progress", "step": 1, "total": 1},
        {"event": "result", "metric": {"roc_auc": 0.83}},
    ]
    bench.receiver.jobs.append(lease(hyper={"progress": progress}))
    bench.run()
    assert bench.receiver.verbs() == ["claim", "model", "complete", "claim"]
    upload, complete = bench.receiver.of("model")[0], bench.receiver.of("complete")[0]
    assert upload.headers["X-Lease-Token"] == complete.headers["X-Lease-Token"] == f"{TOKEN}-1"
    assert complete.body["artifact_id"] == upload.headers["X-Content-SHA256"]
    assert complete.body["metrics"] == {"roc_auc": 0.83}
    assert complete.body["peak_rss_mib"] > 3
    (tmp_path / "bundle").write_bytes(upload.raw)
    assert bundle.extract(tmp_path / "bundle", tmp_path / "files") == ["model.txt"]
    assert (tmp_path / "files/model.txt").read_text() == "trained on lab-a"
    assert bench.leftovers() == []


def test_the_first_heartbeat_comes_at_once(bench: Bench) -> None:
    """It turns claimed into running, long before the first interval is over."""
    bench.receiver.jobs.append(lease(heartbeat_s=3600.0))
    bench.run()
    assert [one.headers["X-Lease-Token"] for one in bench.receiver.of("heartbeat")] == [f"{TOKEN}-1"]


def test_a_failing_trainer_tells_the_receiver_why(bench: Bench) -> None:
    bench.receiver.jobs.append(lease(hyper={"exit": 65, "say": "run: lab-a/3.episode is cut short\n"}))
    bench.run()
    assert bench.receiver.verbs() == ["claim", "fail", "claim"]
    body = bench.receiver.of("fail")[0].body
    assert (body["fail_class"], body["exit_code"]) == ("bad_data", 65)
    assert body["error"] == "run: lab-a/3.episode is cut short (exit code 65)"
    assert bench.leftovers() == []
    assert bench.surveys == 2  # something here may have changed


@pytest.mark.parametrize(
    ("told", "device"),
    [({}, None), ({"device": "auto"}, None), ({"device": "cpu"}, "cpu"), ({"device": 7}, None)],
)
def test_a_trainer_is_kept_to_the_device_that_the_receiver_says(
    bench: Bench, tmp_path: Path, told: dict[str, object], device: str | None
) -> None:
    bench.receiver.jobs.append(lease(hyper={"device": str(tmp_path / "device")}) | told)
    bench.run()
    assert json.loads((tmp_path / "device").read_text()) == device


def test_a_trainer_that_leaves_nothing_to_pack_has_failed(bench: Bench) -> None:
    bench.settings = replace(bench.settings, trainer_module="this")  # ends well and writes nothing
    bench.receiver.jobs.append(lease())
    bench.run()
    assert bench.receiver.verbs() == ["claim", "fail", "claim"]
    assert "cannot pack" in bench.receiver.of("fail")[0].body["error"]


def test_limits_of_the_job_reach_the_trainer(bench: Bench, tmp_path: Path) -> None:
    bench.receiver.jobs.append(lease(timeout_s=0.5, hyper={"wait_for": str(tmp_path / "never")}))
    bench.on_nap = lambda: bench.clock.advance(0.1)
    bench.run()
    assert bench.receiver.of("fail")[0].body["fail_class"] == "timeout"


def test_once_is_one_job_or_none(bench: Bench) -> None:
    bench.receiver.jobs.extend([lease("gbt-a"), lease("gbt-b")])
    bench.run(once=True)
    assert bench.receiver.verbs() == ["claim", "model", "complete"]
    bench.receiver.jobs.clear()
    bench.run(once=True)
    assert bench.receiver.verbs()[3:] == ["claim"]
    assert bench.receiver.of("claim")[-1].body["wait_s"] == 0.0


# -- claims ------------------------------------------------------------------------------------------------


def claim_ids(bench: Bench) -> list[str]:
    asked = bench.receiver.hung_up + bench.receiver.seen
    return [one.headers["X-Claim-Request"] for one in asked if one.verb == "claim"]


def test_a_claim_keeps_its_id_until_a_lease_came_of_it(bench: Bench) -> None:
    """A lost answer is asked for again, and must not take a second job."""
    bench.receiver.down = True
    bench.receiver.jobs.append(lease())

    def up(count: int) -> None:
        bench.receiver.down = count < 3

    bench.stop.on_pause = up
    bench.run()
    assert claim_ids(bench) == ["id-1"] * 4 + ["id-2"]


def test_the_claims_id_survives_a_crash(bench: Bench) -> None:
    first = bench.state.claim_request(lambda: "before")
    bench.receiver.jobs.append(lease())
    bench.run()
    assert claim_ids(bench) == [first, "id-1"]


def test_pauses_grow_while_the_receiver_is_away_but_never_below_the_poll(bench: Bench) -> None:
    bench.receiver.down = True
    bench.stop.on_pause = lambda count: bench.stop.request() if count == 7 else None
    bench.run()
    assert bench.stop.pauses == [5.0, 5.0, 5.0, 5.0, 8.0, 16.0, 30.0]


@pytest.mark.parametrize("status", [400, 403, 426, 500])
def test_a_refused_claim_is_asked_again_later(bench: Bench, status: int) -> None:
    """403: the manifest may name this host tomorrow."""
    bench.receiver.answer["claim"] = refuse(status)
    bench.stop.on_pause = lambda count: bench.receiver.answer.clear()
    bench.run()
    assert bench.receiver.verbs() == ["claim", "claim"]


def test_the_log_says_why_no_claim_is_answered_once_for_each_kind_of_reason(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage in which this host is revoked must not end as "no answer" in its log."""

    def change(count: int) -> None:
        if count == 3:
            bench.receiver.down = False
            bench.receiver.answer["claim"] = refuse(403)
        elif count == 6:
            bench.receiver.answer.clear()

    bench.receiver.down, bench.stop.on_pause = True, change
    with caplog.at_level("INFO"):
        bench.run()
    said = [record.getMessage() for record in caplog.records]
    assert [name for name in said if name in ("worker.claim_failing", "worker.receiver_back")] == [
        "worker.claim_failing", "worker.claim_failing", "worker.receiver_back",
    ]  # fmt: skip


def test_an_idle_worker_ends_after_the_time_given(bench: Bench) -> None:
    bench.run(exit_when_idle_s=12.0)
    waits = [one.body["wait_s"] for one in bench.receiver.of("claim")]
    assert waits == [12.0, 7.0, 2.0, 0.0]
    assert bench.stop.pauses == [5.0, 5.0, 5.0]


def test_an_idle_worker_waits_at_the_receiver(bench: Bench) -> None:
    bench.stop.on_pause = lambda count: bench.stop.request()
    bench.run(exit_when_idle_s=None)
    assert [one.body["wait_s"] for one in bench.receiver.of("claim")] == [20.0]


def test_the_capability_is_looked_up_again_every_ten_minutes_and_after_an_update(bench: Bench) -> None:
    seen: list[int] = []

    def on_pause(count: int) -> None:
        seen.append(bench.surveys)
        if count == 3:
            bench.commit = "second"
        if count == 4:
            bench.stop.request()

    bench.stop.on_pause = on_pause
    bench.run(exit_when_idle_s=None, poll_s=400.0)
    assert seen == [1, 1, 2, 3]  # at 0 s, 400 s, 800 s; then a new commit


# -- data --------------------------------------------------------------------------------------------------


def packed(folder: Path) -> tuple[str, bytes]:
    (folder / "set/lab-a").mkdir(parents=True)
    (folder / "set/lab-a/1.episode").write_bytes(episode_bytes())
    dataset_id = pack(folder / "set", folder / "set.tar.zst")
    return dataset_id, (folder / "set.tar.zst").read_bytes()


def test_a_dataset_is_fetched_once_and_kept(bench: Bench, tmp_path: Path) -> None:
    dataset_id, archive = packed(tmp_path)
    bench.receiver.datasets[dataset_id] = archive
    bench.receiver.jobs.extend([lease(name) | {"dataset_id": dataset_id} for name in ("gbt-a", "gbt-b")])
    bench.run()
    assert bench.receiver.verbs() == [
        "claim",
        "dataset",
        "model",
        "complete",
        "claim",
        "model",
        "complete",
        "claim",
    ]
    assert sorted(path.name for path in bench.state.datasets.iterdir()) == sorted([DATASET, dataset_id])


def test_a_dataset_that_arrives_damaged_is_fetched_once_more(bench: Bench, tmp_path: Path) -> None:
    dataset_id, archive = packed(tmp_path)
    bench.receiver.datasets[dataset_id] = archive[:-9]
    bench.receiver.jobs.append(lease() | {"dataset_id": dataset_id})
    bench.run()
    assert bench.receiver.verbs() == ["claim", "dataset", "dataset", "fail", "claim"]
    body = bench.receiver.of("fail")[0].body
    assert body["fail_class"] == "bad_data"
    assert "arrived damaged twice" in body["error"]
    assert [path.name for path in bench.state.datasets.iterdir()] == [DATASET]


def test_an_outage_during_the_fetch_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    dataset_id, archive = packed(tmp_path)
    bench.receiver.datasets[dataset_id] = archive
    bench.receiver.answer["dataset"] = refuse(503)
    bench.stop.on_pause = lambda count: bench.receiver.answer.clear() if count == 2 else None
    bench.receiver.jobs.append(lease() | {"dataset_id": dataset_id})
    bench.run()
    assert bench.receiver.verbs()[1:-1] == ["dataset"] * 3 + ["model", "complete"]


@pytest.mark.parametrize(
    ("dataset_id", "words"),
    [
        (None, "the manifest pins no data set"),
        ("9" * 64, f"the receiver does not give data set {'9' * 64}: no"),
    ],
)
def test_a_job_without_data_fails_as_missing(bench: Bench, dataset_id: str | None, words: str) -> None:
    bench.receiver.answer["dataset"] = refuse(404)
    bench.receiver.jobs.append(lease() | {"dataset_id": dataset_id})
    bench.run()
    body = bench.receiver.of("fail")[0].body
    assert body["fail_class"] == "missing"
    assert words in body["error"]


# -- the end of a lease ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "is_result", "is_repeated", "expected"),
    [
        (410, True, False, "gone"),
        (409, True, False, "again"),
        (409, True, True, "gone"),
        (409, False, False, "gone"),
        (413, True, False, "fail"),
        (413, False, False, "gone"),
        (503, True, False, "wait"),
        (507, True, False, "wait"),
        (429, False, False, "wait"),
        (403, True, False, "park"),
        (404, True, False, "park"),
        (400, True, False, "park"),
        (403, False, False, "gone"),
    ],
)
def test_what_a_refusal_means_for_what_is_owed(
    status: int, is_result: bool, is_repeated: bool, expected: str
) -> None:
    error: FleetError = (LeaseGone if status == 410 else Refused)("PUT /x", status, "why")
    assert verdict(error, is_result=is_result, is_repeated=is_repeated) == expected


def test_an_outage_only_means_waiting() -> None:
    assert verdict(Unreachable("x"), is_result=True, is_repeated=True) == "wait"
    assert verdict(Unreachable("x"), is_result=False, is_repeated=False) == "wait"


def test_a_full_disk_at_the_receiver_is_waited_for(bench: Bench) -> None:
    bench.receiver.jobs.append(lease())
    bench.receiver.answer["model"] = refuse(507)
    bench.stop.on_pause = lambda count: bench.receiver.answer.clear() if count == 3 else None
    bench.run()
    assert bench.receiver.verbs() == ["claim", *["model"] * 4, "complete", "claim"]
    assert bench.stop.pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("verb", ["model", "complete"])
def test_a_result_that_nobody_wants_is_dropped(bench: Bench, verb: str) -> None:
    bench.receiver.jobs.append(lease())
    bench.receiver.answer[verb] = refuse(410, reason="the job was cancelled")
    bench.run()
    assert bench.receiver.verbs()[-1] == "claim"
    assert "fail" not in bench.receiver.verbs()
    assert bench.leftovers() == []


def test_a_result_that_the_receiver_lost_between_two_requests_is_offered_again(bench: Bench) -> None:
    bench.receiver.jobs.append(lease())
    bench.receiver.answer["complete"] = in_turn((409, {"error": "artifact not uploaded"}), OK)
    bench.run()
    assert bench.receiver.verbs() == ["claim", "model", "complete", "model", "complete", "claim"]


def test_a_result_that_is_too_large_is_reported_as_a_failure(bench: Bench) -> None:
    bench.receiver.jobs.append(lease())
    bench.receiver.answer["model"] = refuse(413)
    bench.run()
    assert bench.receiver.verbs() == ["claim", "model", "fail", "claim"]
    assert "the receiver refused the result" in bench.receiver.of("fail")[0].body["error"]
    assert bench.leftovers() == []


def test_a_refusal_that_a_person_can_lift_parks_the_result(bench: Bench) -> None:
    """It is kept, other work goes on, and it is offered again every few minutes."""
    bench.receiver.jobs.append(lease())
    bench.receiver.answer["model"] = refuse(403)
    bench.stop.on_pause = lambda count: bench.receiver.answer.clear() if count == 2 else None
    bench.run(exit_when_idle_s=600.0, poll_s=200.0)
    assert bench.receiver.verbs() == [
        "claim",
        "model",
        "claim",
        "claim",
        "model",
        "complete",
        "claim",
        "claim",
    ]
    assert bench.leftovers() == []


def test_a_lost_lease_ends_the_trainer_and_leaves_nothing_to_tell(bench: Bench, tmp_path: Path) -> None:
    bench.receiver.answer["heartbeat"] = refuse(410, reason="the job was cancelled")
    do = {"wait_for": str(tmp_path / "never"), "on_term": "ignore"}
    bench.receiver.jobs.append(lease(hyper=do))
    bench.run()
    assert bench.receiver.verbs() == ["claim", "claim"]  # nothing to tell anybody
    assert bench.leftovers() == []


# -- what a killed worker left -----------------------------------------------------------------------------


def test_everything_owed_is_settled_before_the_first_claim_results_first(bench: Bench) -> None:
    left_behind(bench, "gbt-unfinished", None)
    left_behind(bench, "gbt-failed", FailRequest("it broke", "oom"))
    left_behind(bench, "gbt-released", ReleaseRequest("stopped"))
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    done = left_behind(bench, "gbt-done", CompleteRequest(sha256))
    bench.state.bundle(done).write_bytes(b"abc")
    bench.run()
    verbs = bench.receiver.verbs()
    assert verbs[:2] == ["model", "complete"]
    assert sorted(verbs[2:5]) == ["fail", "release", "release"]
    assert verbs[5:] == ["claim"]
    assert bench.receiver.of("complete")[0].headers["X-Lease-Token"] == "token-of-gbt-done"
    assert bench.receiver.of("fail")[0].body["fail_class"] == "oom"
    assert bench.leftovers() == []


@pytest.mark.parametrize("content", [b"abd", None])
def test_a_result_that_was_damaged_on_disk_is_reported_not_sent(bench: Bench, content: bytes | None) -> None:
    done = left_behind(bench, "gbt-done", CompleteRequest("ba7816bf" * 8))
    if content is not None:
        bench.state.bundle(done).write_bytes(content)
    bench.run()
    assert bench.receiver.verbs() == ["fail", "claim"]
    assert "the result cannot be delivered" in bench.receiver.of("fail")[0].body["error"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"job_id": "../../x", "epoch": 1}', '{"ending": {"kind": "what"}}']
)
def test_an_unreadable_lease_file_is_put_aside(bench: Bench, text: str) -> None:
    (bench.state.leases / "x.json").write_text(text)
    bench.run()
    assert bench.receiver.verbs() == ["claim"]
    assert bench.leftovers() == ["leases/x.damaged"]


def test_halves_of_files_are_swept_and_datasets_kept(bench: Bench) -> None:
    (bench.state.spool / "123-4.tar.zst").write_bytes(b"nobody's")
    (bench.state.datasets / f"{DATASET}.tar.zst.partial").write_bytes(b"half")
    (bench.state.datasets / f".{DATASET}.partial-x").mkdir()
    (bench.state.jobs / "123-4").mkdir()
    bench.run()
    assert bench.leftovers() == []
    assert [path.name for path in bench.state.datasets.iterdir()] == [DATASET]


# -- what is remembered ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending", [None, CompleteRequest("a" * 64, {"auc": 0.5}), FailRequest("x"), ReleaseRequest("y")]
)
def test_a_lease_comes_back_as_it_was_written(
    tmp_path: Path, ending: CompleteRequest | FailRequest | ReleaseRequest | None
) -> None:
    state = StateFolder(tmp_path)
    record = state.save(LeaseRecord("a" * 64, "gbt-realistic", 7, 30.0, TOKEN, ending))
    assert state.records() == ([record], [])
    assert TOKEN not in repr(record)
    path = state.leases / "aaaaaaaaaaaa-7.json"
    assert json.loads(path.read_text())["token"] == TOKEN
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(state.leases.stat().st_mode) == 0o700
    state.drop(record, keeps_checkpoint=False)
    assert state.records() == ([], [])


# -- settings ----------------------------------------------------------------------------------------------


def settings(argv: Sequence[str] = (), **environ: str) -> WorkerSettings:
    return read(argv, environ, lambda: "my-pc")


def test_an_option_wins_over_its_variable_and_both_over_the_default() -> None:
    assert settings().host == "my-pc"
    assert settings(CIS490_HOST="lab-b").host == "lab-b"
    assert settings(["--host", "lab-c"], CIS490_HOST="lab-b").host == "lab-c"
    assert settings(CIS490_POLL_S="2.5").poll_s == 2.5
    assert settings(["--exit-when-idle", "0"]).exit_when_idle_s == 0.0
    assert settings().exit_when_idle_s is None
    assert settings(["--once"]).once is True
    assert settings(["--log-level", "debug"]).log_level == "DEBUG"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--host", "no spaces"], "--host: found 'no spaces'"),
        (["--poll-s", "soon"], "--poll-s: found 'soon'"),
        (["--poll-s", "0"], "--poll-s: found '0'"),
        (["--poll-s", "nan"], "--poll-s: found 'nan'"),
        (["--exit-when-idle", "-1"], "--exit-when-idle: found '-1'"),
        (["--log-level", "LOUD"], "--log-level: found 'LOUD'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(argv: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings(argv)


def test_every_option_has_a_variable_of_its_own() -> None:
    assert len({option.env for option in OPTIONS}) == len({option.flag for option in OPTIONS}) == len(OPTIONS)
    assert all(option.env.startswith("CIS490_") for option in OPTIONS)
