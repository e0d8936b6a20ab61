"""The screen of `cis490-jobs status` and `watch`: the answer of `GET /v1/overview` -> lines. Pure.

On a terminal of 80 columns and 24 lines a fleet of eight hosts fits, problems and all; what does not fit is
counted, with the command that shows it. In a pipe it is one table of tab-separated values, nothing left out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from training.fleet.render import ACTIVE, STATE_STYLES, View, progress_text
from training.fleet.tables import (
    Row,
    clip,
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

_WORDS = (
    ("running", "running"), ("claimed", "starting"), ("pending", "pending"), ("failed", "FAILED"),
    ("cancelled", "cancelled"), ("completed", "done"),
)  # fmt: skip
_ORDER = ("running", "LOST", "PAUSED", "draining", "drained", "idle", "unseen")
"""Which hosts are shown first where not all of them are."""
BAR_CELLS = 10
MIN_PROGRESS = 12
"""Columns that the progress gets, whatever long names stand before it."""
MIN_NAME = 14
MAX_TEXT_LINES = 2
WHOLE_TEXT_LINES = 8
"""Of a problem where all of them fit: the real error is what the operator came for."""
MIN_PROBLEM_LINES = 9
"""Of a screen; the hosts get the rest."""
ALL = "cis490-jobs status --all"


def status(view: View, fleet: Row, *, everything: bool = False) -> list[str]:
    """`status`: the sentence, the hosts with what they do, and last what needs a person."""
    if view.width is None:
        return _tsv(view, fleet)
    head = [*_head(view, fleet), ""]
    problems = _blocks(view, fleet, WHOLE_TEXT_LINES)
    room = None if everything else max(view.height - 1, 12) - len(head)
    wanted = sum(map(len, problems))
    hosts = _hosts(view, fleet, None if room is None else room - min(wanted, MIN_PROBLEM_LINES) - 1)
    out = [*head, *hosts]
    if problems:
        left = None if room is None else room - len(hosts) - 1
        if left is not None and sum(map(len, problems)) > left:
            problems = _blocks(view, fleet, MAX_TEXT_LINES)
        out += ["", *_fitting(problems, left)]
    return out


# -- the head


def _head(view: View, fleet: Row) -> list[str]:
    manifest, started = row_of(fleet, "manifest"), number_of(fleet, "started_at")
    parts = [text_of(fleet, "name") or "no manifest in force"]
    if digest := text_of(manifest, "digest"):
        parts.append(f"manifest {digest[:8]}")
    if started is not None:
        parts.append(f"receiver up {duration(view.now_s - started)}")
    line = "  ".join(parts)
    clock = _clock(view.now_s)
    gap = max(view.columns - len(line) - len(clock), 2)
    out = [view.paint(parts[0], "strong") + line[len(parts[0]) :] + " " * gap + clock]
    out.append(_counts(view, fleet))
    done = row_of(fleet, "done_estimate")
    if (reason := fleet.get("fleet_paused")) is not None:
        text = f"the fleet is PAUSED, no job is handed out: {figure(reason)}"
        out += [view.paint(line, "warn") for line in textwrap.wrap(text, view.columns)[:MAX_TEXT_LINES]]
    elif done:
        out.append(f"all done about {when(view, number_of(done, 'at'))} ({text_of(done, 'basis')})")
    return out + _shadow_lines(rows_of(fleet, "shadows"))


def _counts(view: View, fleet: Row) -> str:
    counts, total = row_of(fleet, "counts"), count_of(fleet, "n_jobs")
    if not total:
        return "no jobs yet: add [[jobs]] to the manifest, then: cis490-jobs reload"
    parts = [
        view.paint(f"{count_of(counts, status)} {word}", STATE_STYLES[status])
        for status, word in _WORDS
        if count_of(counts, status)
    ]
    return f"{'   '.join(parts)}   of {total} {'job' if total == 1 else 'jobs'}"


def _shadow_lines(shadows: Sequence[Row]) -> list[str]:
    """One line when verification runs are on their way."""
    if not shadows:
        return []
    named = [
        text_of(one, "name") + (f" on {text_of(one, 'claimed_by')}" if text_of(one, "claimed_by") else "")
        for one in shadows[:3]
    ]
    more = ", ..." if len(shadows) > len(named) else ""
    return [f"verification runs: {len(shadows)} ({', '.join(named)}{more})"]


def _clock(at: float) -> str:
    import time

    return time.strftime("%H:%M:%S UTC", time.gmtime(at))


def when(view: View, at: float | None) -> str:
    """`18:40 UTC`, with the day when it is not today's."""
    import time

    if at is None or not 0 <= at < 1e11:
        return "an unknown time"
    there, here = time.gmtime(at), time.gmtime(view.now_s)
    return time.strftime("%H:%M UTC" if there[:3] == here[:3] else "%b %d, %H:%M UTC", there)


