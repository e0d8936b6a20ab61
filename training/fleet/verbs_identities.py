"""`hosts` and `operators`: who may take part, by certificate. `add` makes a join token, `revoke` takes all away."""

from __future__ import annotations

from typing import Literal

from cis490.files import is_safe_name
from training.fleet.exits import REFUSED, USAGE, Stop
from training.fleet.render import View
from training.fleet.render_status import when
from training.fleet.tables import (
    Row,
    count_of,
    duration,
    number_of,
    safe,
    table,
    text_of,
    tsv,
    words_of,
)
from training.fleet.verb import Call

LATE_S = 10 * 86400.0
"""A certificate of 30 days is due on day 10. One that ends so soon has not been renewed for ten days."""
LINUX, WINDOWS = "scripts/install-training-worker.sh", r"scripts\install-training-worker-windows.ps1"
Verb = Literal["hosts", "operators"]


def hosts(call: Call) -> int:
    """Enrol a host, list the hosts' certificates, or revoke one."""
    return _act(call, "hosts", "host")


def operators(call: Call) -> int:
    """The same for people: operators, and with `--reader` those who only look."""
    return _act(call, "operators", "reader" if call.args.reader else "operator")


def _act(call: Call, verb: Verb, role: str) -> int:
    action, name = call.args.action, call.args.name
    if action == "list":
        if name is not None:
            raise Stop(
                USAGE, f'{verb} list: "{name}" is one word too many', f"  next: cis490-jobs {verb} list"
            )
        return _list(call, verb)
    if name is None:
        raise Stop(USAGE, f"{verb} {action}: a NAME is missing", f"  next: cis490-jobs {verb} {action} NAME")
    if not is_safe_name(name):  # here, since a slash would make another path of it
        text = f'{verb} {action}: found the name "{safe(name)}", expected [A-Za-z0-9._-]{{1,64}} with no leading dot'
        raise Stop(REFUSED, text, error_code="E301")
    return (_add if action == "add" else _revoke)(call, verb, role, name)


def _list(call: Call, verb: Verb) -> int:
    found = [one for one in call.client.identities() if (one.get("role") == "host") == (verb == "hosts")]
    return call.say({"identities": found}, lambda: listed(call.view, verb, found))


def _add(call: Call, verb: Verb, role: str, name: str) -> int:
    answer = call.client.join_token(role, name)
    known = _entry(call.client.identities(), role, name)
    if getattr(call.args, "json", False) or call.view.width is None:
        return call.say(answer, lambda: added_lines(role, answer))
    # Not by `say`, which folds what is wider than the terminal: these lines are to be copied.
    print("\n".join(added(call.view, verb, answer, known)), file=call.terminal.out)
    return 0


def _revoke(call: Call, verb: Verb, role: str, name: str) -> int:
    known = call.client.identities()  # before: who revokes himself may ask nothing afterwards
    answer = call.client.revoke_identity(role, name, call.args.reason)
    others = [one for one in ("operator", "reader") if verb == "operators" and one != role]
    left = [one for one in others if words_of(_entry(known, one, name), "serials")]
    return call.say(answer, lambda: revoked(verb, answer, left))


def _entry(identities: list[dict[str, object]], role: str, name: str) -> Row:
    return next((one for one in identities if (one.get("role"), one.get("name")) == (role, name)), {})


# -- the screens


def commands(role: str, token: str) -> dict[str, str]:
    """What to type on the new machine, in its clone. The token stands before the pipe: it is no argument of a
    program, so no list of processes shows it."""
    if role == "host":
        return {
            "Linux": f"echo '{token}' | sudo {LINUX}",
            "Windows": f"'{token}' | powershell -ExecutionPolicy Bypass -File {WINDOWS}",
        }
    join = "-m training.fleet.join --operator"
    return {
        "Linux, macOS": f"echo '{token}' | .venv/bin/python {join}",
        "Windows": rf"'{token}' | .venv\Scripts\python {join}",
    }


def added_lines(role: str, answer: Row) -> list[str]:
    """For a program: the commands alone."""
    rows = [[system, line] for system, line in commands(role, text_of(answer, "token")).items()]
    return tsv(["SYSTEM", "COMMAND"], rows)


