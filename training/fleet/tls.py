"""HTTPS to our own receiver, with an identity that may change while the program runs. Light: every command imports it.

The server is asked for by one name (`server_name`: SNI and Host), whatever address the connection goes to. In TLS 1.3 a
server judges the client's certificate after the handshake is over for us: its refusal arrives with the first answer,
or the connection just ends.
"""

from __future__ import annotations

import errno
import http.client
import ssl
from typing import Any, NoReturn, Protocol

ENDED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""The other side has hung up, by any way that it may."""


class TlsSettings(Protocol):
    """Who we are to the server, and whom we take for it."""

    @property
    def server_name(self) -> str: ...
    def current(self) -> tuple[object, ssl.SSLContext]:
        """(what changes when the identity does, TLS settings). Raises OSError in words."""
        ...

    def words(self, error: Exception) -> str:
        """What the error means for a person."""
        ...


class TlsConnection(http.client.HTTPSConnection):
    """One connection; `version` is of the identity that it was opened with."""

    def __init__(
        self,
        host: str,
        port: int | None,
        settings: TlsSettings,
        current: tuple[object, ssl.SSLContext],
        timeout: float,
    ) -> None:
        """`current`: of the settings, asked for before, since that may fail and leave no half of a connection."""
        self.version, self._tls = current
        super().__init__(host, port, timeout=timeout, context=self._tls)
        self._settings = settings
        self._has_answered = False

    @property
    def is_current(self) -> bool:
        """Whether the identity is still the one of this connection."""
        try:
            return self._settings.current()[0] == self.version
        except OSError:
            return False  # who opens the next one says why

    def connect(self) -> None:
        """Called when the first request needs it."""
        http.client.HTTPConnection.connect(self)
        try:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._settings.server_name)
        except OSError as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise
            raise OSError(self._settings.words(error)) from error

    def putrequest(
        self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False
    ) -> None:
        """As always, with the server's own name as Host: the proxy refuses a request whose SNI and Host differ."""
        super().putrequest(method, url, skip_host=True, skip_accept_encoding=skip_accept_encoding)
        if not skip_host:
            self.putheader("Host", self._settings.server_name)

    def send(self, data: Any) -> None:
        """Send a part of a request."""
        if self.sock is None:
            self.connect()  # not below: that nobody listens says nothing of certificates
        try:
            super().send(data)
        except OSError as error:
            self._say(error)

    def getresponse(self) -> http.client.HTTPResponse:
        """The answer."""
        try:
            response = super().getresponse()
        except OSError as error:
            self._say(error)
        self._has_answered = True
        return response

    def _say(self, error: OSError) -> NoReturn:
        """Raise it in words. A connection that ended stays a ConnectionError: a kept one is opened again."""
        if isinstance(error, TimeoutError):
            raise error
        if not isinstance(error, ENDED):
            raise OSError(self._settings.words(error)) from error
        if (
            self._has_answered
        ):  # an idle connection that the proxy closed; our certificate was good enough before
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed") from error
        raise ConnectionResetError(errno.ECONNRESET, self._settings.words(error)) from error
