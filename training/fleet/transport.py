"""Requests over HTTP or a Unix socket, and what can go wrong with them. Standard library alone.

    FleetError        whatever keeps a request from being answered as asked
      Unreachable     no answer, or one that is not the receiver's (a proxy's page, half a body); ask again later
      Refused         the receiver said no: an answer of 400 or above, with its reason
        LeaseGone     410: the lease has ended; drop the work, asking again is useless

Every request may be repeated: the receiver answers a repeated one as it did the first time. So a kept
connection that turns out to be closed is replaced and the request sent again without asking anybody.
A connection belongs to the thread that opened it, since heartbeats go on while an upload runs. http.client
sets TCP_NODELAY on each. Tokens travel in headers, which appear in no message.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from training.fleet.tls import ENDED, TlsConnection, TlsSettings

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Of a JSON answer: a list of a hundred thousand jobs fits, an endless stream does not."""
MAX_LINE_BYTES = 8 * 1024 * 1024

OnProgress = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all); an exception that it raises ends the transfer and passes through."""


class FleetError(Exception):
    """A request that was not answered as asked; the message says which, of whom, and what came instead."""


class Unreachable(FleetError):
    """No answer of the receiver's. Whether the request took effect is not known; repeating it is safe."""


class Refused(FleetError):
    """An answer of 400 or above. `reason` is the receiver's own sentence, `body` its whole JSON object."""

    def __init__(self, where: str, status: int, reason: str, body: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{where} was refused with {status}: {reason}")
        self.status = status
        self.reason = reason
        self.body = dict(body or {})


class LeaseGone(Refused):
    """410: this worker does not hold the job any more."""


_RETRYABLE: dict[int, str] = {
    408: "the receiver waited too long for the request",
    425: "the receiver is not ready yet",
    429: "the receiver is busy",
    500: "the receiver failed",
    502: "the proxy got no answer from the receiver",
    503: "the receiver is starting, stopping or cannot write",
    504: "the proxy got no answer from the receiver",
    507: "the receiver's disk is full",
}


def retry_reason(error: FleetError) -> str | None:
    """Why the same request may succeed later; None when the answer is final and only a change can help."""
    if isinstance(error, Unreachable):
        return "no answer"
    if not isinstance(error, Refused):
        return None
    if error.status == 400 and error.body.get("status") == "sha-mismatch":
        return "the bytes were damaged on the way"
    return _RETRYABLE.get(error.status)


def backoff_s(attempt: int, random01: float, *, base_s: float = 1.0, cap_s: float = 60.0) -> float:
    """Pause before try `attempt` + 1 (0: after the first failure), `random01` from [0, 1).

    Exponential with full jitter (Brooker, "Exponential Backoff And Jitter", 2015): a fleet that lost its
    receiver at one moment does not come back at one moment.
    """
    return random01 * min(cap_s, base_s * 2.0 ** min(attempt, 32))


class _Kept:
    """A connection that is closed with the last reference to it, so that a thread may simply end."""

    def __del__(self) -> None:
        close = getattr(self, "close", None)
        if close is not None:
            close()


class _HttpConnection(_Kept, http.client.HTTPConnection):
    """HTTP over TCP."""


class _HttpsConnection(_Kept, http.client.HTTPSConnection):
    """HTTP over TLS."""


class _LabConnection(_Kept, TlsConnection):
    """HTTP over TLS to our own receiver."""


class _UnixConnection(_Kept, http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Called when the first request needs it."""
        if sys.platform != "win32":
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)


class Transport:
    """Sends requests to one receiver; may be shared by threads."""

    def __init__(
        self,
        base_url: str,
        own_headers: Mapping[str, str],
        timeout_s: float,
        tls: TlsSettings | None = None,
    ) -> None:
        """`tls`: for https, in place of the machine's own trust. ValueError when `base_url` is not an address that
        `FleetClient` describes."""
        self.base_url = base_url
        self.timeout_s = timeout_s
        self._connect, self._prefix = _address(base_url, tls)
        self._own_headers = {"Accept": "application/json", **own_headers}
        self._local = threading.local()
        self._waiting: socket.socket | None = None
        self._interrupted = False

    def where(self, method: str, path: str) -> str:
        """How a message names a request."""
        return f"{method} {path} at {self.base_url}"

    def close(self) -> None:
        """Close this thread's kept connection."""
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if kept is not None:
            kept.close()

    def clock(self, path: str) -> float | None:
        """The other side's clock by the `Date` header of an answer: UTC, whole seconds. None when it sends none."""
        with (
            _network_errors(self.where("GET", path)),
            contextlib.closing(self._connect(self.timeout_s)) as connection,
        ):
            connection.request("GET", self._prefix + path, headers=self._own_headers)
            text = connection.getresponse().getheader("date")
        try:
            return None if text is None else parsedate_to_datetime(text).timestamp()
        except ValueError:
            return None

    def interrupt(self) -> None:
        """End the interruptible request that waits for its answer, and refuse later ones. Takes no lock."""
        self._interrupted = True
        waiting = self._waiting
        if waiting is not None:
            with contextlib.suppress(OSError):
                waiting.shutdown(socket.SHUT_RDWR)

    def json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        *,
        wait_s: float = 0.0,
        interruptible: bool = False,
    ) -> dict[str, Any]:
        """One request with a JSON object each way; `wait_s` is how long the receiver may take on purpose."""
        where = self.where(method, path)
        sent = {**self._own_headers, **headers}
        data = None
        if body is not None:
            data = json.dumps(body, allow_nan=False).encode()
            sent["Content-Type"] = "application/json"

        def exchange(connection: http.client.HTTPConnection) -> dict[str, Any]:
            return self._exchange(connection, method, path, data, sent, where, interruptible)

        timeout_s = self.timeout_s + wait_s
        with _network_errors(where):
            connection, is_fresh = self._connection(timeout_s)
            try:
                with self._closed_on_error():
                    return exchange(connection)
            except (ConnectionError, http.client.BadStatusLine):
                if is_fresh or (interruptible and self._interrupted):
                    raise
            connection, _ = self._connection(timeout_s)
            with self._closed_on_error():
                return exchange(connection)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        data: bytes | None,
        headers: Mapping[str, str],
        where: str,
        interruptible: bool,
    ) -> dict[str, Any]:
        # Order matters to `interrupt`, which may run between any two steps: it finds the socket, or we its flag.
        if interruptible:
            self._waiting = connection.sock
        try:
            if interruptible and self._interrupted:
                raise Unreachable(f"{where} was interrupted: this worker is stopping")
            connection.request(method, self._prefix + path, data, dict(headers))
            response = connection.getresponse()
            body = response.read(MAX_ANSWER_BYTES + 1)
        finally:
            if interruptible:
                self._waiting = None
        if response.will_close or len(body) > MAX_ANSWER_BYTES:
            self.close()
        return _answer(response, body, where)

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Half an exchange: the connection is of no use to the next request. A refusal is a whole one."""
        try:
            yield
        except Refused:
            raise
        except BaseException:
            self.close()
            raise

    def _connection(self, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection, open, and whether it was opened just now."""
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if kept is not None and kept.sock is not None:
            if not isinstance(kept, TlsConnection) or kept.is_current:
                kept.sock.settimeout(timeout_s)
                return kept, False
            self.close()  # the certificate was renewed: the old one may end while this connection lives
        fresh = self._connect(self.timeout_s)
        fresh.connect()
        fresh.sock.settimeout(timeout_s)
        self._local.connection = fresh
        return fresh, True

    # -- transfers: a connection each, since they end early or late --------------------------------------

    def _opened(self, where: str) -> http.client.HTTPConnection:
        with _network_errors(where):
            return self._connect(self.timeout_s)

    def send_file(
        self,
        path: str,
        file: BinaryIO,
        headers: Mapping[str, str],
        on_progress: OnProgress | None,
        *,
        offset: int = 0,
    ) -> dict[str, Any]:
        """PUT the open `file` from byte `offset` on; OSError when it cannot be read."""
        where = self.where("PUT", path)
        total = os.fstat(file.fileno()).st_size
        sent = {**self._own_headers, **headers, "Content-Length": str(total - offset)}
        if offset:
            span = f"{offset}-{total - 1}" if offset < total else "*"
            sent["Content-Range"] = f"bytes {span}/{total}"
        with contextlib.closing(self._opened(where)) as connection:
            with _network_errors(where):
                connection.putrequest("PUT", self._prefix + path)
                for name, value in sent.items():
                    connection.putheader(name, value)
                connection.endheaders()
            at = offset
            while at < total and (count := _push(connection, file, at, min(BLOCK_BYTES, total - at), where)):
                at += count
                _report(on_progress, at, total)
            with _network_errors(where):
                response = connection.getresponse()
                return _answer(response, response.read(MAX_ANSWER_BYTES), where)

    def download(self, path: str, target: Path, on_progress: OnProgress | None) -> int:
        """GET to `target` by way of `target`.partial, so that `target` is whole when it is there; its size."""
        where = self.where("GET", path)
        partial = target.with_name(target.name + ".partial")
        with contextlib.closing(self._opened(where)) as connection:
            with _network_errors(where):
                connection.request("GET", self._prefix + path, headers={**self._own_headers, "Accept": "*/*"})
                response = connection.getresponse()
                if response.status != 200 or "html" in (response.getheader("Content-Type") or ""):
                    _answer(response, response.read(MAX_ANSWER_BYTES), where)
                    raise Unreachable(f"{where} was answered {response.status} without the file")
            total = response.length
            received = 0
            with open(partial, "wb") as out:
                while block := _next_block(response, where):
                    out.write(block)
                    received += len(block)
                    _report(on_progress, received, total or 0)
        if total is not None and received != total:
            partial.unlink()
            raise Unreachable(f"{where} broke off after {received} of {total} bytes")
        os.replace(partial, target)
        return received

    def lines(self, path: str, headers: Mapping[str, str], silence_s: float) -> Iterator[str]:
        """The lines of a text that the receiver writes for as long as it likes; ends when it does.

        Raises Unreachable when the connection breaks or nothing came for `silence_s`. Closing the iterator hangs up.
        """
        where = self.where("GET", path)
        with contextlib.closing(self._opened(where)) as connection:
            with _network_errors(where):
                connection.request("GET", self._prefix + path, headers={**self._own_headers, **headers})
                response = connection.getresponse()
                if response.status != 200:
                    _answer(response, response.read(MAX_ANSWER_BYTES), where)
                    raise Unreachable(f"{where} was answered {response.status} without a stream")
                if connection.sock is not None:
                    connection.sock.settimeout(silence_s)
            while line := _next_line(response, where):
                yield line


