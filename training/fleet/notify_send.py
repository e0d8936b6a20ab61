"""Notifications, sent: by webhook and by mail, from a thread for each place. Standard library alone.

A place that does not answer holds up nothing but itself: the queue before its thread is bounded, each try has a
time-out, tries are repeated with growing pauses, and what could not be sent goes out with the next digest. A secret
(the webhook's whole address, the mail password) is in no log line, no error and no answer.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import queue
import smtplib
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from typing import Protocol
from urllib.parse import quote, urlsplit

from cis490.logs import event
from training.fleet.notify import Message, Sign, Storm
from training.fleet.types import Notify

log = logging.getLogger(__name__)

TIMEOUT_S = 15.0
PAUSES_S = (2.0, 10.0, 60.0)
"""Between the tries of one message."""
MOST_WAITING = 1000
HIDDEN = "[hidden]"


class NotSent(Exception):
    """A place did not take a message. The text holds no secret."""


class Place(Protocol):
    """Somewhere to send to. `send` raises NotSent; it may take TIMEOUT_S for each step of a conversation."""

    @property
    def kind(self) -> str: ...

    def send(self, message: Message) -> None: ...


@dataclass(frozen=True, slots=True)
class Webhook:
    """POSTs the message as JSON. Redirects are not followed: the address is a secret of the one it belongs to."""

    url: str = field(repr=False)
    kind: str = "webhook"

    def send(self, message: Message) -> None:
        body = json.dumps(message.to_dict()).encode()
        try:
            request = urllib.request.Request(
                self.url, body, {"Content-Type": "application/json", "User-Agent": "cis490"}, method="POST"
            )
            with _opener().open(request, timeout=TIMEOUT_S) as response:
                response.read(1024)
        except urllib.error.HTTPError as error:
            with error:
                raise NotSent(f"the webhook answered {error.code}{self._hint(error.code)}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NotSent(f"the webhook cannot be reached: {_scrubbed(error, self._secrets())}") from None

    def _hint(self, status: int) -> str:
        if 300 <= status < 400:
            return ": it points elsewhere, and that is not followed; put the new address into the variable"
        return ": is its address still valid?" if status in (401, 403, 404, 410) else ""

    def _secrets(self) -> list[str]:
        parts = urlsplit(self.url)
        return [self.url, parts.path, parts.query, parts.username or "", parts.password or ""]


@dataclass(frozen=True, slots=True)
class Mail:
    """Sends by SMTP, with STARTTLS and a login where the manifest says so."""

    host: str
    port: int
    starttls: bool
    user: str | None
    password: str | None = field(repr=False)
    sender: str
    recipients: tuple[str, ...]
    kind: str = "smtp"

    def send(self, message: Message) -> None:
        try:
            with smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S) as server:
                if self.starttls:
                    server.starttls(context=ssl.create_default_context())
                if self.user is not None and self.password is not None:
                    server.login(self.user, self.password)
                server.send_message(self._mail(message))
        except (OSError, ValueError, smtplib.SMTPException) as error:
            where = f"the mail server {self.host}:{self.port}"
            raise NotSent(f"{where} did not take the mail: {_scrubbed(error, self._secrets())}") from None

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"] = " ".join(message.title.split())
        mail["From"] = self.sender
        mail["To"] = ", ".join(self.recipients)
        mail["Date"] = formatdate()
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
        mail.set_content(message.body + "\n")
        return mail

    def _secrets(self) -> list[str]:
        if not self.password:
            return []
        raw = self.password.encode()
        plain = base64.b64encode(b"\0" + (self.user or "").encode() + b"\0" + raw).decode()
        return [self.password, base64.b64encode(raw).decode(), plain]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _scrubbed(error: Exception, secrets: list[str]) -> str:
    """An error in words, on one line, without what must not be told."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    text = " ".join(str(cause).split())
    forms = {form for secret in secrets for form in (secret, quote(secret)) if len(form) > 1}
    for form in sorted(forms, key=len, reverse=True):  # the longest first: one may contain another
        text = text.replace(form, HIDDEN)
    return text[:300] or type(error).__name__


