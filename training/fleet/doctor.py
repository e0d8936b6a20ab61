"""What `cis490-jobs doctor` finds: each check says what it looked at, what it found, and the command that mends it.

A check is a function that yields findings. It changes nothing, and whatever it meets, the checks after it still run.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cis490.files import free_bytes
from training.fleet.tables import safe, size

State = Literal["OK", "WARN", "FAIL"]
LEAST_PYTHON = (3, 11)
TIGHT_BYTES = 1024**3
"""Free space below which a disk deserves a word; `FULL_BYTES`: below which work stops."""
FULL_BYTES = 128 * 1024**2
ENV_FILES = (Path("/etc/cis490/trainer-receiver.env"), Path("/etc/cis490/trainer-worker.env"))
"""Where the services have their settings; this process has not."""
RECEIVER_UNIT, WORKER_UNIT = "cis490-trainer-receiver", "cis490-trainer-worker"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `fix` is what to type next, "" when there is nothing to do."""

    area: str
    check: str
    state: State
    found: str
    fix: str = ""


Check = Callable[[], Iterable[Finding]]


def examine(area: str, checks: Mapping[str, Check]) -> list[Finding]:
    """Carry out every check by its name; one that breaks is a finding too, and the next one goes on."""
    out: list[Finding] = []
    for name, check in checks.items():
        try:
            out += check()
        except Exception as error:  # noqa: BLE001 - a doctor that dies of the illness helps nobody
            text = f"this could not be looked at: {type(error).__name__}: {error}"
            out.append(
                Finding(area, name, "FAIL", text, "fix what the message names, then: cis490-jobs doctor")
            )
    return out


def python(area: str) -> Iterator[Finding]:
    """The interpreter that runs this."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:  # pragma: no cover - nothing of this would import
        yield Finding(
            area, "python", "FAIL", f"Python {found}; 3.11 or later is needed", "scripts/setup.sh run"
        )
        return
    yield Finding(area, "python", "OK", f"Python {found} at {sys.executable}")


def libraries(area: str, names: Iterable[str], extra: str) -> Iterator[Finding]:
    """Are these modules installed? `a|b`: one of the two is enough."""
    missing = [name for name in names if not any(_is_installed(one) for one in name.split("|"))]
    if missing:
        text = f"not installed: {', '.join(name.replace('|', ' or ') for name in missing)}"
        command = (
            f"scripts/setup.sh run   (or: {shlex.quote(sys.executable)} -m pip install 'cis490[{extra}]')"
        )
        yield Finding(area, "libraries", "FAIL", text, command)
        return
    yield Finding(area, "libraries", "OK", "everything that is needed is installed")


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def folder(area: str, check: str, path: Path, unit: str) -> Iterator[Finding]:
    """Is it there, may this user write to it, and is there room?"""
    where = shlex.quote(str(path))
    if not path.exists():
        yield Finding(
            area, check, "FAIL", f"{path} is not there", f"sudo install -d -o cis490 -m 0750 {where}"
        )
    elif not path.is_dir():
        yield Finding(area, check, "FAIL", f"{path} is no folder", f"ls -la {where}")
    elif is_readonly(path):
        text = f"{path} lies on a file system that is mounted read-only"
        yield Finding(area, check, "FAIL", text, f"findmnt -T {where}   then: sudo mount -o remount,rw ...")
    elif not os.access(path, os.W_OK | os.X_OK):
        text = f"{path} cannot be written by {user()}; it belongs to {owner(path)}"
        fix = f"sudo chown -R cis490: {where}   (or look as that user: sudo -u {owner(path)} cis490-jobs doctor)"
        yield Finding(area, check, "FAIL", text, fix)
    elif not path.stat().st_mode & 0o200:  # root may write all the same; the service is not root
        text = f"{path} is read-only for its owner {owner(path)}: mode {path.stat().st_mode & 0o777:04o}"
        yield Finding(area, check, "FAIL", text, f"sudo chmod u+w {where}")
    else:
        yield room(area, check, path, unit)


def room(area: str, check: str, path: Path, unit: str) -> Finding:
    """How much space is left where `path` lies."""
    free = free_bytes(path)
    text = f"{path}: {size(free)} free"
    fix = f"df -h {shlex.quote(str(path))}   then free some space"
    fix += "; cis490-jobs gc --dry-run shows what may go" if unit == RECEIVER_UNIT else ""
    if free < FULL_BYTES:
        return Finding(area, check, "FAIL", f"{text}: the disk is full", fix)
    return (
        Finding(area, check, "WARN", f"{text}: that is tight", fix)
        if free < TIGHT_BYTES
        else Finding(area, check, "OK", text)
    )


def update(checkout: Path) -> str:
    """How the program here gets newer; one that was installed from a wheel has no repository."""
    if (checkout / ".git").exists():
        return f"git -C {shlex.quote(str(checkout))} pull"
    return "install the newer version of cis490 here"


def is_readonly(path: Path) -> bool:
    """Is its file system mounted read-only?"""
    if not hasattr(os, "statvfs"):
        return False
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def owner(path: Path) -> str:
    """The name of the user to whom it belongs."""
    try:
        return path.owner()
    except (KeyError, NotImplementedError, OSError):
        return "somebody else"


def user() -> str:
    """Who looks."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "this user"


def service_env() -> dict[str, str]:
    """What the services of this machine are told by their environment files."""
    return {name: value for path in ENV_FILES for name, value in env_file(path).items()}


def env_file(path: Path) -> dict[str, str]:
    """The variables that a systemd environment file sets; none when it is not there or may not be read."""
    found: dict[str, str] = {}
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return found
    for line in lines:
        name, is_set, value = line.strip().partition("=")
        if is_set and name.isidentifier():
            found[name] = value.strip().strip("\"'")
    return found


def lines(findings: Iterable[Finding]) -> list[str]:
    """For a person: a line each, with the fix below what is not in order."""
    listed = list(findings)
    wide = max((len(f"{one.area} {one.check}") for one in listed), default=0)
    out = []
    for one in listed:
        out.append(f"{one.state:<4}  {f'{one.area} {one.check}':<{wide}}  {safe(one.found)}")
        if one.state != "OK" and one.fix:
            out.append(f"      {'':<{wide}}  fix: {safe(one.fix)}")
    failed, warned = (sum(one.state == state for one in listed) for state in ("FAIL", "WARN"))
    if failed or warned:
        return [*out, "", f"{failed} to mend, {warned} to look at, {len(listed) - failed - warned} in order"]
    return [*out, "", f"all {len(listed)} in order"]
