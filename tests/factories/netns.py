"""Two network namespaces with a cable between them, the receiver's side and the worker's. Needs root, ip, nft, tc."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
WORKER_ADDRESS, RECEIVER_ADDRESS = "10.89.0.1", "10.89.0.2"
PORT = 8445


def why_not() -> str | None:
    """The reason why this machine cannot do it; None when it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "nft", "tc") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    name = f"cis490-probe-{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "delete", name)
    except subprocess.CalledProcessError as error:
        return f"no network namespace can be made here: {error.stderr.strip()}"
    return None


class Cable:
    """Use as a context manager. Faults are put on the worker's end."""

    def __init__(self) -> None:
        suffix = f"{os.getpid()}"
        self.worker, self.receiver = f"cis490-w-{suffix}", f"cis490-r-{suffix}"
        self._device = f"c{suffix}"

    def __enter__(self) -> Self:
        for name in (self.worker, self.receiver):
            _run("ip", "netns", "add", name)
        near, far = f"{self._device}w", f"{self._device}r"
        _run("ip", "link", "add", near, "netns", self.worker, "type", "veth",
             "peer", "name", far, "netns", self.receiver)  # fmt: skip
        for name, device, address in (
            (self.worker, near, WORKER_ADDRESS),
            (self.receiver, far, RECEIVER_ADDRESS),
        ):
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", device)
            _run("ip", "-n", name, "link", "set", device, "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in (self.worker, self.receiver):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def listener(self) -> socket.socket:
        """A socket that listens on the receiver's side; a socket stays in the namespace that it was made in."""
        made: list[socket.socket] = []

        def listen() -> None:
            _enter(self.receiver)
            made.append(socket.create_server((RECEIVER_ADDRESS, PORT)))

        thread = threading.Thread(target=listen)  # entering a namespace concerns one thread, which then ends
        thread.start()
        thread.join()
        return made[0]

    def prefix(self) -> list[str]:
        """What starts a command on the worker's side."""
        return ["ip", "netns", "exec", self.worker]

    def rules(self, *rules: str) -> None:
        """Put these nft rules (`input ...` or `output ...`) in place of all former ones, on the worker's side."""
        text = "flush ruleset\ntable inet f {\n"
        for hook in ("input", "output"):
            mine = [rule.partition(" ")[2] for rule in rules if rule.startswith(hook)]
            body = "\n".join(mine)
            text += f"chain {hook} {{ type filter hook {hook} priority 0;\n{body}\n}}\n"
        _run(*self.prefix(), "nft", "-f", "-", given=text + "}\n")

    def limit(self, rate: str) -> None:
        """Let the worker send no faster than this (`512kbit`)."""
        _run(*self.prefix(), "tc", "qdisc", "replace", "dev", f"{self._device}w", "root", "tbf",
             "rate", rate, "burst", "16kb", "latency", "400ms")  # fmt: skip

    def unlimit(self) -> None:
        """Full speed again."""
        _run(*self.prefix(), "tc", "qdisc", "delete", "dev", f"{self._device}w", "root")


def _enter(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{name}").open("rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {name}")


def _run(*command: str, given: str = "") -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, input=given)
