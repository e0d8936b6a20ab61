"""The operator's screens: JSON answers of the receiver -> lines of text. Pure: no I/O, no clock.

Each screen has two forms. On a terminal (`View.width` is set) it is laid out for reading: relative
times, bad states in capitals, long texts cut. In a pipe (`View.width` is None) it is one table of
tab-separated values with a header line, the receiver's own words, nothing cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.fleet.tables import (
    Row,
    count_of,
    duration,
    figure,
    gist,
    number_of,
    row_of,
    rows_of,
    table,
    text_of,
    tsv,
    words_of,
)
from training.fleet.types import STATUSES

ACTIVE = ("claimed", "running")
PASSING_CHECKS = frozenset({"free_slot", "preference"})
"""Checks that time alone will mend: a job that fails only these is waiting its turn, not stuck."""
MOST_PROBLEMS = 5
"""Failures of each kind on the status screen (three lines each), so that it stays one screen."""
MOST_REASONS = 4
"""Reasons why jobs are stuck on it (one to three lines each)."""
MOST_SHADOWS = 3
"""Verification runs that the status screen names."""
BAR_CELLS = 10


@dataclass(frozen=True, slots=True)
class View:
    """For whom a screen is made."""

    now_s: float
    """Wall time, seconds since the epoch: relative times count from here."""
    width: int | None
    """Columns of the terminal; None: piped, so tab-separated values."""

    @property
    def columns(self) -> int:
        return self.width or 80

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
        ends = [[since(view, job), text_of(job, "last_error"), text_of(job, "job_id")] for job in jobs]
        header += ["AGE", "ERROR", "JOB_ID"]
        return tsv(header, [row + end for row, end in zip(rows, ends, strict=True)])
    if not jobs:
        return ["no jobs", "  next: add [[jobs]] to the manifest, then: cis490-jobs reload"]
    for row, job in zip(rows, jobs, strict=True):
        row[1] = state_word(row[1])
        row.append("; ".join(_remarks(view, job)))
    return table([*header, "AGE / ERROR"], rows, view.columns)


def since(view: View, job: Row) -> str:
    """When the job last changed or showed life, relative; "" for one that was never claimed."""
    if text_of(job, "status") in ACTIVE:
        at = number_of(job, "heartbeat_at") or number_of(job, "claimed_at")
    else:
        at = number_of(job, "completed_at") or number_of(job, "claimed_at")
    return "" if at is None else view.ago(at)


def _remarks(view: View, job: Row) -> list[str]:
    found = [since(view, job) or "never claimed"]
    if text_of(job, "status") not in ("completed", "cancelled"):
        found.append(gist(str(job.get("last_error") or "")))
    if job.get("held"):
        found.append(f"not in the manifest, id {text_of(job, 'job_id')[:12]}")
    found += [f"stale: {word}" for word in words_of(job, "stale")]
    return [remark for remark in found if remark]


# --- status ------------------------------------------------------------------------------------------


def is_stuck(answer: Row) -> bool:
    """Is this a pending job that no host can run, however long it waits? Something has to be changed."""
    if text_of(answer, "status") != "pending":
        return False
    return bool(failed_checks(answer, "job_checks")) or all(
        _lasting(host) for host in rows_of(answer, "hosts")
    )


def failed_checks(answer: Row, key: str = "checks") -> list[Row]:
    """The checks of a host (or, with `job_checks`, of the job itself) that are not ok."""
    return [check for check in rows_of(answer, key) if not check.get("ok")]


def _lasting(host: Row) -> list[Row]:
    return [check for check in failed_checks(host) if text_of(check, "constraint") not in PASSING_CHECKS]


def message_of(check: Row) -> str:
    """Why a check failed, as a sentence."""
    wanted, found = text_of(check, "wanted"), text_of(check, "found")
    return text_of(check, "message") or f"{text_of(check, 'constraint')}: wanted {wanted}, found {found}"


def status(
    view: View,
    jobs: Sequence[Row],
    workers: Sequence[Row],
    stuck: Sequence[Row],
    shadows: Sequence[Row] = (),
) -> list[str]:
    """`status`: one screen. `stuck` holds the eligibility answers of pending jobs that no host can run, `shadows`
    the verification runs, which are no jobs and are counted on a line of their own."""
    running = [job for job in jobs if text_of(job, "status") in ACTIVE]
    failed = [job for job in jobs if text_of(job, "status") == "failed"]
    troubled = [job for job in jobs if text_of(job, "status") in ("pending", *ACTIVE) and _has_failed(job)]
    if view.width is None:
        return _status_tsv(view, jobs, workers, [*running, *failed, *troubled], stuck, shadows)
    out = [_counts_sentence(jobs), *_shadow_lines(shadows), ""]
    if workers:
        header, rows = _host_rows(view, workers)
        out += [*table(header, rows, view.columns), ""]
    else:
        out += ["no worker has reported yet", "  next: python -m training.fleet.worker", ""]
    if running:
        header = ["RUNNING", "HOST", "FOR", "SEEN", "PROGRESS"]
        out += [*table(header, [_running_row(view, job) for job in running], view.columns), ""]
    paused = [worker for worker in workers if _host_state(worker) == "PAUSED"]
    out += _problems([_paused_lines(worker) for worker in paused], "cis490-jobs workers")
    out += _problems([_failed_lines(job) for job in failed], "cis490-jobs list --status failed")
    out += _problems([_failed_lines(job) for job in troubled], "cis490-jobs list")
    if stuck:
        out += ["", *_stuck_lines(stuck, view.columns)] if out[-1] else _stuck_lines(stuck, view.columns)
    return out[:-1] if out[-1] == "" else out


def _counts_sentence(jobs: Sequence[Row]) -> str:
    counts = {word: sum(text_of(job, "status") == word for job in jobs) for word in STATUSES}
    parts = [f"{count} {state_word(word)}" for word, count in counts.items() if count]
    return f"{len(jobs)} jobs: {', '.join(parts)}" if jobs else "no jobs: the manifest is empty or not loaded"


def _shadow_lines(shadows: Sequence[Row]) -> list[str]:
    """One line when verification runs are on their way; what has ended is of no concern here."""
    counts = {
        word: [one for one in shadows if text_of(one, "status") == word] for word in ("pending", *ACTIVE)
    }
    parts = [f"{len(found)} {word}" for word, found in counts.items() if found]
    names = [
        text_of(one, "name") + (f" on {text_of(one, 'claimed_by')}" if text_of(one, "claimed_by") else "")
        for found in counts.values()
        for one in found
    ]
    more = ", ..." if len(names) > MOST_SHADOWS else ""
    return (
        [f"verification runs: {', '.join(parts)} ({', '.join(names[:MOST_SHADOWS])}{more})"] if parts else []
    )


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
                _host_state(worker),
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


def _running_row(view: View, job: Row) -> list[str]:
    claimed = number_of(job, "claimed_at")
    return [
        handle(job),
        text_of(job, "claimed_by") or "-",
        "-" if claimed is None else duration(view.now_s - claimed),
        view.ago(number_of(job, "heartbeat_at") or claimed),
        progress_text(row_of(job, "progress")) or "no progress reported yet",
    ]


def _has_failed(job: Row) -> bool:
    losses = count_of(job, "program_failures") + count_of(job, "host_losses")
    return losses > 0 and bool(job.get("last_error"))


def tries(count: int) -> str:
    return f"{count} attempt" if count == 1 else f"{count} attempts"


def _failed_lines(job: Row) -> list[str]:
    name, tried = handle(job), tries(count_of(job, "attempts"))
    error = gist(str(job.get("last_error") or "")) or "no error message"
    if text_of(job, "status") == "failed":
        return [
            f"! {name} FAILED after {tried}:",
            f"    {error}",
            f"    next: cis490-jobs show {name}   then: cis490-jobs requeue {name}",
        ]
    again = "waits for another try" if text_of(job, "status") == "pending" else "is being tried again"
    return [f"! {name} {again} after {tried}:", f"    {error}", f"    next: cis490-jobs show {name}"]


def _paused_lines(worker: Row) -> list[str]:
    host = text_of(worker, "host")
    return [
        f"! {host} is PAUSED and takes no job: {text_of(worker, 'paused_reason')}",
        f"    next: cis490-jobs why --host {host}",
    ]


def _stuck_reason(answer: Row) -> str:
    """What keeps it from the host that comes closest: the first reason, and how many more there are."""
    own = [text_of(check, "message") for check in failed_checks(answer, "job_checks")]
    hosts = rows_of(answer, "hosts")
    if own or not hosts:
        return "; ".join(own) or "no host is in the manifest and none has reported"
    closest = min(hosts, key=lambda host: len(_lasting(host)))
    name, (first, *others) = text_of(closest, "host"), [message_of(check) for check in _lasting(closest)]
    reason = first if name in first else f"{name}: {first}"
    return reason + (f" (and {len(others)} more)" if others else "")


def _stuck_lines(stuck: Sequence[Row], columns: int) -> list[str]:
    """A line for each reason, since one cause (a host that is switched off) mostly holds many jobs."""
    by_reason: dict[str, list[Row]] = {}
    for answer in stuck:
        by_reason.setdefault(_stuck_reason(answer), []).append(answer)
    rows = [
        [handle(held[0]) + (f" +{len(held) - 1}" if len(held) > 1 else ""), reason]
        for reason, held in by_reason.items()
    ]
    out = table(["PENDING AND STUCK", "NO HOST CAN RUN IT"], rows[:MOST_REASONS], columns, wrap=True)
    if len(rows) > MOST_REASONS:
        out.append(f"  and {len(rows) - MOST_REASONS} more reasons: cis490-jobs list --status pending")
    return [*out, f"    next: cis490-jobs why {handle(stuck[0])}"]


def _problems(blocks: Sequence[list[str]], more: str) -> list[str]:
    out = [line for block in blocks[:MOST_PROBLEMS] for line in block]
    if len(blocks) > MOST_PROBLEMS:
        out.append(f"  and {len(blocks) - MOST_PROBLEMS} more: {more}")
    return out


def _status_tsv(
    view: View,
    jobs: Sequence[Row],
    workers: Sequence[Row],
    told: Iterable[Row],
    stuck: Sequence[Row],
    shadows: Sequence[Row],
) -> list[str]:
    """One table: what the line is about, its name, its state, the detail, the command to type next."""
    rows = [
        ["count", word, str(sum(text_of(job, "status") == word for job in jobs)), "", ""] for word in STATUSES
    ]
    for worker in workers:
        detail = f"{count_of(worker, 'busy')} of {count_of(worker, 'slots')} slots busy"
        detail += f", seen {view.ago(number_of(worker, 'last_seen_at'))}"
        for word in ("paused", "drained"):
            if reason := text_of(worker, f"{word}_reason"):
                detail += f", {word}: {reason}"
        name = text_of(worker, "host")
        rows.append(["host", name, _host_state(worker), detail, f"cis490-jobs why --host {name}"])
    for job in told:
        error = gist(str(job.get("last_error") or ""))
        where, progress = text_of(job, "claimed_by"), progress_text(row_of(job, "progress"))
        active = text_of(job, "status") in ACTIVE and not _has_failed(job)
        detail = f"on {where} {progress}".rstrip() if active else error
        rows.append(["job", handle(job), text_of(job, "status"), detail, f"cis490-jobs show {handle(job)}"])
    for answer in stuck:
        name = text_of(answer, "name")
        rows.append(["stuck", name, "pending", _stuck_reason(answer), f"cis490-jobs why {name}"])
    for shadow in shadows:
        state, where = text_of(shadow, "status"), text_of(shadow, "claimed_by")
        if state in ("pending", *ACTIVE):
            name = text_of(shadow, "name")
            rows.append(
                ["verification", name, state, f"on {where}" if where else "", f"cis490-jobs show {name}"]
            )
    return tsv(["WHAT", "NAME", "STATE", "DETAIL", "NEXT"], rows)


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
