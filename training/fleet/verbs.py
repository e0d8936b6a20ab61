"""Which function carries out which verb of `cis490-jobs`, and how a fault of any of them is told.

The command line itself is `training.fleet.cli`, which imports this module only once a verb is to be carried out.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping

from training.fleet import naming
from training.fleet.client import FleetClient, FleetError, Refused, Unreachable
from training.fleet.exits import (
    DEFAULT_URL,
    REFUSED,
    TOKEN_VARIABLE,
    UNREACHABLE,
    URL_VARIABLE,
    USAGE,
    Stop,
)
from training.fleet.tables import safe
from training.fleet.verb import Call, Terminal, own_terminal, said, view_of

__all__ = ["ACTS", "Call", "Terminal", "act_of", "carry_out", "own_terminal"]

ACTS: Mapping[str, str] = {
    "status": "verbs_status:status",
    "list": "verbs_look:list_jobs",
    "show": "verbs_look:show",
    "workers": "verbs_look:workers",
    "models": "verbs_look:models",
    "why": "verbs_why:why",
    "cancel": "verbs_change:cancel",
    "requeue": "verbs_change:requeue",
    "verify": "verbs_pull:verify",
    "plan": "verbs_plan:plan",
    "reload": "verbs_plan:reload",
    "explain": "verbs_explain:explain",
    "drain": "verbs_change:drain",
    "undrain": "verbs_change:undrain",
    "pull": "verbs_pull:pull",
    "logs": "verbs_logs:logs",
    "diff": "verbs_diff:diff",
    "completion": "verbs_shell:completion",
    "watch": "verbs_watch:watch",
    "events": "verbs_watch:events",
    "pause": "verbs_steering:pause",
    "resume": "verbs_steering:resume",
    "notify": "verbs_change:notify",
    "gc": "verbs_steering:gc",
    "doctor": "verbs_doctor:act",
}
"""Verb -> module of `training.fleet` and function: only what is asked for is imported."""


def act_of(verb: str) -> Callable[[Call], int]:
    """The function that carries out a verb."""
    module, _, name = ACTS[verb].partition(":")
    found: Callable[[Call], int] = getattr(importlib.import_module(f"training.fleet.{module}"), name)
    return found


def carry_out(args: argparse.Namespace, url: str, terminal: Terminal) -> int:
    """Carry out `args.verb` at the receiver `url`; returns OK. Raises Stop for whatever else may come of it."""
    view = view_of(terminal)
    client = FleetClient(DEFAULT_URL) if args.verb in OFFLINE else _client(args, url, terminal)
    try:
        return act_of(args.verb)(Call(args, client, terminal, view))
    except naming.NotNamed as fault:
        raise Stop(USAGE, *fault.lines, error_code="E003" if fault.candidates else "E002") from fault
    except Unreachable as fault:
        raise Stop(UNREACHABLE, *_unreachable(url, safe(str(fault))), error_code="E004") from fault
    except Refused as refusal:
        code = {401: "E005", 403: "E006"}.get(refusal.status, "E007")
        text = f"{args.verb}: {safe(said(refusal))}"
        raise Stop(REFUSED, text, *_token_hint(refusal), error_code=code) from refusal
    except FleetError as fault:
        raise Stop(REFUSED, f"{args.verb}: {safe(str(fault))}") from fault
    finally:
        client.close()


OFFLINE = ("explain", "completion")
"""Verbs that ask no receiver."""


def _client(args: argparse.Namespace, url: str, terminal: Terminal) -> FleetClient:
    token = _token(terminal.env)
    try:
        return FleetClient(url, operator_token=token)
    except ValueError as fault:
        source = "--url" if getattr(args, "url", None) else f"${URL_VARIABLE}"
        hint = f"  next: cis490-jobs --url {DEFAULT_URL} {args.verb}"
        raise Stop(USAGE, f"{source}: {safe(str(fault))}", hint, error_code="E001") from fault


def _token(env: Mapping[str, str]) -> str | None:
    token = env.get(TOKEN_VARIABLE, "").strip()
    if not (token.isascii() and token.isprintable()) and token:
        at = next(at for at, char in enumerate(token) if not (char.isascii() and char.isprintable()))
        raise Stop(
            USAGE,
            f"${TOKEN_VARIABLE}: character {at + 1} of {len(token)} is one that no header can carry; "
            "expected printable ASCII",
            f"  next: export {TOKEN_VARIABLE}=...   (set it anew, without quotes and line ends)",
            error_code="E008",
        )
    return token or None


def _unreachable(url: str, fault: str) -> list[str]:
    return [
        f"no receiver answers at {url}",
        f"  {fault}",
        "  start it: systemctl start cis490-trainer-receiver",
        "        or, in a checkout: python -m training.fleet.receiver",
        f"  it is elsewhere? cis490-jobs --url http://HOST:PORT ..., or set ${URL_VARIABLE}",
    ]


def _token_hint(refusal: Refused) -> list[str]:
    if refusal.status == 401:
        return [f"  next: export {TOKEN_VARIABLE}=...   (the value the receiver was started with)"]
    if refusal.status == 403:
        return [f"  next: start the receiver with {TOKEN_VARIABLE} set, and give the CLI the same value"]
    return []
