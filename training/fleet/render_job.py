"""The screens about one job or one host's view of the jobs: `show`, `why`, and what the verbs answer. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from training.fleet.render import (
    ACTIVE,
    STATE_STYLES,
    View,
    handle,
    progress_text,
    since,
    state_word,
    tries,
)
from training.fleet.render_models import metrics_text
from training.fleet.render_status import when
from training.fleet.tables import (
    Row,
    count_of,
    duration,
    figure,
    gist,
    number_of,
    row_of,
    rows_of,
    safe,
    safe_lines,
    size,
    table,
    text_of,
    tsv,
    words_of,
)

if TYPE_CHECKING:
    from training.fleet.verification import Verified


def show(view: View, job: Row, told: Row | None = None) -> list[str]:
    """`show`: all that is known of one job, its attempts and its audit rows.

    `told` has the progress points of the latest attempt and the most that it used, `GET /v1/job/{id}/progress`.
    """
    fields = _show_fields(view, job, told or {})
    attempts, audit = rows_of(job, "attempts_log"), rows_of(job, "audit")
    if view.width is None:
        rows = [[key, value] for key, value in fields]
        rows.append(["last error", text_of(job, "last_error")])
        rows += [["attempt", figure(dict(attempt))] for attempt in attempts]
        rows += [["audit", figure(dict(event))] for event in audit]
        return tsv(["FIELD", "VALUE"], rows)
    status = text_of(job, "status")
    state = view.paint(state_word(status), STATE_STYLES.get(status, ""))
    out = [f"{view.paint(text_of(job, 'name'), 'strong')}  {state}{_where(job)}"]
    for key, value in fields:
        out += _field(key, value, view.columns)
    if job.get("last_error"):
        out += ["  last error", *(f"    | {line}" for line in safe_lines(str(job["last_error"])))]
    if attempts:
        header = ["ATTEMPT", "HOST", "CLAIMED", "TOOK", "PEAK RSS", "CPU", "OUTCOME"]
        out += ["", *table(header, [_attempt_row(view, row) for row in attempts], view.columns, wrap=True)]
        if any(number_of(row, "duration_s") is None and row.get("ended_at") for row in attempts):
            out.append("  * from claim to end; the worker did not say how long its training took")
    if audit:
        header = ["WHEN", "WHO", "EVENT", "CHANGE"]
        out += ["", *table(header, [_audit_row(view, row) for row in audit], view.columns, wrap=True)]
    return [*out, "", f"next: {_next_command(job)}"]


def _field(key: str, value: str, columns: int) -> list[str]:
    lines = textwrap.wrap(value, max(columns - 16, 40), break_on_hyphens=False) or [""]
    return [f"  {key:<13} {lines[0]}", *(f"{'':<16}{line}" for line in lines[1:])]


def _where(job: Row) -> str:
    host = text_of(job, "claimed_by")
    if text_of(job, "status") in ACTIVE and host:
        return f" on {host}, attempt {count_of(job, 'attempts')}"
    return f", {tries(count_of(job, 'attempts'))}"


def _show_fields(view: View, job: Row, told: Row) -> list[tuple[str, str]]:
    spec = row_of(job, "spec")
    trained = figure(spec.get("train_hosts")) if spec.get("train_hosts") else "chosen by the split recipe"
    failures = (
        f"{count_of(job, 'program_failures')} of the program, {count_of(job, 'host_losses')} host losses"
    )
    removed = (
        "no: held until it returns or is cancelled" if job.get("held") else f"line {figure(spec.get('line'))}"
    )
    if job.get("kind") == "shadow":
        removed = "no: a verification run"
    recipe = figure(spec.get("split_recipe")) + (" (leaky)" if job.get("leaky") else "")
    leaky = "LEAKY, no result to quote: " if job.get("leaky") else ""
    listed = {
        "job id": text_of(job, "job_id"),
        "verifies": _verifies(job),
        "model": f"{text_of(job, 'model')}, {text_of(job, 'mode')}",
        "hyper": figure(spec.get("hyper")),
        "split": f"{recipe}, seed {figure(spec.get('seed'))}, train hosts: {trained}",
        "needs": "; ".join(_needs(spec)) or "nothing special",
        "used (peak)": ", ".join(_peak(row_of(told, "peak"))),
        "limits": f"timeout {_limit(spec, 'timeout_s')}, without progress {_limit(spec, 'stall_s')}",
        "priority": figure(job.get("priority")),
        "on change": figure(spec.get("on_change")),
        "in manifest": removed,
        "generation": figure(job.get("generation")),
        "failures": failures,
        "paused": (text_of(job, "paused_reason") or "yes") if job.get("paused_reason") is not None else "",
        "progress": progress_text(row_of(job, "progress")),
        "loss": _loss(view, rows_of(told, "points")),
        "estimate": _estimate(view, job),
        "last sign": since(view, job),
        "metrics": leaky + metrics_text(row_of(job, "metrics")) if row_of(job, "metrics") else "",
        "artifact": text_of(job, "artifact_id"),
        "stale": ", ".join(words_of(job, "stale")),
    }
    return [(key, value) for key, value in listed.items() if value]


def _peak(peak: Row) -> list[str]:
    """The most that the latest attempt used, as far as it was measured."""
    ram, vram, gpu = (number_of(peak, key) for key in ("job_rss_gib", "job_vram_gib", "gpu_util_percent"))
    found = [] if ram is None else [f"{figure(ram)} GiB RAM"]
    found += [] if vram is None else [f"{figure(vram)} GiB VRAM"]
    return found + ([] if gpu is None else [f"GPU {gpu:.0f} %"])


LEVELS, ASCII_LEVELS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588", "_.-=+*%#"
MOST_CELLS = 40


def _loss(view: View, points: Sequence[Row]) -> str:
    """`1.09 #*=.__ 0.211`: the loss of the latest attempt from its first point to its last."""
    losses = [loss for point in points if (loss := number_of(point, "loss")) is not None and isfinite(loss)]
    if not losses or view.width is None:
        return ""
    count = min(len(losses), MOST_CELLS)
    low, high = min(losses), max(losses)
    levels = LEVELS if view.blocks else ASCII_LEVELS
    cells = [losses[(2 * at + 1) * len(losses) // (2 * count)] for at in range(count)]
    half = (high / 2 - low / 2) or 1.0  # halves, since the difference of two floats may be none
    shares = [(cell / 2 - low / 2) / half for cell in cells]
    curve = "".join(levels[min(int(share * len(levels)), len(levels) - 1)] for share in shares)
    return f"{figure(losses[0])} {curve} {figure(losses[-1])}"


def _estimate(view: View, job: Row) -> str:
    """When it is expected to start and to end, and the basis of that."""
    estimate = row_of(job, "estimate")
    parts = []
    for key, word in (("start_at", "starts"), ("finish_at", "ends")):
        at = number_of(estimate, key)
        if at is None:
            continue
        if key == "start_at" and at <= view.now_s + 1 and text_of(job, "status") == "pending":
            parts.append("could start now")
        elif at > view.now_s:
            parts.append(f"{word} in {duration(at - view.now_s)}, {when(view, at)}")
    return f"{'; '.join(parts)} ({text_of(estimate, 'basis')})" if parts else ""


def _verifies(job: Row) -> str:
    if job.get("kind") != "shadow":
        return ""
    return f"artifact {text_of(job, 'of_artifact_id')[:12]} of job {text_of(job, 'of_job_id')[:12]}"


def _needs(spec: Row) -> list[str]:
    found = []
    if spec.get("require_cuda"):
        found.append("CUDA")
    elif spec.get("prefer_cuda"):
        found.append("CUDA preferred")
    for key, what in (("min_vram_gib", "VRAM"), ("min_ram_gib", "RAM")):
        if number_of(spec, key):
            found.append(f">= {figure(number_of(spec, key))} GiB {what}")
    if words_of(spec, "allowed_hosts"):
        found.append(f"only on {', '.join(words_of(spec, 'allowed_hosts'))}")
    return found


def _limit(spec: Row, key: str) -> str:
    value = number_of(spec, key)
    return "no limit" if value is None else duration(value)


def _attempt_row(view: View, attempt: Row) -> list[str]:
    rss, cpu = number_of(attempt, "peak_rss_mib"), number_of(attempt, "cpu_s")
    outcome = text_of(attempt, "outcome") or "live"
    kind, error = text_of(attempt, "fail_class"), gist(str(attempt.get("error") or ""))
    return [
        f"{count_of(attempt, 'generation')}.{count_of(attempt, 'epoch')}",
        text_of(attempt, "host") or "-",
        view.ago(number_of(attempt, "claimed_at")),
        _took(view, attempt),
        "-" if rss is None else f"{rss:.0f} MiB",
        "-" if cpu is None else duration(cpu),
        state_word(outcome) + (f" ({kind})" if kind else "") + (f": {error}" if error else ""),
    ]


def _took(view: View, attempt: Row) -> str:
    """As the worker measured it. Without its word: how long the receiver knew it held, or has held so far."""
    measured, start = number_of(attempt, "duration_s"), number_of(attempt, "claimed_at")
    if measured is not None:
        return duration(measured)
    if start is None:
        return "-"
    end = number_of(attempt, "ended_at")
    return f"{duration((view.now_s if end is None else end) - start)}{' so far' if end is None else '*'}"


def _audit_row(view: View, event: Row) -> list[str]:
    before, after, detail = (text_of(event, key) for key in ("from", "to", "detail"))
    change = (f"{before} -> {after}" if before else after) + (f": {detail}" if detail else "")
    return [view.ago(number_of(event, "at")), text_of(event, "actor"), text_of(event, "event"), change]


_AFTER_SHADOW = {"completed": "", "failed": " --again", "cancelled": " --again"}
_NEXT_VERB = {"pending": "why", "failed": "requeue", "cancelled": "requeue", "completed": "pull"}


def _next_command(job: Row) -> str:
    if job.get("kind") == "shadow" and text_of(job, "status") in _AFTER_SHADOW:
        return f"cis490-jobs verify {text_of(job, 'of_job_id')[:12]}{_AFTER_SHADOW[text_of(job, 'status')]}"
    status = text_of(job, "status")
    if status == "pending" and job.get("paused_reason") is not None:
        return f"cis490-jobs resume {handle(job)}"
    if status in ACTIVE:
        return f"cis490-jobs logs {handle(job)} -f"
    verb = _NEXT_VERB.get(status)
    return f"cis490-jobs {verb} {handle(job)}" if verb else "cis490-jobs status"


# --- what a verb did ---------------------------------------------------------------------------------


def cancelled(job: Row) -> list[str]:
    """After `cancel`; `job` is the row as it was before."""
    line = f"{handle(job)}: cancelled (was {text_of(job, 'status')})"
    if text_of(job, "status") in ACTIVE:
        line += f"; {text_of(job, 'claimed_by')} stops it at its next heartbeat"
    if job.get("kind") == "shadow":
        return [line, f"  another one: cis490-jobs verify {text_of(job, 'of_job_id')[:12]}"]
    return [line, f"  undo: cis490-jobs requeue {text_of(job, 'job_id')[:12]}"]


def requeued(job: Row) -> list[str]:
    """After `requeue`; `job` is the row as it was before."""
    was = text_of(job, "status")
    line = f"{handle(job)}: pending again (was {was})"
    if was == "completed":
        line += ", as a new generation; the artifacts it has are kept"
    return [line, f"  next: cis490-jobs why {handle(job)}"]


def verified(view: View, job: Row, found: Verified) -> list[str]:
    """After `verify`: the verdict with its figures, or that the run was started."""
    name, shadow, comparison = text_of(job, "name"), found.shadow, found.comparison
    run, where = text_of(shadow, "name"), text_of(shadow, "claimed_by")
    if comparison is None:
        hosts = f" on {', '.join(map(safe, found.hosts))}" if found.hosts else ""
        return [
            f"{run}: trains {name} once more{hosts}, after everything else that waits",
            f"  next: cis490-jobs verify {name}   (waits for it and compares)",
        ]
    figures = [
        ("job", name),
        ("verdict", comparison.verdict),
        ("reason", comparison.reason),
        ("artifact", text_of(shadow, "of_artifact_id")),
        ("trained once more", f"{run} on {where}, {view.ago(number_of(shadow, 'completed_at'))}"),
        ("its artifact", text_of(shadow, "artifact_id")),
        ("windows", "" if comparison.windows is None else str(comparison.windows)),
        ("score difference", _difference(comparison.score_difference)),
        ("metric difference", _difference(comparison.metric_difference, comparison.metric)),
        ("differing files", ", ".join(map(safe, comparison.differing_files))),
    ]
    told = [(key, value) for key, value in figures if value]
    if view.width is None:
        return tsv(["FIELD", "VALUE"], [[key, value] for key, value in told])
    verdict = comparison.verdict.upper() if comparison.verdict == "different" else comparison.verdict
    out = [f"{name}: {verdict}, {comparison.reason}"]
    for key, value in told[3:]:
        lines = textwrap.wrap(value, max(view.columns - 21, 40), break_on_hyphens=False)
        out += [f"  {key:<18} {lines[0]}", *(f"{'':<21}{line}" for line in lines[1:])]
    if found.is_earlier:
        out.append(f"  this run had ended before; another one: cis490-jobs verify {name} --again")
    return out


def _difference(value: float | None, where: str = "") -> str:
    if value is None:
        return ""
    text = "none" if value == 0 else "no number on one side" if value == float("inf") else f"{value:.3g}"
    return f"at most {text} ({safe(where)})" if where else text


def drained(answer: Row) -> list[str]:
    """After `drain`: what it still has, and how to take it back."""
    host, busy = text_of(answer, "host"), count_of(answer, "busy")
    rest = f"it finishes the {busy} it has and takes" if busy else "it takes"
    return [
        f"{host}: drained, {rest} no more jobs ({text_of(answer, 'drained_reason')})",
        f"  undo: cis490-jobs undrain {host}",
    ]


def undrained(answer: Row) -> list[str]:
    """After `undrain`."""
    host = text_of(answer, "host")
    return [f"{host}: takes jobs again", f"  next: cis490-jobs why --host {host}"]


def notified(view: View, answer: Row) -> list[str]:
    """After `notify --test`: which place took the message."""
    rows = [
        [text_of(one, "kind"), "sent" if one.get("ok") else "FAILED", text_of(one, "error")]
        for one in rows_of(answer, "targets")
    ]
    header = ["PLACE", "STATE", "WHY NOT"]
    return tsv(header, rows) if view.width is None else table(header, rows, view.columns, wrap=True)


def pulled(
    view: View, artifact: str, folder: str, files: Mapping[str, int], metrics: Row, *, leaky: bool = False
) -> list[str]:
    """After `pull`: where the files lie, how large they are, and the headline metrics (`leaky`: of a split that
    shows the model what it is tested on)."""
    if view.width is None:
        rows = [["file", safe(name), str(length)] for name, length in files.items()]
        kind = "leaky metric" if leaky else "metric"
        rows += [[kind, safe(str(name)), figure(value)] for name, value in metrics.items()]
        return tsv(["KIND", "NAME", "VALUE"], [["artifact", artifact, safe(folder)], *rows])
    total = f"{len(files)} {'file' if len(files) == 1 else 'files'}, {size(sum(files.values()))}"
    out = [f"artifact {safe(artifact[:12])} in {safe(folder)} ({total})"]
    out += table(
        ["FILE", "SIZE"], [[name, size(length)] for name, length in files.items()], view.columns, indent="  "
    )
    if metrics:
        rows = [[str(name), figure(value)] for name, value in metrics.items()]
        header = ["METRIC", "VALUE (LEAKY split: no result to quote)" if leaky else "VALUE"]
        out += ["", *table(header, rows, view.columns, indent="  ")]
    return out
