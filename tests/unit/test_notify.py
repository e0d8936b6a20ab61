"""What is worth a message, and when it is sent: the pure decisions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.fleet import manifest, notify
from training.fleet.manifest_faults import TrainingManifestError
from training.fleet.notify import FLAP_MOST, FLAP_WINDOW_S, Failed, Known, Picture, Sign, Storm, judge
from training.fleet.types import NOTIFY_KINDS, Notify

OOM = Failed(
    "1" * 64,
    3,
    "gru-oracle",
    "gpu-1",
    "Traceback (most recent call last):\n  x\nMemoryError: CUDA out of memory",
)


def picture(**fields: Any) -> Picture:
    return Picture(**({"at": 1000.0, "unfinished": 1} | fields))


def told(known: Known, seen: Picture) -> list[tuple[str, str, bool]]:
    return [(sign.kind, sign.subject, sign.is_relief) for sign in judge(known, seen)[1]]


def test_a_failed_job_is_told_with_its_cause_and_the_next_command() -> None:
    known, (sign,) = judge(Known(unfinished=True), picture(failed=[OOM]))
    assert sign.text == "gru-oracle has failed on gpu-1: MemoryError: CUDA out of memory"
    assert sign.next == "cis490-jobs show gru-oracle"
    assert told(known, picture(failed=[OOM])) == [], "once"


def test_a_job_that_fails_again_after_a_requeue_is_told_again() -> None:
    known, _ = judge(Known(unfinished=True), picture(failed=[OOM]))
    known, signs = judge(known, picture())
    assert signs == []
    again = Failed(OOM.job_id, 4, OOM.name, "gpu-2", "x")
    assert told(known, picture(failed=[again])) == [("failed", "gru-oracle", False)]


def test_what_had_failed_before_the_start_is_no_news() -> None:
    start = picture(failed=[OOM], unfinished=0)
    assert told(notify.known_at_start(start), start) == []


def test_all_done_is_told_once_and_again_after_new_work() -> None:
    done = picture(unfinished=0, completed=3, failed=[OOM])
    known, signs = judge(notify.known_at_start(picture(failed=[OOM])), done)
    assert [(sign.kind, sign.text) for sign in signs] == [
        ("all_done", "all work is done: 3 completed, 1 failed")
    ]
    assert told(known, done) == []
    known, _ = judge(known, picture(failed=[OOM]))
    assert told(known, done) == [("all_done", "", False)]


def test_work_that_begins_and_ends_between_two_looks_is_told_as_done_once() -> None:
    known = notify.known_at_start(picture(unfinished=0, completed=2))
    done = picture(unfinished=0, completed=3)
    known, signs = judge(known, done)
    assert [sign.text for sign in signs] == ["all work is done: 3 completed"]
    assert told(known, done) == []


def test_a_receiver_that_starts_with_nothing_to_do_says_nothing() -> None:
    assert told(notify.known_at_start(picture(unfinished=0)), picture(unfinished=0)) == []


def test_a_silent_host_is_lost_if_it_holds_a_job_and_stays_so_until_it_is_heard() -> None:
    lost = picture(silent_s={"w": 120.0, "idle": 1e6}, holding={"w": ["gbt-oracle"]})
    known, (sign,) = judge(Known(unfinished=True), lost)
    assert (sign.kind, sign.subject) == ("host_lost", "w")
    assert sign.text == "w has not been heard for 2 min; it holds gbt-oracle"
    assert told(known, picture(silent_s={"w": 700.0})) == [], (
        "its lease has ended, and it is as lost as before"
    )
    known, _ = judge(known, picture(silent_s={"w": 700.0}))
    assert told(known, picture(silent_s={"w": 1.0})) == [("host_lost", "w", True)]


def test_a_host_that_is_heard_is_not_lost_whatever_it_holds() -> None:
    assert told(Known(unfinished=True), picture(silent_s={"w": 90.0}, holding={"w": ["x"]})) == []


def test_a_full_disk_is_told_and_so_is_its_end() -> None:
    known, (sign,) = judge(Known(unfinished=True), picture(disk="the disk is full: no claims"))
    assert (sign.kind, sign.text) == ("disk_low", "the disk is full: no claims")
    assert told(known, picture()) == [("disk_low", "", True)]


# -- when it is sent


def sign(subject: str = "x", kind: Any = "failed", *, is_relief: bool = False) -> Sign:
    return Sign(kind, subject, f"{subject} has failed", f"cis490-jobs show {subject}", 0.0, is_relief)


def test_the_first_message_goes_out_at_once_and_the_rest_as_a_digest() -> None:
    storm = Storm("lab", digest_s=300.0)
    assert storm.due_in_s(0.0) is None
    storm.add(sign("a"), 0.0)
    first = storm.take(0.0)
    assert first is not None
    assert first.title == "[lab] a has failed"
    for n in range(40):
        storm.add(sign(f"j{n}"), 1.0 + n)
    assert storm.take(299.0) is None
    assert storm.due_in_s(299.0) == 1.0
    digest = storm.take(300.0)
    assert digest is not None
    assert digest.title == "[lab] 40 failed"
    assert digest.body.count("next: cis490-jobs show") == notify.MOST_LINES
    assert "and 20 more\n    next: cis490-jobs events" in digest.body
    assert storm.due_in_s(300.0) is None


def test_after_a_quiet_time_the_next_sign_goes_out_at_once_again() -> None:
    storm = Storm("lab", digest_s=300.0)
    storm.add(sign("a"), 0.0)
    storm.take(0.0)
    storm.add(sign("b"), 301.0)
    assert storm.due_in_s(301.0) == 0.0


def test_a_host_that_comes_and_goes_is_damped_with_a_last_word_until_it_is_steady() -> None:
    storm = Storm("lab", digest_s=0.0)
    texts: list[str] = []
    for n in range(20):
        now_s = n * 100.0
        for item in (sign("w", "host_lost"), sign("w", "host_lost", is_relief=True)):
            storm.add(item, now_s)
        message = storm.take(now_s)
        texts += [] if message is None else [found.text for found in message.signs if not found.is_relief]
    assert len(texts) == FLAP_MOST + 1
    assert "no more about it" in texts[-1]
    storm.add(sign("v", "host_lost"), 2000.0)
    assert storm.take(2000.0) is not None, "others are told of as before"
    steady_s = 1900.0 + FLAP_WINDOW_S + 1
    storm.add(sign("w", "host_lost"), steady_s)
    assert storm.take(steady_s) is not None


def test_what_could_not_be_sent_comes_with_the_next_digest_and_before_what_is_newer() -> None:
    storm = Storm("lab", digest_s=300.0)
    storm.add(sign("a"), 0.0)
    message = storm.take(0.0)
    assert message is not None
    storm.add(sign("b"), 1.0)
    storm.give_back(message)
    again = storm.take(300.0)
    assert again is not None
    assert [item.subject for item in again.signs] == ["a", "b"]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0.0, 400.0)), max_size=200),
    st.floats(10.0, 1000.0),
)
def test_messages_are_never_closer_than_a_digest_and_nothing_undamped_is_lost(
    course: list[tuple[str, float]], digest_s: float
) -> None:
    storm, now_s, sent_s, told_of = Storm("lab", digest_s), 0.0, [], 0
    for n, (_, pause_s) in enumerate(course):
        now_s += pause_s
        storm.add(sign(f"j{n}"), now_s)  # a subject each: nothing is damped
        message = storm.take(now_s)
        if message is not None:
            sent_s.append(now_s)
            told_of += len(message.signs) + message.n_more
    last = storm.take(now_s + digest_s)
    told_of += 0 if last is None else len(last.signs) + last.n_more
    assert told_of == len(course)
    assert all(later - earlier >= digest_s * 0.999999 for earlier, later in itertools.pairwise(sent_s))


# -- the manifest's table


def read(table: str) -> Notify:
    return manifest.loads(f"[notify]\n{table}").notify


def faults(table: str) -> str:
    with pytest.raises(TrainingManifestError) as caught:
        read(table)
    return str(caught.value)


MAIL = 'smtp_host = "mail.lab"\nmail_from = "a@lab.org"\nmail_to = ["b@lab.org"]\n'


def test_without_the_table_nobody_is_told_of_anything() -> None:
    assert not manifest.loads('name = "x"').notify.is_on


def test_a_table_with_defaults() -> None:
    found = read('webhook_url_env = "HOOK"')
    assert found.is_on
    assert (found.events, found.digest_s, found.smtp_port) == (NOTIFY_KINDS, 300.0, 587)
    assert read(MAIL + 'events = ["failed"]').mail_to == ("b@lab.org",)


@pytest.mark.parametrize(
    "table",
    ['webhook_url_env = "https://hooks.lab/CANARY"', 'webhook_url = "https://hooks.lab/CANARY"',
     MAIL + 'smtp_user = "u"\nsmtp_password_env = "CANARY pass"', MAIL + 'smtp_password = "CANARY"',
     'webhook_url_env = ["CANARY"]'],
)  # fmt: skip
def test_a_secret_that_stands_in_the_manifest_is_refused_and_not_repeated(table: str) -> None:
    said = faults(table)
    assert "CANARY" not in said
    assert "variable" in said
    assert "manifest.toml:" in said


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "names nowhere to send to"),
        ("digest_s = 60", "names nowhere to send to"),
        ('smtp_host = "mail.lab"', "mail_from is missing"),
        ('smtp_host = "mail.lab"\nmail_from = "a@b"', "mail_to is missing"),
        ('smtp_host = "http://mail.lab"', "without a port"),
        ('mail_to = "a@b"', "put it in brackets"),
        ('mail_to = ["a"]', "mail_to[0] is no mail address"),
        ('mail_from = "a@b\\nBcc: c@d"', "an address such as"),
        ('webhook_url_env = "H"\nmail_to = ["a@b"]', "stands without smtp_host"),
        (MAIL + 'smtp_user = "u"', "stands alone"),
        (MAIL + 'smtp_user = "u"\nsmtp_password_env = "P"\nsmtp_starttls = false', "anybody on the way"),
        (MAIL + "smtp_port = 0", "from 1 to 65535"),
        (MAIL + 'events = ["faild"]', "did you mean failed?"),
        (MAIL + "events = []", "at least one event"),
        (MAIL + "digest_s = 1", "of at least 10"),
        (MAIL + "digest_s = 100000", "at most 86400"),
        (MAIL + "smtp_starttl = true", "did you mean smtp_starttls?"),
    ],
)
def test_a_fault_of_the_table_says_what_to_do(table: str, words: str) -> None:
    assert words in faults(table)
