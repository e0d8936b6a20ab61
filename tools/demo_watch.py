"""What the demo tells while it runs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence

from cis490.digest import short
from cis490.progress import ELSEWHERE_S, Every, bar, left_s, span
from tools.demo_parts import DemoError, Part, tail
from tools.demo_report import Row, number, text
from training.fleet.client import FleetClient, Unreachable

POLL_S = 0.3
KNOWN_S = 180.0
"""Longest wait for a worker's first call: it asks torch for GPUs before, which takes long on a cold or busy machine."""
BASIS_JOBS = 0.1
"""Before so much of a job is done, a rate says nothing."""
OVER = ("completed", "failed", "cancelled")
PASSING = frozenset({"live", "not_paused", "free_slot", "preference"})
"""Constraints that pass with time. A job that fails none but these fits this machine."""


class Narrator:
    """Prints one line for each event, and on a terminal what is going on right now below them."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._live = sys.stdout.isatty()
        self._every = Every(ELSEWHERE_S, 0.0)

    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._started_s

    def event(self, subject: str, what: str) -> None:
        """Something happened."""
        self.now("")
        print(f"{self.elapsed_s():6.1f} s  {subject:<16} {what}", flush=True)

    def now(self, what: str) -> None:
        """Something goes on; the next call replaces it. Where lines cannot be replaced, one now and then stands."""
        if not self._live:
            if what and self._every.due(self.elapsed_s()):
                print(what, flush=True)
        else:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{what[:width]}", end="", flush=True)


class Watch:
    """Follows the fleet through the receiver's public answers, as an operator would."""

    def __init__(
        self, client: FleetClient, host: str, parts: Sequence[Part], narrator: Narrator, limit_s: float
    ) -> None:
        self._client = client
        self._host = host
        self._parts = parts
        self._narrator = narrator
        self._limit_s = limit_s
        self._told: dict[str, object] = {}
        self._started: set[str] = set()
        self._first = True
        self._began_s = 0.0
        self._kept = 0

    def until_known(self) -> None:
        """Return once the worker has reported to the receiver. Raises DemoError when it does not."""
        self._poll(
            lambda: any(row["host"] == self._host for row in self._client.workers()),
            "reach the receiver",
            KNOWN_S,
        )

    def until_over(self) -> list[Row]:
        """Tell every change until each job that fits this host is over; those jobs as they ended.

        Raises DemoError when a part ends, the host is paused, or the time is up.
        """
        self._began_s = self._narrator.elapsed_s()
        rows = self._client.jobs()
        fitting = {
            text(row, "name") for row in rows if row["status"] != "pending" or self._fits(text(row, "job_id"))
        }
        self._narrator.event("matching", f"{len(fitting)} of {len(rows)} jobs fit this machine")
        for row in rows:
            if row["status"] in OVER:  # the last demo was kept
                self._told[text(row, "name")] = _state(row)
                self._narrator.event(text(row, "name"), f"{row['status']} before")
                self._kept += 1
        found: list[Row] = []

        def over() -> bool:
            found[:] = [row for row in self._client.jobs() if row["name"] in fitting]
            for row in found:
                self._tell(row)
            self._narrator.now(self._doing(found))
            ended = all(row["status"] in OVER for row in found)
            return ended or any(row["status"] == "failed" for row in found)

        self._poll(over, "train the jobs that fit", self._limit_s)
        return found

    def _poll(self, done: Callable[[], bool], goal: str, limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        while not self._asked(done):
            for part in self._parts:
                part.must_live()
            for row in self._client.workers():
                if row["paused_reason"]:
                    raise DemoError(
                        f"the worker is paused: {row['paused_reason']}\n{tail(self._parts[-1].log)}"
                    )
            if time.monotonic() > deadline_s:
                logs = "\n".join(tail(part.log) for part in self._parts[1:])
                more = "\nA slow machine needs longer: --limit-s" if limit_s == self._limit_s else ""
                raise DemoError(f"the worker did not {goal} within {limit_s:g} s.\n{logs}{more}")
            time.sleep(POLL_S)

    def _asked(self, done: Callable[[], bool]) -> bool:
        try:
            return done()
        except Unreachable:
            for part in self._parts:
                part.must_live()  # says more than "no answer" when the receiver has ended
            raise

    def _fits(self, job_id: str) -> bool:
        hosts: list[Row] = self._client.eligibility(job_id)["hosts"]
        checks: list[Row] = next((host["checks"] for host in hosts if host["host"] == self._host), [])
        return all(check["ok"] or check["constraint"] in PASSING for check in checks)

    def _tell(self, row: Row) -> None:
        """One line for a change since the last look."""
        name, status = text(row, "name"), text(row, "status")
        if self._told.get(name) == _state(row):
            return
        self._told[name] = _state(row)
        if status in ("claimed", "running") and name not in self._started:
            self._started.add(name)
            self._narrator.event(name, "training")
        elif status == "completed":
            self._narrator.event(name, self._trained(row))
        elif status == "pending" and row["last_error"]:
            self._narrator.event(
                name, f"failed, will be tried again: {text(row, 'last_error').splitlines()[-1]}"
            )
        elif status in OVER:
            self._narrator.event(name, status)

    def _trained(self, row: Row) -> str:
        took_s = float(row["completed_at"]) - float(row["claimed_at"])
        auc = (row.get("metrics") or {}).get("roc_auc")
        shown = f", ROC-AUC {number(auc)}" if auc is not None else ""
        mark = "  <- the first artifact" if self._first else ""
        self._first = False
        return f"trained in {took_s:.0f} s: artifact {short(row['artifact_id'])}{shown}{mark}"

    def _doing(self, rows: Sequence[Row]) -> str:
        over = sum(row["status"] in OVER for row in rows)
        busy = [row for row in rows if row["status"] in ("claimed", "running")]
        what = (
            ", ".join(f"{text(row, 'name')}{progress(row)}" for row in busy)
            or "waiting for the worker's next claim"
        )
        done = over + sum(_share(row) for row in busy)
        took_s = self._narrator.elapsed_s() - self._began_s
        return f"          {pace(done, over, len(rows), took_s, self._kept)}; now: {what}"


def pace(done: float, over: int, total: int, elapsed_s: float, kept: int = 0) -> str:
    """`[#####.....] 2 of 4 over, 7.5 jobs/min, 16 s left`; `done` counts the begun part of a job, too. `kept` of them
    were over before."""
    parts = [f"{bar(done, total, 10)} {over} of {total} over".strip()]
    rest = left_s(done - kept, total - kept, elapsed_s)
    if rest is not None and over < total and done - kept >= BASIS_JOBS:
        parts += [f"{60 * (done - kept) / elapsed_s:.1f} jobs/min", f"{span(rest)} left"]
    return ", ".join(parts)


def _share(row: Row) -> float:
    """How much of a running job is done, 0 to 1, as its last heartbeat told."""
    last = row.get("progress") or {}
    step, total = last.get("step"), last.get("total")
    return min(max(step / total, 0.0), 1.0) if step is not None and total else 0.0


def _state(row: Row) -> tuple[object, ...]:
    """What makes a line worth telling when it changes."""
    return row["status"], row["attempts"], row["last_error"]


def progress(row: Row) -> str:
    """How far a running job is, as its last heartbeat told."""
    last = row.get("progress") or {}
    if last.get("step") is None:
        return ""
    of = f" of {last['total']}" if last.get("total") else ""
    loss = f", loss {number(last.get('loss'))}" if last.get("loss") is not None else ""
    return f" ({last.get('unit') or 'step'} {last['step']}{of}{loss})"
