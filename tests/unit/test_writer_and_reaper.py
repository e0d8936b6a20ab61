"""The one writer and the reaper's timer, without a server and without waiting."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cis490 import failpoints
from cis490.ballast import Ballast
from cis490.clock import ManualClock
from tests.factories.fleet import ARTIFACT, cpu_host, job, manifest
from training.fleet import reaper
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import JobQueue
from training.fleet.types import DatasetPin
from training.fleet.writer import Writer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(tmp_path: Path, clock: ManualClock) -> Iterator[JobQueue]:
    opened = JobQueue(tmp_path / "q.db", clock=clock)
    opened.apply_manifest(manifest(*(job(f"j{index}") for index in range(20))))
    yield opened
    opened.close()


def test_many_requests_at_once_each_get_their_own_answer(queue: JobQueue) -> None:
    async def all_at_once() -> list[str]:
        writer = Writer(queue)
        try:
            calls = [writer.run(lambda host=f"h{n}": queue.claim(host, cpu_host())) for n in range(20)]  # type: ignore[misc]
            found = await asyncio.gather(*calls)
            return [claim.row.name for claim in found if claim.row is not None]
        finally:
            writer.close()

    names = asyncio.run(all_at_once())
    assert sorted(names) == sorted(f"j{index}" for index in range(20))


def test_waiting_requests_share_one_transaction(queue: JobQueue) -> None:
    begun = []
    queue._connection.set_trace_callback(lambda text: begun.append(text) if text == "BEGIN" else None)

    async def while_the_writer_is_busy() -> None:
        writer = Writer(queue)
        with queue._lock:  # the first request gets stuck here, the others gather behind it
            calls = [asyncio.ensure_future(writer.run(queue.counts)) for _ in range(10)]
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        writer.close()

    asyncio.run(while_the_writer_is_busy())
    queue._connection.set_trace_callback(None)
    assert len(begun) <= 2


def test_an_error_reaches_the_caller_and_the_writer_goes_on(queue: JobQueue) -> None:
    async def one_bad_one_good() -> object:
        writer = Writer(queue)
        with pytest.raises(ZeroDivisionError):
            await writer.run(lambda: 1 // 0)
        found = await writer.run(lambda: queue.claim("a", cpu_host()).row)
        writer.close()
        return found

    assert asyncio.run(one_bad_one_good()) is not None


def test_a_database_that_does_not_answer_is_unavailable_not_a_crash(queue: JobQueue) -> None:
    async def broken() -> None:
        writer = Writer(queue)
        with pytest.raises(QueueUnavailable):
            await writer.run(lambda: queue._connection.execute("SELECT * FROM nothing"))
        writer.close()

    asyncio.run(broken())


@pytest.mark.parametrize(
    ("elapsed_s", "away_s"), [(60.0, 0.0), (61.0, 0.0), (119.0, 0.0), (181.0, 121.0), (86_400.0, 86_340.0)]
)
def test_only_a_really_late_tick_gives_time_back(elapsed_s: float, away_s: float) -> None:
    assert reaper.overslept_s(elapsed_s, 60.0) == away_s


def _run_reaper(queue: JobQueue, clock: ManualClock, naps: list[float]) -> int:
    """The reaper's loop, in which each nap lasts as long as the list says; how often it told of a change."""
    told: list[None] = []

    async def sleep(seconds: float) -> None:
        if not naps:
            raise asyncio.CancelledError
        clock.advance(naps.pop(0))

    async def loop() -> None:
        writer = Writer(queue)
        try:
            with pytest.raises(asyncio.CancelledError):
                await reaper.run(
                    queue, writer, every_s=60.0, sleep=sleep, on_change=lambda: told.append(None)
                )
        finally:
            writer.close()

    asyncio.run(loop())
    return len(told)


def test_the_reaper_sweeps_without_anybody_claiming(queue: JobQueue, clock: ManualClock) -> None:
    queue.claim("a", cpu_host())
    assert _run_reaper(queue, clock, [60.0] * 10) == 1
    assert queue.counts() == {"pending": 20}


def test_a_receiver_that_slept_punishes_nobody(queue: JobQueue, clock: ManualClock) -> None:
    queue.claim("a", cpu_host())
    assert _run_reaper(queue, clock, [60.0, 50_000.0, 60.0]) == 0
    assert queue.counts()["claimed"] == 1


