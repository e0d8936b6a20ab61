"""The demo's folder and the processes in it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.fleet.client import FleetClient, FleetError, Unreachable

ROOT = Path(__file__).resolve().parent.parent
START_S = 30.0
"""Longest wait for a process to report; a slow disk and a cold start take a tenth of it."""
STOP_S = 20.0
TAIL_LINES = 15


class DemoError(Exception):
    """The demo cannot go on; the text says why and what to type."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the demo keeps what. `marker` says that the folder is the demo's own and may be deleted."""

    path: Path

    @property
    def marker(self) -> Path:
        return self.path / ".cis490-demo"

    @property
    def manifest(self) -> Path:
        return self.path / "training_manifest.toml"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def token(self) -> Path:
        return self.path / "operator-token"

    @property
    def address(self) -> Path:
        """Holds the receiver's URL while one runs."""
        return self.path / "receiver-url"

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def shown(self, path: Path | None = None) -> str:
        """The path as one would type it in the current folder."""
        whole = path or self.path
        return str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole)


def prepare(folder: Folder, *, keep: bool) -> None:
    """Make the demo's folder, empty unless `keep`. Only a folder that the demo made itself is ever deleted."""
    path = folder.path
    if path.exists() and not folder.marker.is_file() and (not path.is_dir() or any(path.iterdir())):
        raise DemoError(
            f"{path} is there already and was not made by the demo; it is left alone.\n"
            "  Move it away, or name another folder: make demo ARGS='--folder OTHER'"
        )
    refuse_if_running(folder)
    if path.exists() and not keep:
        shutil.rmtree(path)
    (path / "logs").mkdir(parents=True, exist_ok=True)
    folder.marker.write_text(
        "Made by tools/demo.py, which deletes this folder when it runs again.\n", encoding="utf-8"
    )


def refuse_if_running(folder: Folder) -> None:
    """Raises DemoError while a receiver serves this folder."""
    if not folder.address.is_file():
        return
    url = folder.address.read_text(encoding="utf-8").strip()
    try:
        FleetClient(url, timeout_s=2.0).health()
    except FleetError:
        folder.address.unlink()  # left behind by a demo that was killed
        return
    raise DemoError(
        f"a receiver on {url} is serving {folder.shown()} right now.\n  Stop it first: Ctrl-C in its terminal."
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A process of the fleet and where it logs to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def must_live(self) -> None:
        """Raises DemoError with the end of the log when the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise DemoError(f"the {self.name} ended with exit code {code}.\n{tail(self.log)}")

    def stop(self) -> None:
        """Ask the process to end, and end it if it does not within STOP_S."""
        if self.process.poll() is not None:
            return
        if sys.platform == "win32":
            self.process.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(folder: Folder, name: str, module: str, *options: str, env: dict[str, str] | None = None) -> Part:
    """Start a module of this checkout, with its output in the log. It gets a process group of its own, so that
    Ctrl-C reaches only the demo, which then stops the parts in order."""
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
    log = folder.log(name)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options],
            cwd=ROOT,
            env=_neutral_environment() | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=sys.platform != "win32",
            creationflags=flags,
        )
    return Part(name, process, log)


def _neutral_environment() -> dict[str, str]:
    """The environment without settings meant for another fleet than the demo's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CIS490_")}


def tail(log: Path) -> str:
    """The end of a log, indented."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join([f"The end of {log}:", *(f"    {line}" for line in lines)])


@contextmanager
def running_receiver(folder: Folder, port: int) -> Iterator[tuple[FleetClient, Part, str]]:
    """A receiver that answers, on the folder's queue and store; stopped when the block ends."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    part = start(
        folder,
        "receiver",
        "training.fleet.receiver",
        *("--listen-addr", f"127.0.0.1:{port}", "--manifest", str(folder.manifest)),
        *("--db", str(folder.path / "training_jobs.db"), "--store-root", str(folder.models)),
        *(
            "--incoming-root",
            str(folder.path / "incoming"),
            "--index-path",
            str(folder.models / "index.jsonl"),
        ),
        *("--heartbeat-s", "2"),  # the short trainings of a demo shall show their progress
        env={"CIS490_OPERATOR_TOKEN": operator_token(folder)},
    )
    try:
        client = FleetClient(url, timeout_s=10.0)
        await_health(client, part)
        folder.address.write_text(url + "\n", encoding="utf-8")
        yield client, part, url
    finally:
        part.stop()
        folder.address.unlink(missing_ok=True)


def await_health(client: FleetClient, part: Part) -> None:
    """Return once the receiver answers."""
    deadline_s = time.monotonic() + START_S
    while True:
        part.must_live()
        try:
            client.health()
            return
        except Unreachable:
            if time.monotonic() > deadline_s:
                raise DemoError(
                    f"the receiver does not answer after {START_S:g} s.\n{tail(part.log)}"
                ) from None
            time.sleep(0.05)


def free_port() -> int:
    """A port on loopback that nobody listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def operator_token(folder: Folder) -> str:
    """The folder's operator token, readable by its owner alone; made at the first call."""
    if not folder.token.exists():
        folder.token.touch(0o600)
        folder.token.write_text(secrets.token_urlsafe(24) + "\n", encoding="utf-8")
    return folder.token.read_text(encoding="utf-8").strip()
