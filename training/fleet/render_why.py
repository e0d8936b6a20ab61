"""The screens of `why`: host by host and constraint by constraint, and what would help. Pure."""

from __future__ import annotations

import datetime
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from training.fleet.render import ACTIVE, View, failed_checks, handle, message_of, progress_text
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
    table,
    text_of,
    tsv,
    words_of,
)

MOST_HOSTS: Final = 25
"""Hosts on a terminal, those that come closest first; a pipe gets them all."""
MIN_VERDICT: Final = 30
"""Columns that the verdicts need to stand in the same table."""
LONGEST_FOUND: Final = 16
FOR_ALL: Final = frozenset({"fleet_not_paused"})
"""Checks that are the same for every host: a sentence instead of a column."""
TITLES: Final[Mapping[str, str]] = {
    "known_host": "NAMED", "deny_jobs": "NOT DENIED", "allow_jobs": "ALLOWED", "allowed_hosts": "JOB ALLOWS",
    "model": "MODEL", "trainer": "TRAINER", "require_cuda": "CUDA", "min_vram_gib": "VRAM", "min_ram_gib": "RAM",
    "vram_after_oom": "VRAM", "ram_after_oom": "RAM", "live": "SEEN", "not_paused": "NOT PAUSED",
    "not_drained": "NOT DRAINED", "free_slot": "FREE", "preference": "BETTER HOST", "disk": "DISK",
}  # fmt: skip
MET: Final[Mapping[str, str]] = {
    "known_host": "may take part",
    "deny_jobs": "not denied",
    "allow_jobs": "allowed by the host",
    "allowed_hosts": "allowed by the job",
    "trainer": "the receiver's trainer",
}
"""What a constraint is called in the sentence about those that every host meets; of others their title."""
_SIZES: Final = ("min_vram_gib", "min_ram_gib", "vram_after_oom", "ram_after_oom")
_ALWAYS: Final = ("live", "free_slot")
_FOUND: Final = (*_SIZES, "trainer", "preference")
"""Columns whose cells say what was found; of the others ok or NO says all."""


# -- why JOB


def why_job(view: View, answer: Row) -> list[str]:
    """`why JOB`: a table of hosts and constraints with both numbers, the verdicts, and the smallest changes."""
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
    own_faults = [message_of(check) for check in failed_checks(answer, "job_checks")]
    if text_of(answer, "status") in ACTIVE:
        return [*out, *_estimate(view, answer), f"next: cis490-jobs show {text_of(answer, 'name')}"]
    out += [f"  the job itself: {message}" for message in own_faults if message not in summary]
    if not hosts:
        out += ["no host is known: none in the manifest, none has reported"]
    else:
        out += _hosts(view, hosts)
    return [*out, *_suggestions(view, rows_of(answer, "suggestions")), *_estimate(view, answer)]


def _check_cells(check: Row) -> list[str]:
    texts = [text_of(check, key) for key in ("wanted", "found", "message", "hint")]
    return [text_of(check, "constraint"), figure(bool(check.get("ok"))), *texts]


def _hosts(view: View, hosts: Sequence[Row]) -> list[str]:
    """The table, with the verdicts in its last column where they fit, else below it."""
    shown = sorted(hosts, key=lambda host: len(failed_checks(host)))[:MOST_HOSTS]
    checks = [{text_of(one, "constraint"): one for one in rows_of(host, "checks")} for host in shown]
    names = [
        name for name in dict.fromkeys(name for found in checks for name in found) if name not in FOR_ALL
    ]
    columns, met = [], []
    for name in names:
        fails = any(not found[name].get("ok") for found in checks if name in found)
        if fails or name in _ALWAYS or (name in _SIZES and _number(checks, name)):
            columns.append(_column(name, shown, checks))
        else:
            met.append(_wish(name, checks))
    first = ["HOST", *(text_of(host, "host") for host in shown)]
    taken = len(max(first, key=len)) + sum(len(GAP) + max(map(len, column)) for column in columns)
    verdicts = [_verdict(host) for host in shown]
    if taken + len(GAP) + MIN_VERDICT <= view.columns:
        rows = [list(row) for row in zip(*([first, *columns]), strict=True)]
        body = [[*_marked(view, row), verdict] for row, verdict in zip(rows[1:], verdicts, strict=True)]
        out = ["", *table([*rows[0], "VERDICT"], body, view.columns, wrap=True)]
    else:
        out = []
        for block in _fitting(first, columns, view.columns):
            header, *rows = [list(row) for row in zip(*([first, *block]), strict=True)]
            out += ["", *table([*header, ""], [[*_marked(view, row), ""] for row in rows], view.columns)]
        body = [[text_of(host, "host"), verdict] for host, verdict in zip(shown, verdicts, strict=True)]
        out += ["", *table(["HOST", "VERDICT"], body, view.columns, wrap=True)]
    if len(hosts) > len(shown):
        out.append(
            f"  and {len(hosts) - len(shown)} more hosts, which are no closer; in a pipe all are listed"
        )
    if met:
        out += [
            "",
            *textwrap.wrap(f"met by every host: {', '.join(met)}", view.columns, subsequent_indent="  "),
        ]
    return out


