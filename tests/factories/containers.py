"""Machines with systemd, each with an address of its own on one network. Needs root and Debian's systemd-container.

A container is a read-only Debian (scripts/platforms.sh makes it) under a folder of its own, started by systemd-nspawn
with systemd as its process 1. Commands are run inside by nsenter.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

CACHE = Path(os.environ.get("CIS490_PLATFORM_CACHE") or Path.home() / ".cache" / "cis490-platforms")
NETWORK = "10.91.0"
"""Its first three numbers; the first container has .1."""
CGROUPS = ("unified", "systemd")
BOOT_S = 60.0


def why_not() -> str | None:
    """The reason why this machine cannot do it; None when it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "containers with systemd need root"
    missing = [tool for tool in ("systemd-nspawn", "nsenter", "ip") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: systemd-container, iproute2)"
    if image() is None:
        return f"no Debian for containers in {CACHE}; type: scripts/platforms.sh systemd"
    return None


def image() -> Path | None:
    """The folder with `debian` and `wheels` that scripts/platforms.sh made."""
    found = [path for path in CACHE.glob("systemd-*") if path.suffix != ".partial"]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


@dataclass
class Network:
    """A switch in a namespace of its own, and a namespace for each container. Use as a context manager."""

    _names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._switch = f"cis490-switch-{os.getpid()}"

    def __enter__(self) -> Self:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in (*self._names, self._switch):
            _ip("netns", "delete", name)

    def plug(self) -> tuple[str, str]:
        """A namespace with a cable to the switch: (its name, its address)."""
        number = len(self._names) + 1
        name, near, far = f"cis490-{number}-{os.getpid()}", f"c{number}", "host0"
        _ip("netns", "add", name)
        self._names.append(name)
        _ip("-n", self._switch, "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        _ip("-n", self._switch, "link", "set", near, "master", "switch", "up")
        _ip("-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", far)
        for device in (far, "lo"):
            _ip("-n", name, "link", "set", device, "up")
        return name, f"{NETWORK}.{number}"


class Container:
    """One machine. Use as a context manager; what it wrote is gone afterwards."""

    def __init__(self, name: str, folder: Path, network: Network, seen: Mapping[str, Path]) -> None:
        """`seen`: read-only folders of this machine by their path inside."""
        self.name, self._folder, self._seen = name, folder, dict(seen)
        self.namespace, self.address = network.plug()
        self.root = folder / "root"
        self._nspawn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        base = image()
        assert base is not None
        for name in ("root", "upper", "work"):
            (self._folder / name).mkdir(parents=True)
        layers = (
            f"lowerdir={base / 'debian'},upperdir={self._folder / 'upper'},workdir={self._folder / 'work'}"
        )
        _run("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        (self.root / "etc" / "hostname").write_text(f"{self.name}\n")
        (self.root / "etc" / "hosts").write_text(f"127.0.0.1 localhost {self.name}\n")
        # The distribution's own proxy serves nothing here.
        (self.root / "etc/systemd/system/multi-user.target.wants/caddy.service").unlink(missing_ok=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for _ in range(50):  # the kernel lets go of a mount a moment after the last process
            if subprocess.run(["umount", str(self.root)], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        for hierarchy in CGROUPS:
            _remove_cgroup(Path("/sys/fs/cgroup", hierarchy, self.namespace))

    def start(self) -> None:
        """Switch it on, and wait until systemd has come up."""
        # Containers would share one control group otherwise, and services of the same name would collide.
        groups = [f"/sys/fs/cgroup/{each}/{self.namespace}" for each in CGROUPS]
        own = " ".join(f"mkdir -p {group} && echo $$ >{group}/cgroup.procs &&" for group in groups)
        command = ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "-D", str(self.root), "-M", self.name,
                   f"--network-namespace-path=/run/netns/{self.namespace}", "--resolv-conf=off", "--timezone=off",
                   *(f"--bind-ro={path}:{inside}" for inside, path in self._seen.items()), "-b"]  # fmt: skip
        console = (self._folder / "console").open("ab")
        self._nspawn = subprocess.Popen(
            ["sh", "-c", f'{own} exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
        )  # fmt: skip
        console.close()
        self.wait_up()

    def wait_up(self) -> None:
        """Until systemd says that everything has been started, well or not."""
        end_s = time.monotonic() + BOOT_S
        while time.monotonic() < end_s:
            if self.leader() is not None:
                said = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if said in ("running", "degraded"):
                    return
            time.sleep(0.1)
        raise AssertionError(
            f"{self.name} has not come up: {(self._folder / 'console').read_text(errors='replace')}"
        )

    def leader(self) -> int | None:
        """Process 1 of the container, as this machine numbers it."""
        assert self._nspawn is not None
        try:
            text = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text()
        except OSError:
            return None
        pids = text.split()
        return int(pids[0]) if pids else None

    def run(
        self, *command: str, stdin: str | None = None, check: bool = True, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """A command inside, as root. Its standard input is empty unless given."""
        leader = self.leader()
        done = subprocess.run(
            ["nsenter", "-t", str(leader), "-a", "--", "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
             "HOME=/root", "LANG=C.UTF-8", *command],
            input=stdin or "", capture_output=True, text=True, check=False, timeout=timeout_s, cwd="/",
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(
                f"{self.name}: {' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def shell(
        self, script: str, *, stdin: str | None = None, check: bool = True, timeout_s: float = 300.0
    ) -> str:
        """What a shell inside prints."""
        return self.run("bash", "-c", script, stdin=stdin, check=check, timeout_s=timeout_s).stdout

    def until(self, script: str, *, seconds: float = 60.0) -> str:
        """Run `script` until it succeeds, and return what it printed."""
        end_s = time.monotonic() + seconds
        while True:
            done = self.run("bash", "-c", script, check=False)
            if done.returncode == 0:
                return done.stdout
            if time.monotonic() > end_s:
                raise AssertionError(
                    f"{self.name}: not within {seconds} s: {script}\n{done.stdout}{done.stderr}\n{self.journal()}"
                )
            time.sleep(0.2)

    def journal(self, lines: int = 60) -> str:
        return self.run("journalctl", "--no-pager", "-n", str(lines), check=False).stdout

    def reboot(self) -> None:
        """As a person would: its process 1 is another one afterwards."""
        before = self.leader()
        self.run("systemctl", "reboot", "--no-block", check=False)
        end_s = time.monotonic() + BOOT_S
        while self.leader() in (before, None) and time.monotonic() < end_s:
            assert self._nspawn is not None
            if self._nspawn.poll() is not None:  # an nspawn that does not start it again by itself
                self.start()
                return
            time.sleep(0.1)
        self.wait_up()

    def stop(self) -> None:
        """Switch it off; pull the plug when that takes too long."""
        nspawn, leader = self._nspawn, self.leader()
        if nspawn is None or nspawn.poll() is not None:
            return
        if leader is not None:
            os.kill(leader, signal.SIGRTMIN + 4)  # power off
        try:
            nspawn.wait(30.0)
        except subprocess.TimeoutExpired:
            if leader is not None:
                os.kill(leader, signal.SIGKILL)  # nspawn alone would leave them
            nspawn.kill()
            nspawn.wait(30.0)


@contextmanager
def containers(folder: Path, names: Sequence[str], seen: Mapping[str, Path]) -> Iterator[list[Container]]:
    """Machines of these names, running, on one network."""
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        yield [stack.enter_context(Container(name, folder / name, network, seen)) for name in names]


def snapshot(checkout: Path, target: Path) -> Path:
    """A repository with the files of the checkout as they are now, committed or not; returns `target`."""
    listed = _run("git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in sorted(set(listed.split("\0")) - {""}):
        if (checkout / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, target / name)
    git = ("git", "-C", str(target), "-c", "user.name=test", "-c", "user.email=test@example.org")
    for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "As it is")):
        _run(*git, *words)
    return target


def _remove_cgroup(path: Path) -> None:
    end_s = time.monotonic() + 5.0
    while path.is_dir():  # a group is busy until the last process in it is gone
        try:
            for each in sorted((folder for folder in path.rglob("*") if folder.is_dir()), reverse=True):
                each.rmdir()
            path.rmdir()
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.1)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
