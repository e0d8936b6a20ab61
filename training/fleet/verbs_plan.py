"""`plan` and `reload`: look at what an edited manifest would do, then put it in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from training.fleet import render_plan
from training.fleet.client import Refused
from training.fleet.exits import CHANGES, MANIFEST_FAULTY, OK, REFUSED, USAGE, Stop
from training.fleet.tables import count_of, safe, safe_lines, text_of, words_of
from training.fleet.verb import Call, folded, said

MAX_BYTES = 4 * 1024 * 1024


def plan(call: Call) -> int:
    """What a reload would do; with FILE what that text would do. OK: nothing, CHANGES: something."""
    file = call.args.file
    answer = _asked(call, None if file is None else Path(file))
    call.say(answer, lambda: render_plan.plan(call.view, answer, full=call.args.full, name=file or ""))
    return CHANGES if count_of(answer, "changes") else OK


def _asked(call: Call, file: Path | None) -> dict[str, Any]:
    text = None if file is None else _text_of(file)
    try:
        return call.client.plan(text, "" if file is None else file.name)
    except Refused as refusal:
        if refusal.status == 400:
            _faulty(refusal, "the manifest is faulty:" if file is not None else _FAULTY)
        raise


def _text_of(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as fault:
        reason = fault.strerror or str(fault)
        hint = "  next: cis490-jobs plan   (without FILE: the receiver's own manifest)"
        raise Stop(
            USAGE,
            f"plan {safe(str(file))}: {reason}; expected a manifest to read here",
            hint,
            error_code="E010",
        ) from fault
    if len(data) > MAX_BYTES:
        text = f"plan {safe(str(file))}: {len(data)} bytes; expected a manifest of at most 4 MiB"
        raise Stop(MANIFEST_FAULTY, text, "  next: is this the right file?", error_code="E102")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        text = f"{safe(str(file))}:{line}: byte 0x{data[fault.start]:02x} is not UTF-8; expected a text file in UTF-8"
        raise Stop(MANIFEST_FAULTY, text, "  next: save it as UTF-8", error_code="E103") from fault


_FAULTY = "the manifest is faulty; nothing was changed, the last good one stays in force:"


def _faulty(refusal: Refused, headline: str) -> NoReturn:
    raise Stop(MANIFEST_FAULTY, headline, *safe_lines(said(refusal))) from refusal


def reload(call: Call) -> int:
    """Put the manifest in force: what a plan says, or after a question, or at once where nobody is asked."""
    plan_id = call.args.plan
    if plan_id is None and _may_ask(call):
        plan_id = _agreed(call)
        if plan_id is None:
            return OK
    answer = _applied(call, plan_id)
    return call.say(answer, lambda: render_plan.reloaded(answer))


def _may_ask(call: Call) -> bool:
    is_program = call.view.width is None or getattr(call.args, "json", False)
    return not (is_program or call.args.yes or call.terminal.answers is None)


def _agreed(call: Call) -> str | None:
    """The id of the plan that the person at the terminal has seen and wants; None: nothing is to be done."""
    answer = _asked(call, None)
    out, person = call.terminal.out, call.terminal.answers
    for line in render_plan.plan(call.view, answer)[: -1 if count_of(answer, "changes") else None]:
        for part in folded(line, call.view.width):
            print(part, file=out)
    if not count_of(answer, "changes") and not count_of(answer, "n_moved"):
        return None
    print("Apply it? [y/N] ", end="", file=out, flush=True)
    word = "" if person is None else person.readline()
    if word.strip().lower() in ("y", "yes"):
        return text_of(answer, "plan")
    print("" if word.endswith("\n") else "\n", "Nothing was changed.", sep="", file=out)
    return None


def _applied(call: Call, plan_id: str | None) -> dict[str, Any]:
    try:
        return call.client.reload(plan_id)
    except Refused as refusal:
        if refusal.status == 400:
            _faulty(refusal, _FAULTY)
        code = text_of(refusal.body, "code")
        if plan_id is None or not code:
            raise
        raise _moved(refusal, code, plan_id) from refusal


def _moved(refusal: Refused, code: str, plan_id: str) -> Stop:
    """Why the plan was refused, and what to type now."""
    fresh, name = text_of(refusal.body, "plan"), safe(plan_id)
    if refusal.status == 404:
        return Stop(
            REFUSED,
            f"reload --plan {name}: {safe(said(refusal))}",
            "  next: cis490-jobs plan",
            error_code=code,
        )
    moved = words_of(refusal.body, "moved")
    first = f"plan {name} does not hold any more: {moved[0] if moved else safe(said(refusal))}. Nothing was changed."
    again = (
        f"  next: cis490-jobs reload --plan {fresh}   (a fresh plan that does the same)"
        if fresh
        else "  next: cis490-jobs plan   (a reload would do something else now)"
    )
    return Stop(REFUSED, first, *(f"  also: {text}" for text in moved[1:]), again, error_code=code)