def test_the_reaper_survives_a_database_that_fails(
    queue: JobQueue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise QueueUnavailable("disk full")

    monkeypatch.setattr(queue, "sweep_stale", fail)
    assert _run_reaper(queue, clock, [60.0, 60.0]) == 0


# -- commits that fail


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the disk fail at a failpoint: `disk("ledger.before_commit=full")`; `disk("")` mends it."""
    return lambda text: monkeypatch.setattr(failpoints, "_armed", failpoints.parse(text))


def _batch(queue: JobQueue, *calls: Callable[[], object], ballast: Ballast | None = None) -> list[object]:
    """What each call of one batch gets: its result or its exception."""

    async def run() -> list[object]:
        writer = Writer(queue, ballast)
        try:
            return await asyncio.gather(*(writer.run(call) for call in calls), return_exceptions=True)
        finally:
            writer.close()

    return asyncio.run(run())


@pytest.mark.parametrize("action", ["full", "broken"])
@pytest.mark.parametrize("place", ["writer.before_batch", "ledger.before_begin", "ledger.before_commit"])
def test_when_a_commit_fails_nothing_of_the_batch_has_happened_and_all_learn_it(
    queue: JobQueue, disk: Callable[[str], None], place: str, action: str
) -> None:
    disk(f"{place}={action}")
    found = _batch(queue, *(lambda host=f"h{n}": queue.claim(host, cpu_host()) for n in range(5)))
    assert all(isinstance(result, QueueUnavailable) for result in found)
    assert (len(queue.leases), queue.counts()) == (0, {"pending": 20})
    assert all(queue.leases.busy(f"h{n}") == 0 for n in range(5))
    disk("")
    (again,) = _batch(queue, lambda: queue.claim("h0", cpu_host()).row)
    assert again is not None, "no restart is needed once the disk is back"


@pytest.mark.parametrize("place", ["ledger.committed", "writer.before_answers"])
def test_a_failure_after_the_commit_leaves_memory_as_the_disk_has_it(
    queue: JobQueue, disk: Callable[[str], None], place: str
) -> None:
    disk(f"{place}=broken")
    (found,) = _batch(queue, lambda: queue.claim("a", cpu_host(), claim_request="r"))
    assert isinstance(found, QueueUnavailable)
    assert (len(queue.leases), queue.counts()["claimed"]) == (1, 1)
    (again,) = _batch(queue, lambda: queue.claim("a", cpu_host(), claim_request="r").row)
    assert again is not None, "who asks again gets what was written for it"


@pytest.mark.parametrize(
    "place", ["half_claimed", "half_completed", "half_failed", "half_released", "half_cancelled"]
)
def test_a_request_that_breaks_half_way_loses_only_itself(
    queue: JobQueue, disk: Callable[[str], None], place: str
) -> None:
    held = [queue.claim(host, cpu_host()).row for host in ("a", "b", "c")]
    names = [row.job_id for row in held if row is not None]
    calls: dict[str, Callable[[], object]] = {
        "half_claimed": lambda: queue.claim("d", cpu_host()),
        "half_completed": lambda: queue.complete(names[0], "a", artifact_id=ARTIFACT),
        "half_failed": lambda: queue.fail(names[1], "b", error="x"),
        "half_released": lambda: queue.release(names[2], "c"),
        "half_cancelled": lambda: queue.cancel(names[0]),
    }
    before = {row.job_id: row for row in queue.list_jobs()}
    disk(f"queue.{place}=broken")
    found = _batch(queue, calls[place], lambda: queue.cancel(job("j19").job_id))
    assert [isinstance(one, QueueUnavailable) for one in found] == [True, False]
    changed = [name for name, row in before.items() if queue.get(name) != row]
    assert changed == [job("j19").job_id]
    assert sorted(lease.host for lease in queue.leases.all()) == ["a", "b", "c"]


def test_when_not_even_the_rollback_works_the_next_transaction_begins_with_it(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(queue, "rebuild", unreadable)
        found = _batch(queue, lambda: queue.claim("a", cpu_host()), lambda: 1 // 0)
        assert all(isinstance(result, Exception) for result in found)
    (again,) = _batch(queue, lambda: queue.claim("a", cpu_host()).row)
    assert again is not None
    assert (len(queue.leases), queue.counts()["claimed"]) == (1, 1)


class _Room(Ballast):
    """A ballast whose giving up is what mends the disk."""

    def __init__(self, path: Path, free: Callable[[], None]) -> None:
        super().__init__(path)
        self._free = free

    def give_up(self) -> bool:
        self._free()
        return True


def test_a_full_disk_costs_the_ballast_and_not_the_answer(
    queue: JobQueue, tmp_path: Path, disk: Callable[[str], None]
) -> None:
    row = queue.claim("a", cpu_host()).row
    assert row is not None
    disk("ledger.before_commit=full")
    ballast = _Room(tmp_path / "ballast", lambda: disk(""))
    found = _batch(
        queue, lambda: queue.complete(row.job_id, "a", artifact_id=ARTIFACT), lambda: 1 // 0, ballast=ballast
    )
    assert found[0]
    assert isinstance(found[1], ZeroDivisionError), "each is answered once, as it went the second time"
    assert queue.counts()["completed"] == 1


def test_one_request_that_found_the_disk_full_is_tried_again_alone(
    queue: JobQueue, tmp_path: Path, disk: Callable[[str], None]
) -> None:
    disk("queue.half_claimed=full")
    ballast = _Room(tmp_path / "ballast", lambda: disk(""))
    found = _batch(
        queue,
        lambda: queue.claim("a", cpu_host()).row,
        lambda: queue.cancel(job("j19").job_id),
        ballast=ballast,
    )
    assert all(found)
    assert (queue.counts()["claimed"], queue.counts()["cancelled"]) == (1, 1)


# -- batches


def test_a_burst_larger_than_a_batch_is_answered_whole_and_in_order(queue: JobQueue) -> None:
    order: list[int] = []

    def note(number: int) -> int:
        order.append(number)
        return number

    found = _batch(queue, *(partial(note, number) for number in range(600)))
    assert found == list(range(600))
    assert order == list(range(600))


def test_what_was_handed_in_before_the_end_is_still_done(queue: JobQueue) -> None:
    async def hand_in_and_close() -> list[object]:
        writer = Writer(queue)
        calls = [asyncio.ensure_future(writer.run(queue.counts)) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.to_thread(writer.close)
        return list(await asyncio.gather(*calls))

    assert asyncio.run(hand_in_and_close()) == [{"pending": 20}] * 3


# -- heartbeats do not wait


def _running(queue: JobQueue) -> tuple[str, str]:
    found = queue.claim("a", cpu_host(), with_token=True)
    assert found.row is not None
    assert found.lease is not None
    assert found.lease.token is not None
    queue.heartbeat(found.row.job_id, "a", token=found.lease.token)
    return found.row.job_id, found.lease.token


def test_a_heartbeat_is_answered_while_a_commit_runs(queue: JobQueue, clock: ManualClock) -> None:
    job_id, token = _running(queue)
    clock.advance(500.0)
    entered, leave = threading.Event(), threading.Event()

    def slow_commit() -> None:
        with queue.atomic():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=slow_commit)
    thread.start()
    entered.wait(10)
    assert queue.renew_lease(job_id, "a", token=token)
    leave.set()
    thread.join()
    clock.advance(500.0)
    assert queue.sweep_stale() == 0


def test_a_lease_that_the_running_transaction_ends_is_not_renewed_beside_it(queue: JobQueue) -> None:
    job_id, token = _running(queue)

    def cancel_then_fail() -> None:
        queue.cancel(job_id)
        assert not queue.renew_lease(job_id, "a", token=token), "the cancel may be committed any moment"
        raise ValueError("taken back")

    (result,) = queue.run_batch([cancel_then_fail])
    assert isinstance(result, ValueError)
    assert queue.renew_lease(job_id, "a", token=token), "it was not"


def test_a_lease_that_is_not_on_disk_yet_is_not_renewed_beside_the_transaction(
    queue: JobQueue, clock: ManualClock
) -> None:
    """Else a worker whose lapsed lease came back only in memory would train on beside another one."""
    job_id, token = _running(queue)
    clock.advance(700.0)
    queue.sweep_stale()
    with queue.atomic():
        assert queue.heartbeat(job_id, "a", token=token), "back from the lapse"
        assert not queue.renew_lease(job_id, "a", token=token)
    assert queue.renew_lease(job_id, "a", token=token)


def test_a_heartbeat_with_the_wrong_token_or_host_renews_nothing(queue: JobQueue) -> None:
    job_id, token = _running(queue)
    assert not queue.renew_lease(job_id, "a", token="other")
    assert not queue.renew_lease(job_id, "a", token=None)
    assert not queue.renew_lease(job_id, "b", token=token)
    assert not queue.renew_lease("f" * 64, "a", token=token)


# -- the reaper and time


def test_a_heartbeat_that_waits_for_its_turn_while_the_sweep_runs_wins(
    queue: JobQueue, clock: ManualClock
) -> None:
    """The first heartbeat has to be written; what the sweep sees is that it has come."""
    found = queue.claim("a", cpu_host())
    assert found.row is not None
    clock.advance(601.0)
    assert not queue.renew_lease(found.row.job_id, "a"), "it goes to the writer, behind the sweep"
    assert queue.sweep_stale() == 0
    assert queue.heartbeat(found.row.job_id, "a")
    assert [entry["event"] for entry in queue.audit(found.row.job_id)] == ["reload", "claim", "heartbeat"]


def test_a_heartbeat_between_the_look_and_the_sweep_wins(queue: JobQueue, clock: ManualClock) -> None:
    job_id, token = _running(queue)
    clock.advance(601.0)
    (late,) = queue.leases.expired(clock.now_s())
    assert queue.renew_lease(job_id, "a", token=token)
    assert not queue.leases.take_expired(late, clock.now_s())
    assert queue.leases.busy("a") == 1


def test_a_lease_renewed_in_the_middle_of_a_sweep_is_left_alone(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, token = _running(queue)
    # as if a lease were found to have run out an instant before its heartbeat
    monkeypatch.setattr(queue.leases, "expired", lambda now_s: queue.leases.all())
    assert queue.sweep_stale() == 0
    assert queue.renew_lease(job_id, "a", token=token)


def test_a_sweep_judges_by_the_moment_it_was_asked_for(queue: JobQueue, clock: ManualClock) -> None:
    """The process is stopped after the timer fired and before the writer came to it."""
    queue.claim("a", cpu_host())
    asked_s = clock.now_s()
    clock.advance(50_000.0)
    assert reaper.tick(queue, 0.0, asked_s) == 0
    assert queue.counts()["claimed"] == 1


def test_time_given_back_is_never_more_than_one_lease(queue: JobQueue, clock: ManualClock) -> None:
    job_id, token = _running(queue)
    queue.extend_leases(50_000.0)  # a heartbeat came before the late tick
    clock.advance(601.0)
    assert queue.sweep_stale() == 1
    assert queue.heartbeat(job_id, "a", token=token), "lapsed, and back"


@pytest.mark.parametrize("seconds", [-1e9, -3600.0, 3600.0, 1e9])
def test_a_step_of_the_wall_clock_ends_no_lease_and_keeps_none_alive(
    queue: JobQueue, clock: ManualClock, seconds: float
) -> None:
    queue.claim("a", cpu_host())
    clock.step_wall(seconds)
    assert _run_reaper(queue, clock, [60.0] * 9) == 0
    assert queue.counts()["claimed"] == 1
    assert _run_reaper(queue, clock, [60.0] * 2) == 1


def test_what_is_due_after_a_sweep_is_done_and_room_on_the_disk_is_told(
    queue: JobQueue, clock: ManualClock, tmp_path: Path
) -> None:
    ballast = Ballast(tmp_path / "ballast", size_bytes=1 << 20)
    told: list[None] = []
    done: list[float] = []
    naps = [60.0, 60.0]

    async def sleep(seconds: float) -> None:
        if not naps:
            raise asyncio.CancelledError
        clock.advance(naps.pop())

    async def on_sweep() -> None:
        done.append(clock.now_s())

    async def loop() -> None:
        writer = Writer(queue)
        with pytest.raises(asyncio.CancelledError):
            await reaper.run(
                queue, writer, every_s=60.0, sleep=sleep, on_change=lambda: told.append(None),
                on_sweep=on_sweep, ballast=ballast,
            )  # fmt: skip
        writer.close()

    asyncio.run(loop())
    assert (len(told), len(done), ballast.is_held) == (1, 2, True)


# -- reads beside writes


def test_a_long_list_does_not_hold_up_a_claim_nor_a_commit_a_list(queue: JobQueue) -> None:
    reader = sqlite3.connect(f"file:{queue._path}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    reading = reader.execute("SELECT * FROM job")
    reading.fetchone()
    assert queue.claim("a", cpu_host()).row is not None, "while the list is being read"
    seen: list[int] = []
    with queue.atomic():
        thread = threading.Thread(target=lambda: seen.append(len(queue.list_jobs())))
        thread.start()
        thread.join(10)
        assert seen == [20], "while a transaction runs"
    reader.close()


def test_a_dataset_that_was_pinned_once_is_known_after_a_restart(tmp_path: Path) -> None:
    first = JobQueue(tmp_path / "q2.db")
    for name in ("a", "b"):
        first.apply_manifest(replace(manifest(job("x")), dataset=DatasetPin(name * 64, f"/data/{name}")))
    first.close()
    again = JobQueue(tmp_path / "q2.db")
    assert {pin.path for pin in again.datasets().values()} == {"/data/a", "/data/b"}
    again.close()


def test_who_may_upload_as_committed(queue: JobQueue, clock: ManualClock) -> None:
    job_id, _ = _running(queue)
    assert queue.may_upload(job_id, 1)
    clock.advance(700.0)
    queue.sweep_stale()
    assert queue.may_upload(job_id, 1), "lapsed, and nobody else has it"
    queue.claim("b", cpu_host())
    assert not queue.may_upload(job_id, 1)
    assert not queue.may_upload("f" * 64, 1)
