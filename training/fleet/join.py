"""Enrol this machine: `python -m training.fleet.join`, with the token of `cis490-jobs hosts add NAME` on stdin.

First the machine tests itself, then it learns the lab's root from the join site, compares it with the token, and only
then sends the token's secret. What comes of it is a folder of credentials for the worker, or for a person's command
line. Typed twice it changes nothing. Run it as the user that will renew the certificate: the service's, or yourself.

Exit codes: 0 done; 1 refused, or this machine cannot work; 2 wrong usage; 3 nobody answers; 4 `--wait-seen`: not seen
in time; 5 `--may-leave`: a result is not delivered yet.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import getpass
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TextIO

from cis490.locks import Held
from training.fleet import (
    capability,
    credentials,
    doctor,
    join_token,
    joining,
    leaving,
    membership,
    renewal,
    self_test,
)
from training.fleet.credentials import CredentialsError
from training.fleet.doctor import Check, Finding
from training.fleet.join_token import JoinToken, TokenFault
from training.fleet.joining import JoinFault, said
from training.fleet.renewal import RenewalFault
from training.fleet.tables import safe
from training.fleet.transport import FleetError, Refused
from training.fleet.worker_settings import DEFAULT_STATE_DIR

OK, FAULT, USAGE, UNREACHABLE, UNSEEN, OWES = 0, 1, 2, 3, 4, 5
STATE_VARIABLE = "CIS490_WORKER_STATE_DIR"
MOST_INPUT = 64 * 1024
POLL_S = 0.5

if sys.platform == "win32":
    START_WORKER = "Start-ScheduledTask cis490-trainer-worker"
    READ_LOG = r"Get-Content -Wait -Tail 50 C:\ProgramData\cis490-worker\log\worker.log"
else:
    START_WORKER = "systemctl start cis490-trainer-worker"
    READ_LOG = "journalctl -u cis490-trainer-worker -n 50 -f"
JUST_NOW_S = 10.0
"""A worker that called so shortly before `--wait-seen` began counts as seen: the service may just have been started."""
ROOT_FITS = Finding(
    self_test.AREA, "root", "OK", "the lab's root certificate is the one that the token names"
)


@dataclass(frozen=True, slots=True)
class Outside:
    """The world around the program; tests pass their own."""

    env: Mapping[str, str]
    stdin: BinaryIO | None
    out: TextIO
    err: TextIO
    wall_s: Callable[[], float] = time.time
    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    ask: Callable[[], str] = lambda: ""
    """Asks a person for the token, without showing it; "" where nobody can be asked."""


def own_outside() -> Outside:
    """This process's own."""
    stdin = None if sys.stdin is None else sys.stdin.buffer
    has_person = stdin is not None and stdin.isatty()
    ask = (lambda: getpass.getpass("join token: ")) if has_person else (lambda: "")
    return Outside(os.environ, stdin, sys.stdout, sys.stderr, ask=ask)


def _seconds(text: str) -> float:
    found = float(text)
    if not 0 <= found < math.inf:
        raise ValueError("no length of time")
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m training.fleet.join",
        description="Enrol this machine with the token that stands on standard input.",
        epilog="The token comes from `cis490-jobs hosts add NAME` on the receiver. It is a secret: never an argument.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--credentials", metavar="DIR",
        help="folder to fill (default STATE_DIR/credentials, with --operator ~/.config/cis490); "
        f"also ${credentials.VARIABLE}",
    )  # fmt: skip
    made.add_argument(
        "--state-dir", metavar="DIR",
        help=f"the worker's state folder (default {DEFAULT_STATE_DIR}); also ${STATE_VARIABLE}",
    )  # fmt: skip
    made.add_argument(
        "--operator", action="store_true", help="the token is a person's (operator or reader), not a host's"
    )
    made.add_argument(
        "--skip-trainer", action="store_true", help="do not look at the trainer, torch and CUDA"
    )
    made.add_argument(
        "--trainer-module", metavar="MODULE", default=capability.TRAINER_MODULE, help="as of the worker"
    )
    mode = made.add_mutually_exclusive_group()
    mode.add_argument(
        "--check", action="store_true", help="only test this machine; changes nothing, sends no secret"
    )
    mode.add_argument(
        "--wait-seen",
        type=_seconds,
        metavar="SECONDS",
        help="wait until the receiver has seen this host's worker",
    )
    mode.add_argument(
        "--may-leave", action="store_true", help="is nothing left here that the receiver has not got yet?"
    )
    mode.add_argument("--status", action="store_true", help="print who this machine is, and until when")
    return made


