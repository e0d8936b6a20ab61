"""No wake-up is lost: when everything has come to rest, no claim that waits could have a job.

The real `claiming.claim`, waiters and queue run on an event loop whose time is a manual clock; a stand-in for the
writer lets every call wait for a random number of turns of the loop, before and after it is carried out, and
fails some. So each history is deterministic, and the interleavings are not only those that a busy machine would show.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cis490.ballast import Ballast
from cis490.clock import ManualClock
from tests.factories.fleet import cpu_host, cuda_host, job, manifest
from tests.property.fleets import HOSTS, capabilities, fleets
from training.fleet import claiming, hosts, reaper
from training.fleet.claiming import Asked
from training.fleet.coordinator import Coordinator
from training.fleet.http_io import Problem
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import Claim, JobQueue
from training.fleet.store import ModelStore
from training.fleet.turns import whose_turn
from training.fleet.types import Capability, FailClass, HostSpec, Manifest
from training.fleet.writer import Writer

T = TypeVar("T")
STEPS_TO_REST = 3000


class ManualLoop(asyncio.SelectorEventLoop):
    """Its timers follow the manual clock. It never sleeps, because some task is always ready."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._manual = clock

    def time(self) -> float:
        return self._manual.now_s()


@dataclass
class SlowWriter:
    """Carries out each call some turns of the loop later, and answers some turns after that."""

    queue: JobQueue
    dice: random.Random
    failing: bool = False
    under_way: int = 0

    async def run(self, call: Callable[[], T]) -> T:
        self.under_way += 1
        try:
            await self._turns()
            if self.failing and self.dice.random() < 0.3:
                raise QueueUnavailable("the commit failed")
            (result,) = self.queue.run_batch([call])
            await self._turns()
        finally:
            self.under_way -= 1
        if isinstance(result, Exception):
            raise result
        return result

    async def _turns(self) -> None:
        for _ in range(self.dice.randrange(4)):
            await asyncio.sleep(0)


@dataclass(eq=False)
class Client:
    """A connection that may break while its claim waits."""

    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def is_disconnected(self) -> bool:
        return self.gone.is_set()

    async def receive(self) -> object:
        await self.gone.wait()
        return {"type": "http.disconnect"}


class NoStore:
    """No artifact is sent here."""

    def stop_receiving(self) -> None: ...
    def path_of(self, artifact_id: object) -> None: ...


class Receiver:
    """One receiver under simulation."""

    def __init__(self, clock: ManualClock, seed: int) -> None:
        self.clock, self.dice = clock, random.Random(seed)
        self.queue = JobQueue(":memory:", clock=clock, stale_after_s=100.0, live_s=90.0)
        self.app = Coordinator(
            queue=self.queue, store=cast(ModelStore, NoStore()), manifest_path=Path("none"), operator_token=None,
            max_artifact_bytes=1,
        )  # fmt: skip
        self.writer = SlowWriter(self.queue, self.dice)
        self.app._writer = cast(Writer, self.writer)
        self.clients: dict[asyncio.Task[Claim], Client] = {}
        self.tasks: list[asyncio.Task[Any]] = []

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at in `end`
        self.tasks.append(task)
        return task

    def arrive(self, host: str, capability: Capability, wait_s: float = 50.0) -> asyncio.Task[Claim]:
        client = Client()
        task = self.spawn(claiming.claim(self.app, Asked(host, capability, True, None, wait_s), client))
        self.clients[task] = client
        return task

    def change(self, call: Callable[[], object]) -> None:
        """What a handler does: the event in the writer, then the word that something has changed."""

        async def handler() -> None:
            if await self.app.write(call):
                self.app.changed()

        self.spawn(handler())

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def come_to_rest(self) -> None:
        self.writer.failing = False
        self.clock.advance(1.5)  # a round that the database could not answer is tried again
        still = 0
        for _ in range(STEPS_TO_REST):
            await asyncio.sleep(0)
            self.clock.advance(0.001)
            still = 0 if self.writer.under_way or self.app.waiters.wake_up_under_way else still + 1
            if still > 20:
                return
        raise AssertionError("it does not come to rest: claims are called again and again for nothing")

    def could_claim(self) -> list[str]:
        """The hosts of waiting claims that would get a job if they asked now."""
        return [
            waiter.host
            for waiter in self.app.waiters._waiting
            if whose_turn(self.queue, [(waiter.host, waiter.capability)]).called
        ]

    async def end(self) -> None:
        self.app.stop_waiting()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert not [
            found
            for found in results
            if isinstance(found, Exception) and not isinstance(found, Problem | QueueUnavailable)
        ]
        assert len(self.app.waiters) == 0
        self.queue.close()


