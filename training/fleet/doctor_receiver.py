"""What can be wrong on the receiver's machine, looked at without the receiver: its files tell also while it is down."""

from __future__ import annotations

import argparse
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cis490.digest import sha256_bytes
from cis490.locks import holder
from training.fleet import doctor, manifest
from training.fleet.doctor import RECEIVER_UNIT, Check, Finding
from training.fleet.manifest_faults import TrainingManifestError
from training.fleet.sql import MIGRATIONS
from training.trainer.digest import trainer_digest

AREA = "receiver"
LIBRARY = Path("/var/lib/cis490")
AUTHORITY, PROXY = Path("/etc/cis490/ca"), Path("/etc/cis490/caddy")
CHECKOUT = Path(__file__).resolve().parents[2]
NEEDED = ("starlette", "uvicorn", "msgspec", "prometheus_client", "jinja2", "compression.zstd|backports.zstd")
START = f"sudo systemctl start {RECEIVER_UNIT}   then: journalctl -u {RECEIVER_UNIT} -n 50"
CLOCK_SLACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where the receiver has its things."""

    manifest: Path
    db: Path
    store_root: Path
    incoming_root: Path
    authority: Path = AUTHORITY
    """The certificate authority's folder: root's own, not the copies that systemd hands the service."""
    proxy: Path = PROXY

    @property
    def lock(self) -> Path:
        return self.db.with_name(self.db.name + ".lock")


def places(args: argparse.Namespace, env: Mapping[str, str]) -> Places:
    """From the command line, else the options of the service (`RECEIVER_OPTIONS`), else where they are by default."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for name in ("manifest", "db", "store-root", "incoming-root"):
        parser.add_argument(f"--{name}", type=Path)
    told, _ = parser.parse_known_args(shlex.split(env.get("RECEIVER_OPTIONS", "")))

    def place(name: str, default: Path) -> Path:
        found = getattr(args, name, None) or getattr(told, name)
        return Path(found) if found else default

    canonical = Path(env.get(manifest.PATH_VARIABLE) or manifest.CANONICAL_PATH)
    return Places(
        place("manifest", canonical),
        place("db", LIBRARY / "training_jobs.db"),
        place("store_root", LIBRARY / "models"),
        place("incoming_root", LIBRARY / "incoming-models"),
    )


def is_here(where: Places) -> bool:
    """Does a receiver live on this machine?"""
    return where.manifest.exists() or where.db.exists()


def checks(where: Places, wall_s: float) -> dict[str, Check]:
    """By name, in the order in which a fault of one explains those of the next."""
    return {
        "python": lambda: doctor.python(AREA),
        "libraries": lambda: doctor.libraries(AREA, NEEDED, "receiver"),
        "manifest": lambda: _manifest(where),
        "database": lambda: _database(where, wall_s),
        "folders": lambda: _folders(where),
        "certificates": lambda: _certificates(where, wall_s),
        "process": lambda: _process(where),
        "trainer": _trainer,
    }


def _manifest(where: Places) -> Iterator[Finding]:
    path = where.manifest
    try:
        found = manifest.load(path)
    except TrainingManifestError as error:
        first, more = error.faults[0], len(error.faults) - 1
        line = "" if first.line is None else f":{first.line}"
        text = str(error).splitlines()[0] + (f" (and {more} more)" if more else "")
        if not path.exists():
            example = CHECKOUT / "etc" / "training_manifest.toml.example"
            quoted = shlex.quote(str(path))
            fix = (
                f"cp {shlex.quote(str(example))} {quoted}   and edit it"
                if example.exists()
                else f"${{EDITOR:-nano}} {quoted}   (docs/manifest.md explains each key)"
            )
        else:
            fix = f"${{EDITOR:-nano}} {shlex.quote(str(path))}{'   # line' + line.replace(':', ' ') if line else ''}"
        yield Finding(AREA, "manifest", "FAIL", text, f"{fix}   then: cis490-jobs reload")
        return
    text = f"{path}: {len(found.jobs)} jobs, {len(found.hosts)} hosts"
    if not found.jobs:
        yield Finding(
            AREA, "manifest", "WARN", f"{text}: nothing will be trained", "add [[jobs]], see docs/manifest.md"
        )
    elif not found.hosts and found.policy.unknown_hosts == "deny":
        yield Finding(AREA, "manifest", "OK", f"{text}: any host may take part")
    else:
        yield Finding(AREA, "manifest", "OK", text)


def manifest_digest(where: Places) -> str | None:
    """Of the file as it is now; None when it cannot be read."""
    try:
        return sha256_bytes(where.manifest.read_bytes())
    except OSError:
        return None


def _database(where: Places, wall_s: float) -> Iterator[Finding]:
    path, quoted = where.db, shlex.quote(str(where.db))
    if not path.exists():
        text = f"{path} is not there: the receiver makes it at its first start"
        yield Finding(AREA, "database", "WARN", text, START)
        return
    try:
        with closing(_opened(path)) as connection:
            yield from _opened_database(connection, path, wall_s)
    except sqlite3.Error as error:
        yield _unreadable(error, path, quoted)


def _opened(path: Path) -> sqlite3.Connection:
    """Read-only. Without a journal beside it nobody has written for long: then not even a side file is made."""
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=1.0)