def main(argv: Sequence[str] | None = None, outside: Outside | None = None) -> int:
    """Entry point; returns the exit code."""
    world = outside or own_outside()
    args = parser().parse_args(argv)
    folder, state_dir = _places(args, world.env)
    try:
        if args.may_leave:
            return _may_leave(state_dir, world)
        if args.status:
            return _status(folder, world)
        if args.wait_seen is not None:
            return _wait_seen(folder, args.wait_seen, world)
        return _join(args, folder, state_dir, world)
    except TokenFault as fault:
        return _end(world, USAGE, f"{fault}", "  next: on the receiver: cis490-jobs hosts add NAME")
    except (JoinFault, RenewalFault) as fault:
        return _end(world, UNREACHABLE if fault.unreachable else FAULT, *fault.lines)
    except CredentialsError as error:
        return _end(world, FAULT, f"{error}", "  next: on the receiver: cis490-jobs hosts add NAME")
    except Held as error:
        return _end(
            world, FAULT, f"another process (pid {error.pid}) renews the certificate this moment: try again"
        )
    except OSError as error:
        where = error.filename or folder
        return _end(world, FAULT, f"{where} cannot be used: {error.strerror or error}{_help(error, where)}")


def _places(args: argparse.Namespace, env: Mapping[str, str]) -> tuple[Path, Path]:
    state_dir = Path(args.state_dir or env.get(STATE_VARIABLE) or DEFAULT_STATE_DIR).absolute()
    named = args.credentials or env.get(credentials.VARIABLE)
    if named:
        return Path(named).absolute(), state_dir
    return (credentials.users_folder(env) if args.operator else state_dir / "credentials"), state_dir


def _join(args: argparse.Namespace, folder: Path, state_dir: Path, world: Outside) -> int:
    token = _token(world)
    if token is not None and (token.role == "host") == args.operator:
        return _wrong_kind(token, world)
    here = _already(folder, token, world, only_look=args.check)
    if token is None and here is None and not args.check:
        token = join_token.parse(world.ask())
    findings = doctor.examine(self_test.AREA, _tests(args, state_dir, token))
    for one in findings:
        _say(world, one)
    site = None if token is None else joining.look(token, world.wall_s)
    if site is not None:
        for one in (ROOT_FITS, *self_test.clock(site.skew_s)):
            findings.append(one)
            _say(world, one)
    if any(one.state == "FAIL" for one in findings):
        return _end(
            world, FAULT, "this machine cannot join yet: mend what is marked [fail]; nothing was changed"
        )
    if args.check:
        print("this machine can join; nothing was changed" if here is None else here, file=world.out)
    elif here is not None or token is None or site is None:
        print(f"{here}; nothing to do", file=world.out)
    else:
        about, not_after_s = joining.join(token, site, folder, world.wall_s)
        itself = "; the worker renews it by itself" if about.role == "host" else ""
        text = f"certificate for the {about.role} {about.name} issued, until {_day(not_after_s)}{itself}"
        _say(world, Finding(self_test.AREA, "certificate", "OK", text))
        print(f"joined {safe(about.fleet)}: credentials in {folder}", file=world.out)
    return OK


def _tests(args: argparse.Namespace, state_dir: Path, token: JoinToken | None) -> Mapping[str, Check]:
    if args.operator:
        return self_test.checks_for_person()
    if args.skip_trainer:
        return self_test.checks(state_dir, None)
    name = "this-host" if token is None else token.name
    return self_test.checks(
        state_dir, lambda: capability.survey(hostname=name, trainer_module=args.trainer_module)
    )


def _token(world: Outside) -> JoinToken | None:
    """What stands on standard input; None when nothing does, or a person sits there. Raises TokenFault."""
    if world.stdin is None or world.stdin.isatty():
        return None
    text = text_of(world.stdin.read(MOST_INPUT))
    return join_token.parse(text) if text.strip() else None