def simulate(clock: ManualClock, history: Coroutine[Any, Any, T]) -> T:
    loop = ManualLoop(clock)
    try:
        return loop.run_until_complete(history)
    finally:
        left = asyncio.all_tasks(loop)  # an example may be given up at any point
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()


def disturb(data: st.DataObject, receiver: Receiver, second: Manifest, reported: list[Capability]) -> None:
    """One thing that happens, drawn from all that can."""
    queue, clock = receiver.queue, receiver.clock
    host = data.draw(st.sampled_from(HOSTS))
    leases = queue.leases.all()
    listed = queue.list_jobs()
    kind = data.draw(
        st.sampled_from(
            ["arrive", "arrive", "arrive", "leave", "reload", "report", "drain", "undrain", "complete", "fail",
             "release", "cancel", "requeue", "time", "sweep", "failing"]
        )
    )  # fmt: skip
    chosen = data.draw(st.integers(0, 10))
    if kind == "arrive":
        receiver.arrive(host, reported[HOSTS.index(host)], data.draw(st.sampled_from([0.0, 20.0, 50.0])))
    elif kind == "leave" and receiver.clients:
        list(receiver.clients.values())[chosen % len(receiver.clients)].gone.set()
    elif kind == "report":
        reported[HOSTS.index(host)] = data.draw(capabilities())
    elif kind == "reload":
        receiver.change(lambda: queue.apply_manifest(second, trainer_digest="t" * 64))
    elif kind in ("drain", "undrain"):
        receiver.change(
            lambda: hosts.drain(queue, host, "x") if kind == "drain" else hosts.undrain(queue, host)
        )
    elif kind == "time":
        clock.advance(data.draw(st.sampled_from([1.0, 21.0, 61.0, 91.0])))
    elif kind == "sweep":
        clock.advance(101)
        receiver.change(lambda: reaper.tick(queue, 0.0, clock.now_s()))
    elif kind == "failing":
        receiver.writer.failing = True
    elif kind in ("cancel", "requeue") and listed:
        name = listed[chosen % len(listed)].job_id
        receiver.change(lambda: queue.cancel(name) if kind == "cancel" else queue.requeue(name, force=True))
    elif leases and kind in ("complete", "fail", "release"):
        lease = leases[chosen % len(leases)]
        why: FailClass = data.draw(st.sampled_from(["program", "oom"]))
        acts: dict[str, Callable[[], object]] = {
            "complete": lambda: queue.complete(
                lease.job_id, lease.host, artifact_id="c" * 64, token=lease.token
            ),
            "fail": lambda: queue.fail(
                lease.job_id, lease.host, error="x", token=lease.token, fail_class=why
            ),
            "release": lambda: queue.release(lease.job_id, lease.host, token=lease.token),
        }
        receiver.change(acts[kind])


@settings(max_examples=120)
@given(
    data=st.data(),
    first=fleets(),
    second=fleets(),
    reported=st.lists(capabilities(), min_size=len(HOSTS), max_size=len(HOSTS)),
    seed=st.integers(0, 2**32),
)
def test_wake_up_after_any_history_no_waiting_claim_could_have_a_job(
    data: st.DataObject, first: Manifest, second: Manifest, reported: list[Capability], seed: int
) -> None:
    clock = ManualClock()

    async def history() -> None:
        receiver = Receiver(clock, seed)
        receiver.queue.apply_manifest(first, trainer_digest="t" * 64)
        for _ in range(data.draw(st.integers(1, 4))):
            for _ in range(data.draw(st.integers(1, 6))):
                disturb(data, receiver, second, reported)
                await receiver.turns(data.draw(st.integers(0, 8)))
            await receiver.come_to_rest()
            assert receiver.could_claim() == []
        await receiver.end()

    simulate(clock, history())


