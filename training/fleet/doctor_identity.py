"""What can be wrong with a certificate, this machine's or that of the person who types: dates, file, standing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from training.fleet import credentials, membership, self_test
from training.fleet.certificate_dates import Dates
from training.fleet.credentials import About, CredentialsError, command_for
from training.fleet.doctor import Check, Finding, State
from training.fleet.joining import skew
from training.fleet.renewal import state_of
from training.fleet.transport import FleetError, Refused

OVERDUE_S = 2 * 86_400.0
"""A renewal that is due and was not done for so long needs a look: the worker tries every hour."""


def checks(area: str, folder: Path, wall_s: float) -> dict[str, Check]:
    """By name; `wall_s` is now."""
    return {
        "certificate": lambda: _certificate(area, folder, wall_s),
        "certificate's file": lambda: _file(area, folder),
        "certificate's standing": lambda: _standing(area, folder, wall_s),
    }


def _certificate(area: str, folder: Path, wall_s: float) -> Iterator[Finding]:
    try:
        about, dates = credentials.read_about(folder), credentials.dates_in(folder)
        credentials.context_of(folder)
    except CredentialsError as error:
        yield Finding(
            area, "certificate", "FAIL", str(error),
            f"sudo ls -l {shlex.quote(str(folder))}   (is it another user's? then look as that user)",
        )  # fmt: skip
        return
    state, found, fix = judged(about, dates, folder, wall_s)
    yield Finding(area, "certificate", state, found, fix)


def judged(about: About, dates: Dates, folder: Path, wall_s: float) -> tuple[State, str, str]:
    """(state, what was found, what mends it) of a certificate's dates. Pure."""
    name, until = f"{about.role} {about.name}", _day(dates.not_after_s)
    renew = (
        f"{shlex.quote(sys.executable)} -m training.fleet.renewal --credentials {shlex.quote(str(folder))}"
    )
    match state_of(dates, wall_s):
        case "too-late":
            enrol = f"on the receiver: {command_for(about.role, about.name)}"
            return "FAIL", f"the certificate of the {name} expired on {until}, more than 30 days ago", enrol
        case "late":
            return "FAIL", f"the certificate of the {name} expired on {until}", renew
        case "due" if wall_s > dates.due_s + OVERDUE_S or about.role != "host":
            text = f"the certificate of the {name} ends on {until}; it could be renewed since {_day(dates.due_s)}"
            return "WARN", text, renew
        case _ if wall_s < dates.not_before_s:
            text = f"the certificate of the {name} counts from {_day(dates.not_before_s)} on: is this clock right?"
            return "FAIL", text, "timedatectl   then: sudo timedatectl set-ntp true"
    return "OK", f"{name} of {about.fleet}, until {until}, to be renewed from {_day(dates.due_s)} on", ""


def _file(area: str, folder: Path) -> Iterator[Finding]:
    if sys.platform == "win32":
        return
    for name in (credentials.IDENTITY, credentials.OPERATOR_TOKEN):
        path = folder / name
        if path.exists() and (mode := path.stat().st_mode & 0o777) & 0o077:
            yield Finding(
                area, "certificate's file", "FAIL", f"{path} can be read by others: mode {mode:04o}",
                f"chmod 600 {shlex.quote(str(path))}",
            )  # fmt: skip


def _standing(area: str, folder: Path, wall_s: float) -> Iterator[Finding]:
    """As the receiver sees it, and by its clock."""
    check = "certificate's standing"
    try:
        with membership.member(folder, lambda: wall_s) as us:
            enrol = f"on the receiver: {command_for(us.about.role, us.about.name)}"
            try:
                for one in self_test.clock(skew(us.their_clock(), wall_s)):
                    yield replace(one, area=area)
                us.workers()
            except Refused as refusal:
                said = str(refusal.body.get("error") or refusal.reason)
                fix = enrol if refusal.status == 401 else "on the receiver: cis490-jobs plan"
                yield Finding(area, check, "FAIL", said, fix)
                return
            except FleetError as error:
                yield Finding(
                    area, check, "FAIL", str(error), "cis490-jobs doctor   (on the receiver's machine)"
                )
                return
            yield Finding(area, check, "OK", f"{us.about.url} takes it")
    except CredentialsError:
        return  # `certificate` says so


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")