def _wish(name: str, checks: Sequence[Mapping[str, Row]]) -> str:
    wanted = {text_of(found[name], "wanted") for found in checks if name in found} - {"any"}
    title = MET.get(name) or TITLES.get(name, name).lower()
    return f"{title} ({wanted.pop()})" if len(wanted) == 1 and name in ("model", "require_cuda") else title


def _number(checks: Sequence[Mapping[str, Row]], name: str) -> str:
    """`>=10` out of `>= 10 GiB`; "" where nothing is asked for."""
    wanted = {text_of(found[name], "wanted") for found in checks if name in found}
    match = re.fullmatch(r"(>=?) ([0-9.e+-]+) GiB", wanted.pop()) if len(wanted) == 1 else None
    return f"{match[1]}{match[2]}" if match and match[2] != "0" else ""


def _column(name: str, hosts: Sequence[Row], checks: Sequence[Mapping[str, Row]]) -> list[str]:
    """Heading with the number that is wanted, then for each host the one that was found, and ok or NO."""
    title = TITLES.get(name, name) + (_number(checks, name) if name in _SIZES else "")
    cells = []
    for host, found in zip(hosts, checks, strict=True):
        check = found.get(name)
        if check is None:
            cells.append("-")
            continue
        mark = "ok" if check.get("ok") else "NO"
        cells.append(f"{_found(name, host, check)} {mark}".lstrip())
    return [title, *cells]


def _found(name: str, host: Row, check: Row) -> str:
    if name == "live":
        seen = number_of(host, "seen_s_ago")
        return "never" if seen is None else duration(seen)
    text = text_of(check, "found")
    if name == "free_slot":
        slots = re.search(r"\d+", text_of(check, "wanted"))
        return f"{text.split(' ')[0]}/{slots[0]}" if slots else text
    if name in TITLES and name not in _FOUND:
        return ""
    short = text.removesuffix(" GiB")
    short = "?" if short == "not reported" else short[:7] if name == "trainer" else short
    return short if len(short) <= LONGEST_FOUND else f"{short[: LONGEST_FOUND - 3]}..."


def _verdict(host: Row) -> str:
    return "; ".join(message_of(check) for check in failed_checks(host)) or "can start"


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


def _marked(view: View, row: Sequence[str]) -> list[str]:
    """Each NO in the colour of trouble, where colours are shown; it stands in capitals anyhow."""
    return [view.mark(cell, "bad" if cell.endswith("NO") else "") for cell in row]


def _suggestions(view: View, found: Sequence[Row]) -> list[str]:
    if not found:
        return []
    out = ["", "Smallest changes that would let it run"]
    for number, one in enumerate(found, 1):
        lead = f"{number:3}. "
        for change in rows_of(one, "changes") or [one]:
            out += _wrapped(text_of(change, "text"), view.columns, lead)
            lead = "     and "
        if note := text_of(one, "note"):
            out += _wrapped(f"({note})", view.columns, "     ")
        hosts = words_of(one, "hosts") or [text_of(one, "host")]
        more = f" (or {', '.join(hosts[1:3])}{', ...' if len(hosts) > 3 else ''})" if len(hosts) > 1 else ""
        when = text_of(one, "starts")
        where = f" on {hosts[0]}" if when == "at once" else ""
        out += _wrapped(f"starts {when}{where}{more}", view.columns, "     -> ")
        if command := text_of(one, "command"):
            then = (
                "then: " if any(number_of(change, "line") for change in rows_of(one, "changes")) else "next: "
            )
            out += _wrapped(f"{then}{command}", view.columns, "        ")
    return out