@dataclass
class Counted:
    """How often the queue was asked for a job."""

    queue: JobQueue
    claims: int = 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    found = Counted(cast(JobQueue, None))
    real = JobQueue.claim

    def claim(queue: JobQueue, *args: Any, **kwargs: Any) -> Claim:
        found.claims += 1
        return real(queue, *args, **kwargs)

    monkeypatch.setattr(JobQueue, "claim", claim)
    return found


@pytest.mark.parametrize("new_jobs", [1, 3])
def test_wake_up_each_new_job_calls_one_waiting_claim_and_the_oldest_first(
    counted: Counted, new_jobs: int
) -> None:
    clock = ManualClock()

    async def history() -> None:
        receiver = Receiver(clock, 1)
        waiting = []
        for n in range(40):
            waiting.append(receiver.arrive(f"h{n}", cpu_host()))
            await receiver.turns(20)
        await receiver.come_to_rest()
        before = counted.claims
        receiver.change(
            lambda: receiver.queue.apply_manifest(manifest(*(job(f"j{n}") for n in range(new_jobs))))
        )
        await receiver.come_to_rest()
        assert counted.claims - before == new_jobs
        assert [task.done() for task in waiting] == [n < new_jobs for n in range(40)]
        await receiver.end()

    simulate(clock, history())


def test_wake_up_a_host_with_several_claims_is_called_for_its_free_slots_only(counted: Counted) -> None:
    clock = ManualClock()

    async def history() -> None:
        receiver = Receiver(clock, 1)
        two = {"big": HostSpec("big", slots=2), "small": HostSpec("small")}
        receiver.queue.apply_manifest(manifest(hosts=two))
        tasks = [receiver.arrive(host, cpu_host()) for host in ("big", "big", "big", "small")]
        await receiver.come_to_rest()
        before = counted.claims
        jobs = manifest(*(job(f"j{n}") for n in range(4)), hosts=two)
        receiver.change(lambda: receiver.queue.apply_manifest(jobs))
        await receiver.come_to_rest()
        assert sorted(found.host for found in receiver.queue.leases.all()) == ["big", "big", "small"]
        assert counted.claims - before == 3
        assert sum(task.done() for task in tasks) == 3
        await receiver.end()

    simulate(clock, history())


def test_wake_up_the_turn_of_a_client_that_went_away_goes_to_the_next() -> None:
    clock = ManualClock()

    async def history() -> None:
        receiver = Receiver(clock, 1)
        first, second = receiver.arrive("a", cpu_host()), receiver.arrive("b", cpu_host())
        await receiver.come_to_rest()
        receiver.change(lambda: receiver.queue.apply_manifest(manifest(job("x"))))
        waiter = next(iter(receiver.app.waiters._waiting))
        while not waiter.called.is_set():
            await receiver.turns(1)
        receiver.clients[first].gone.set()
        await receiver.come_to_rest()
        assert second.done()
        with pytest.raises(Problem, match="went away"):
            await first
        await receiver.end()

    simulate(clock, history())


@pytest.mark.parametrize("how", ["its client goes away", "its transaction fails", "its task is cancelled"])
def test_wake_up_the_turn_of_a_claim_that_leaves_after_the_last_round_goes_to_the_next(how: str) -> None:
    """Nobody else knows: the round that called it is over, and the queue has not changed since."""
    clock = ManualClock()

    async def history() -> None:
        receiver = Receiver(clock, 1)
        two = {"a": HostSpec("a"), "b": HostSpec("b")}
        receiver.queue.apply_manifest(manifest(job("x"), hosts=two))
        for host in two:
            hosts.drain(receiver.queue, host, "x")
        first, second = receiver.arrive("a", cpu_host()), receiver.arrive("b", cpu_host())
        await receiver.come_to_rest()
        receiver.change(lambda: [hosts.undrain(receiver.queue, host) for host in two])
        waiters = receiver.app.waiters
        waiter = next(iter(waiters._waiting))
        while not waiter.called.is_set() or waiters._round is not None:
            await receiver.turns(1)
        if how == "its client goes away":
            receiver.clients[first].gone.set()
        elif how == "its task is cancelled":
            first.cancel()
        else:
            real = receiver.queue.claim

            def fails_for_the_first(host: str, *args: Any, **options: Any) -> Claim:
                if host == "a":
                    raise QueueUnavailable("the commit failed")
                return real(host, *args, **options)

            receiver.queue.claim = fails_for_the_first  # type: ignore[method-assign]
        await receiver.come_to_rest()
        assert first.done()
        assert second.done(), "it could have had the job all along"
        await receiver.end()

    simulate(clock, history())


