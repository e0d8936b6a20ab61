"""A small fleet of real processes on this machine, for tests that break it: receiver, proxy, workers, operator.

Leases are short by configuration. Whatever dies by SIGKILL is started again by `tend`, which every wait calls, as a
service manager would; any other unexpected end fails the test. `finish` lets the fleet come to rest, collects the
evidence and asks the oracle (`fault_oracle`).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cis490 import failpoints
from cis490.digest import sha256_bytes, sha256_file
from cis490.episodes.dataset import pack
from tests.factories import fault_trainer
from tests.factories.fault_acks import worker_acks
from tests.factories.fault_oracle import FINAL, Ack, Evidence, Stamp, faults_of
from tests.factories.fault_service import PATIENCE_S, Service
from tests.factories.minimal_episode import episode_bytes
from tests.factories.proxy import Proxy
from tests.factories.small_disk import SmallDisk
from training.fleet.client import FleetClient, FleetError, Refused, Unreachable
from training.fleet.guard_wire import MARK

FLEET_MARK = "CIS490_FAULT_FLEET"
"""In the environment of every process of a fleet: its folder."""
TOKEN = "operator-token-of-the-fault-tests"


@dataclass(frozen=True)
class Pace:
    """Lengths of a fleet's periods in seconds."""

    lease_s: float = 3.0
    heartbeat_s: float = 0.3
    sweep_s: float = 0.3