def _wrapped(text: str, columns: int, lead: str) -> list[str]:
    return textwrap.wrap(
        text, max(columns, 40), initial_indent=lead, subsequent_indent=" " * len(lead), break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def _estimate(view: View, answer: Row) -> list[str]:
    """Its place in line, and when it starts and ends, as far as there is a basis."""
    estimate, place = row_of(answer, "estimate"), number_of(answer, "position")
    parts = []
    if place is not None:
        parts.append("next in line" if place == 1 else f"number {place:.0f} in line on its best host")
    start, finish = number_of(estimate, "start_at"), number_of(estimate, "finish_at")
    if start is not None and text_of(answer, "status") == "pending":
        parts.append("could start now" if start <= view.now_s + 1 else f"starts about {_clock(view, start)}")
    if finish is not None:
        parts.append(f"ends about {_clock(view, finish)}")
    if not parts:
        return []
    basis = f" ({text_of(estimate, 'basis')})" if estimate else ""
    sentence = f"{', '.join(parts)}{basis}"
    return ["", *textwrap.wrap(sentence[0].upper() + sentence[1:], view.columns, break_on_hyphens=False)]


def _clock(view: View, at: float) -> str:
    """`18:40 UTC, in 25 min`."""
    try:
        when = datetime.datetime.fromtimestamp(at, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return "an impossible time"
    day = "" if abs(at - view.now_s) < 43200 else f"{when:%d %b} "
    return f"{day}{when:%H:%M} UTC, in {duration(max(0.0, at - view.now_s))}"


# -- why --host HOST


def why_host(view: View, name: str, answer: Row) -> list[str]:
    """`why --host HOST`: what it runs, and what waits, kind by kind, with the verdict on it there."""
    classes = rows_of(answer, "classes")
    if view.width is None:
        rows = [
            [
                ",".join(words_of(one, "jobs")),
                str(count_of(one, "n_jobs")),
                figure(bool(one.get("eligible"))),
                *_check_cells(check),
            ]
            for one in classes
            for check in rows_of(one, "checks")
        ]
        return tsv(
            ["JOBS", "N_JOBS", "ELIGIBLE", "CONSTRAINT", "OK", "WANTED", "FOUND", "MESSAGE", "HINT"], rows
        )
    worker = row_of(answer, "host")
    out = [f"{safe(name)}: {_host_sentence(view, worker)}"]
    if worker.get("paused_reason"):
        out.append(
            f"  PAUSED: {text_of(worker, 'paused_reason')}   undo: cis490-jobs resume --host {safe(name)}"
        )
    if worker.get("drained_reason"):
        out.append(f"  drained: {text_of(worker, 'drained_reason')}   undo: cis490-jobs undrain {safe(name)}")
    out += [f"  mismatch: {note}" for note in words_of(worker, "mismatches")]
    for job in rows_of(answer, "running"):
        out.append(f"  running: {handle(job)}  {progress_text(row_of(job, 'progress'))}".rstrip())
    if summary := text_of(answer, "summary"):
        out += textwrap.wrap(summary, view.columns, break_on_hyphens=False)
    if classes:
        body = [
            [_jobs_text(one), "yes" if one.get("eligible") else "NO", text_of(one, "summary")]
            for one in classes
        ]
        out += ["", *table(["WAITING", "HERE", "VERDICT"], body, view.columns, wrap=True)]
    if command := text_of(answer, "next"):
        out += ["", f"next: {command}"]
    return out


def _jobs_text(one: Row) -> str:
    names, n_jobs = words_of(one, "jobs"), count_of(one, "n_jobs")
    first = names[0] if names else "?"
    return first if n_jobs <= 1 else f"{first} +{n_jobs - 1}"


def _host_sentence(view: View, worker: Row) -> str:
    if not worker:
        return "no worker there has ever reported"
    seen = view.ago(number_of(worker, "last_seen_at"))
    state = "seen" if worker.get("live") else "LOST, last seen"
    return f"{state} {seen}, {count_of(worker, 'busy')} of {count_of(worker, 'slots')} slots busy"
