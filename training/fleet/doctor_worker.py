"""What can be wrong on a worker's machine: its state folder, its results on their way, its trainer."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cis490.locks import holder
from training.fleet import credentials, doctor, doctor_identity, self_test, worker_settings
from training.fleet.capability import Survey
from training.fleet.doctor import WORKER_UNIT, Check, Finding
from training.fleet.tables import duration, size
from training.fleet.worker_settings import WorkerSettings

AREA = "worker"
NEEDED = ("numpy", "compression.zstd|backports.zstd")
START = f"sudo systemctl start {WORKER_UNIT}   then: journalctl -u {WORKER_UNIT} -n 50"


def settings(args: argparse.Namespace, env: Mapping[str, str], folder: Path | None = None) -> WorkerSettings:
    """As the worker itself reads them. Raises SettingsError.

    `folder`: its credentials, in place of those in `env`; ones that cannot be used are for a check to find.
    """
    argv = []
    for flag, value in (("--state-dir", args.state_dir), ("--host", args.host)):
        argv += [] if value is None else [flag, str(value)]
    own = worker_settings.read(argv, {name: env[name] for name in env if name != credentials.VARIABLE})
    if folder is None:
        return own
    try:
        about = credentials.read_about(folder)
    except credentials.CredentialsError:
        return replace(own, credentials=folder)
    return replace(own, credentials=folder, host=about.name, receiver_url=about.url)


def is_here(own: WorkerSettings) -> bool:
    """Does a worker live on this machine?"""
    return own.state_dir.exists()


def checks(own: WorkerSettings, survey: Callable[[], Survey], wall_s: float) -> dict[str, Check]:
    """By name. `survey` looks at the machine in child processes, which takes seconds."""
    return {
        "python": lambda: doctor.python(AREA),
        "libraries": lambda: doctor.libraries(AREA, NEEDED, "worker"),
        "state folder": lambda: doctor.folder(AREA, "state folder", own.state_dir, WORKER_UNIT),
        "process": lambda: _process(own),
        "results": lambda: _results(own, wall_s),
        "trainer": lambda: self_test.trainer(AREA, survey()),
    } | ({} if own.credentials is None else doctor_identity.checks(AREA, own.credentials, wall_s))


def _process(own: WorkerSettings) -> Iterator[Finding]:
    lock = own.state_dir / "worker.lock"
    pid = holder(lock)
    if pid is not None:
        yield Finding(AREA, "process", "OK", f"the worker {own.host} runs (pid {pid})")
        return
    last = f"; {lock} is left over from an earlier one and harms nothing" if lock.exists() else ""
    yield Finding(AREA, "process", "FAIL", f"no worker runs on {own.state_dir}{last}", START)


def _results(own: WorkerSettings, wall_s: float) -> Iterator[Finding]:
    """What was trained and is not with the receiver yet."""
    spool, leases = own.state_dir / "spool", own.state_dir / "leases"
    waiting = sorted(spool.glob("*.tar.zst")) if spool.is_dir() else []
    orphans = [
        path for path in waiting if not (leases / f"{path.name.removesuffix('.tar.zst')}.json").exists()
    ]
    known = [path for path in waiting if path not in orphans]
    if not waiting:
        yield Finding(AREA, "results", "OK", "nothing waits to be delivered")
    if known:
        oldest_s = wall_s - min(path.stat().st_mtime for path in known)
        total = size(sum(path.stat().st_size for path in known))
        text = f"{_results_text(len(known))} ({total}) not delivered yet, the oldest for {duration(max(0.0, oldest_s))}"
        runs = holder(own.state_dir / "worker.lock") is not None
        fix = (
            f"journalctl -u {WORKER_UNIT} -n 50   (it goes on trying)"
            if runs
            else f"{START}   (it delivers first)"
        )
        yield Finding(AREA, "results", "WARN" if runs else "FAIL", text, fix)
    if orphans:
        text = f"{_results_text(len(orphans))} in {spool} without a lease: the worker removes them at its next start"
        yield Finding(AREA, "results", "WARN", text, f"sudo systemctl restart {WORKER_UNIT}")


def _results_text(n: int) -> str:
    return "1 result" if n == 1 else f"{n} results"


def against_receiver(
    own: WorkerSettings, overview: Mapping[str, object], digest: str | None
) -> Iterator[Finding]:
    """What the receiver's manifest says about this host. `digest`: of this host's trainer. Pure."""
    policy = overview.get("policy")
    rules: Mapping[str, object] = policy if isinstance(policy, dict) else {}
    hosts = overview.get("hosts")
    row = (
        next((one for one in hosts if one.get("host") == own.host), None) if isinstance(hosts, list) else None
    )
    named = row is not None and (row.get("in_manifest") is True or row.get("state") == "unseen")
    fix = f'add [[hosts]] name = "{own.host}" to the manifest   then: cis490-jobs reload'
    if named:
        yield Finding(AREA, "manifest", "OK", f"the manifest names {own.host}")
    elif rules.get("unknown_hosts") == "allow":
        yield Finding(
            AREA, "manifest", "OK", f"the manifest lets any host take part; it does not name {own.host}"
        )
    else:
        text = f"the manifest does not name {own.host}, and it lets no other host take part"
        yield Finding(
            AREA,
            "manifest",
            "FAIL",
            text,
            f"{fix}   (or start the worker with --host NAME as it stands there)",
        )
    wanted = rules.get("trainer_digest")
    if isinstance(wanted, str) and digest is not None and wanted != digest:
        state = "FAIL" if rules.get("trainer") == "same" else "WARN"
        text = f"this checkout has trainer {digest[:12]}, the receiver {wanted[:12]}"
        checkout = Path(__file__).resolve().parents[2]
        update = f"{doctor.update(checkout)}   then: sudo systemctl restart {WORKER_UNIT}"
        yield Finding(AREA, "trainer version", state, text, update)  # type: ignore[arg-type]
    elif isinstance(wanted, str) and digest is not None:
        yield Finding(AREA, "trainer version", "OK", f"the receiver's: {digest[:12]}")
