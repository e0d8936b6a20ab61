"""The worker's side of a live log: what a trainer prints reaches the receiver whole, and nothing waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.factories.fake_receiver import FakeReceiver, Json, Seen, lease
from tests.factories.worker_bench import Bench
from training.fleet import log_feed
from training.fleet.client import LeaseGone, Refused, Unreachable
from training.fleet.log_feed import LAST_BYTES, LogFeed
from training.fleet.reports import MAX_LOG_BYTES
from training.fleet.segments import SegmentWriter
from training.fleet.worker_state import LeaseRecord

RECORD = LeaseRecord("f" * 64, "gbt-realistic", 1, 30.0, "token")
NO_ANSWER = Unreachable("POST /log got no answer")


def refusal(status: int, **body: Any) -> Refused:
    return Refused("POST /log", status, "no", {"error": "no", **body})


class Sink:
    """A receiver's log: it takes what fits its end; the test may put errors in front of that, or lose answers."""

    def __init__(self) -> None:
        self.text = ""
        self.requests: list[tuple[int, str]] = []
        self.errors: list[Exception | None] = []
        self.lost_answers = 0

    def append_log(self, job_id: str, token: str | None, offset: int, text: str) -> int:
        assert (job_id, token) == (RECORD.job_id, "token")
        self.requests.append((offset, text))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        end = len(self.text.encode())
        if offset != end:
            raise refusal(409, offset=end)
        self.text += text
        if self.lost_answers:
            self.lost_answers -= 1
            raise NO_ANSWER
        return len(self.text.encode())


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def log(tmp_path: Path) -> SegmentWriter:
    return SegmentWriter(tmp_path / "log", segment_bytes=1024 * 1024, segments=4)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second between two requests is for real fleets."""
    monkeypatch.setattr(log_feed, "EVERY_S", 0.005)
    monkeypatch.setattr(log_feed, "RETRY_S", 0.005)


def feed(sink: Sink, tmp_path: Path) -> LogFeed:
    return LogFeed(sink, RECORD, tmp_path / "log")


def sent(sink: Sink, log: SegmentWriter, tmp_path: Path, data: bytes) -> str:
    with feed(sink, tmp_path) as one:
        log.append(data)
        one.flush()
    return sink.text


def test_what_was_printed_arrives_before_the_end_is_told(
    sink: Sink, log: SegmentWriter, tmp_path: Path
) -> None:
    assert sent(sink, log, tmp_path, b"one\ntwo") == "one\ntwo"


def test_a_silent_trainer_costs_no_request(sink: Sink, tmp_path: Path) -> None:
    with feed(sink, tmp_path) as one:
        one.flush()
    assert sink.requests == []


def test_the_workers_own_lines_stand_where_they_were_said(
    sink: Sink, log: SegmentWriter, tmp_path: Path
) -> None:
    with feed(sink, tmp_path) as one:
        one.note("fetching the data")
        log.append(b"half a line")
        one.note("frozen:\n the receiver is away")
        log.append(b"the rest\n")
        one.note("the trainer has ended")
        one.flush()
    assert sink.text == (
        "[worker] fetching the data\nhalf a line\n[worker] frozen: the receiver is away\nthe rest\n"
        "[worker] the trainer has ended\n"
    )


def test_a_character_is_never_split_between_two_appends(
    sink: Sink, log: SegmentWriter, tmp_path: Path
) -> None:
    letters = "漢" * 250_000
    raw = b"a" + letters.encode()
    for at in range(0, len(raw), 65_537):
        log.append(raw[at : at + 65_537])
    assert sent(sink, log, tmp_path, b"")[-1000:] == letters[-1000:]
    assert "\ufffd" not in sink.text
    assert all(len(text.encode()) <= MAX_LOG_BYTES for _, text in sink.requests)


def test_what_is_no_text_is_replaced(sink: Sink, log: SegmentWriter, tmp_path: Path) -> None:
    assert sent(sink, log, tmp_path, b"a\xff\xfe\nend\xe2\x82") == "a\ufffd\ufffd\nend\ufffd"


def test_an_answer_that_was_lost_doubles_nothing(sink: Sink, log: SegmentWriter, tmp_path: Path) -> None:
    sink.lost_answers = 1
    with feed(sink, tmp_path) as one:
        log.append(b"once\n")
        wait_for(lambda: len(sink.requests) >= 2)
        log.append(b"more\n")
        one.flush()
    assert sink.text == "once\nmore\n"


def test_a_receiver_that_lost_the_end_of_the_log_gets_what_comes_from_then_on(
    sink: Sink, log: SegmentWriter, tmp_path: Path
) -> None:
    with feed(sink, tmp_path) as one:
        log.append(b"first\n")
        wait_for(lambda: sink.text == "first\n")
        sink.text = "fi"  # a power cut
        log.append(b"second\n")
        one.flush()
    assert sink.text == "fisecond\n"


def test_an_outage_delays_the_log_and_loses_nothing(sink: Sink, log: SegmentWriter, tmp_path: Path) -> None:
    sink.errors = [NO_ANSWER, refusal(503), refusal(507), NO_ANSWER]
    with feed(sink, tmp_path) as one:
        log.append(b"one\n")
        wait_for(lambda: len(sink.requests) >= 3)
        log.append(b"two\n")
        wait_for(lambda: not sink.errors)
        one.flush()
    assert sink.text == "one\ntwo\n"


@pytest.mark.parametrize(
    "error", [refusal(404), refusal(405), refusal(413), LeaseGone("POST /log", 410, "gone")]
)
def test_a_receiver_that_takes_no_logs_is_asked_once(
    sink: Sink, log: SegmentWriter, tmp_path: Path, error: Exception
) -> None:
    sink.errors = [error]
    with feed(sink, tmp_path) as one:
        log.append(b"one\n")
        wait_for(lambda: bool(sink.requests))
        one.flush()
        log.append(b"two\n")
        one.flush()
    assert len(sink.requests) == 1


def test_of_very_much_the_middle_is_left_out_with_a_note(
    sink: Sink, log: SegmentWriter, tmp_path: Path
) -> None:
    sink.errors = [NO_ANSWER]
    with feed(sink, tmp_path) as one:
        log.append(b"the first words\n")
        wait_for(lambda: bool(sink.requests))
        for _ in range(12):
            log.append(b"x" * 999_999 + b"\n")
        log.append(b"the last words\n")
        one.flush(20.0)
    assert sink.text.startswith("the first words\n")
    assert sink.text.endswith("the last words\n")
    assert "bytes of output are left out here\n" in sink.text
    assert len(sink.text) < LAST_BYTES + 8 * MAX_LOG_BYTES


def test_a_sink_that_hangs_is_not_waited_for(log: SegmentWriter, tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    class Hanging(Sink):
        def append_log(self, job_id: str, token: str | None, offset: int, text: str) -> int:
            asked.set()
            go_on.wait(20)
            raise NO_ANSWER

    one = feed(Hanging(), tmp_path)
    with one:
        log.append(b"one\n")
        assert asked.wait(20)
        one.flush(0.01)
        assert not go_on.is_set()
        go_on.set()


def test_many_notes_while_nobody_listens_stay_bounded(sink: Sink, tmp_path: Path) -> None:
    one = feed(sink, tmp_path)
    for number in range(10_000):
        one.note(f"line {number}")
    with one:
        one.flush()
    assert sink.text.count("\n") == log_feed.MAX_NOTES
    assert sink.text.endswith("[worker] line 9999\n")


# -- inside the worker


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with FakeReceiver() as fake:
        yield fake


@pytest.fixture
def bench(receiver: FakeReceiver, tmp_path: Path) -> Bench:
    return Bench(receiver, tmp_path)


def test_the_last_words_come_before_the_failure_is_told(bench: Bench) -> None:
    bench.receiver.jobs.append(lease(hyper={"exit": 1, "say": "the last words\n"}))
    bench.run()
    order = [one.verb for one in bench.receiver.seen]
    texts = "".join(one.body["text"] for one in bench.receiver.of("log"))
    assert "the last words\n" in texts
    assert order.index("fail") > max(at for at, verb in enumerate(order) if verb == "log")
    assert {one.headers["X-Lease-Token"] for one in bench.receiver.of("log")} == {"a-secret-token-1"}


@pytest.mark.parametrize("status", [404, 405, 409, 413, 500, 503])
def test_a_receiver_that_rejects_logs_delays_no_result(bench: Bench, status: int) -> None:
    def answer(seen: Seen) -> tuple[int, Json | bytes]:
        return status, {"error": "no"}

    bench.receiver.answer["log"] = answer
    bench.receiver.jobs.append(lease(hyper={"say": "hello\n"}))
    bench.run()
    assert bench.receiver.verbs() == ["claim", "model", "complete", "claim"]


def test_a_receiver_that_refuses_what_rides_on_heartbeats_still_keeps_the_lease(bench: Bench) -> None:
    def answer(seen: Seen) -> tuple[int, Json | bytes]:
        return (
            (413, {"error": "too much"}) if "points" in seen.body else (200, {"ok": True, "lease_s": 600.0})
        )

    bench.receiver.answer["heartbeat"] = answer
    progress = [{"event": "progress", "step": 1, "total": 2}]
    bench.receiver.jobs.append(lease(heartbeat_s=3600.0, hyper={"progress": progress}))
    bench.run()
    assert bench.receiver.verbs() == ["claim", "model", "complete", "claim"]
    with_points = [one for one in bench.receiver.of("heartbeat") if "points" in one.body]
    assert len(with_points) == 1
    assert "points" not in bench.receiver.of("heartbeat")[-1].body


def test_all_points_arrive_before_the_result_however_long_the_interval(bench: Bench, tmp_path: Path) -> None:
    """The first one at once; those that come after it, when the trainer has ended."""
    progress = [
        {"event": "start", "total": 3, "unit": "round"},
        {"event": "progress", "step": 1, "loss": 1.0},
    ]

    def go_on(seen: Seen) -> tuple[int, Json | bytes]:
        if "points" in seen.body and not (tmp_path / "go").exists():
            (file,) = bench.state.jobs.glob("*/progress.jsonl")
            with file.open("a") as lines:
                lines.write('{"event": "progress", "step": 2}\n{"event": "progress", "step": 3}\n')
            (tmp_path / "go").touch()
        return 200, {"ok": True, "lease_s": 600.0}

    bench.receiver.answer["heartbeat"] = go_on
    bench.receiver.jobs.append(
        lease(heartbeat_s=3600.0, hyper={"progress": progress, "wait_for": str(tmp_path / "go")})
    )
    bench.run()
    beats = [one.body for one in bench.receiver.of("heartbeat") if "points" in one.body]
    told = [point for body in beats for point in body["points"]]
    assert [point["step"] for point in told] == [1, 2, 3]
    assert {point["unit"] for point in told} == {"round"}
    assert all(body["sent_s"] >= body["points"][-1]["at_s"] for body in beats)


def wait_for(is_so: Callable[[], bool]) -> None:
    for _ in range(2000):
        if is_so():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not come to pass")
