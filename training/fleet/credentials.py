"""The folder with a machine's (or an operator's) identity, and the TLS settings that come out of it. Standard library.

credentials.json   where the receiver is and who this is (`About`)
root.pem           the lab's root certificate: the only one that is trusted
identity.pem       private key, then certificate and intermediate, in one file (0600), so that a renewal is one
                   rename and key and certificate cannot be out of step
operator-token     an operator's second secret (0600); absent elsewhere
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from cis490.files import atomic_write
from training.fleet import credential_places
from training.fleet.certificate_dates import Dates, NoDates, dates_of

ABOUT, ROOT = credential_places.ABOUT, credential_places.ROOT
IDENTITY, OPERATOR_TOKEN = credential_places.IDENTITY, credential_places.OPERATOR_TOKEN
LOCK = "renewal.lock"
"""Held by whoever replaces the identity."""
VARIABLE = "CIS490_CREDENTIALS"
_LEFT_BY_THE_KILLED = (".trial-*.pem", "..trial-*.tmp", ".identity.pem.*.tmp", ".pending-*.tmp")
"""What a program that was killed while it wrote leaves here: private keys under names that nobody looks for."""


class CredentialsError(Exception):
    """A folder that holds no usable identity; the text names the file and what to type."""


@dataclass(frozen=True, slots=True)
class About:
    """credentials.json."""

    fleet: str
    role: str
    name: str
    url: str
    """Where this identity talks to the receiver: the workers' site or the operators'."""
    join_url: str
    """Where an expired certificate is renewed."""
    server_name: str
    """What the server's certificate must name; sent as SNI and Host, whatever the address in `url`."""


def read_about(folder: Path) -> About:
    """Raises CredentialsError."""
    path = folder / ABOUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {one.name for one in fields(About)}
        about = About(**{key: value for key, value in found.items() if key in known})
        if not all(isinstance(value, str) and value for value in asdict(about).values()):
            raise TypeError("a value is empty or no text")
        for address in (about.url, about.join_url):
            if urlsplit(address).scheme != "https" or not urlsplit(address).hostname:
                raise ValueError(f"{address!r} is no https://HOST:PORT")
    except OSError as error:
        raise CredentialsError(
            f"{path} cannot be read ({error.strerror}): was this machine enrolled?"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CredentialsError(f"{path} is damaged ({error}); enrol this machine again") from error
    return about


def about_json(about: About) -> bytes:
    return (json.dumps(asdict(about), indent=2) + "\n").encode()


def context_of(folder: Path) -> ssl.SSLContext:
    """TLS 1.3 with this identity, trusting the lab's root alone. Raises CredentialsError."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(folder / ROOT)
        context.load_cert_chain(folder / IDENTITY, password=_no_password)
    except OSError as error:  # ssl.SSLError is one
        raise CredentialsError(
            f"the identity in {folder} cannot be used: {error.strerror or error}"
        ) from error
    return context


def foreign_owner(folder: Path) -> str | None:
    """Whose folder it is (or is going to be), when root is about to write files there that this user could not replace.
    None: go on."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    at = folder
    while not at.exists() and at != at.parent:
        at = at.parent
    uid = at.stat().st_uid
    if uid == 0:
        return None
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def check_fits(folder: Path, identity: bytes) -> None:
    """Whether key and certificate belong together, as TLS will need them. Raises CredentialsError, and OSError when
    the folder cannot be written. Whoever calls holds `LOCK`."""
    for pattern in _LEFT_BY_THE_KILLED:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    trial = folder / f".trial-{os.getpid()}.pem"
    try:
        atomic_write(trial, identity, mode=0o600)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(trial, password=_no_password)
    except ssl.SSLError as error:
        raise CredentialsError(f"key and certificate do not fit ({error.reason or error})") from error
    finally:
        trial.unlink(missing_ok=True)


def write_identity(folder: Path, identity: bytes) -> None:
    """Replace the identity in one step. On Windows that fails while somebody reads the file, which takes a moment."""
    for pause_s in (0.02, 0.1, 0.5, 1.0):
        try:
            return atomic_write(folder / IDENTITY, identity, mode=0o600)
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(pause_s)
    return atomic_write(folder / IDENTITY, identity, mode=0o600)


def _no_password() -> str:
    """Without it OpenSSL would ask at the terminal for the password of a key that has one, and wait."""
    return ""


def dates_in(folder: Path) -> Dates:
    """Of the certificate in the folder. Raises CredentialsError."""
    path = folder / IDENTITY
    try:
        return dates_of(path.read_bytes())
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read: {error.strerror}") from error
    except NoDates as error:
        raise CredentialsError(f"{path}: {error}; enrol this machine again") from error


def command_for(role: str, name: str) -> str:
    """What an operator types on the receiver for a token for this name."""
    if role == "host":
        return f"cis490-jobs hosts add {name}"
    return f"cis490-jobs operators add {name}" + (" --reader" if role == "reader" else "")


def users_folder(env: Mapping[str, str]) -> Path:
    """Where an operator's credentials lie in the own account."""
    return Path(credential_places.of_user(env))


def operators_folder(env: Mapping[str, str]) -> Path | None:
    """The credentials that a command line uses by itself; None without any."""
    found = credential_places.of_operator(env)
    return None if found is None else Path(found)


def operator_token(folder: Path) -> str | None:
    """The second secret in the folder; None when there is none. Raises CredentialsError."""
    path = folder / OPERATOR_TOKEN
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise CredentialsError(f"{path} cannot be read: {reason}") from error
