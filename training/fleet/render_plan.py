"""The screens of `plan` and `reload`: what would change, or has changed. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from training.fleet.render import View
from training.fleet.tables import (
    GAP,
    Row,
    count_of,
    duration,
    figure,
    number_of,
    row_of,
    rows_of,
    safe,
    text_of,
    tsv,
    words_of,
)

SIGNS = {
    "add": "+", "update": "~", "replace": "!", "remove": "-", "return": "+", "retrain": "!", "move": " ",
}  # fmt: skip
"""`!`: work that was done, or is being done, counts for another id or is done again."""
_WORDS = (
    ("add", "new"),
    ("update", "changed"),
    ("replace", "replaced"),
    ("remove", "removed"),
    ("return", "returned"),
    ("retrain", "trained again"),
)
MOST_HOSTS = 6
MAX_NAME = 40


def plan(view: View, answer: Row, *, full: bool = False, name: str = "") -> list[str]:
    """`plan`: what a reload would do. `name` is the file of a preview; `full` lists what stays, too."""
    if view.width is None:
        return _piped(answer)
    manifest = row_of(answer, "manifest")
    was, now = text_of(manifest, "from_digest")[:12] or "none", text_of(manifest, "to_digest")[:12]
    where = safe(name) if name else text_of(manifest, "path")
    out = [f"{where}: manifest {was} -> {now}" if was != now else f"{where}: manifest {now}, as in force"]
    body = [*_jobs(view, answer, full), *_hosts(view, answer), *_rest(view, answer)]
    out += ["", *body] if body else []
    out += _warnings(view, answer, where)
    return [*out, "", *_verdict(view, answer, name)]


def _jobs(view: View, answer: Row, full: bool) -> list[str]:
    jobs = rows_of(answer, "jobs")
    shown = [job for job in jobs if full or text_of(job, "action") != "move"]
    kept = rows_of(answer, "unchanged") if full else []
    width = max([min(len(text_of(job, "name")), MAX_NAME) for job in (*shown, *kept)], default=0)
    out: list[str] = []
    for job in shown:
        out += _job(view, job, width)
    for job in kept:
        out.append(
            _line(view, " ", text_of(job, "name"), width, text_of(job, "status"), count_of(job, "line"))
        )
    if not full:
        same, moved = count_of(answer, "n_unchanged"), count_of(answer, "n_moved")
        parts = [
            f"{_jobs_word(same)} unchanged" if same else "",
            f"{_jobs_word(moved)} only moved to another line" if moved else "",
        ]
        told = ", ".join(part for part in parts if part)
        out += [f"    {told}"] if told else []
    return out


def _jobs_word(n: int) -> str:
    return f"{n} job" if n == 1 else f"{n} jobs"


def _job(view: View, job: Row, width: int) -> list[str]:
    action = text_of(job, "action")
    changed = _changes(job)
    what = changed or text_of(job, "note")
    out = [_line(view, SIGNS.get(action, "?"), text_of(job, "name"), width, what, count_of(job, "line"))]
    told = text_of(job, "note") if changed and action != "move" else ""
    for part in told.split("; "):  # a command to type stands on a line of its own
        out += _under(view, part)
    running = row_of(job, "running")
    since = number_of(running, "claimed_at")
    if running and since is not None:
        out += _under(view, f"running on {text_of(running, 'host')} for {duration(view.now_s - since)}")
    if action in ("add", "replace", "update", "return", "retrain") and text_of(job, "status") in (
        "",
        "pending",
    ):
        out += _under(view, _can_run(words_of(job, "hosts")))
    return out


def _can_run(hosts: Sequence[str]) -> str:
    if not hosts:
        return ""  # a warning says why
    more = f" and {len(hosts) - MOST_HOSTS} more" if len(hosts) > MOST_HOSTS else ""
    return f"can run on: {', '.join(hosts[:MOST_HOSTS])}{more}"


def _changes(row: Row) -> str:
    return ", ".join(
        f"{text_of(item, 'key')} {_value(item.get('from'))} -> {_value(item.get('to'))}"
        for item in rows_of(row, "changed")
    )


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(figure, value))}]"
    return "none" if value is None else f'"{safe(value)}"' if isinstance(value, str) else figure(value)


def _line(view: View, sign: str, name: str, width: int, what: str, line: int) -> str:
    """One row; its line number stands at the right where there is room."""
    text = f"  {sign} {name.ljust(width)}{GAP}{what}".rstrip()
    place = f"line {line}" if line else ""
    free = view.columns - len(text) - len(place)
    return f"{text}{' ' * max(free, 2)}{place}" if place else text


def _under(view: View, text: str) -> list[str]:
    if not text:
        return []
    return textwrap.wrap(
        text, max(view.columns - 2, 40), initial_indent=" " * 6, subsequent_indent=" " * 6,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def _hosts(view: View, answer: Row) -> list[str]:
    hosts = rows_of(answer, "hosts")
    if not hosts:
        return []
    width = max(min(len(text_of(host, "name")), MAX_NAME) for host in hosts)
    out = ["", "hosts"]
    words = {"add": "new", "remove": "no longer in the manifest"}
    for host in hosts:
        action = text_of(host, "action")
        line = count_of(host, "line")
        for item in rows_of(host, "changed"):
            line = count_of(item, "line") or line
        what = _changes(host) or words.get(action, "")
        out.append(_line(view, SIGNS.get(action, "?"), text_of(host, "name"), width, what, line))
        out += _under(view, text_of(host, "effect"))
    return out


def _rest(view: View, answer: Row) -> list[str]:
    out: list[str] = []
    for title, key in (("policy", "policy"), ("other tables", "other")):
        changed = _changes({"changed": answer.get(key)})
        if changed:
            out += ["", title, *_under(view, changed)]
    for title, key in (("data set", "dataset"), ("trainer", "trainer")):
        found = row_of(answer, key)
        if found:
            was, now = (text_of(found, end)[:12] or "none" for end in ("from", "to"))
            out += ["", f"{title}  {was} -> {now}"]
    return out


def _warnings(view: View, answer: Row, where: str) -> list[str]:
    warnings = rows_of(answer, "warnings")
    if not warnings:
        return []
    out = ["", "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"]
    file = where.rpartition("/")[2]
    for item in warnings:
        line = count_of(item, "line")
        place = f"{file}:{line}: " if line else ""
        out += textwrap.wrap(
            f"{text_of(item, 'code')} {place}{text_of(item, 'text')}", max(view.columns - 2, 40),
            initial_indent="  ", subsequent_indent=" " * 7, break_on_hyphens=False, break_long_words=False,
        )  # fmt: skip
        out += [f"       hint: {text_of(item, 'hint')}"]
    return out


def _verdict(view: View, answer: Row, name: str) -> list[str]:
    plan_id = text_of(answer, "plan")
    if not count_of(answer, "changes"):
        moved = count_of(answer, "n_moved")
        more = f"; a reload would note the new lines of {_jobs_word(moved)}" if moved else ""
        return [f"Nothing to do: the fleet is as the manifest says{more}."]
    summary = summary_of(answer)
    if name:
        return [
            f"A preview: {summary}. Nothing was changed, and it cannot be applied:",
            f"  the receiver reads its own file, {text_of(row_of(answer, 'manifest'), 'own_path')}",
            "  next: put this text there, then: cis490-jobs plan",
        ]
    return [
        f"Plan {plan_id}: {summary}.",
        f"  apply it: cis490-jobs reload --plan {plan_id}   (not if anything moves first)",
    ]


def summary_of(answer: Row) -> str:
    """`1 new, 2 changed, 1 host, policy`."""
    actions = [text_of(job, "action") for job in rows_of(answer, "jobs")]
    parts = [f"{actions.count(action)} {word}" for action, word in _WORDS if action in actions]
    hosts = len(rows_of(answer, "hosts"))
    parts += [f"{hosts} {'host' if hosts == 1 else 'hosts'}"] if hosts else []
    parts += ["policy"] if answer.get("policy") else []
    parts += ["other tables"] if answer.get("other") else []
    parts += ["data set"] if answer.get("dataset") else []
    parts += ["trainer"] if answer.get("trainer") else []
    return ", ".join(parts) or "no changes"


def _piped(answer: Row) -> list[str]:
    header = ["KIND", "ACTION", "NAME", "LINE", "CHANGED", "NOTE", "HOSTS"]
    kinds = (("job", "jobs", "note"), ("host", "hosts", "effect"))
    rows = [
        [kind, *(text_of(row, key) for key in ("action", "name", "line")), _changes(row), text_of(row, told),
         ",".join(words_of(row, "hosts"))]
        for kind, where, told in kinds
        for row in rows_of(answer, where)
    ]  # fmt: skip
    rows += [
        [key, "update", text_of(item, "key"), "", _changes({"changed": [item]}), "", ""]
        for key in ("policy", "other")
        for item in rows_of(answer, key)
    ]
    for key in ("dataset", "trainer"):
        found = row_of(answer, key)
        if found:
            rows.append(
                [key, "update", key, "", f"{_value(found.get('from'))} -> {_value(found.get('to'))}", "", ""]
            )
    for item in rows_of(answer, "warnings"):
        note = f"{text_of(item, 'text')}; {text_of(item, 'hint')}"
        rows.append(["warning", text_of(item, "code"), "", text_of(item, "line"), "", note, ""])
    if text_of(answer, "plan"):
        rows.append(["plan", "", text_of(answer, "plan"), "", summary_of(answer), "", ""])
    return tsv(header, rows)


def reloaded(answer: Row) -> list[str]:
    """After `reload`: how many jobs, and what changed."""
    counts = ", ".join(
        f"{figure(count)} {safe(str(word))}" for word, count in row_of(answer, "counts").items()
    )
    digest = text_of(answer, "manifest_digest")[:12]
    return [f"manifest {digest or '-'} is in force: {count_of(answer, 'n_jobs')} jobs", f"  {counts}"]