# -- the hosts


def _hosts(view: View, fleet: Row, room: int | None) -> list[str]:
    hosts = rows_of(fleet, "hosts")
    if not hosts:
        return ["no host yet: the manifest names none, and no worker has called",
                "  next: python -m training.fleet.worker   (on a host that shall train)"]  # fmt: skip
    running = {
        text_of(job, "job_id"): job for job in (*rows_of(fleet, "running"), *rows_of(fleet, "shadows"))
    }
    shown = list(hosts)
    if room is not None and len(hosts) + 1 > room:
        rank = {state: at for at, state in enumerate(_ORDER)}
        by_need = sorted(hosts, key=lambda host: rank.get(text_of(host, "state"), 0))
        kept = {text_of(host, "host") for host in by_need[: max(room - 2, 3)]}
        shown = [host for host in hosts if text_of(host, "host") in kept]
    rows = [row for host in shown for row in _host_rows(view, host, list(running.values()))]
    out = _columns(view, rows)
    if len(shown) < len(hosts):
        out.append(f"  and {len(hosts) - len(shown)} more hosts: {ALL}")
    return out


def _host_rows(view: View, host: Row, running: Sequence[Row]) -> list[tuple[list[str], list[str]]]:
    """A row for each job that the host holds, one without a job if it holds none: (cells, progress, long to short)."""
    name, state = text_of(host, "host"), text_of(host, "state")
    cells = [name, view.mark(state, STATE_STYLES.get(state, "")), *_machine(host)]
    held = [job for job in running if text_of(job, "claimed_by") == name and text_of(job, "status") in ACTIVE]
    silent = state == "LOST" or (state == "draining" and not host.get("live"))
    if not held:
        note = f"seen {view.ago(number_of(host, 'last_seen_at'))}" if silent else _note(host)
        return [([*cells, "-"], [note])]
    rows = []
    for at, job in enumerate(held):
        own = cells if at == 0 else ["", "", "", ""]
        progress = [f"seen {view.ago(number_of(host, 'last_seen_at'))}"] if silent else _progress(view, job)
        rows.append(([*own, text_of(job, "name")], progress))
    return rows


def _note(host: Row) -> str:
    for key in ("drained_reason", "paused_reason"):
        if reason := text_of(host, key):
            return reason
    if text_of(host, "state") == "unseen":
        return "never called"
    count = count_of(host, "eligible_jobs")
    return f"{count} waiting {'job fits' if count == 1 else 'jobs fit'}" if count else "no waiting job fits"


