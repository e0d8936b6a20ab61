"""Acts of a fleet's ordinary and less ordinary life, each with jobs of its own: what a failpoint test plays through.

Every act leaves its jobs at their end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable

from tests.factories.fault_fleet import Fleet
from tests.factories.fault_service import PATIENCE_S
from tests.factories.proxy import Exchange, Fault
from training.fleet.client import Refused

Act = Callable[[Fleet, str], None]
LONG = 400
"""Steps of a training that is not meant to end by itself."""
OUTLASTING = 70
"""Steps of a training that takes longer than a lease."""


def train(fleet: Fleet, name: str) -> None:
    """A job is trained and its result stored."""
    fleet.add(name)
    fleet.until(name, "completed")


def fail(fleet: Fleet, name: str) -> None:
    """A job fails, is mended and requeued."""
    fleet.add(name, exit=78)
    fleet.until(name, "failed")
    fleet.order(name)
    fleet.operate("requeue", name)
    fleet.until(name, "completed")


def try_again(fleet: Fleet, name: str) -> None:
    """A job fails in a way that is tried again by itself."""
    fleet.add(name, exit=70)
    fleet.wait(lambda: fleet.row(name)["program_failures"] > 0, f"a failure of {name}")
    fleet.order(name)
    fleet.until(name, "completed")


def cancel(fleet: Fleet, name: str) -> None:
    """A running job is cancelled and requeued."""
    fleet.add(name, steps=LONG)
    fleet.until_training(name)
    fleet.operate("cancel", name)
    fleet.until(name, "cancelled")
    fleet.order(name)
    fleet.operate("requeue", name)
    fleet.until(name, "completed")


def train_again(fleet: Fleet, name: str) -> None:
    """A completed job is trained again: a new generation with the same bytes."""
    train(fleet, name)
    fleet.operate("requeue", name, force=True)
    fleet.wait(lambda: fleet.row(name)["generation"] > 1, "the new generation")
    fleet.until(name, "completed")


def refuse_reload(fleet: Fleet, name: str) -> None:
    """A manifest with a fault is refused, and the good one stays in force."""
    manifest = fleet.folder / "manifest.toml"
    good = manifest.read_text()
    manifest.write_text(good + "[[jobs]]\nmodel = 'none'\n")
    with contextlib.suppress(Refused, AssertionError):
        fleet.client.reload()
    manifest.write_text(good)
    train(fleet, name)


def cut_upload(fleet: Fleet, name: str) -> None:
    """The connection breaks twice in the middle of an upload."""
    left = [150_000, 60_000]

    def judge(exchange: Exchange) -> Fault | None:
        return Fault("cut-request", at=left.pop()) if exchange.phase == "upload" and left else None

    fleet.proxy.judge = judge
    fleet.add(name, size_bytes=300_000)
    fleet.until(name, "completed")


def leave_partial_upload(fleet: Fleet, name: str) -> None:
    """A job is cancelled while half of its artifact is there."""
    fleet.proxy.judge = lambda one: Fault("cut-request", at=100_000) if one.phase == "upload" else None
    fleet.add(name, size_bytes=300_000)
    fleet.wait(lambda: any(one.fault for one in fleet.proxy.exchanges[-40:]), "a cut upload")
    fleet.operate("cancel", name)
    fleet.until(name, "cancelled")
    fleet.proxy.judge = lambda one: None
    fleet.wait(lambda: not fleet.arrived(), "the half upload to be dropped", 20.0)
    fleet.operate("requeue", name)
    fleet.until(name, "completed")


def stop_worker(fleet: Fleet, name: str) -> None:
    """A worker is stopped in the middle of a job, which it gives back."""
    fleet.add(name, steps=LONG)
    fleet.until_training(name)
    fleet.order(name)
    next(iter(fleet.workers.values())).restart()
    fleet.until(name, "completed")


def interrupt_training(fleet: Fleet, name: str) -> None:
    """A worker is stopped in the middle of a long training of the real trainer, which goes on from its checkpoint."""
    fleet.add(name, rounds=2000)
    fleet.wait(lambda: "loss" in fleet.progress(), f"{name} to make progress")
    next(iter(fleet.workers.values())).restart()
    fleet.wait(lambda: fleet.row(name)["status"] == "completed", f"{name} to be completed", 3 * PATIENCE_S)


def kill_worker(fleet: Fleet, name: str) -> None:
    """A worker is killed in the middle of a job."""
    fleet.add(name, steps=LONG)
    fleet.until_training(name)
    fleet.order(name)
    next(iter(fleet.workers.values())).kill()
    fleet.until(name, "completed")


def kill_worker_with_result(fleet: Fleet, name: str) -> None:
    """A worker is killed while a result waits for an unreachable receiver."""
    fleet.proxy.judge = lambda one: Fault("refuse") if one.phase == "upload" else None
    fleet.add(name)
    fleet.wait(lambda: any(one.fault for one in fleet.proxy.exchanges[-40:]), "an upload in vain")
    next(iter(fleet.workers.values())).kill()
    fleet.proxy.judge = lambda one: None
    fleet.until(name, "completed")


def outage(fleet: Fleet, name: str) -> None:
    """The receiver cannot be reached for most of a lease: long enough to freeze, short enough to come back."""
    fleet.add(name, steps=OUTLASTING)
    fleet.until_training(name)
    fleet.proxy.judge = lambda one: Fault("refuse")
    time.sleep(0.9 * fleet.pace.lease_s)  # an outage has a length
    fleet.proxy.judge = lambda one: None
    fleet.until(name, "completed")


def lapse(fleet: Fleet, name: str) -> None:
    """The receiver cannot be reached for longer than a lease."""
    fleet.add(name, steps=OUTLASTING)
    fleet.until_training(name)
    fleet.proxy.judge = lambda one: Fault("refuse")
    fleet.until(name, "pending")
    fleet.proxy.judge = lambda one: None
    fleet.until(name, "completed")


def suspend_worker(fleet: Fleet, name: str) -> None:
    """A worker's daemon is stopped for longer than a lease."""
    worker = next(iter(fleet.workers.values()))
    fleet.add(name, steps=OUTLASTING)
    fleet.until_training(name)
    os.kill(worker.pid, signal.SIGSTOP)
    fleet.until(name, "pending", "completed")
    os.kill(worker.pid, signal.SIGCONT)
    fleet.until(name, "completed")


