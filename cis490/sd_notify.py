"""What a service tells systemd (`Type=notify`): that it is ready, that it lives, that it is about to end.

Outside systemd, and on other systems, nobody is told anything. The variables that systemd sets are taken out of the
environment, so that no child process answers in this one's name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

MOST_S = 60.0
"""How far apart two signs of life are at most, however patient systemd is: the status line should be fresh."""


@dataclass(frozen=True, slots=True)
class Systemd:
    """The service manager, or nobody when `address` is None."""

    address: str | bytes | None = None
    watchdog_s: float | None = None
    """After so many seconds without `alive` systemd kills the service; None: it does not watch."""

    @property
    def every_s(self) -> float:
        """How often a sign of life is due: three times as often as systemd asks, so that one may get lost."""
        return MOST_S if self.watchdog_s is None else min(MOST_S, self.watchdog_s / 3)

    def ready(self, status: str = "") -> None:
        """Start-up is over: what waits for this service may start."""
        self._send("READY=1", status)

    def alive(self, status: str = "") -> None:
        """A sign of life; `status` is what `systemctl status` shows."""
        self._send("WATCHDOG=1", status)

    def stopping(self, status: str = "") -> None:
        """An orderly end has begun."""
        self._send("STOPPING=1", status)

    def _send(self, state: str, status: str) -> None:
        if self.address is None:
            return
        text = f"{state}\nSTATUS={' '.join(status.split())}" if status else state
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                # A manager that does not read must not hold up the service; it asks again by its watchdog.
                sender.settimeout(1.0)
                sender.sendto(text.encode("utf-8", "replace"), self.address)
        except OSError:
            return


def systemd(environ: MutableMapping[str, str] = os.environ, pid: int | None = None) -> Systemd:
    """Who started this process, by the environment, from which it is taken. `pid` is this process's own."""
    address = environ.pop("NOTIFY_SOCKET", "")
    microseconds, watched = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not hasattr(socket, "AF_UNIX") or not address.startswith(("/", "@")):
        return Systemd()
    found = b"\0" + address[1:].encode() if address.startswith("@") else address
    is_ours = not watched or watched == str(os.getpid() if pid is None else pid)
    is_watched = is_ours and microseconds.isascii() and microseconds.isdecimal() and int(microseconds) > 0
    return Systemd(found, int(microseconds) / 1e6 if is_watched else None)
