"""A worker in the test's process: real client, real trainers behind real guards; receiver and clock are the test's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cis490.clock import Clock, ManualClock, SystemClock
from tests.factories.fake_receiver import FakeReceiver, lease
from training.fleet.attempt import Run, Tools, start_trainer
from training.fleet.capability import Survey
from training.fleet.client import FleetClient
from training.fleet.guard_wire import TrainerCommand
from training.fleet.stopping import Stop
from training.fleet.types import Capability
from training.fleet.worker import Surroundings, Worker
from training.fleet.worker_settings import WorkerSettings
from training.fleet.worker_state import Ending, LeaseRecord, StateFolder

DATASET = "d" * 64


class QuickStop(Stop):
    """Pauses take time on the test's clock only; `on_pause` lets the test act in them."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self.on_pause: Callable[[int], None] = lambda count: None
        self._clock = clock

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self._clock.advance(max(0.0, seconds))
        self.on_pause(len(self.pauses))
        return self.requested


class Bench:
    """A worker with everything around it in the test's hands."""

    def __init__(self, receiver: FakeReceiver, folder: Path) -> None:
        self.receiver = receiver
        self.clock = ManualClock(SystemClock().now_s())  # the guards, which are real, have the machine's
        self.stop = QuickStop(self.clock)
        self.state = StateFolder(folder / "state")
        self.surveys = 0
        self.on_nap: Callable[[], None] = lambda: None
        self.commit = "first"
        self.start_trainer: Callable[[TrainerCommand, Clock], Run] = start_trainer
        self.guards_lost: dict[str, int] = {}
        self.settings = WorkerSettings(
            receiver_url=receiver.url,
            state_dir=self.state.root,
            host="lab-a",
            poll_s=5.0,
            once=False,
            exit_when_idle_s=0.0,
            trainer_module="tests.factories.stub_trainer",
            max_frozen_s=None,
            log_level="INFO",
        )
        self._ids = iter(f"id-{n}" for n in range(1, 100))
        present = self.state.dataset(DATASET)
        present.mkdir(exist_ok=True)
        (present / "lab-a").mkdir(exist_ok=True)

    def run(self, **settings: Any) -> None:
        client = FleetClient(self.receiver.url, host="lab-a", timeout_s=5.0)
        around = Surroundings(
            self._survey,
            lambda: self.commit,
            self.clock,
            self._nap,
            lambda: 0.5,
            lambda: next(self._ids),
        )
        tools = Tools(
            client,
            self.state,
            self.stop,
            self.clock,
            around.sleep,
            around.random01,
            self.start_trainer,
            self.settings.trainer_module,
            guards_lost=self.guards_lost,
        )
        Worker(replace(self.settings, **settings), client, self.state, self.stop, around, tools).run()

    def leftovers(self) -> list[str]:
        root = self.state.root
        return sorted(
            path.relative_to(root).as_posix()
            for folder in (self.state.leases, self.state.spool, self.state.jobs)
            for path in folder.iterdir()
        )

    def _nap(self, seconds: float) -> None:
        """Give the trainer's process a moment, however long the worker wanted to wait."""
        time.sleep(0.002)
        self.on_nap()

    def _survey(self) -> Survey:
        self.surveys += 1
        return Survey(Capability(hostname="lab-a", models=["gbt"]))


def left_behind(bench: Bench, name: str, ending: Ending | None) -> LeaseRecord:
    answer = lease(name)
    record = LeaseRecord(answer["job_id"], name, 1, 30.0, f"token-of-{name}", ending)
    (bench.state.job_folder(record)).mkdir()
    return bench.state.save(record)
