"""Renews the certificate in a folder of credentials: `python -m training.fleet.renewal`; a worker does so by itself.

Due after a third of its life (day 10 of 30). A new key each time; key and certificate are one file, replaced by one
rename, so that a machine that dies in between has the old pair or the new one. An expired certificate is renewed at the
join site for 30 more days, by a signature of its key. One process at a time: a worker and a timer share the folder.

Exit codes: 0 renewed, or not due yet; 1 refused, or the folder cannot be used; 2 wrong usage; 3 nobody answers;
75 another process renews this moment.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from cis490.files import atomic_write
from cis490.locks import Held, hold
from cis490.logs import event
from cis490.threads import start_beside
from training.fleet import credentials
from training.fleet.certificate_dates import Dates, NoDates, dates_of
from training.fleet.credentials import About, CredentialsError
from training.fleet.tls_identity import Anonymous, Identity
from training.fleet.transport import FleetError, Refused, Transport

logger = logging.getLogger(__name__)

LATE_MARK = b"cis490-renew-late-1\n"
LATE_S = 30 * 86_400.0
"""So long after its end a certificate may still be renewed."""
EVERY_S = 3600.0
"""How often a worker looks whether it is due."""
SOON_S = 60.0
"""How often while the certificate has expired: until then no result can be delivered."""
TIMEOUT_S = 20.0
OK, FAULT, UNREACHABLE, BUSY = 0, 1, 3, 75

State = Literal["valid", "due", "late", "too-late"]


class RenewalFault(Exception):
    """The certificate stays as it is; `lines` say why and what to type."""

    def __init__(self, *lines: str, unreachable: bool = False) -> None:
        super().__init__(lines[0])
        self.lines = lines
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Renewed:
    """What came of it."""

    state: State
    """Before; `valid` means that nothing was done."""
    not_after_s: float
    """Until when the certificate in the folder counts now."""


def state_of(dates: Dates, now_s: float) -> State:
    """What a certificate needs. Pure."""
    if now_s > dates.not_after_s + LATE_S:
        return "too-late"
    if now_s > dates.not_after_s:
        return "late"
    return "due" if now_s >= dates.due_s else "valid"


def pause_s(dates: Dates | None, now_s: float, failures: int) -> float:
    """Until the next look. Never longer than an hour: a clock may be set meanwhile. Pure."""
    if dates is None or state_of(dates, now_s) in ("late", "too-late"):
        return min(EVERY_S, SOON_S * 2.0 ** min(failures, 4))
    return EVERY_S


def renew(folder: Path, wall_s: Callable[[], float] = time.time, *, force: bool = False) -> Renewed:
    """Renew if it is due. Raises RenewalFault, CredentialsError, Held; OSError for a folder that cannot be written."""
    if (owner := credentials.foreign_owner(folder)) is not None:
        raise RenewalFault(
            f"{folder} is the user {owner}'s, who could not read what root writes there. Nothing was changed.",
            f"  next: runuser -u {owner} -- python -m training.fleet.renewal --credentials {folder}",
        )
    with hold(folder / credentials.LOCK):
        about, dates = credentials.read_about(folder), credentials.dates_in(folder)
        state = state_of(dates, wall_s())
        if state == "valid" and not force:
            return Renewed(state, dates.not_after_s)
        again = credentials.command_for(about.role, about.name)
        if state == "too-late":
            raise RenewalFault(
                f"the certificate of {about.name} expired on {_day(dates.not_after_s)}, more than 30 days ago "
                f"(this clock says {_day(wall_s())})",
                f"  next: enrol again, on the receiver: {again}",
            )
        if state == "late":
            return Renewed(state, _renew(folder, about, late=True, again=again, wall_s=wall_s))
        try:
            return Renewed(state, _renew(folder, about, late=False, again=again, wall_s=wall_s))
        except RenewalFault as fault:
            if not fault.unreachable:
                raise
            # If it is this clock that is late, the receiver finds the certificate expired. It asks for none over there.
            with contextlib.suppress(RenewalFault):
                return Renewed(state, _renew(folder, about, late=True, again=again, wall_s=wall_s))
            raise


def _renew(folder: Path, about: About, *, late: bool, again: str, wall_s: Callable[[], float]) -> float:
    # Not before it is due: a worker at work needs no `cryptography`.
    try:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        from cis490.pki import certificates as pki
    except ImportError as error:
        raise RenewalFault(
            f"a renewal needs the package cryptography, and {sys.executable} cannot load it ({error}); in the clone: "
            "scripts/setup.sh run"
        ) from error
    key = pki.new_key()
    request = pki.make_request(key, about.name)
    body: dict[str, Any] = {"csr_pem": request.decode()}
    try:
        if late:
            old = (folder / credentials.IDENTITY).read_bytes()
            body["certificate_pem"] = pki.chain_pem(*pki.load_certificates(old)).decode()
            signed = pki.load_key(old).sign(LATE_MARK + request, ec.ECDSA(hashes.SHA256()))
            body["signature"] = base64.b64encode(signed).decode()
            root_pem = (folder / credentials.ROOT).read_text("ascii")
            settings: Any = Anonymous(about.server_name, root_pem, wall_s)
            url, path = about.join_url, "/v1/enrol/renew-late"
        else:
            settings, url, path = Identity(folder, wall_s), about.url, "/v1/enrol/renew"
    except ValueError as error:  # PkiError is one
        raise RenewalFault(f"the identity in {folder} cannot be used: {error}", f"  next: {again}") from error
    transport = Transport(url, {}, TIMEOUT_S, settings)
    try:
        answer = transport.json("POST", path, body, {})
    except Refused as refusal:
        said = str(refusal.body.get("error") or refusal.reason)
        raise RenewalFault(
            f"the receiver does not renew the certificate of {about.name}: {said}",
            f"  next: if it was not revoked on purpose, on the receiver: {again}",
        ) from refusal
    except FleetError as error:
        raise RenewalFault(
            f"the certificate of {about.name} was not renewed: {error}", unreachable=True
        ) from error
    finally:
        transport.close()
    return _keep(folder, about, pki.key_pem(key), answer, url)


def _keep(folder: Path, about: About, key_pem: bytes, answer: Mapping[str, Any], url: str) -> float:
    """Write down what was answered, the identity last and in one step; returns until when it counts."""
    certificate_pem = answer.get("certificate_pem")
    name, role = answer.get("name", about.name), answer.get("role", about.role)
    if not isinstance(certificate_pem, str) or (name, role) != (about.name, about.role):
        raise RenewalFault(f"{url} answered without a certificate for {about.name}: is it the receiver?")
    try:
        not_after_s = dates_of(certificate_pem.encode()).not_after_s
        credentials.check_fits(folder, key_pem + certificate_pem.encode())
    except (NoDates, CredentialsError) as error:
        raise RenewalFault(f"{url} sent a certificate that cannot be used: {error}") from error
    told = {key: answer.get(key) for key in ("url", "join_url", "server_name")}
    moved = replace(about, **{key: value for key, value in told.items() if isinstance(value, str) and value})
    if (
        moved != about
    ):  # the receiver has another address by now; it says so over a connection that it has proven
        atomic_write(folder / credentials.ABOUT, credentials.about_json(moved))
    credentials.write_identity(folder, key_pem + certificate_pem.encode())
    return not_after_s


class Renewer:
    """Keeps a worker's certificate fresh, from a thread of its own: neither training nor a long upload holds it up."""

    def __init__(self, folder: Path, wall_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._wall_s = wall_s
        self._failures = 0
        self._told: bool | None = None
        """What was said of the trouble there is: that nobody answers (True), or something that a person has to mend."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)

    def __enter__(self) -> Self:
        """An expired certificate is renewed here and now if it can be: nothing works before. The rest goes beside."""
        if self._needs_it_now():
            self.look()
        start_beside(self._thread)
        return self

    def __exit__(self, *exc: object) -> None:
        """Look no more. A request under way is left to itself."""
        self._closing.set()

    def look(self) -> None:
        """Renew if it is due, and say so in the log."""
        try:
            done = renew(self._folder, self._wall_s)
        except Held:
            return
        except (RenewalFault, CredentialsError, OSError) as error:
            is_away = isinstance(error, RenewalFault) and error.unreachable
            if self._told is not is_away:
                event(logger, "credentials.renewal_failing", level=logging.WARNING, reason=str(error))
            self._failures, self._told = self._failures + 1, is_away
            return
        if done.state != "valid":
            event(logger, "credentials.renewed", until=_day(done.not_after_s))
        self._failures, self._told = 0, None

    def _needs_it_now(self) -> bool:
        try:
            return state_of(credentials.dates_in(self._folder), self._wall_s()) == "late"
        except CredentialsError:
            return False

    def _run(self) -> None:
        while True:
            self.look()
            try:
                dates: Dates | None = credentials.dates_in(self._folder)
            except CredentialsError:
                dates = None
            if self._closing.wait(pause_s(dates, self._wall_s(), self._failures)):
                return


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m training.fleet.renewal",
        description="Renew this machine's certificate if that is due.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--credentials", metavar="DIR",
        help=f"the folder with the certificate (default: that of cis490-jobs); also ${credentials.VARIABLE}",
    )  # fmt: skip
    made.add_argument("--force", action="store_true", help="even if it is not due yet")
    return made


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Entry point; returns the exit code."""
    made = parser()
    args = made.parse_args(argv)
    named = args.credentials or environ.get(credentials.VARIABLE)
    folder = Path(named) if named else credentials.operators_folder(environ)
    if folder is None:
        made.error(f"which certificate? --credentials DIR, or ${credentials.VARIABLE}")
    try:
        done = renew(folder, force=args.force)
    except Held as error:
        return _end(BUSY, f"another process (pid {error.pid}) renews {folder} this moment")
    except RenewalFault as fault:
        return _end(UNREACHABLE if fault.unreachable else FAULT, *fault.lines)
    except CredentialsError as error:
        return _end(FAULT, f"{error}")
    except OSError as error:
        where = error.filename or folder
        hint = "; run this as its owner" if isinstance(error, PermissionError) else ""
        return _end(FAULT, f"{where} cannot be used: {error.strerror or error}{hint}")
    if done.state == "valid" and not args.force:
        print(f"not due yet: it counts until {_day(done.not_after_s)}")
    else:
        print(f"renewed: it counts until {_day(done.not_after_s)}")
    return OK


def _end(code: int, *lines: str) -> int:
    print("\n".join((f"cis490 renewal: {lines[0]}", *lines[1:])), file=sys.stderr)
    return code


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    sys.exit(main())