def _opened_database(connection: sqlite3.Connection, path: Path, wall_s: float) -> Iterator[Finding]:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    known = len(MIGRATIONS)
    if version > known:
        text = (
            f"{path} has schema version {version}, written by a newer program; this one knows up to {known}"
        )
        fix = f"{doctor.update(CHECKOUT)}   then: {START}   (or restore an older backup)"
        yield Finding(AREA, "database", "FAIL", text, fix)
        return
    faults = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
    if faults != ["ok"]:
        raise sqlite3.DatabaseError(faults[0])
    if version < known:
        text = f"{path} has schema version {version}; the receiver brings it to {known} when it starts"
        yield Finding(AREA, "database", "WARN", text, f"sudo systemctl restart {RECEIVER_UNIT}")
        return
    (jobs,) = connection.execute("SELECT count(*) FROM job WHERE kind = 'job'").fetchone()
    yield Finding(AREA, "database", "OK", f"{path}: whole, schema version {version}, {jobs} jobs")
    (last_at,) = connection.execute(
        "SELECT max(at) FROM (SELECT at FROM audit ORDER BY seq DESC LIMIT 100)"
    ).fetchone()
    if last_at is not None and last_at > wall_s + CLOCK_SLACK_S:
        text = f"the last event was written {last_at - wall_s:.0f} s in the future: this machine's clock was set back"
        yield Finding(AREA, "clock", "WARN", text, "timedatectl   then: sudo timedatectl set-ntp true")


def _unreadable(error: sqlite3.Error, path: Path, quoted: str) -> Finding:
    text = f"{path}: {error}"
    if "locked" in str(error) or "busy" in str(error):
        return Finding(
            AREA, "database", "FAIL", f"{text}: another program holds it", f"sudo fuser -v {quoted}"
        )
    if "unable to open" in str(error) or "readonly" in str(error):
        text += f"; {doctor.user()} may not read it, it belongs to {doctor.owner(path)}"
        return Finding(AREA, "database", "FAIL", text, f"sudo -u {doctor.owner(path)} cis490-jobs doctor")
    fix = f"sudo systemctl stop {RECEIVER_UNIT}; mv {quoted} {quoted}.damaged   then restore a backup"
    return Finding(AREA, "database", "FAIL", f"{text}: it is damaged", fix)


def _folders(where: Places) -> Iterator[Finding]:
    folders = {"store": where.store_root, "uploads": where.incoming_root, "state": where.db.parent}
    for name, path in folders.items():
        yield from doctor.folder(AREA, name, path, RECEIVER_UNIT)
    store, incoming = where.store_root, where.incoming_root
    if store.is_dir() and incoming.is_dir() and store.stat().st_dev != incoming.stat().st_dev:
        text = f"{store} and {incoming} lie on two file systems: an upload cannot be moved into place in one step"
        yield Finding(
            AREA, "uploads", "FAIL", text, f"choose --incoming-root beside {shlex.quote(str(store))}"
        )
    ballast = where.db.with_name("ballast")
    if where.db.exists() and not ballast.exists():
        text = f"{ballast} is not there, and without it no job is handed out: the disk was full"
        fix = f"df -h {shlex.quote(str(where.db.parent))}   then free some space; it comes back by itself"
        yield Finding(AREA, "disk reserve", "WARN", text, fix)


def _certificates(where: Places, wall_s: float) -> Iterator[Finding]:
    """Nothing where there is no authority: a receiver on loopback needs none."""
    if not where.authority.exists():
        return
    if not os.access(where.authority, os.R_OK | os.X_OK):
        owner = doctor.owner(where.authority)
        text = f"{where.authority} cannot be looked into by {doctor.user()}; it belongs to {owner}"
        yield Finding(AREA, "certificates", "WARN", text, "sudo cis490-jobs doctor")
        return
    try:
        # Only a receiver with an authority has `cryptography`.
        from training.fleet import ca_backup, ca_checks
        from training.fleet.ca_files import COMMAND
    except ImportError as error:
        text = f"there is an authority in {where.authority}, but {error.name} is not installed"
        yield Finding(AREA, "certificates", "FAIL", text, "scripts/setup.sh run")
        return
    now = datetime.fromtimestamp(wall_s, UTC)
    found = [*ca_checks.of_authority(where.authority, now)]
    if where.proxy.exists():
        found.append(ca_checks.of_server(where.proxy, now))
    found.append(ca_checks.of_backup(where.db.with_name(ca_backup.STAMP), now))
    program = f"sudo {shlex.quote(sys.executable)} -m training.fleet.ca"  # to be typed in any folder
    for one in found:
        fix = one.fix.replace(COMMAND, program)
        yield Finding(AREA, one.what, one.state, one.found, fix)


def _process(where: Places) -> Iterator[Finding]:
    try:
        pid = holder(where.lock)
    except OSError as error:
        yield Finding(
            AREA,
            "process",
            "WARN",
            f"{where.lock} cannot be read: {error.strerror}",
            "sudo cis490-jobs doctor",
        )
        return
    if pid is not None:
        yield Finding(AREA, "process", "OK", f"a receiver runs here (pid {pid})")
        return
    last = f"; {where.lock} is left over from an earlier one and harms nothing" if where.lock.exists() else ""
    yield Finding(AREA, "process", "FAIL", f"no receiver runs on {where.db}{last}", START)


def _trainer() -> Iterator[Finding]:
    yield Finding(AREA, "trainer", "OK", f"{CHECKOUT} has trainer {trainer_digest(CHECKOUT)[:12]}")