def text_of(data: bytes) -> str:
    """What a shell piped to us. PowerShell may put a byte order mark before it, and write UTF-16. Pure."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def _wrong_kind(token: JoinToken, world: Outside) -> int:
    if token.role == "host":
        return _end(world, USAGE, f"this token enrols the host {token.name}: leave out --operator")
    text = f"this token is for the {token.role} {token.name}, a person"
    return _end(world, USAGE, f"{text}: python -m training.fleet.join --operator")


def _already(folder: Path, token: JoinToken | None, world: Outside, *, only_look: bool) -> str | None:
    """A sentence about the identity that is here and that the receiver takes; None when one is to be made.

    An identity that is of no use any more gives way to a token, and is a fault without one.
    """
    if not (folder / credentials.IDENTITY).exists():
        return None
    try:
        about, dates = credentials.read_about(folder), credentials.dates_in(folder)
        credentials.context_of(folder)
    except CredentialsError:
        if token is None:
            raise
        return None
    if token is not None and (about.role, about.name) != (token.role, token.name):
        raise JoinFault(
            f"{folder} belongs to the {about.role} {about.name} already, and the token is for the {token.role} "
            f"{token.name}. Nothing was changed.",
            "  next: take another folder: --credentials DIR; or, to give this machine the new name, remove that one:",
            f"        rm -r {folder}",
        )
    if token is not None and token.join_url != about.join_url:
        return None  # another lab, or the same at a new address: the token leads there
    if world.wall_s() > dates.not_after_s and token is None and not only_look:
        renewal.renew(folder, world.wall_s)
        dates = credentials.dates_in(folder)
    found = membership.standing(folder, world.wall_s)
    if found.kind == "accepted":
        note = f" ({found.text})" if found.text else ""
        return f"this machine is the {about.role} {about.name} already, until {_day(dates.not_after_s)}{note}"
    if token is not None:
        return None
    if found.kind == "unreachable":
        raise JoinFault(f"the receiver cannot be asked about {about.name}: {found.text}", unreachable=True)
    raise JoinFault(
        f"the receiver does not take the identity of {about.name} in {folder}: {found.text}",
        f"  next: on the receiver: {credentials.command_for(about.role, about.name)}",
    )


def _wait_seen(folder: Path, seconds: float, world: Outside) -> int:
    ends_s, problem, since_s = world.now_s() + seconds, "the receiver has not heard of it yet", None
    with membership.member(folder, world.wall_s) as us:
        name = us.about.name
        while True:
            try:
                since_s = us.their_clock() if since_s is None else since_s
                seen_s = us.seen_at()
                if seen_s is not None and seen_s >= since_s - JUST_NOW_S:
                    _say(world, Finding("join", "seen", "OK", f"the receiver has heard of the worker {name}"))
                    return OK
            except Refused as refusal:
                if refusal.status in (401, 403):
                    hint = credentials.command_for(us.about.role, name)
                    lines = [f"  next: on the receiver: {hint}"] if refusal.status == 401 else []
                    return _end(world, FAULT, f"the receiver does not take {name}: {said(refusal)}", *lines)
                problem = said(refusal)
            except FleetError as fault:
                problem = str(fault)
            if world.now_s() >= ends_s:
                return _end(
                    world, UNSEEN, f"{name} was not seen within {seconds:g} s: {problem}",
                    f"  next: {READ_LOG}",
                )  # fmt: skip
            world.sleep(min(POLL_S, max(0.0, ends_s - world.now_s())))


def _status(folder: Path, world: Outside) -> int:
    about, dates = credentials.read_about(folder), credentials.dates_in(folder)
    credentials.context_of(folder)
    has_ended = world.wall_s() > dates.not_after_s
    word = "expired" if has_ended else "until"
    print(
        f"{about.name}\t{about.role}\t{about.fleet}\t{word} {_day(dates.not_after_s)}\t{about.url}",
        file=world.out,
    )
    return FAULT if has_ended else OK


def _may_leave(state_dir: Path, world: Outside) -> int:
    owed = leaving.undelivered(state_dir)
    if not owed:
        print("nothing is left here that the receiver has not got", file=world.out)
        return OK
    return _end(
        world, OWES, f"{len(owed)} of {state_dir} not delivered yet: {', '.join(owed)}",
        f"  next: let the worker deliver: {START_WORKER}   then: {READ_LOG}",
        f"        or give it up for good: rm -r {state_dir / 'leases'} {state_dir / 'spool'}",
    )  # fmt: skip


def _help(error: OSError, where: object) -> str:
    if error.errno == errno.ENOSPC:
        return f"; make room and repeat the same line: df -h {where}"
    return "; run this as the service's user" if isinstance(error, PermissionError) else ""


def _say(world: Outside, finding: Finding) -> None:
    for line in self_test.lines(finding):
        print(safe(line), file=world.out, flush=True)


def _end(world: Outside, code: int, *lines: str) -> int:
    print("\n".join(safe(line) for line in (f"cis490 join: {lines[0]}", *lines[1:])), file=world.err)
    return code


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    sys.exit(main())