@pytest.mark.parametrize("ends", ["the grace", "the preferred host"])
def test_wake_up_time_alone_wakes_a_claim(ends: str) -> None:
    """Nothing happens but time: the grace of prefer_cuda ends, or the host that was preferred has died."""
    clock = ManualClock()
    grace_s = 20.0 if ends == "the grace" else 1000.0

    async def history() -> None:
        receiver = Receiver(clock, 1)
        await receiver.app.write(lambda: receiver.queue.claim("gpu", cuda_host()))
        clock.advance(55.0)
        receiver.queue.apply_manifest(manifest(job("wish", prefer_cuda=True), prefer_cuda_grace_s=grace_s))
        task = receiver.arrive("cpu", cpu_host(), 60.0)
        await receiver.come_to_rest()
        assert not task.done()
        clock.advance(10.0)
        await receiver.come_to_rest()
        assert not task.done()
        clock.advance(30.0)
        await receiver.come_to_rest()
        assert task.done()
        assert task.result().row is not None
        await receiver.end()

    simulate(clock, history())


def test_wake_up_a_round_that_the_database_could_not_answer_is_tried_again() -> None:
    clock = ManualClock()

    async def history() -> None:
        receiver = Receiver(clock, 1)
        task = receiver.arrive("a", cpu_host())
        await receiver.come_to_rest()
        receiver.queue.apply_manifest(manifest(job("x")))
        real, asked = receiver.app.waiters._ask, 0

        async def fails_at_first(waiting: Any, news_only: bool) -> Any:
            nonlocal asked
            asked += 1
            if asked <= 2:
                raise QueueUnavailable("disk full")
            return await real(waiting, news_only)

        receiver.app.waiters._ask = fails_at_first
        receiver.app.changed()
        await receiver.turns(20)
        assert (asked, task.done()) == (2, False)
        clock.advance(1.1)
        await receiver.turns(40)
        assert task.done()
        await receiver.end()

    simulate(clock, history())


def test_wake_up_a_receiver_that_stops_answers_all_and_lets_nobody_wait() -> None:
    clock = ManualClock()

    async def history() -> None:
        receiver = Receiver(clock, 1)
        tasks = [receiver.arrive(host, cpu_host()) for host in HOSTS]
        await receiver.come_to_rest()
        receiver.app.stop_waiting()
        tasks.append(receiver.arrive("late", cpu_host()))
        await receiver.turns(60)
        assert [task.result().reason for task in tasks] == ["the receiver is stopping"] * 5
        await receiver.end()

    simulate(clock, history())


def test_a_claim_that_waits_since_before_the_disk_was_full_is_refused_like_any_other(tmp_path: Path) -> None:
    clock = ManualClock()

    async def history() -> None:
        receiver = Receiver(clock, 1)
        receiver.app.ballast = Ballast(tmp_path / "ballast", size_bytes=1 << 20)
        receiver.app.ballast.restore()
        task = receiver.arrive("a", cpu_host())
        await receiver.come_to_rest()
        receiver.app.ballast.give_up()
        receiver.change(lambda: receiver.queue.apply_manifest(manifest(job("x"))))
        await receiver.come_to_rest()
        with pytest.raises(Problem, match="no job is handed out"):
            await task
        assert receiver.queue.counts() == {"pending": 1}
        await receiver.end()

    simulate(clock, history())


def test_wake_up_a_job_that_was_given_back_because_nobody_received_it_goes_to_the_next() -> None:
    clock = ManualClock()

    async def history() -> None:
        receiver = Receiver(clock, 1)
        first = receiver.arrive("a", cpu_host())
        await receiver.come_to_rest()
        receiver.queue.apply_manifest(manifest(job("x")))
        second = receiver.arrive("a", cpu_host())
        receiver.clients[second].gone.set()
        await receiver.come_to_rest()
        with pytest.raises(Problem, match="before it got its job"):
            await second
        assert first.done()
        await receiver.end()

    simulate(clock, history())