def _address(
    base_url: str, tls: TlsSettings | None
) -> tuple[Callable[[float], http.client.HTTPConnection], str]:
    """(what opens a connection with a timeout, prefix of every path)."""
    expected = "expected http://HOST:PORT, https://HOST[:PORT] or unix:/path/to.sock"
    if base_url.startswith("unix:"):
        socket_path = base_url.removeprefix("unix:")
        if not socket_path.startswith("/"):
            raise ValueError(f"receiver address {base_url!r} has no absolute socket path; {expected}")
        if sys.platform == "win32":
            raise ValueError("Python has no Unix sockets on Windows; use http://HOST:PORT")
        return lambda timeout_s: _UnixConnection(socket_path, timeout_s), ""
    try:
        url = urlsplit(base_url)
        name, port = url.hostname, url.port
    except ValueError as error:
        raise ValueError(f"receiver address {base_url!r} cannot be used: {error}; {expected}") from None
    if "@" in url.netloc:  # do not repeat it: it holds a password
        raise ValueError(f"the receiver address must not hold a user name or password; {expected}")
    if url.scheme not in ("http", "https") or not name or url.query or url.fragment:
        raise ValueError(f"receiver address {base_url!r} cannot be used; {expected}")
    if tls is not None and url.scheme == "https":
        return lambda timeout_s: _LabConnection(name, port, tls, tls.current(), timeout_s), url.path.rstrip(
            "/"
        )
    kind = _HttpsConnection if url.scheme == "https" else _HttpConnection
    return lambda timeout_s: kind(name, port, timeout=timeout_s), url.path.rstrip("/")


