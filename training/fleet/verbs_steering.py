"""`pause`, `resume` and `gc`: the operator steers what is handed out and what is kept."""

from __future__ import annotations

from training.fleet.exits import OK, REFUSED, USAGE, Stop
from training.fleet.render import View
from training.fleet.tables import (
    Row,
    count_of,
    figure,
    row_of,
    rows_of,
    safe,
    size,
    table,
    text_of,
    tsv,
    words_of,
)
from training.fleet.verb import Call, host_named, named


def pause(call: Call) -> int:
    """Pause one job, or without a JOB the whole fleet."""
    reason = call.args.reason
    if call.args.job is None:
        answer = call.client.pause_fleet(reason)
        return call.say(answer, lambda: fleet_paused(answer))
    answer = call.client.pause_job(text_of(named(call), "job_id"), reason)
    return call.say(answer, lambda: job_paused(answer))


def resume(call: Call) -> int:
    """Resume one job, a host that was paused by failures in a row, or without either the whole fleet."""
    if call.args.host is not None:
        if call.args.job is not None:
            raise Stop(
                USAGE, "resume: give a JOB or --host HOST, not both; without either the fleet is resumed"
            )
        answer = call.client.resume_host(host_named(call))
        return call.say(answer, lambda: host_resumed(answer))
    if call.args.job is None:
        answer = call.client.resume_fleet()
        return call.say(answer, lambda: fleet_resumed(answer))
    answer = call.client.resume_job(text_of(named(call), "job_id"))
    return call.say(answer, lambda: job_resumed(answer))


def gc(call: Call) -> int:
    """Show what may go; then, unless it is a dry run, ask, and remove it."""
    found = call.client.gc(dry_run=True)
    if call.args.dry_run:
        return call.say(found, lambda: gc_list(call.view, found))
    if not _agreed(call, found):
        raise Stop(REFUSED, "nothing was removed")
    done = call.client.gc(dry_run=False)
    call.say(done, lambda: gc_list(call.view, done))
    return OK if done.get("ok") is True else REFUSED


def _agreed(call: Call, found: Row) -> bool:
    """Does the operator want it? Without `--yes` a person at the terminal is asked, after the list was shown."""
    if call.args.yes or _is_empty(found):
        return True
    answers, err = call.terminal.answers, call.terminal.err
    if answers is None:
        raise Stop(
            USAGE,
            "gc removes things for good, and nobody is here to be asked",
            "  next: cis490-jobs gc --dry-run   then: cis490-jobs gc --yes",
        )
    print("\n".join(gc_list(call.view, found)), file=err)
    print("Remove this for good? [y/N] ", end="", file=err, flush=True)
    return answers.readline().strip().lower() in ("y", "yes")


_RULES = {
    "artifact_days": "artifacts that nothing needs",
    "audit_days": "audit rows",
    "log_days": "logs and progress points of attempts",
    "shadow_days": "verification runs",
}


def gc_list(view: View, answer: Row) -> list[str]:
    """What goes, or went: each artifact with its size and why, and how much of the rest, with the rule."""
    artifacts, rules = rows_of(answer, "artifacts"), row_of(answer, "rules")
    if view.width is None:
        rows = [
            [
                "artifact",
                text_of(x, "artifact_id"),
                text_of(x, "job"),
                str(count_of(x, "size_bytes")),
                text_of(x, "why"),
            ]
            for x in artifacts
        ]
        rows += [
            ["verification", text_of(x, "job_id"), text_of(x, "name"), "", ""]
            for x in rows_of(answer, "shadows")
        ]
        rows += [
            [kind, "", "", str(count_of(answer, key)), ""]
            for kind, key in (("audit rows", "n_audit"), ("logs", "n_logs"))
        ]
        return tsv(["WHAT", "ID", "JOB", "SIZE", "WHY"], rows)
    if all(rules.get(key) is None for key in _RULES) and _is_empty(answer):
        return [
            "the manifest has no [retention]: everything is kept",
            "  next: add for example  [retention] artifact_days = 90  to the manifest, then: cis490-jobs reload",
        ]
    dry = answer.get("dry_run") is True
    out = []
    if artifacts:
        cells = [
            [
                text_of(x, "artifact_id")[:12],
                text_of(x, "job") or "-",
                size(count_of(x, "size_bytes")),
                text_of(x, "why"),
            ]
            for x in artifacts
        ]
        out += [*table(["ARTIFACT", "JOB", "SIZE", "WHY"], cells, view.columns, wrap=True), ""]
    counts = {
        "artifact_days": len(artifacts), "audit_days": count_of(answer, "n_audit"),
        "log_days": count_of(answer, "n_logs"), "shadow_days": count_of(answer, "n_shadows"),
    }  # fmt: skip
    rows = [
        [
            str(counts[key]),
            what,
            "kept for ever" if rules.get(key) is None else f"older than {figure(rules[key])} days",
        ]
        for key, what in _RULES.items()
    ]
    out += table(["WOULD GO" if dry else "WENT", "WHAT", "RULE"], rows, view.columns)
    freed = size(count_of(answer, "freed_bytes"))
    out += ["", f"{freed} would be freed; nothing was removed" if dry else f"{freed} freed"]
    out += [f"  not removed: {safe(fault)}; the next run tries again" for fault in words_of(answer, "faults")]
    return [*out, "  next: cis490-jobs gc"] if dry and not _is_empty(answer) else out


def _is_empty(answer: Row) -> bool:
    counts = [count_of(answer, key) for key in ("n_audit", "n_logs", "n_shadows")]
    return not rows_of(answer, "artifacts") and not any(counts)


def fleet_paused(answer: Row) -> list[str]:
    """After `pause` without a JOB: what still runs, and how to take it back."""
    running = count_of(answer, "running")
    goes_on = (
        f"; {_jobs(running)} still {'runs' if running == 1 else 'run'} and may finish" if running else ""
    )
    return [
        f"the fleet is paused: no job is handed out{goes_on} ({text_of(answer, 'fleet_paused')})",
        "  undo: cis490-jobs resume",
    ]


def fleet_resumed(answer: Row) -> list[str]:
    """After `resume` without a JOB."""
    return ["the fleet is resumed: jobs are handed out again", "  next: cis490-jobs status"]


def job_paused(answer: Row) -> list[str]:
    """After `pause JOB`; a job that runs is not stopped, which an operator may have expected."""
    name, host = text_of(answer, "name"), text_of(answer, "claimed_by")
    out = [f"{name}: paused, it is not handed out ({text_of(answer, 'paused_reason')})"]
    if answer.get("status") in ("claimed", "running"):
        out.append(f"  it runs on {host} and goes on; to stop it as well: cis490-jobs cancel {name}")
    return [*out, f"  undo: cis490-jobs resume {name}"]


def job_resumed(answer: Row) -> list[str]:
    """After `resume JOB`."""
    name = text_of(answer, "name")
    status = text_of(answer, "status")
    if status == "pending":
        return [f"{name}: it is handed out again", f"  next: cis490-jobs why {name}"]
    return [f"{name}: not paused; it is {status}"]


def host_resumed(answer: Row) -> list[str]:
    """After `resume --host HOST`; a host may be drained as well, which this does not end."""
    host, drained = text_of(answer, "host"), answer.get("drained_reason")
    if drained:
        return [
            f"{host}: not paused, but drained: {safe(str(drained))}",
            f"  next: cis490-jobs undrain {host}",
        ]
    return [f"{host}: not paused, takes jobs again", f"  next: cis490-jobs why --host {host}"]


def _jobs(n: int) -> str:
    return f"{n} job" if n == 1 else f"{n} jobs"
