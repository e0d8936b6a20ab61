"""What `watch` and `events` show: events as lines, and the screen of one job. Pure."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from training.fleet.render import ACTIVE, STATE_STYLES, View, handle, progress_text, state_word, tries
from training.fleet.tables import Row, count_of, duration, gist, number_of, row_of, safe, table, text_of, tsv

MOST_EVENTS = 6
"""Of the latest events, on the live screen."""


def stamp(at: float | None) -> str:
    """`2026-11-21T14:07:03Z`; `-` for a time that is not told."""
    return "-" if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def event_line(event: Row) -> str:
    """One event for programs: a time, then `key=value` with a value that has spaces in quotes; absent ones left out."""
    values = {
        "job": text_of(event, "name") or text_of(event, "job_id")[:12],
        "event": text_of(event, "event"),
        "host": text_of(event, "host"),
        "from": text_of(event, "from"),
        "to": text_of(event, "to"),
        "attempt": str(count_of(event, "epoch") or ""),
        "actor": text_of(event, "actor"),
        "detail": text_of(event, "detail"),
        "seq": text_of(event, "seq"),
    }
    told = [f"{key}={_quoted(value)}" for key, value in values.items() if value]
    return " ".join([stamp(number_of(event, "at")), *told])


def _quoted(value: str) -> str:
    return json.dumps(value) if not value or any(c in value for c in ' "=') else value


def events(view: View, rows: Sequence[Row]) -> list[str]:
    """`events`: the latest ones, oldest first."""
    if view.width is None:
        cells = [
            [
                text_of(row, "seq"), stamp(number_of(row, "at")), text_of(row, "actor"), text_of(row, "event"),
                text_of(row, "name") or text_of(row, "job_id"), text_of(row, "host"), text_of(row, "from"),
                text_of(row, "to"), str(count_of(row, "epoch") or ""), text_of(row, "detail"),
            ]
            for row in rows
        ]  # fmt: skip
        header = ["SEQ", "AT", "ACTOR", "EVENT", "JOB", "HOST", "FROM", "TO", "ATTEMPT", "DETAIL"]
        return tsv(header, cells)
    if not rows:
        return ["nothing has happened yet that fits", "  next: cis490-jobs status"]
    shown = [[view.ago(number_of(row, "at")), text_of(row, "actor"), sentence(row)] for row in rows]
    return table(["WHEN", "WHO", "WHAT"], shown, view.columns, wrap=True)


def sentence(event: Row) -> str:
    """What happened, for people: the receiver's own sentence."""
    return text_of(event, "text") or event_line(event)


def live_event(view: View, event: Row) -> str:
    """One event on a terminal that cannot be redrawn, or below the screen of `watch`."""
    at = number_of(event, "at")
    clock = "--:--:--" if at is None else time.strftime("%H:%M:%S", time.gmtime(at))
    to = text_of(event, "to").split("_")[0]
    return f"{view.paint(clock, 'quiet')}  {view.paint(sentence(event), 'bad' if to == 'failed' else '')}"


def watched_job(view: View, job: Row) -> list[str]:
    """The screen of `watch JOB`: where it is, and what came of its attempts."""
    status, host = text_of(job, "status"), text_of(job, "claimed_by")
    where = f" on {host}" if host and status in ACTIVE else ""
    state = view.paint(state_word(status), STATE_STYLES.get(status, ""))
    out = [f"{view.paint(handle(job), 'strong')}  {state}{where}, {tries(count_of(job, 'attempts'))}"]
    claimed = number_of(job, "claimed_at")
    if status in ACTIVE:
        out.append(f"  {progress_text(row_of(job, 'progress')) or 'no progress reported yet'}")
        if claimed is not None:
            finish = number_of(row_of(job, "estimate"), "finish_at")
            left = (
                ""
                if finish is None or finish < view.now_s
                else f", about {duration(finish - view.now_s)} left"
            )
            out.append(f"  running for {duration(view.now_s - claimed)}{left}")
    if job.get("last_error") and status != "completed":
        out.append(f"  {gist(str(job['last_error']))}")
    if status == "pending":
        out.append(f"  next: cis490-jobs why {handle(job)}")
    if artifact := text_of(job, "artifact_id"):
        out.append(f"  artifact {artifact[:12]}   next: cis490-jobs pull {handle(job)}")
    if status == "failed":
        out.append(f"  next: cis490-jobs show {handle(job)}")
    return [line if line.isprintable() or "\x1b" in line else safe(line) for line in out]


def footer(view: View, down_since_s: float | None, shown_at_s: float | None, reason: str) -> str:
    """The last line of the live screen: is what stands above it true now?"""
    if down_since_s is None:
        return view.paint("live; q ends", "quiet")
    age = "" if shown_at_s is None else f"; this is {duration(view.now_s - shown_at_s)} old"
    away = duration(view.now_s - down_since_s)
    return view.paint(f"the receiver has been away for {away}{age}; asking again; q ends ({reason})", "warn")
