"""The operator's screens: JSON answers of the receiver -> lines of text. Pure: no I/O, no clock.

Each screen has two forms. On a terminal (`View.width` is set) it is laid out for reading: relative
times, bad states in capitals, long texts cut. In a pipe (`View.width` is None) it is one table of
tab-separated values with a header line, the receiver's own words, nothing cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from training.fleet.tables import (
    MIN_LAST_COLUMN,
    Marked,
    Row,
    clip,
    count_of,
    duration,
    figure,
    gist,
    number_of,
    row_of,
    rows_of,
    safe,
    table,
    text_of,
    tsv,
    words_of,
)

ACTIVE = ("claimed", "running")
BAR_CELLS = 10
MOST_REASON = 240
"""Characters of why a job waits, where lines are wrapped."""
STATE_STYLES = {
    "running": "busy", "idle": "good", "LOST": "bad", "PAUSED": "warn", "drained": "warn", "draining": "warn",
    "unseen": "quiet", "failed": "bad", "completed": "good", "claimed": "busy", "cancelled": "quiet", "pending": "",
}  # fmt: skip
"""State of a job or host -> its colour, see `tables.STYLES`."""


class View(NamedTuple):
    """For whom a screen is made."""

    now_s: float
    """Wall time, seconds since the epoch: relative times count from here."""
    width: int | None
    """Columns of the terminal; None: piped, so tab-separated values."""
    height: int = 24
    """Lines of the terminal."""
    color: bool = False
    """May escape sequences be used? What a colour says is always said by a word as well."""

    blocks: bool = False
    """Can the terminal show block elements? Else curves are drawn in ASCII."""

    @property
    def columns(self) -> int:
        return self.width or 80

    def mark(self, text: str, style: str) -> str:
        """A cell of a table, with the colour of its meaning (see `tables.STYLES`) where colours are shown."""
        return Marked(text, style) if self.color and style else safe(text)

    def paint(self, text: str, style: str) -> str:
        """Safe text of a line, with the colour of its meaning where colours are shown."""
        return Marked(text, style).painted() if self.color and style else safe(text)

    def ago(self, at_s: float | None) -> str:
        """`3 s ago`; a time in the future (the two clocks differ) counts as now."""
        return "never" if at_s is None else f"{duration(self.now_s - at_s)} ago"


def handle(job: Row) -> str:
    """The word that names this job in a command: its name, or its id once another job may have the name."""
    return text_of(job, "job_id")[:12] if job.get("held") else text_of(job, "name")


def state_word(status: str) -> str:
    """Bad states in capitals: colour is never the only sign."""
    return status.upper() if status == "failed" else status


def progress_text(progress: Row) -> str:
    """`[####------] 412/1000 round  loss 0.182`; "" when the trainer has not reported yet."""
    step, total = number_of(progress, "step"), number_of(progress, "total")
    parts = []
    if step is not None and total is not None and total > 0:
        full = round(BAR_CELLS * min(max(step / total, 0.0), 1.0))
        parts.append(f"[{'#' * full}{'-' * (BAR_CELLS - full)}] {figure(step)}/{figure(total)}")
    elif step is not None:
        parts.append(f"step {figure(step)}")
    if unit := text_of(progress, "unit"):
        parts.append(unit)
    text = " ".join(parts)
    loss = number_of(progress, "loss")
    return text if loss is None else f"{text}  loss {figure(loss)}".strip()


# --- list --------------------------------------------------------------------------------------------


def job_list(view: View, jobs: Sequence[Row]) -> list[str]:
    """`list`: one line a job."""
    header = ["NAME", "STATUS", "PRIO", "ATTEMPTS", "HOST"]
    rows = [
        [
            text_of(job, "name"),
            text_of(job, "status"),
            str(count_of(job, "priority")),
            str(count_of(job, "attempts")),
            text_of(job, "claimed_by") or "-",
        ]
        for job in jobs
    ]
    if view.width is None:
        ends = [
            [since(view, job), text_of(job, "last_error"), text_of(job, "job_id"), _reason(job)]
            for job in jobs
        ]
        header += ["AGE", "ERROR", "JOB_ID", "REASON"]
        return tsv(header, [row + end for row, end in zip(rows, ends, strict=True)])
    if not jobs:
        return ["no jobs", "  next: add [[jobs]] to the manifest, then: cis490-jobs reload"]
    for row, job in zip(rows, jobs, strict=True):
        row[1] = view.mark(state_word(row[1]), STATE_STYLES.get(row[1], ""))
        row.append("; ".join(_remarks(view, job)))
    if all(text_of(job, "status") == "pending" for job in jobs):  # all that differs is why: room for it
        waiting = [[row[0], row[2], row[3], clip(row[-1], MOST_REASON)] for row in rows]
        return table(["NAME", "PRIO", "ATTEMPTS", "REASON"], waiting, view.columns, wrap=True)
    out = table(*_narrowed([*header, "AGE / REASON"], rows, view.columns), view.columns)
    if any(_reason(job) and line.endswith("...") for job, line in zip(jobs, out[1:], strict=True)):
        out += ["", "whole reasons: cis490-jobs list --status pending"]
    return out


def _narrowed(header: list[str], rows: list[list[str]], columns: int) -> tuple[list[str], list[list[str]]]:
    """Without the columns that `show` has as well, as far as the last one would have no room otherwise."""
    for title in ("ATTEMPTS", "PRIO"):
        lines = [header, *rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(header) - 1)]
        if sum(widths) + 2 * len(widths) + MIN_LAST_COLUMN <= columns:
            break
        at = header.index(title)
        header, rows = header[:at] + header[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
    return header, rows


def since(view: View, job: Row) -> str:
    """When the job last changed or showed life, relative; "" for one that was never claimed."""
    if text_of(job, "status") in ACTIVE:
        at = number_of(job, "heartbeat_at") or number_of(job, "claimed_at")
    else:
        at = number_of(job, "completed_at") or number_of(job, "claimed_at")
    return "" if at is None else view.ago(at)


def _reason(job: Row) -> str:
    """Why a job waits; of one that does not, only whether it is paused for later."""
    paused = text_of(job, "paused_reason") if job.get("paused_reason") is not None else None
    return text_of(job, "waits_for") or ("" if paused is None else f"paused: {paused}".rstrip(": "))


def _remarks(view: View, job: Row) -> list[str]:
    found = [_reason(job), since(view, job)]
    if not any(found):
        found = ["never claimed"]
    if text_of(job, "status") not in ("completed", "cancelled"):
        found.append(gist(str(job.get("last_error") or "")))
    if job.get("held"):
        found.append(f"not in the manifest, id {text_of(job, 'job_id')[:12]}")
    found += [f"stale: {word}" for word in words_of(job, "stale")]
    return [remark for remark in found if remark]


# --- why ---------------------------------------------------------------------------------------------


def failed_checks(answer: Row, key: str = "checks") -> list[Row]:
    """The checks of a host (or, with `job_checks`, of the job itself) that are not ok."""
    return [check for check in rows_of(answer, key) if not check.get("ok")]


def message_of(check: Row) -> str:
    """Why a check failed, as a sentence."""
    wanted, found = text_of(check, "wanted"), text_of(check, "found")
    return text_of(check, "message") or f"{text_of(check, 'constraint')}: wanted {wanted}, found {found}"


def _host_state(worker: Row) -> str:
    if worker.get("drained_reason"):
        return "draining" if count_of(worker, "busy") else "drained"
    if not worker.get("live"):
        return "LOST"
    if worker.get("paused_reason"):
        return "PAUSED"
    return "running" if count_of(worker, "busy") else "idle"


def _host_rows(view: View, workers: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for worker in workers:
        has = row_of(worker, "effective") or row_of(worker, "capability")
        rows.append(
            [
                text_of(worker, "host"),
                view.mark(_host_state(worker), STATE_STYLES.get(_host_state(worker), "")),
                f"{count_of(worker, 'busy')}/{count_of(worker, 'slots')}",
                _gib(has, "ram_gib"),
                _gib(has, "vram_gib"),
                str(count_of(worker, "eligible_jobs")),
                view.ago(number_of(worker, "last_seen_at")),
                _gpu(has),
            ]
        )
    return ["HOST", "STATE", "BUSY", "RAM GiB", "VRAM GiB", "ELIGIBLE", "SEEN", "GPU"], rows


def _gib(has: Row, key: str) -> str:
    value = number_of(has, key)
    return "-" if value is None else f"{value:.1f}"


def _gpu(has: Row) -> str:
    names = [
        text_of(gpu, "name").replace("NVIDIA ", "").replace("GeForce ", "") for gpu in rows_of(has, "gpus")
    ]
    if not names:
        return "CUDA" if has.get("has_cuda") else "-"
    return names[0] if len(names) == 1 else f"{len(names)} x {names[0]}"


def tries(count: int) -> str:
    return f"{count} attempt" if count == 1 else f"{count} attempts"


# --- workers -----------------------------------------------------------------------------------------


def worker_list(view: View, workers: Sequence[Row]) -> list[str]:
    """`workers`: what each host can do, where that differs from the manifest, and why one is paused."""
    header, rows = _host_rows(view, workers)
    if view.width is None:
        keys = (
            "cores",
            "os",
            "arch",
            "torch_version",
            "python_version",
            "models",
            "trainer_digest",
            "git_commit",
        )
        for row, worker in zip(rows, workers, strict=True):
            has = row_of(worker, "effective") or row_of(worker, "capability")
            row += [figure(has.get(key)) for key in keys]
            row += [text_of(worker, "paused_reason"), "; ".join(words_of(worker, "mismatches"))]
            row.append(text_of(worker, "drained_reason"))
        titles = [key.upper() for key in keys]
        return tsv([*header, *titles, "PAUSED", "MISMATCHES", "DRAINED"], rows)
    if not workers:
        return ["no worker has reported yet", "  next: python -m training.fleet.worker"]
    out = table(header, rows, view.columns)
    for worker in workers:
        notes = _host_notes(worker)
        if notes:
            out += ["", text_of(worker, "host"), *notes]
    return out


def _host_notes(worker: Row) -> list[str]:
    has = row_of(worker, "effective") or row_of(worker, "capability")
    notes = []
    if reason := text_of(worker, "paused_reason"):
        notes.append(f"  PAUSED: {reason}")
    if reason := text_of(worker, "drained_reason"):
        notes.append(f"  drained: {reason}")
    labels = {
        "cores": "cores",
        "os": "os",
        "arch": "arch",
        "python_version": "python",
        "torch_version": "torch",
    }
    known = [f"{word} {figure(has[key])}" for key, word in labels.items() if has.get(key)]
    if known:
        notes.append(f"  {'   '.join(known)}")
    if has.get("models") is not None:
        notes.append(f"  models  {figure(has.get('models'))}")
    return notes + [f"  mismatch  {note}" for note in words_of(worker, "mismatches")]
