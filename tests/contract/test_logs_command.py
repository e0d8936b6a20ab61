"""`cis490-jobs logs` against the real receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.factories.command import Result, run
from tests.factories.fleet import cpu_host
from tests.factories.live_receiver import LiveReceiver, live_receiver
from tests.factories.processes import wait_until
from training.fleet import exits
from training.fleet.verbs_logs import last_lines, shown_lines

MANIFEST = 'name = "t"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
JOB = "gbt-realistic"
TIMEOUT_S = 30


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        yield running
        running.coordinator.events.close_threadsafe()  # of whoever followed: it would be waited for


class Attempt:
    """A worker's attempt that prints what the test says."""

    def __init__(self, receiver: LiveReceiver) -> None:
        self._receiver, self._at = receiver, 0
        answer = receiver.worker("POST", "/v1/job/claim", {"capability": cpu_host().to_dict()})
        self._path = f"/v1/job/{answer.body['job_id']}"
        receiver.worker("POST", f"{self._path}/heartbeat")

    def say(self, text: str) -> None:
        answer = self._receiver.worker("POST", f"{self._path}/log", {"offset": self._at, "text": text})
        self._at = answer.body["offset"]

    def fail(self) -> None:
        assert self._receiver.worker("POST", f"{self._path}/fail", {"error": "x"}).status == 200


def logs(receiver: LiveReceiver, *options: str, terminal: bool = False) -> Result:
    return run(receiver.url, "logs", JOB, *options, terminal=terminal)


def test_the_running_attempts_words_are_printed(receiver: LiveReceiver) -> None:
    Attempt(receiver).say("one\ntwo\nhalf")
    assert logs(receiver) == Result(exits.OK, "one\ntwo\nhalf", "")
    assert logs(receiver, terminal=True).out == "one\ntwo\nhalf\n"


def test_a_terminal_gets_no_control_characters_and_a_pipe_gets_what_was_sent(receiver: LiveReceiver) -> None:
    text = "\x1b[31mred\x1b[0m \x07\n 10%\r 20%\r\n\tin\u202edeed\n"
    Attempt(receiver).say(text)
    assert logs(receiver, terminal=True).out == (
        "\\x1b[31mred\\x1b[0m \\x07\n 10%\n 20%\n        in\\u202edeed\n"
    )
    assert logs(receiver).out == text


def test_a_failed_attempts_words_stay_and_each_attempt_has_its_own(receiver: LiveReceiver) -> None:
    first = Attempt(receiver)
    first.say("first\n")
    first.fail()
    assert logs(receiver).out == "first\n"
    Attempt(receiver).say("second\n")
    assert logs(receiver).out == "second\n"
    assert logs(receiver, "--attempt", "1").out == "first\n"
    refused = logs(receiver, "--attempt", "7")
    assert refused.code == exits.REFUSED
    assert "no attempt with epoch 7; there is 1, 2" in refused.err


def test_the_last_lines(receiver: LiveReceiver) -> None:
    Attempt(receiver).say("".join(f"line {number}\n" for number in range(100)))
    assert logs(receiver, "--tail", "2").out == "line 98\nline 99\n"
    assert logs(receiver, "--tail", "0").out == ""
    assert logs(receiver, "--tail", "1000").out.count("\n") == 100


def test_an_empty_log_says_why_and_is_no_fault(receiver: LiveReceiver) -> None:
    assert "was never claimed" in logs(receiver).err
    Attempt(receiver)
    done = logs(receiver)
    assert (done.code, done.out) == (exits.OK, "")
    assert "has printed nothing so far" in done.err


def test_what_is_not_kept_any_more_is_counted(receiver: LiveReceiver) -> None:
    attempt, block = Attempt(receiver), "x" * (256 * 1024 - 1) + "\n"
    for _ in range(6):
        attempt.say(block)
    done = logs(receiver)
    assert done.out == 4 * block
    assert "524288 older bytes of this log are not kept any more" in done.err


def test_json_is_the_receivers_answer(receiver: LiveReceiver) -> None:
    Attempt(receiver).say("one\n")
    answer = json.loads(logs(receiver, "--json").out)
    assert (answer["text"], answer["epoch"], answer["live"]) == ("one\n", 1, True)


def test_an_unknown_job_is_named(receiver: LiveReceiver) -> None:
    assert run(receiver.url, "logs", "gbt-realistik").code == exits.USAGE


@pytest.mark.parametrize("with_stream", [True, False])
def test_following_goes_on_until_the_attempt_ends(
    receiver: LiveReceiver, with_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_stream:
        monkeypatch.setattr(receiver.coordinator, "event_streams", 10**6)  # no room for one more
    attempt = Attempt(receiver)
    attempt.say("before\n")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(logs, receiver, "-f")
        if with_stream:
            wait_until(lambda: receiver.coordinator.event_streams == 1, "the stream")
        attempt.say("while it is followed\n")
        assert not following.done()
        attempt.say("last\n")
        attempt.fail()
        done = following.result(timeout=TIMEOUT_S)
    assert done == Result(exits.OK, "before\nwhile it is followed\nlast\n", "")


def test_following_a_job_that_waits_begins_with_its_attempt(receiver: LiveReceiver) -> None:
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(logs, receiver, "--follow")
        wait_until(lambda: receiver.coordinator.event_streams == 1, "the stream")
        attempt = Attempt(receiver)
        attempt.say("at last\n")
        attempt.fail()
        done = following.result(timeout=TIMEOUT_S)
    assert done.out == "at last\n"
    assert "was never claimed" in done.err


def test_lines_are_counted_and_shown_as_people_do() -> None:
    assert last_lines("a\nb\nc", 2) == "b\nc"
    assert last_lines("a\n", 5) == "a\n"
    assert last_lines("a\n", 0) == ""
    assert shown_lines("a\r\nb\rc\n") == ["a", "b", "c"]
    assert shown_lines("\x1b]0;title\x07") == ["\\x1b]0;title\\x07"]