@contextlib.contextmanager
def _network_errors(where: str) -> Iterator[None]:
    """Turn whatever the network does into Unreachable; every other exception passes."""
    try:
        yield
    except TimeoutError as error:
        raise Unreachable(f"{where} got no answer in time") from error
    except OSError as error:
        raise Unreachable(f"{where} got no answer: {error.strerror or error}") from error
    except http.client.HTTPException as error:
        raise Unreachable(f"{where} got no proper answer: {type(error).__name__} {error}".rstrip()) from error
    except UnicodeError as error:
        if "idna" not in str(error):
            raise
        raise Unreachable(f"{where} got no answer: no machine can have that name") from error


def _answer(response: http.client.HTTPResponse, body: bytes, where: str) -> dict[str, Any]:
    """The JSON object of an answer. Raises Refused for 400 and above, Unreachable for what no receiver says."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or (response.status < 400 and response.status not in (200, 201)):
        start = body[:80].decode("utf-8", "replace")
        raise Unreachable(
            f"{where} was answered {response.status} by something that is not the receiver: {start!r}"
        )
    if response.status < 400:
        return value
    texts = (value.get(key) for key in ("reason", "error", "status"))
    said = next((text for text in texts if isinstance(text, str) and text), "no reason given")
    kind = LeaseGone if response.status == 410 else Refused
    raise kind(where, response.status, said, value)


def _push(connection: http.client.HTTPConnection, file: BinaryIO, offset: int, count: int, where: str) -> int:
    """Send `count` bytes of `file`; 0 when the receiver has answered or hung up before it had all.

    A receiver that refuses (410, 413) answers at once: what follows would be sent for nothing, and its
    answer may be lost if we go on until the connection is reset. Under TLS that cannot be told: bytes that
    came may be the protocol's own (a session ticket follows each handshake), so there all is sent.
    """
    with _network_errors(where):
        is_plain = not isinstance(connection, http.client.HTTPSConnection)
        if is_plain and select.select([connection.sock], [], [], 0)[0]:
            return 0
    try:
        # By the kernel alone where it can (no copy through this process); by reading and sending over TLS.
        sent = connection.sock.sendfile(file, offset, count)
    except ENDED:
        return 0  # the answer may be here all the same; if not, getresponse says so
    except OSError as error:
        if error.errno == errno.EIO:  # of the file; the network has other names for what goes wrong
            raise
        with _network_errors(where):
            raise
    if sent < count:
        raise OSError(errno.EIO, f"the file ended {count - sent} bytes early: it was cut while it was sent")
    return sent


def _next_block(response: http.client.HTTPResponse, where: str) -> bytes:
    with _network_errors(where):
        return response.read(BLOCK_BYTES)


def _next_line(response: http.client.HTTPResponse, where: str) -> str:
    """The next line with its end; "" at the end of the text."""
    with _network_errors(where):
        line = response.readline(MAX_LINE_BYTES + 1)
    if len(line) > MAX_LINE_BYTES:
        raise Unreachable(f"{where} sent a line of more than {MAX_LINE_BYTES} bytes")
    return line.decode("utf-8", "replace")


def _report(on_progress: OnProgress | None, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(done, total)