def added(view: View, verb: Verb, answer: Row, known: Row) -> list[str]:
    """After `add`. `known` is what the receiver tells of this identity."""
    role, name = text_of(answer, "role"), text_of(answer, "name")
    ends = when(view, number_of(answer, "expires_at"))
    where = "In a clone of this repository on that machine" if role == "host" else "In that person's clone"
    out = [f"{name} may join as {role}, once, until {ends}. {where}:", ""]
    for system, line in commands(role, text_of(answer, "token")).items():
        hint = ", in PowerShell as administrator" if (system, role) == ("Windows", "host") else ""
        out += [f"{system}{hint}:", "", line, ""]
    out += [f"! {text}" for text in _warnings(view, verb, known)]
    if role == "host":
        then = "the installer tests the machine, joins, and says OK once the receiver has heard the worker"
    else:
        then = "what changes something needs the operator token as well" if role == "operator" else ""
    out += [f"then: {then}"] if then else []
    return [*out, f"next: cis490-jobs {verb} list"]


def _warnings(view: View, verb: Verb, known: Row) -> list[str]:
    name, found = text_of(known, "name"), []
    if known.get("in_manifest") is False:
        found.append(
            f"the manifest does not name {name}: it can join, and is refused until you add\n"
            f'    [[hosts]] name = "{name}"\n  to it, and type: cis490-jobs reload'
        )
    if words_of(known, "serials"):
        ends = when(view, number_of(known, "not_after"))
        found.append(
            f"{name} has a certificate until {ends}, which goes on counting.\n"
            f"  Its machine was lost? Then first: cis490-jobs {verb} revoke {name}"
        )
    return found


def revoked(verb: Verb, answer: Row, left: list[str]) -> list[str]:
    """After `revoke`; `left` are roles in which this person still has a certificate."""
    name, count = text_of(answer, "name"), count_of(answer, "revoked")
    ended = f"{count} certificate{'' if count == 1 else 's'} no longer count{'s' if count == 1 else ''}"
    out = [f"{name}: revoked as {text_of(answer, 'role')}, {ended}"]
    if count == 0:
        out.append(
            f"  ! none that counts was issued here under this name; is it right?  cis490-jobs {verb} list"
        )
    if verb == "hosts":
        out.append("  jobs that it holds go to others when their leases end")
    if text_of(answer, "role") == "operator":
        out.append(
            "  ! who knows the operator token can log in to the pages without a certificate: change it too"
        )
    for role in left:
        flag = " --reader" if role == "reader" else ""
        out.append(f"  ! {name} is a {role} too: cis490-jobs operators revoke {name}{flag}")
    return [*out, f"  undo: cis490-jobs {verb} add {name}   (a new key and certificate)"]


def listed(view: View, verb: Verb, found: list[dict[str, object]]) -> list[str]:
    """`list`: one line an identity."""
    if view.width is None:
        header = ["NAME", "ROLE", "STATE", "NOT_AFTER", "SERIALS", "NOTE"]
        rows = [
            [
                text_of(one, "name"),
                text_of(one, "role"),
                state(view, one),
                text_of(one, "not_after"),
                " ".join(words_of(one, "serials")),
                note(view, verb, one),
            ]
            for one in found
        ]
        return tsv(header, rows)
    if not found:
        return [f"no {verb} yet", f"  next: cis490-jobs {verb} add NAME"]
    rows = [
        [
            text_of(one, "name"),
            *([text_of(one, "role")] if verb == "operators" else []),
            view.mark(state(view, one), "bad" if state(view, one).isupper() else ""),
            ends(view, one),
            note(view, verb, one),
        ]
        for one in found
    ]
    role = ["ROLE"] if verb == "operators" else []
    return table(["NAME", *role, "STATE", "ENDS", "NOTE"], rows, view.columns, wrap=True)


def state(view: View, one: Row) -> str:
    """`enrolled`, `may join`, `EXPIRED` or `REVOKED`."""
    if words_of(one, "serials"):
        return "enrolled"
    if number_of(one, "token_expires_at") is not None:
        return "may join"
    return "REVOKED" if one.get("revoked_at") is not None else "EXPIRED"


def ends(view: View, one: Row) -> str:
    """When the certificate ends, from now."""
    at = number_of(one, "not_after")
    if at is None or (at <= view.now_s and state(view, one) != "EXPIRED"):
        return "-"
    left = at - view.now_s
    return f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago"


def note(view: View, verb: Verb, one: Row) -> str:
    """What a person should know beside it."""
    name, now = text_of(one, "name"), state(view, one)
    if now == "REVOKED":
        return text_of(one, "revoked_reason")
    if now == "may join":
        return f"with a token until {when(view, number_of(one, 'token_expires_at'))}"
    if one.get("in_manifest") is False:
        return "not in the manifest: it is refused"
    left = (number_of(one, "not_after") or 0.0) - view.now_s
    if now == "EXPIRED":
        return (
            "renews by itself within 30 days"
            if left > -30 * 86400
            else f"next: cis490-jobs {verb} add {name}"
        )
    return "not renewed since day 10: does it run?" if left < LATE_S else ""
