"""Real servers that take notifications: a webhook over HTTP, and mail by the few SMTP commands that it needs."""

from __future__ import annotations

import json
import queue
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@dataclass
class Hook:
    """What arrived, and with which statuses the next requests are answered (then 200)."""

    port: int = 0
    got: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    statuses: list[int] = field(default_factory=list)
    tries: int = 0

    def next(self) -> dict[str, Any]:
        return self.got.get(timeout=15)


@contextmanager
def webhook() -> Iterator[Hook]:
    """A server that takes JSON at any path."""
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.tries += 1
            status = hook.statuses.pop(0) if hook.statuses else 200
            if status == 200:
                hook.got.put(body)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            hook.got.put({"text": "a redirect was followed"})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with _served(HTTPServer(("127.0.0.1", 0), Handler)) as port:
        hook.port = port
        yield hook


@dataclass
class Mailbox:
    """Mails that were taken, and what is answered to a login (None: it is not offered)."""

    port: int = 0
    got: queue.Queue[str] = field(default_factory=queue.Queue)
    login_answer: str | None = None
    said: list[str] = field(default_factory=list)

    def next(self) -> str:
        return self.got.get(timeout=15)


@contextmanager
def mail_server(login_answer: str | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Mailbox]:
    """A mail server that speaks EHLO, AUTH, MAIL, RCPT, DATA and QUIT, and STARTTLS where `tls` is given."""
    box = Mailbox(login_answer=login_answer)

    class Handler(socketserver.StreamRequestHandler):
        def _say(self, text: str) -> None:
            self.wfile.write(text.encode() + b"\r\n")

        def handle(self) -> None:
            self._say("220 test")
            while line := self.rfile.readline().decode().strip():
                box.said.append(line)
                verb = line.split()[0].upper()
                if verb == "DATA":
                    self._say("354 go on")
                    box.got.put(self._letter())
                    self._say("250 taken")
                elif verb == "QUIT":
                    self._say("221 bye")
                    return
                elif verb == "AUTH" and box.login_answer is not None:
                    self._say(box.login_answer.replace("ECHO", line))
                elif verb == "STARTTLS" and tls is not None:
                    self._say("220 go on")
                    if not self._is_encrypted(tls):
                        return
                elif verb == "EHLO" and tls is not None and not isinstance(self.connection, ssl.SSLSocket):
                    self._say("250-test\r\n250 STARTTLS")
                elif verb == "EHLO" and box.login_answer is not None:
                    self._say("250-test\r\n250 AUTH PLAIN")
                else:
                    self._say("250 fine")

        def _is_encrypted(self, tls: ssl.SSLContext) -> bool:
            try:
                self.connection = tls.wrap_socket(self.connection, server_side=True)
            except OSError:  # the other side does not trust us
                return False
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
            return True

        def finish(self) -> None:
            super().finish()
            self.connection.close()  # the encrypted one is not the server's to close

        def _letter(self) -> str:
            lines = []
            while (line := self.rfile.readline().decode()) != ".\r\n":
                lines.append(line)
            return "".join(lines)

    with _served(socketserver.TCPServer(("127.0.0.1", 0), Handler)) as port:
        box.port = port
        yield box


@contextmanager
def _served(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
