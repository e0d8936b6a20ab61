"""A person at the pages, without a browser: keeps the cookie, fills in forms, follows no redirect by itself."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.factories.live_receiver import TOKEN, Answer, LiveReceiver

OURS = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Person:
    """One browser's cookie. `sent_from` are the headers that say where a form came from."""

    receiver: LiveReceiver
    cookie: str = ""
    sent_from: Mapping[str, str] = field(default_factory=lambda: OURS)

    def get(self, path: str, **headers: str) -> Answer:
        return self._send("GET", path, None, headers)

    def post(self, path: str, **fields: str) -> Answer:
        """Send a form with exactly these fields."""
        kind = {"Content-Type": "application/x-www-form-urlencoded", **self.sent_from}
        return self._send("POST", path, urlencode(fields).encode(), kind)

    def submit(self, path: str, **fields: str) -> Answer:
        """Open the form at `path` and send it with the hidden fields that it has."""
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text_of(self.get(path))))
        return self.post(path, **{**hidden, **fields})

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', text_of(self.get("/")))
        assert found is not None, "nobody is logged in"
        return found[1]

    def log_in(self, token: str = TOKEN, **fields: str) -> Answer:
        return self.post("/login", token=token, **fields)

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        sent = {"Accept": "text/html", **headers}
        if self.cookie:
            sent["Cookie"] = self.cookie
        answer = self.receiver.send(method, path, body, sent)
        if given := answer.headers.get("set-cookie"):
            self.cookie = given.partition(";")[0]
        return answer


def text_of(answer: Answer) -> str:
    """The page as text, unpacked where it came packed."""
    packed = answer.headers.get("content-encoding") == "gzip"
    return (gzip.decompress(answer.raw) if packed else answer.raw).decode()