@dataclass
class Fleet:
    """Use as a context manager. `receiver_folder` and `state_root` may lie on other file systems."""

    folder: Path
    pace: Pace = field(default_factory=Pace)
    hosts: Sequence[str] = ("lab-a",)
    trainer: str = "tests.factories.fault_trainer"
    receiver_folder: Path | None = None
    state_root: Path | None = None
    socket_path: Path | None = None
    """Listen on this Unix socket instead of a port."""
    listener: socket.socket | None = None
    """What the proxy listens on; default: a free port of 127.0.0.1."""
    worker_prefix: Sequence[str] = ()
    """Put before a worker's command, such as `ip netns exec NAME`."""
    failpoint: str = ""
    """Name of the place that kills whoever passes it, as often as there are tickets."""
    tickets: int = 1
    dataset: tuple[str, Path] | None = None
    """(id, packed file); default: one tiny episode."""
    disk: SmallDisk | None = None
    """The file system that `receiver_folder` lies on, where acts may fill it."""
    note: Callable[[dict[str, int]], None] = lambda counts: None
    """Told the denominators at the end."""

    def __post_init__(self) -> None:
        self.receiver_folder = self.receiver_folder or self.folder / "receiver"
        self.state_root = self.state_root or self.folder
        self.receiver_folder.mkdir(exist_ok=True)
        self.ticket_folder = self.folder / "tickets"
        self.ticket_folder.mkdir()
        for n in range(self.tickets if self.failpoint else 0):
            (self.ticket_folder / str(n)).touch()
        self.plan: dict[str, dict[str, float]] = {"": {}}
        self.specs: dict[str, int] = {}
        self.unguarded: set[str] = set()
        self._unused = 0
        self._operator_acks: list[Ack] = []
        self._write_plan()
        if self.dataset is None:
            episodes = self.folder / "episodes"
            (episodes / "lab-a").mkdir(parents=True)
            (episodes / "lab-a/one.episode").write_bytes(episode_bytes())
            packed = self.folder / "data.tar.zst"
            self.dataset = pack(episodes, packed), packed
        self._write_manifest()
        self.port = _free_port()
        upstream = str(self.socket_path) if self.socket_path else self.port
        self.proxy = Proxy(upstream, listener=self.listener)
        address = f"unix:{self.socket_path}" if self.socket_path else f"http://127.0.0.1:{self.port}"
        self.client = FleetClient(address, operator_token=TOKEN, timeout_s=10.0)
        self.receiver = self._receiver()
        self.workers = {host: self._worker(host) for host in self.hosts}

    # -- its processes -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        self.receiver.start()
        self.wait(self.is_up, "the receiver's first answer")
        for worker in self.workers.values():
            worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self.services:
            if service.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    service.process.send_signal(signal.SIGCONT)
                service.process.kill()
                service.process.wait(PATIENCE_S)
        for pid, _ in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.proxy.__exit__(kind, error, trace)
        if error is not None:
            for service in self.services:
                print(
                    f"--- {service.name}\n{service.log.read_text()[-6000:] if service.log.exists() else ''}"
                )

    @property
    def services(self) -> list[Service]:
        return [self.receiver, *self.workers.values()]

    def tend(self) -> None:
        for service in self.services:
            service.tend()

    def wait(self, is_so: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Look again and again, restarting what was killed."""
        end = time.monotonic() + patience_s
        while True:
            self.tend()
            if is_so():
                return
            assert time.monotonic() < end, f"waited {patience_s:g} s for {what}"
            time.sleep(0.02)

    def is_up(self) -> bool:
        try:
            return self.client.health().get("status") == "ok"
        except FleetError:
            return False

    @property
    def tickets_left(self) -> int:
        return len(os.listdir(self.ticket_folder))

    def knows(self, host: str) -> bool:
        """Whether the receiver has heard of this host."""
        try:
            return any(one["host"] == host for one in self.client.workers())
        except FleetError:
            return False

    def disarm(self) -> None:
        """Take the tickets that are left: nothing strikes any more."""
        for ticket in self.ticket_folder.iterdir():
            ticket.unlink(missing_ok=True)
            self._unused += 1

    @property
    def kills(self) -> int:
        strikes = self.tickets - self.tickets_left - self._unused if self.failpoint else 0
        return max(strikes, sum(service.kills for service in self.services))

    def state(self, host: str) -> Path:
        assert self.state_root is not None
        return self.state_root / f"state-{host}"

    def processes(self) -> list[tuple[int, str]]:
        """(pid, command) of every living process of this fleet, the services included."""
        marks = [f"{FLEET_MARK}={self.folder}".encode()]
        marks += [sha256_bytes(str(self.state(host).resolve()).encode()).encode() for host in self.hosts]
        found: list[tuple[int, str]] = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environ = (entry / "environ").read_bytes()
                is_ours = marks[0] in environ.split(b"\0") or any(
                    item.startswith(f"{MARK}=".encode()) and item.endswith(mark)
                    for item in environ.split(b"\0")
                    for mark in marks[1:]
                )
                if is_ours and int(entry.name) != os.getpid():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found.append((int(entry.name), command))
        return found

    def _environment(self, *, armed: bool) -> dict[str, str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("CIS490_")}
        env |= {
            FLEET_MARK: str(self.folder),
            fault_trainer.PLAN_VARIABLE: str(self.folder / "plan.json"),
            fault_trainer.LOG_VARIABLE: str(self.folder / "runs.log"),
        }
        if armed and self.failpoint:
            env[failpoints.VARIABLE] = f"{self.failpoint}=kill"
            env[failpoints.TICKETS_VARIABLE] = str(self.ticket_folder)
        return env

    def _receiver(self) -> Service:
        home, pace = self.receiver_folder, self.pace
        assert home is not None
        listen = f"unix:{self.socket_path}" if self.socket_path else f"127.0.0.1:{self.port}"
        argv = [
            "training.fleet.receiver", "--listen-addr", listen, "--manifest", str(self.folder / "manifest.toml"),
            "--db", str(home / "q.db"), "--store-root", str(home / "models"),
            "--incoming-root", str(home / "incoming"), "--index-path", str(home / "models/index.jsonl"),
            "--stale-after-s", str(pace.lease_s), "--heartbeat-s", str(pace.heartbeat_s),
            "--sweep-every-s", str(pace.sweep_s),
        ]  # fmt: skip
        env = self._environment(armed=True) | {"CIS490_OPERATOR_TOKEN": TOKEN}
        return Service("receiver", argv, env, self.folder / "receiver.log")

    def _worker(self, host: str) -> Service:
        argv = [
            "training.fleet.worker", "--receiver-url", self.proxy.url, "--host", host, "--poll-s", "0.1",
            "--state-dir", str(self.state(host)), "--trainer-module", self.trainer,
        ]  # fmt: skip
        env = self._environment(armed=True)
        return Service(host, argv, env, self.folder / f"{host}.log", self.worker_prefix)

    # -- its work ------------------------------------------------------------------------------------------

    def add(self, *names: str, **orders: float) -> None:
        """Add new jobs of these names to the manifest and reload it; `orders` go to their trainer, the stub; the
        real one heeds `rounds`."""
        for name in names:
            n = len(self.specs)
            self.specs[name] = int(orders["rounds"]) - n if "rounds" in orders else n + 1
            self.plan[name] = dict(orders)
        self._write_plan()
        self._write_manifest()
        self.operate("reload")

    def order(self, name: str, **orders: float) -> None:
        """Let the job's next attempt do this."""
        self.plan[name] = dict(orders)
        self._write_plan()

    def _write_plan(self) -> None:
        partial = self.folder / "plan.json.partial"
        partial.write_text(json.dumps(self.plan))
        partial.rename(self.folder / "plan.json")

    def _write_manifest(self) -> None:
        assert self.dataset is not None
        dataset_id, packed = self.dataset
        text = (
            f'name = "faults"\n[dataset]\nid = "{dataset_id}"\nfile = "{packed}"\n'
            '[policy]\ntrainer = "any"\nmax_failures = 50\nmax_host_losses = 50\npause_after_failures = 0\n'
            "same_host_s = 1\n"
        )
        for name, rounds in self.specs.items():
            text += f'[[jobs]]\nname = "{name}"\nmodel = "gbt"\nmode = "realistic"\nhyper.rounds = {rounds}\n'
        (self.folder / "manifest.toml").write_text(text)

    def operate(self, verb: str, name: str = "", **options: bool) -> None:
        """An operator's verb on a job or host, asked again until answered: the receiver may be killed in it."""
        method = getattr(self.client, verb)
        is_known = name in self.specs
        before = self.row(name) if is_known else {"job_id": name, "status": ""}
        job_id = str(before["job_id"])
        was_unheard = False
        end = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < end, f"{verb} {name} was refused for {PATIENCE_S:g} s"
            try:
                method(*([job_id] if name else []), **options)
            except Unreachable:
                was_unheard = True
                self.wait(self.is_up, f"the receiver, for {verb} {name}")
            except Refused as refused:
                if refused.status == 409 and was_unheard:
                    return  # it took effect the first time, and the job has moved on
                if refused.status not in (503, 507):
                    raise
                self.tend()
                time.sleep(0.1)
            else:
                # A job that waits is requeued by doing nothing, and nothing is written about that.
                if verb == "cancel" or (verb == "requeue" and before["status"] in FINAL):
                    self._operator_acks.append(Ack(verb, job_id))
                return

    def rows(self) -> list[dict[str, Any]]:
        while True:
            try:
                return self.client.jobs()
            except FleetError:
                self.wait(self.is_up, "the receiver, to list the jobs")

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.rows() if row["name"] == name)

    def id_of(self, name: str) -> str:
        return str(self.row(name)["job_id"])

    def until(self, name: str, *statuses: str) -> None:
        """Wait for the job to be in one of these states."""
        self.wait(lambda: self.row(name)["status"] in statuses, f"{name} to be {' or '.join(statuses)}")

    def until_training(self, name: str, steps: int = 1) -> Stamp:
        """Wait for a living trainer of this job that has made some steps; its latest stamp."""

        def latest() -> Stamp | None:
            mine = [stamp for stamp in self.stamps() if stamp.job == name]
            if not mine or mine[-1].kind == "end" or not Path(f"/proc/{mine[-1].pid}").exists():
                return None
            return mine[-1] if sum(stamp.pid == mine[-1].pid for stamp in mine) > steps else None

        self.wait(lambda: latest() is not None, f"a training of {name}")
        found = latest()
        return found if found is not None else self.until_training(name, steps)

    def progress(self) -> str:
        """What the trainers that run now have written to their progress files."""
        files = (path for host in self.hosts for path in self.state(host).rglob("progress.jsonl"))
        return "".join(path.read_text() for path in files)

    def stamps(self) -> list[Stamp]:
        path = self.folder / "runs.log"
        lines = path.read_text().splitlines() if path.exists() else []
        split = (line.split() for line in lines)
        return [Stamp(kind, int(pid), job, int(epoch), float(at)) for kind, pid, job, epoch, at in split]

    def processes_of(self, stamp: Stamp) -> dict[str, int]:
        """Pids of the receiver, the daemon, the guard (if it is a process of its own) and the trainer of this run."""
        parent = _parent(stamp.pid)
        daemons = {worker.pid for worker in self.workers.values()}
        chain = {"receiver": self.receiver.pid, "trainer": stamp.pid}
        if parent in daemons:
            return chain | {"daemon": parent}
        return chain | {"guard": parent, "daemon": next(iter(daemons & {_parent(parent), *daemons}))}

    # -- its end -------------------------------------------------------------------------------------------

    def finish(self) -> Evidence:
        """Let the faults end and the fleet rest, then ask the oracle; AssertionError for its findings."""
        self.proxy.judge = lambda exchange: None
        with contextlib.suppress(AssertionError):  # the oracle says which job is stuck
            self.wait(self._is_at_rest, "the fleet to come to rest")
        found = self._evidence()
        wrong = faults_of(found)
        counts = self.denominators(found)
        self.note(counts)
        print(", ".join(f"{n} {what}" for what, n in counts.items()))
        assert not wrong, "\n".join(wrong)
        return found

    def denominators(self, found: Evidence) -> dict[str, int]:
        """How much was tried."""
        return {
            "acks": len(found.acks),
            "attempts": sum(len(job["attempts_log"]) for job in found.jobs),
            "jobs": len(found.jobs),
            "artifacts": len(found.blobs),
            "steps": len(found.stamps),
            "kills": self.kills,
            "network faults": len(self.proxy.struck()),
        }

    def _is_at_rest(self) -> bool:
        statuses = {row["status"] for row in self.rows()}
        return statuses <= set(FINAL) and not any(self._owed())

    def _owed(self) -> list[str]:
        return [
            str(path)
            for host in self.hosts
            for name in ("leases", "spool", "jobs")
            if (self.state(host) / name).is_dir()
            for path in (self.state(host) / name).iterdir()
        ]

    def arrived(self) -> list[str]:
        """What lies in the receiver's folder for uploads under way."""
        assert self.receiver_folder is not None
        return [str(path) for path in (self.receiver_folder / "incoming").iterdir()]

    def _evidence(self) -> Evidence:
        assert self.receiver_folder is not None
        jobs = [self.client.job(row["job_id"]) for row in self.rows()]
        # One that was started a moment ago would end by the signal, before it could listen to it.
        workers = self.workers.values()
        self.wait(lambda: all(one.has_said("event=worker.started") for one in workers), "the workers' starts")
        codes = {name: worker.stop() for name, worker in self.workers.items()}
        assert set(codes.values()) == {0}, f"workers ended with {codes}"
        with contextlib.suppress(AssertionError):
            self.wait(lambda: not self.arrived(), "incoming to be empty", 5.0)
            self.wait(lambda: not self._strangers(), "the last processes to end", 5.0)
        assert self.receiver.stop() == 0, self.receiver.log.read_text()[-2000:]
        with contextlib.closing(sqlite3.connect(self.receiver_folder / "q.db")) as database:
            integrity = str(database.execute("PRAGMA integrity_check").fetchone()[0])
        blobs = {
            path.parent.name: str(sha256_file(path))
            for path in (self.receiver_folder / "models").glob("*/*/bundle.tar.zst")
        }
        return Evidence(
            stamps=self.stamps(),
            acks=[*self._operator_acks, *worker_acks(self.proxy)],
            jobs=jobs,
            blobs=blobs,
            orphans=self._strangers(),
            leftovers=[*self._owed(), *self.arrived()],
            database=integrity,
            unguarded=frozenset(self.unguarded),
        )

    def _strangers(self) -> list[str]:
        known = {service.process.pid for service in self.services if service.process is not None}
        return [f"{pid} {command}" for pid, command in self.processes() if pid not in known]


def _free_port() -> int:
    """Below the range that outgoing connections take theirs from: the receiver shall get it back after each kill."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