def _machine(host: Row) -> list[str]:
    """GPU with its load, and VRAM used of all, or `-`."""
    has, usage = row_of(host, "effective") or row_of(host, "capability"), row_of(host, "usage")
    own, loads = rows_of(has, "gpus"), rows_of(usage, "gpus")
    names = [_short(text_of(gpu, "name")) for gpu in own]
    gpu = (names[0] if len(names) == 1 else f"{len(names)}x {names[0]}") if names else "-"
    if not names and has.get("has_cuda"):
        gpu = "CUDA"
    busiest = max(
        (value for one in loads if (value := number_of(one, "util_percent")) is not None), default=None
    )
    if busiest is not None:
        gpu += f" {busiest:.0f}%"
    total = sum(value for one in own if (value := number_of(one, "vram_gib")) is not None) or number_of(
        has, "vram_gib"
    )
    used = [value for one in loads if (value := number_of(one, "vram_used_gib")) is not None]
    if not total:
        return [gpu, "-"]
    return [gpu, f"{sum(used):.1f}/{total:.0f}" if used else f"{total:.0f} GiB"]


def _short(name: str) -> str:
    for word in ("NVIDIA ", "GeForce ", "Tesla ", "Quadro "):
        name = name.replace(word, "")
    return clip(name, 14)


def _progress(view: View, job: Row) -> list[str]:
    """How far it is, from the longest wording to the shortest."""
    progress = row_of(job, "progress")
    step, total = number_of(progress, "step"), number_of(progress, "total")
    if step is None or not total or total <= 0:
        claimed = number_of(job, "claimed_at")
        since = "" if claimed is None else f"for {duration(view.now_s - claimed)}"
        return [text for text in (progress_text(progress), f"starting, {since}", since, "started") if text]
    share = min(max(step / total, 0.0), 1.0)
    full = round(BAR_CELLS * share)
    bar = f"[{'#' * full}{'-' * (BAR_CELLS - full)}]"
    count = f"{figure(step)}/{figure(total)}"
    unit, loss = text_of(progress, "unit"), number_of(progress, "loss")
    left = _left(view, job)
    long = f"{bar} {count} {unit}".rstrip()
    tail = "" if loss is None else f", loss {figure(loss)}"
    short_full = round(5 * share)
    return [
        *([f"{long}{tail}, {left}", f"{bar} {count}, {left}"] if left else []),
        long + tail, long, f"{bar} {count}", f"[{'#' * short_full}{'-' * (5 - short_full)}] {100 * share:.0f}%",
        f"{100 * share:.0f}%",
    ]  # fmt: skip


def _left(view: View, job: Row) -> str:
    finish = number_of(row_of(job, "estimate"), "finish_at")
    return "" if finish is None or finish <= view.now_s else f"{duration(finish - view.now_s)} left"


def _columns(view: View, rows: Sequence[tuple[list[str], list[str]]]) -> list[str]:
    """The table, its names cut so that the progress has room, and each progress as long as it may be."""
    header = ["HOST", "STATE", "GPU", "VRAM", "JOB"]
    widths = [max(len(header[at]), *(len(cells[at]) for cells, _ in rows)) for at in range(len(header))]
    free = view.columns - sum(widths) - 2 * len(widths)
    for at in (4, 0):  # the job's name first, then the host's
        if free < MIN_PROGRESS:
            cut = min(MIN_PROGRESS - free, max(widths[at] - MIN_NAME, 0))
            widths[at], free = widths[at] - cut, free + cut
    room = max(free, MIN_PROGRESS)
    lines = []
    for cells, wordings in rows:
        named = [clip(cell, widths[at]) if len(cell) > widths[at] else cell for at, cell in enumerate(cells)]
        fits = next((text for text in wordings if len(text) <= room), wordings[-1] if wordings else "")
        lines.append([*named, fits])
    return table([*header, "PROGRESS"], lines, view.columns)


# -- what needs a person


def _blocks(view: View, fleet: Row, most_lines: int) -> list[list[str]]:
    """Each problem: at most so many lines, and the command to type next."""
    out = []
    for problem in rows_of(fleet, "problems"):
        is_error = text_of(problem, "severity") == "error"
        out.append(
            _block(
                view,
                "x" if is_error else "!",
                text_of(problem, "text"),
                text_of(problem, "next"),
                is_error,
                most_lines,
            )
        )
    stuck = [
        _block(view, "!", _stuck_text(one), text_of(one, "next"), False, most_lines)
        for one in rows_of(fleet, "stuck")
    ]
    return out + stuck


