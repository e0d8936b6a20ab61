"""Which function carries out which verb of `cis490-jobs`, and how a fault of any of them is told.

The command line itself is `training.fleet.cli`, which imports this module only once a verb is to be carried out.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping

from training.fleet import naming
from training.fleet.client import FleetClient, FleetError, Refused, Unreachable
from training.fleet.credential_places import ABOUT, OPERATOR_TOKEN
from training.fleet.exits import (
    DEFAULT_URL,
    REFUSED,
    TOKEN_VARIABLE,
    UNREACHABLE,
    URL_VARIABLE,
    USAGE,
    Stop,
)
from training.fleet.place import Place, client_of, ends_soon, place_of, token_of
from training.fleet.tables import safe
from training.fleet.verb import Call, Terminal, own_terminal, said, view_of
from training.fleet.wire_headers import HEADER_OPERATOR_TOKEN

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
    "hosts": "verbs_identities:hosts",
    "operators": "verbs_identities:operators",
    "verify-provenance": "verbs_provenance:verify",
}
"""Verb -> module of `training.fleet` and function: only what is asked for is imported."""


def act_of(verb: str) -> Callable[[Call], int]:
    """The function that carries out a verb."""
    module, _, name = ACTS[verb].partition(":")
    found: Callable[[Call], int] = getattr(importlib.import_module(f"training.fleet.{module}"), name)
    return found


def carry_out(args: argparse.Namespace, terminal: Terminal) -> int:
    """Carry out `args.verb` at the receiver; returns OK. Raises Stop for whatever else may come of it."""
    view = view_of(terminal)
    is_offline = args.verb in OFFLINE or (args.verb == "verify-provenance" and _is_here(args.record))
    if is_offline:
        place = Place(DEFAULT_URL)
    else:
        place = place_of(getattr(args, "url", None), getattr(args, "credentials", None), terminal.env)
    client = FleetClient(DEFAULT_URL) if is_offline else _client(args, place, terminal)
    if place.folder is not None and (warning := ends_soon(place.folder, terminal.wall_s())):
        print(f"cis490-jobs: {safe(warning)}", file=terminal.err)
    try:
        return act_of(args.verb)(Call(args, client, terminal, view))
    except naming.NotNamed as fault:
        raise Stop(USAGE, *fault.lines, error_code="E003" if fault.candidates else "E002") from fault
    except Unreachable as fault:
        raise Stop(UNREACHABLE, *_unreachable(place, safe(str(fault))), error_code="E004") from fault
    except Refused as refusal:
        own_code = safe(str(refusal.body.get("code") or ""))  # its sentence names what to type
        is_certificate = place.folder is not None and refusal.status == 401 and not _is_about_token(refusal)
        code = own_code or (
            "E040" if is_certificate else {401: "E005", 403: "E006"}.get(refusal.status, "E007")
        )
        text = f"{args.verb}: {safe(said(refusal))}"
        hints = (
            [] if own_code else _certificate_hint(place) if is_certificate else _token_hint(refusal, place)
        )
        raise Stop(REFUSED, text, *hints, error_code=code) from refusal
    except FleetError as fault:
        raise Stop(REFUSED, f"{args.verb}: {safe(str(fault))}") from fault
    finally:
        client.close()


OFFLINE = ("explain", "completion")
"""Verbs that ask no receiver."""


def _is_here(word: str) -> bool:
    """Whether a record to verify lies on this machine."""
    from training.fleet.verbs_provenance import is_offline

    return is_offline(word)


def _client(args: argparse.Namespace, place: Place, terminal: Terminal) -> FleetClient:
    token = token_of(place.folder, terminal.env)
    try:
        return client_of(place, token)
    except ValueError as fault:
        hint = f"  next: cis490-jobs --url {DEFAULT_URL} {args.verb}"
        raise Stop(USAGE, f"{place.source}: {safe(str(fault))}", hint, error_code="E001") from fault


def _unreachable(place: Place, fault: str) -> list[str]:
    url = place.url
    if place.folder is not None and url.startswith("https:"):
        return [
            f"no receiver answers at {url}",
            f"  {fault}",
            "  on its machine: systemctl status cis490-trainer-receiver cis490-caddy",
            f"  it is elsewhere? cis490-jobs --url https://HOST:PORT ..., or `url` in {place.folder / ABOUT}",
        ]
    return [
        f"no receiver answers at {url}",
        f"  {fault}",
        "  start it: systemctl start cis490-trainer-receiver",
        "        or, in a checkout: python -m training.fleet.receiver",
        f"  it is elsewhere? cis490-jobs --url http://HOST:PORT ..., or set ${URL_VARIABLE}",
    ]


def _is_about_token(refusal: Refused) -> bool:
    """Of a 401: whether it is the operator token that is missing or wrong, and not the certificate."""
    return HEADER_OPERATOR_TOKEN in said(refusal)


def _certificate_hint(place: Place) -> list[str]:
    from training.fleet import credentials

    assert place.folder is not None
    try:
        about = credentials.read_about(place.folder)
    except credentials.CredentialsError as error:
        return [f"  {safe(str(error))}"]
    lines = [
        f"  next: python -m training.fleet.renewal --credentials {place.folder}   if it expired",
        f"        else somebody who may: {credentials.command_for(about.role, about.name)}",
    ]
    if about.role == "operator":
        nobody = "sudo .venv/bin/python -m training.fleet.ca operator OTHER-NAME --out FOLDER"
        lines.append(f"        nobody is left? on the receiver's machine: {nobody}")
    return lines


def _token_hint(refusal: Refused, place: Place) -> list[str]:
    if place.folder is not None and refusal.status == 401:
        file = place.folder / OPERATOR_TOKEN
        return [f"  next: put the operator token into {file} (mode 0600), or: export {TOKEN_VARIABLE}=..."]
    if place.folder is not None and refusal.status == 403:
        return []  # the sentence names the role that would do
    if refusal.status == 401:
        return [f"  next: export {TOKEN_VARIABLE}=...   (the value the receiver was started with)"]
    if refusal.status == 403:
        return [f"  next: start the receiver with {TOKEN_VARIABLE} set, and give the CLI the same value"]
    return []
