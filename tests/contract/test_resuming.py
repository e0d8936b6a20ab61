"""What the receiver tells a worker about checkpoints: may this attempt go on from one, is the last one of use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from tests.factories.live_receiver import Answer, LiveReceiver, live_receiver

MANIFEST = 'name = "t"\n[policy]\nmax_failures = 9\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
LEASE_S = 600.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def receiver(tmp_path: Path, clock: ManualClock) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST, clock=clock, stale_after_s=LEASE_S) as running:
        yield running


def claim(receiver: LiveReceiver, host: str = "a") -> tuple[str, bool]:
    body = receiver.worker("POST", "/v1/job/claim", {"capability": {}}, host=host).body
    return body["job_id"], body["resume"]


def say(receiver: LiveReceiver, job_id: str, verb: str, body: object = None, host: str = "a") -> Answer:
    return receiver.worker("POST", f"/v1/job/{job_id}/{verb}", body, host=host)


def test_a_first_attempt_has_nothing_to_go_on_from(receiver: LiveReceiver) -> None:
    assert claim(receiver)[1] is False


@pytest.mark.parametrize(
    ("verb", "body", "may_resume"),
    [
        ("release", {"reason": "the worker was stopped"}, True),
        ("fail", {"fail_class": "preempted"}, True),
        ("fail", {"fail_class": "program"}, False),
        ("fail", {"fail_class": "timeout"}, False),
    ],
)
def test_only_what_was_given_back_unharmed_may_be_gone_on_from(
    receiver: LiveReceiver, verb: str, body: object, may_resume: bool
) -> None:
    job_id, _ = claim(receiver)
    assert say(receiver, job_id, verb, body).status == 200
    assert claim(receiver)[1] is may_resume


def test_cancelling_and_queueing_again_means_from_the_beginning(receiver: LiveReceiver) -> None:
    job_id, _ = claim(receiver)
    say(receiver, job_id, "release")
    receiver.operator(f"/v1/job/{job_id}/cancel")
    receiver.operator(f"/v1/job/{job_id}/requeue")
    assert claim(receiver)[1] is False


def test_a_host_that_comes_back_after_its_lease_ran_out_goes_on(
    receiver: LiveReceiver, clock: ManualClock
) -> None:
    """A reboot that takes longer than a lease: the worker gives the job back at its start, and is preferred."""
    job_id, _ = claim(receiver)
    clock.advance(LEASE_S + 1)
    assert receiver.queue.sweep_stale() == 1
    assert say(receiver, job_id, "release").status == 200
    assert receiver.worker("POST", "/v1/job/claim", {"capability": {}}, host="b").body["job"] is None
    assert claim(receiver) == (job_id, True)


def test_a_receiver_that_was_restarted_still_knows(receiver: LiveReceiver) -> None:
    job_id, _ = claim(receiver)
    say(receiver, job_id, "release")
    receiver.queue.rebuild()
    assert claim(receiver)[1] is True


def test_a_repeated_claim_gets_the_same_word(receiver: LiveReceiver) -> None:
    job_id, _ = claim(receiver)
    say(receiver, job_id, "release")
    headers = {"X-Fleet-Protocol": "2", "X-Claim-Request": "one"}
    bodies = [receiver.worker("POST", "/v1/job/claim", {"capability": {}}, **headers).body for _ in range(2)]
    assert [body["resume"] for body in bodies] == [True, True]
    assert bodies[0] == bodies[1]


def test_a_lease_that_is_gone_is_refused_with_the_jobs_status(receiver: LiveReceiver) -> None:
    job_id, _ = claim(receiver)
    receiver.operator(f"/v1/job/{job_id}/cancel")
    told = [say(receiver, job_id, "heartbeat")]
    receiver.operator(f"/v1/job/{job_id}/requeue")
    told.append(say(receiver, job_id, "heartbeat"))
    claim(receiver, "b")
    told.append(say(receiver, job_id, "heartbeat"))
    assert [answer.status for answer in told] == [410, 410, 410]
    assert [answer.body["job_status"] for answer in told] == ["cancelled", "pending", "claimed"]
    assert "job_status" not in say(receiver, "f" * 64, "heartbeat").body, "nothing is known of that one"