def _stuck_text(stuck: Row) -> str:
    names, count = words_of(stuck, "jobs"), count_of(stuck, "n_jobs")
    more = f" and {count - len(names)} more" if count > len(names) else ""
    if text_of(stuck, "reason").startswith("paused "):
        waits = "waits" if count == 1 else "wait"
    else:
        waits = "waits, and no host can run it" if count == 1 else "wait, and no host can run them"
    return f"{', '.join(names)}{more} {waits}: {text_of(stuck, 'reason')}"


def _block(view: View, sign: str, text: str, command: str, is_error: bool, most_lines: int) -> list[str]:
    lines = textwrap.wrap(text, max(view.columns - 2, 40), break_on_hyphens=False) or [""]
    if len(lines) > most_lines:
        rest = " ".join(lines[most_lines - 1 :])
        lines = [*lines[: most_lines - 1], clip(rest, max(view.columns - 2, 40))]
    out = [
        f"{view.paint(sign, 'bad' if is_error else 'warn')} {lines[0]}",
        *(f"  {line}" for line in lines[1:]),
    ]
    return [*out, f"    next: {command}"] if command else out


def _fitting(blocks: Sequence[Sequence[str]], room: int | None) -> list[str]:
    """As many blocks as fit, at least one; how many more there are."""
    out: list[str] = []
    for at, block in enumerate(blocks):
        reserve = 0 if at == len(blocks) - 1 else 1
        if room is not None and out and len(out) + len(block) + reserve > room:
            left = len(blocks) - at
            return [*out, f"  and {left} more {'problem' if left == 1 else 'problems'}: {ALL}"]
        out += block
    return out


# -- in a pipe


def _tsv(view: View, fleet: Row) -> list[str]:
    """One table: what the line is about, its name, its state, the detail, the command to type next."""
    counts = row_of(fleet, "counts")
    rows = [["count", status, str(count_of(counts, status)), "", ""] for status in counts]
    for host in rows_of(fleet, "hosts"):
        name, seen = text_of(host, "host"), view.ago(number_of(host, "last_seen_at"))
        detail = f"{count_of(host, 'busy')} of {count_of(host, 'slots')} slots busy, seen {seen}"
        for word in ("paused", "drained"):
            if reason := text_of(host, f"{word}_reason"):
                detail += f", {word}: {reason}"
        rows.append(["host", name, text_of(host, "state"), detail, f"cis490-jobs why --host {name}"])
    for job in rows_of(fleet, "running"):
        detail = f"on {text_of(job, 'claimed_by')} {progress_text(row_of(job, 'progress'))}".rstrip()
        name = text_of(job, "name")
        rows.append(["job", name, text_of(job, "status"), detail, f"cis490-jobs show {name}"])
    for problem in rows_of(fleet, "problems"):
        name = text_of(problem, "job") or text_of(problem, "host") or text_of(problem, "code")
        text, command = gist(str(problem.get("text") or "")), text_of(problem, "next")
        rows.append([text_of(problem, "severity"), name, text_of(problem, "code"), text, command])
    for stuck in rows_of(fleet, "stuck"):
        name = ",".join(words_of(stuck, "jobs"))
        count = count_of(stuck, "n_jobs")
        detail = f"{count} {'job' if count == 1 else 'jobs'}: {text_of(stuck, 'reason')}"
        rows.append(["stuck", name, "pending", detail, text_of(stuck, "next")])
    for shadow in rows_of(fleet, "shadows"):
        state, where, name = text_of(shadow, "status"), text_of(shadow, "claimed_by"), text_of(shadow, "name")
        rows.append(["verification", name, state, f"on {where}" if where else "", f"cis490-jobs show {name}"])
    return tsv(["WHAT", "NAME", "STATE", "DETAIL", "NEXT"], rows)
