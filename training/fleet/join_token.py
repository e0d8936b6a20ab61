"""The text that an operator pastes on a new machine: where to join, as whom, and how to know the right server. Pure.

`cis490-join-1.` and base64url of a JSON object. It is a secret for its 15 minutes: it travels on standard input, never
as an argument.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass

PREFIX = "cis490-join-1."
SECRET_BYTES = 16
MAX_CHARACTERS = 2000
_ROLES = ("host", "operator", "reader")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_URL = re.compile(r"https://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")
_SERVER_NAME = re.compile(r"[A-Za-z0-9.:-]{1,253}")


class TokenFault(ValueError):
    """A text that is no join token; the message says what is wrong and never repeats the text."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What stands in the token."""

    join_url: str
    """`https://HOST:PORT` of the join site."""
    server_name: str
    """The name that the server's certificate must have."""
    role: str
    name: str
    """Of the host (or operator, reader) that the token is for."""
    root_sha256: str
    """Fingerprint of the lab's root certificate, 64 hex digits."""
    secret: str
    """base64url of `SECRET_BYTES` random bytes."""

    def encode(self) -> str:
        fields = [self.join_url, self.server_name, self.role, self.name, self.root_sha256, self.secret]
        text = json.dumps(fields, separators=(",", ":"))
        return PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"JoinToken({self.join_url}, {self.role} {self.name})"


def parse(text: str) -> JoinToken:
    """Raises TokenFault."""
    text = "".join(text.split()).strip("'\"`")  # pasted over several lines, or with the quotes of the line
    if not text:
        raise TokenFault(
            "found nothing on standard input, expected the join token of `cis490-jobs hosts add`"
        )
    if not text.startswith(PREFIX):
        raise TokenFault(f"this is no join token: one begins with {PREFIX}")
    body = text[len(PREFIX) :]
    if len(text) > MAX_CHARACTERS or not re.fullmatch(r"[A-Za-z0-9_-]+", body):
        raise TokenFault("the join token holds characters that none has; copy the whole line once more")
    try:
        fields = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        found = JoinToken(*fields)
        is_whole = all(isinstance(field, str) for field in fields) and _is_usable(found)
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise TokenFault("the join token is not whole; copy the whole line once more") from error
    if not is_whole:
        raise TokenFault("the join token is not whole; copy the whole line once more")
    return found


def _is_usable(found: JoinToken) -> bool:
    """Whether each part can be what it is for. Raises ValueError for some that cannot."""
    url = _URL.fullmatch(found.join_url)
    is_server = (
        url is not None and 0 < int(url[1] or 443) < 65536 and _SERVER_NAME.fullmatch(found.server_name)
    )
    is_somebody = found.role in _ROLES and _NAME.fullmatch(found.name)
    is_pin = len(bytes.fromhex(found.root_sha256)) == 32
    return bool(is_server and is_somebody and is_pin and found.secret)
