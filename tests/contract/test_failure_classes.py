"""What each class of failure does to the job's budget, to where it may run next, and to the host; and what is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from tests.factories.command import run
from tests.factories.fleet import cpu_host, job, job_id, manifest
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from training.fleet.types import FAIL_CLASSES, FailClass

NAME = "gbt-realistic"
MANIFEST = 'name = "t"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'


@dataclass(frozen=True)
class Effect:
    """Of the first failure of a job on a host with 16 GiB, where a host with 64 GiB is known."""

    status: str = "pending"
    failures: int = 1
    avoids: bool = True
    """The host gets the job again only if no other could take it."""
    more_ram_than_gib: float = 0.0
    waits_for_it: bool = False
    """The job waits a while for the same host."""
    blames_the_host: bool = True
    """It counts towards the host's pause."""


EFFECTS: dict[FailClass, Effect] = {
    "program": Effect(),
    "bad_config": Effect("failed", blames_the_host=False),
    "bad_data": Effect(),
    "missing": Effect(),
    "no_cuda": Effect(),
    "oom": Effect(avoids=False, more_ram_than_gib=16.0),
    "timeout": Effect(),
    "stalled": Effect(),
    "preempted": Effect(failures=0, avoids=False, waits_for_it=True, blames_the_host=False),
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def receiver(tmp_path: Path, clock: ManualClock) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST, clock=clock) as running:
        yield running


def see(receiver: LiveReceiver, host: str, ram_gib: float) -> None:
    """Let the receiver know a host while no job waits for it."""
    receiver.queue.claim(host, cpu_host(ram_gib=ram_gib))


def fail(receiver: LiveReceiver, host: str, fail_class: str, error: str, name: str = NAME) -> None:
    granted = receiver.queue.claim(host, cpu_host())
    assert granted.row is not None, granted.reason
    assert granted.row.name == name
    report = {"error": error, "fail_class": fail_class, "duration_s": 42.0}
    report |= {"peak_rss_mib": 812.0, "cpu_s": 40.0, "exit_code": 1}
    path = f"/v1/job/{granted.row.job_id}/fail"
    assert receiver.worker("POST", path, report, host=host).status == 200


def test_every_class_has_its_row() -> None:
    assert set(EFFECTS) <= set(FAIL_CLASSES)
    assert set(FAIL_CLASSES) - set(EFFECTS) <= {"frozen"}


@pytest.mark.parametrize(("fail_class", "effect"), EFFECTS.items(), ids=list(EFFECTS))
def test_a_class_has_the_effect_that_the_table_says(
    receiver: LiveReceiver, fail_class: FailClass, effect: Effect
) -> None:
    queue = receiver.queue
    queue.sync_from_manifest([])
    see(receiver, "big", 64.0)
    queue.apply_manifest(manifest(job()))
    fail(receiver, "a", fail_class, "what went wrong")
    row = queue.get(job_id(NAME))
    assert row is not None
    assert (row.status, row.program_failures) == (effect.status, effect.failures)
    assert row.learned.failed_hosts == (("a",) if effect.avoids else ())
    assert row.learned.more_ram_than_gib == effect.more_ram_than_gib
    assert row.learned.wait_for_host == ("a" if effect.waits_for_it else "")
    assert queue.matcher.seen["a"].failures_in_a_row == int(effect.blames_the_host)


def test_out_of_memory_fails_for_good_where_no_bigger_host_is_known(receiver: LiveReceiver) -> None:
    receiver.queue.apply_manifest(manifest(job()))
    fail(receiver, "a", "oom", "out of memory")
    row = receiver.queue.get(job_id(NAME))
    assert row is not None
    assert row.status == "failed"


def test_show_and_the_api_list_all_attempts_with_host_cause_duration_and_memory(
    receiver: LiveReceiver, clock: ManualClock
) -> None:
    queue = receiver.queue
    queue.apply_manifest(manifest(job(), pause_after_failures=0))
    fail(receiver, "a", "oom", "Killed: the training needed more memory\nsecond line")
    queue.requeue(job_id(NAME))
    queue.claim("b", cpu_host())
    clock.advance(queue.stale_after_s)
    queue.sweep_stale()
    clock.advance(queue.stale_after_s)  # no other host counts as live any more
    fail(receiver, "a", "stalled", "no progress for 60 s")
    queue.claim("c", cpu_host())
    receiver.worker("POST", f"/v1/job/{job_id(NAME)}/release", {"reason": "frozen for 7200 s"}, host="c")
    log = receiver.send("GET", f"/v1/job/{job_id(NAME)}").body["job"]["attempts_log"]
    told = [
        (one["host"], one["outcome"], one["fail_class"], one["duration_s"], one["peak_rss_mib"])
        for one in log
    ]
    assert told == [
        ("a", "failed", "oom", 42.0, 812.0),
        ("b", "superseded", None, None, None),
        ("a", "failed", "stalled", 42.0, 812.0),
        ("c", "released", None, None, None),
    ]
    assert "b stopped reporting: no heartbeat for 600 s" in log[1]["error"]
    shown = run(receiver.url, "show", NAME, token=TOKEN).out
    words = " ".join(shown.split())
    assert "42 s 812 MiB 40 s FAILED (oom): Killed: the training needed more memory" in words
    assert "b stopped reporting" in words
    assert "FAILED (stalled): no progress for 60 s" in words
    assert "released: frozen for 7200 s" in words


def test_a_host_that_fails_everything_is_paused_and_everybody_can_see_why(receiver: LiveReceiver) -> None:
    names = ("u", "v", "w", "x")
    receiver.queue.apply_manifest(
        manifest(*(job(name, priority=9 - number) for number, name in enumerate(names)))
    )
    for name in names[:3]:
        fail(receiver, "a", "missing", "libgomp.so.1 is missing", name)
        receiver.queue.cancel(job_id(name))
    refused = receiver.worker("POST", "/v1/job/claim", {"capability": cpu_host().to_dict()})
    assert refused.body["job"] is None
    assert "3 jobs failed on it in a row" in refused.body["reason"]
    (worker,) = receiver.send("GET", "/v1/workers").body["workers"]
    assert worker["paused_reason"] == "3 jobs failed on it in a row"
    why = receiver.send("GET", f"/v1/job/{job_id('x')}/eligibility").body
    (verdict,) = why["hosts"]
    assert not verdict["eligible"]
    assert "3 jobs failed on it in a row" in str(verdict["checks"])
    for command in (["workers"], ["why", "x"], ["why", "--host", "a"]):
        said = " ".join(run(receiver.url, *command, token=TOKEN).out.split())
        assert "3 jobs failed on it in a row" in said, command
