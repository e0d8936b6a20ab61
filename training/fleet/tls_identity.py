"""Who we are to the receiver's proxy, whom we take for it, and words for what goes wrong between the two."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from training.fleet import credentials
from training.fleet.certificate_dates import Dates
from training.fleet.credentials import About, CredentialsError, command_for
from training.fleet.tls import ENDED

RENEW = "python -m training.fleet.renewal"
_DATES_WRONG = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""
_WRONG_NAME = (62, 64)


class Identity:
    """The identity in a folder of credentials, read again whenever a file of it was replaced. May be shared by threads.

    Raises CredentialsError when the folder is not usable at first.
    """

    def __init__(self, folder: Path, wall_s: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.about = credentials.read_about(folder)
        self._wall_s = wall_s
        self._lock = threading.Lock()
        self._version = self._on_disk()
        self._context = credentials.context_of(folder)

    @property
    def server_name(self) -> str:
        return self.about.server_name

    def current(self) -> tuple[object, ssl.SSLContext]:
        """(what changes when the identity does, TLS settings). Raises OSError in words."""
        with self._lock:
            try:
                version = self._on_disk()
                if version != self._version:
                    self._context = credentials.context_of(self.folder)
                    self._version = version
            except CredentialsError as error:
                raise OSError(str(error)) from error
            return self._version, self._context

    def _on_disk(self) -> object:
        try:
            found = [(self.folder / name).stat() for name in (credentials.IDENTITY, credentials.ROOT)]
        except OSError as error:
            raise CredentialsError(
                f"the identity in {self.folder} cannot be read: {error.strerror}"
            ) from error
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)

    def words(self, error: Exception) -> str:
        """What the error means for a person."""
        try:
            dates: Dates | None = credentials.dates_in(self.folder)
        except CredentialsError:
            dates = None
        return words(error, self.server_name, self._wall_s(), Shown(self.about, self.folder, dates))


class Anonymous:
    """No certificate of our own: to join. Without `root_pem` any server is taken, to learn its root from it."""

    def __init__(
        self, server_name: str, root_pem: str | None, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._server_name = server_name
        self._wall_s = wall_s
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        if root_pem is None:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        else:
            self._context.load_verify_locations(cadata=root_pem)

    @property
    def server_name(self) -> str:
        return self._server_name

    def current(self) -> tuple[object, ssl.SSLContext]:
        """(what never changes, TLS settings)."""
        return None, self._context

    def words(self, error: Exception) -> str:
        """What the error means for a person."""
        return words(error, self._server_name, self._wall_s(), None)


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate that we showed."""

    about: About
    folder: Path
    dates: Dates | None
    """None: it cannot be read any more."""


def words(error: Exception, server_name: str, now_s: float, shown: Shown | None) -> str:
    """A sentence for what broke a TLS connection; `shown` None: we showed no certificate. Pure."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _about_server(error, server_name, now_s)
    own = None if shown is None else _about_us(shown, now_s)
    if own is not None:
        return own
    reason = (getattr(error, "reason", None) or "").upper()
    for parts, text in _REASONS:
        if any(part in reason for part in parts):
            return text.format(server=server_name)
    if shown is not None:
        name, enrol = shown.about.name, command_for(shown.about.role, shown.about.name)
        if "CERTIFICATE_EXPIRED" in reason:
            return f"the receiver finds the certificate of {name} expired: compare both machines' clocks (timedatectl)"
        if "UNKNOWN_CA" in reason or "CERTIFICATE" in reason or "DECRYPT_ERROR" in reason:
            return f"the receiver does not take the certificate of {name}: is it of another lab? Enrol again: {enrol}"
        if isinstance(error, ENDED):
            return (
                "the connection was closed without an answer, as happens when the receiver's proxy does not take the "
                f"certificate of {name}"
            )
    if isinstance(error, ENDED):
        return "the connection was closed without an answer"
    return getattr(error, "strerror", None) or str(error)


_REASONS = (
    (("CERTIFICATE_REQUIRED",), "what listens there asks for a certificate, and was shown none"),
    (
        ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"),
        "no common version of TLS: the receiver's proxy and this Python must both speak TLS 1.3",
    ),
    (
        ("UNRECOGNIZED_NAME", "INTERNAL_ERROR"),
        "what listens there has no certificate for {server}: is it the receiver's proxy?",
    ),
    (
        ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"),
        "what listens there does not speak TLS: is this the port of the receiver's proxy?",
    ),
)


def _about_us(shown: Shown, now_s: float) -> str | None:
    """What is wrong with our own certificate, by this clock; None when nothing is."""
    name, dates = shown.about.name, shown.dates
    if dates is not None and now_s > dates.not_after_s:
        return (
            f"the certificate of {name} expired on {_day(dates.not_after_s)}; for 30 days it can be renewed: "
            f"{RENEW} --credentials {shown.folder}"
        )
    if dates is not None and now_s < dates.not_before_s:
        return (
            f"the certificate of {name} counts from {_day(dates.not_before_s)} on, and this clock says "
            f"{_day(now_s)}: set the clock (timedatectl)"
        )
    return None


def _about_server(error: ssl.SSLCertVerificationError, server_name: str, now_s: float) -> str:
    code = error.verify_code
    if code in _DATES_WRONG:
        state = "has expired" if code == _DATES_WRONG[1] else "does not count yet"
        return (
            f"the receiver's certificate {state} by this clock, which says {_day(now_s)}: if the clock is right, renew "
            "it on the receiver's machine: systemctl start cis490-trainer-server-cert"
        )
    if code in _WRONG_NAME:
        return (
            f"the certificate there is not made for {server_name}: is this the receiver's address and port?"
        )
    return f"the server there is not of this lab ({error.verify_message}); nothing was sent to it"


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
