"""The screens about one job or one host's view of the jobs: `show`, `why`, and what the verbs answer. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from training.fleet.render import (
    ACTIVE,
    View,
    failed_checks,
    handle,
    message_of,
    progress_text,
    since,
    state_word,
    tries,
)
from training.fleet.render_models import metrics_text
from training.fleet.tables import (
    GAP,
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


def show(view: View, job: Row) -> list[str]:
    """`show`: all that is known of one job, its attempts and its audit rows."""
    fields = _show_fields(view, job)
    attempts, audit = rows_of(job, "attempts_log"), rows_of(job, "audit")
    if view.width is None:
        rows = [[key, value] for key, value in fields]
        rows.append(["last error", text_of(job, "last_error")])
        rows += [["attempt", figure(dict(attempt))] for attempt in attempts]
        rows += [["audit", figure(dict(event))] for event in audit]
        return tsv(["FIELD", "VALUE"], rows)
    out = [f"{text_of(job, 'name')}  {state_word(text_of(job, 'status'))}{_where(job)}"]
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


def _show_fields(view: View, job: Row) -> list[tuple[str, str]]:
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
        "limits": f"timeout {_limit(spec, 'timeout_s')}, without progress {_limit(spec, 'stall_s')}",
        "priority": figure(job.get("priority")),
        "on change": figure(spec.get("on_change")),
        "in manifest": removed,
        "generation": figure(job.get("generation")),
        "failures": failures,
        "progress": progress_text(row_of(job, "progress")),
        "last sign": since(view, job),
        "metrics": leaky + metrics_text(row_of(job, "metrics")) if row_of(job, "metrics") else "",
        "artifact": text_of(job, "artifact_id"),
        "stale": ", ".join(words_of(job, "stale")),
    }
    return [(key, value) for key, value in listed.items() if value]


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
    verb = _NEXT_VERB.get(text_of(job, "status"))
    return f"cis490-jobs {verb} {handle(job)}" if verb else "cis490-jobs status"


# --- why ---------------------------------------------------------------------------------------------


def why_job(view: View, answer: Row) -> list[str]:
    """`why JOB`: host by host and constraint by constraint, what was wanted and what was found."""
    hosts, own = rows_of(answer, "hosts"), rows_of(answer, "job_checks")
    if view.width is None:
        rows = [["-", "-", *_check_cells(check)] for check in own]
        rows += [
            [text_of(host, "host"), figure(host.get("live")), *_check_cells(check)]
            for host in hosts
            for check in rows_of(host, "checks")
        ]
        return tsv(["HOST", "LIVE", "CONSTRAINT", "OK", "WANTED", "FOUND", "MESSAGE", "HINT"], rows)
    summary = text_of(answer, "summary") or f"{text_of(answer, 'name')} is {text_of(answer, 'status')}"
    out = textwrap.wrap(summary, view.columns, break_on_hyphens=False)
    bad = failed_checks(answer, "job_checks")
    out += [f"  the job itself: {message_of(check)}" for check in bad]
    if not hosts:
        out += ["no host is known: none in the manifest, none has reported"]
    else:
        out += [*_matrix(hosts, view.columns), "", *_verdicts(view, hosts)]
    return out + _hints([*bad, *(check for host in hosts for check in failed_checks(host))], view.columns)


def _check_cells(check: Row) -> list[str]:
    texts = [text_of(check, key) for key in ("wanted", "found", "message", "hint")]
    return [text_of(check, "constraint"), figure(bool(check.get("ok"))), *texts]


def _matrix(hosts: Sequence[Row], columns: int) -> list[str]:
    """A column for each constraint that some host fails; those that all meet follow as a sentence. Each block
    begins with an empty line."""
    checks = [{text_of(check, "constraint"): check for check in rows_of(host, "checks")} for host in hosts]
    names = list(dict.fromkeys(name for found in checks for name in found))
    met = [name for name in names if all(found[name].get("ok") for found in checks if name in found)]
    open_columns = [_matrix_column(name, checks) for name in names if name not in met]
    out: list[str] = []
    first = ["HOST", "wanted", *(text_of(host, "host") for host in hosts)]
    for block in _fitting(first, open_columns, columns):
        out += ["", *_joined([first, *block])]
    wants = [_wish(name, checks) for name in met]
    if wants:
        out += ["", *textwrap.wrap(f"met by every host: {'; '.join(wants)}", columns, subsequent_indent="  ")]
    return out


def _wish(name: str, checks: Sequence[Mapping[str, Row]]) -> str:
    wanted = {text_of(found[name], "wanted") for found in checks if name in found}
    return f"{name} ({wanted.pop()})" if len(wanted) == 1 else name


def _matrix_column(name: str, checks: Sequence[Mapping[str, Row]]) -> list[str]:
    """Heading, what is wanted (if the same of all hosts), then a cell a host: what was found, ok or NO."""
    wanted = {text_of(found[name], "wanted") for found in checks if name in found}
    alike = len(wanted) == 1
    cells = []
    for found in checks:
        check = found.get(name)
        if check is None:
            cells.append("-")
            continue
        mark = "ok" if check.get("ok") else "NO"
        aside = "" if alike else f" (wanted {text_of(check, 'wanted')})"
        cells.append(f"{text_of(check, 'found') or '-'}{aside} {mark}")
    return [name, wanted.pop() if alike else "", *cells]


def _fitting(first: list[str], columns: Sequence[list[str]], width: int) -> list[list[list[str]]]:
    """The columns in blocks that fit beside the host column; each block has at least one."""
    blocks: list[list[list[str]]] = []
    left = 0
    for column in columns:
        needed = len(GAP) + max(map(len, column))
        if not blocks or needed > left:
            blocks.append([])
            left = width - max(map(len, first))
        blocks[-1].append(column)
        left -= needed
    return blocks


def _joined(columns: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in columns]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]


def _verdicts(view: View, hosts: Sequence[Row]) -> list[str]:
    rows = []
    for host in hosts:
        messages = [message_of(check) for check in failed_checks(host)] or ["eligible"]
        seen = number_of(host, "seen_s_ago")
        unseen = "not heard since the receiver started" if host.get("live") else "never seen"
        sign = unseen if seen is None else f"{'' if host.get('live') else 'LOST '}{duration(seen)} ago"
        rows.append([text_of(host, "host"), sign, messages[0]])
        rows += [["", "", message] for message in messages[1:]]
    return table(["HOST", "SEEN", "VERDICT"], rows, view.columns, wrap=True)


def _hints(checks: Sequence[Row], columns: int) -> list[str]:
    hints = list(dict.fromkeys(text_of(check, "hint") for check in checks if check.get("hint")))
    if not hints:
        return []
    out = ["", "What would help"]
    for number, hint in enumerate(hints, 1):
        out += textwrap.wrap(
            hint, max(columns, 40), initial_indent=f"{number:3}. ", subsequent_indent=" " * 5
        )
    return out


def why_host(
    view: View, host: str, worker: Row | None, running: Sequence[Row], answers: Sequence[Row]
) -> list[str]:
    """`why --host HOST`: the verdict on each pending job there. `worker` is None when it has never reported,
    `running` what it runs now."""
    judged = [
        (answer, own)
        for answer in answers
        for own in rows_of(answer, "hosts")
        if text_of(own, "host") == host
    ]
    rows = [
        [text_of(answer, "name"), figure(bool(own.get("eligible"))), _host_verdict(answer, own)]
        for answer, own in judged
    ]
    if view.width is None:
        return tsv(["JOB", "ELIGIBLE", "VERDICT"], rows)
    out = [f"{safe(host)}: {_host_sentence(view, worker)}"]
    if worker is not None and worker.get("paused_reason"):
        out.append(f"  PAUSED: {text_of(worker, 'paused_reason')}")
    if worker is not None and worker.get("drained_reason"):
        out.append(f"  drained: {text_of(worker, 'drained_reason')}   undo: cis490-jobs undrain {safe(host)}")
    out += [f"  mismatch: {note}" for note in words_of(worker or {}, "mismatches")]
    out += [f"  running: {handle(job)}  {progress_text(row_of(job, 'progress'))}".rstrip() for job in running]
    if not answers:
        return [*out, "  no job is pending: nothing waits for this host"]
    out += ["", *table(["PENDING", "ELIGIBLE", "VERDICT"], rows, view.columns, wrap=True)]
    return out + _hints([check for _, own in judged for check in failed_checks(own)], view.columns)


def _host_verdict(answer: Row, own: Row) -> str:
    faults = [*failed_checks(answer, "job_checks"), *failed_checks(own)]
    return "; ".join(message_of(check) for check in faults) or "can start here"


def _host_sentence(view: View, worker: Row | None) -> str:
    if worker is None:
        return "named in the manifest, but no worker there has ever reported"
    seen = view.ago(number_of(worker, "last_seen_at"))
    state = "seen" if worker.get("live") else "LOST, last seen"
    return f"{state} {seen}, {count_of(worker, 'busy')} of {count_of(worker, 'slots')} slots busy"


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


def reloaded(answer: Row) -> list[str]:
    """After `reload`: how many jobs, what changed, and what the manifest is warned about."""
    counts = ", ".join(
        f"{figure(count)} {safe(str(word))}" for word, count in row_of(answer, "counts").items()
    )
    digest = text_of(answer, "manifest_digest")[:12]
    out = [f"manifest {digest or '-'} is in force: {count_of(answer, 'n_jobs')} jobs", f"  {counts}"]
    return out + [f"  warning: {line}" for line in words_of(answer, "warnings")]


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