def stop_receiver(fleet: Fleet, name: str) -> None:
    """The receiver is stopped in an orderly way while a job runs."""
    fleet.add(name, steps=20)
    fleet.until_training(name)
    fleet.receiver.restart()
    fleet.until(name, "completed")


def kill_receiver(fleet: Fleet, name: str) -> None:
    """The receiver is killed while a job runs."""
    fleet.add(name, steps=20)
    fleet.until_training(name)
    fleet.receiver.kill()
    fleet.until(name, "completed")


def kill_receiver_with_part(fleet: Fleet, name: str) -> None:
    """The receiver is killed while it holds half of an upload, which goes on afterwards."""
    left = [150_000]

    def judge(exchange: Exchange) -> Fault | None:
        if exchange.phase == "upload" and left:
            return Fault("cut-request", at=left.pop())
        asks_where = exchange.method == "GET" and exchange.verb == "upload"
        return Fault("delay", seconds=4.0) if asks_where else None  # time for the next receiver to start

    fleet.proxy.judge = judge
    fleet.add(name, size_bytes=300_000)
    fleet.wait(lambda: not left and bool(fleet.arrived()), "half an upload")
    time.sleep(
        0.2
    )  # the receiver writes down what came when it notices the cut, and nothing tells when it has
    fleet.receiver.kill()
    fleet.wait(fleet.is_up, "the next receiver")
    fleet.until(name, "completed")


def fetch_again(fleet: Fleet, name: str) -> None:
    """A worker has lost its data sets and fetches them anew."""
    for host in fleet.hosts:
        shutil.rmtree(fleet.state(host) / "datasets", ignore_errors=True)
        (fleet.state(host) / "datasets").mkdir(parents=True)
    train(fleet, name)


def drain_host(fleet: Fleet, name: str) -> None:
    """The only host is drained, and gets the job that waits when that is over."""
    host = next(iter(fleet.workers))
    fleet.wait(lambda: fleet.knows(host), f"{host} to ask for a job")
    fleet.operate("drain", host)
    fleet.add(name)
    fleet.operate("undrain", host)
    fleet.until(name, "completed")


def fill_disk(fleet: Fleet, name: str) -> None:
    """The receiver's disk fills up to the last byte while the operator goes on; then there is space again."""
    assert fleet.disk is not None
    fleet.add(name, steps=LONG)
    fleet.until_training(name)
    fleet.disk.fill()
    fleet.operate("cancel", name)
    fleet.disk.free()
    fleet.order(name)
    fleet.operate("requeue", name)
    fleet.until(name, "completed")


ACTS: tuple[Act, ...] = (
    train, fail, kill_worker, cut_upload, cancel, stop_worker, stop_receiver, outage, kill_worker_with_result,
    kill_receiver_with_part, leave_partial_upload, kill_receiver, try_again, train_again, refuse_reload, lapse,
    suspend_worker, drain_host, fetch_again,
)  # fmt: skip
"""All but `fill_disk`, which needs a disk of its own, and `interrupt_training`, which needs the real trainer."""

_FIRST: dict[str, tuple[Act, ...]] = {
    "ballast": (fill_disk,),
    "coordinator.drain": (drain_host,),
    "coordinator.undrain": (drain_host,),
    "guard.daemon_gone": (kill_worker,),
    "guard.frozen": (outage,),
    "guard.thawed": (outage,),
    "queue.half_cancelled": (cancel,),
    "queue.half_expired": (lapse,),
    "queue.half_failed": (fail,),
    "queue.half_released": (stop_worker,),
    "queue.half_renewed": (lapse,),
    "receiver.before_close": (stop_receiver,),
    "receiver.closed": (stop_receiver,),
    "receiver": (kill_receiver,),
    "store.linked": (train_again,),
    "store.part_hashed_again": (kill_receiver_with_part,),
    "trainer.before_checkpoint": (interrupt_training,),
    "trainer.checkpoint": (interrupt_training,),
    "store.swept": (kill_receiver_with_part,),
    "upload": (cut_upload,),
    "worker.dataset": (fetch_again,),
    "worker.results_salvaged": (kill_worker_with_result,),
    "worker.leftovers_killed": (kill_worker,),
    "worker.record_settled": (kill_worker,),
}
"""Beginning of a point's name -> the acts that pass it for sure; where there are several, the first that fits."""


def plan_for(point: str) -> tuple[Act, ...]:
    """The acts that are likeliest to pass this point, twice, then all others."""
    first = next((acts for start, acts in _FIRST.items() if point.startswith(start)), (train,))
    return (*first, *first, *(act for act in ACTS if act not in first))


def play(fleet: Fleet, point: str) -> list[str]:
    """Play acts until the fleet's tickets are used up, or all are played; the names of those played."""
    played: list[str] = []
    for act in plan_for(point):
        name = f"{act.__name__.replace('_', '-')}-{len(played)}"
        played.append(name)
        act(fleet, name)
        fleet.proxy.judge = lambda one: None
        if fleet.tickets_left == 0:
            break
    return played