def places(notify: Notify, environ: Mapping[str, str]) -> tuple[list[Place], list[tuple[str, str]]]:
    """Where to send to, and for each that cannot be used its kind and a sentence why."""
    found: list[Place] = []
    faults: list[tuple[str, str]] = []
    if notify.webhook_url_env is not None:
        url = environ.get(notify.webhook_url_env, "").strip()
        fault = _webhook_fault(url, notify.webhook_url_env)
        if fault:
            faults.append(("webhook", fault))
        else:
            found.append(Webhook(url))
    if notify.smtp_host is not None:
        variable = notify.smtp_password_env
        password = environ.get(variable) if variable is not None else None
        if variable is not None and not password:
            faults.append(("smtp", _unset(variable)))
        else:
            found.append(
                Mail(
                    notify.smtp_host, notify.smtp_port, notify.smtp_starttls, notify.smtp_user, password,
                    notify.mail_from or "", notify.mail_to,
                )
            )  # fmt: skip
    return found, faults


def _webhook_fault(url: str, variable: str) -> str:
    if not url:
        return _unset(variable)
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    return "" if fits else f"${variable} holds no http:// or https:// address"


def _unset(variable: str) -> str:
    return (
        f"the variable {variable} is not set in the receiver's environment; set it and restart the receiver"
    )


class Courier:
    """One place, its storm control and its thread. `tell` never waits."""

    def __init__(
        self,
        place: Place,
        storm: Storm,
        *,
        now_s: Callable[[], float] = time.monotonic,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._place, self._storm, self._now_s, self._pauses_s = place, storm, now_s, pauses_s
        self._inbox: queue.Queue[Sign | None] = queue.Queue(MOST_WAITING)
        self._guard = threading.Lock()
        self._dropped = 0
        """Signs since the last that the inbox had no room for."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"notify-{place.kind}", daemon=True)
        self._thread.start()

    def tell(self, sign: Sign) -> None:
        """Take note of a sign; from any thread."""
        try:
            self._inbox.put_nowait(sign)
        except queue.Full:
            with self._guard:
                self._dropped += 1
                is_first = self._dropped == 1
            if is_first:
                event(
                    log, "notify.dropped", level=logging.WARNING, place=self._place.kind, subject=sign.subject
                )

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop; what is under way has `timeout_s` to end."""
        self.stop()
        self._thread.join(timeout_s)

    def stop(self) -> None:
        """Send nothing more; does not wait."""
        self._stopping.set()
        try:
            self._inbox.put_nowait(None)
        except queue.Full:
            pass  # the thread is busy, and looks at `_stopping` next

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                sign = self._inbox.get(timeout=self._storm.due_in_s(self._now_s()))
            except queue.Empty:
                sign = None
            while sign is not None:  # all that is there: what comes at once goes out as one
                self._storm.add(sign, self._now_s())
                sign = self._next()
            self._storm.count(self._take_dropped())
            message = None if self._stopping.is_set() else self._storm.take(self._now_s())
            if message is not None and not self._sent(message):
                self._storm.give_back(message)

    def _take_dropped(self) -> int:
        with self._guard:
            found, self._dropped = self._dropped, 0
            return found

    def _next(self) -> Sign | None:
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            return None

    def _sent(self, message: Message) -> bool:
        """Try, and try again; False when all was in vain."""
        for pause_s in (*self._pauses_s, None):
            try:
                self._place.send(message)
            except NotSent as error:
                again = {} if pause_s is None else {"again_in_s": pause_s}
                event(
                    log,
                    "notify.failed",
                    level=logging.WARNING,
                    place=self._place.kind,
                    error=str(error),
                    **again,
                )
            except Exception as error:  # noqa: BLE001 - the thread must live; the text may hold anything
                event(
                    log,
                    "notify.failed",
                    level=logging.WARNING,
                    place=self._place.kind,
                    error=type(error).__name__,
                )
            else:
                event(log, "notify.sent", place=self._place.kind, signs=len(message.signs) + message.n_more)
                return True
            if pause_s is None or self._stopping.wait(pause_s):
                return False
        return False
