"""Files encrypted with a passphrase, in the format of `age` (age-encryption.org/v1): `age -d FILE` opens them too.

scrypt turns the passphrase into a key that wraps the file's own key; the content follows in pieces of 64 KiB, each
sealed with ChaCha20-Poly1305, so that files of any size need little memory and a piece that is missing, moved or
changed is noticed. Format: https://c2sp.org/age. Only the passphrase recipient (`scrypt`) is written and read here.

    age-encryption.org/v1
    -> scrypt SALT LOG2_N
    WRAPPED KEY
    --- MAC OF THE HEADER
    nonce (16 bytes), then the pieces
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

PIECE_BYTES = 64 * 1024
LOG2_WORK = 17
"""scrypt's N = 2^17 with r = 8, p = 1: 128 MiB of memory, as OWASP recommends."""
MAX_LOG2_WORK = 20
MIN_PASSPHRASE = 12
_VERSION = "age-encryption.org/v1"
_LABEL = b"age-encryption.org/v1/scrypt"
_TAG_BYTES = 16
_STANZA = re.compile(r"-> scrypt ([A-Za-z0-9+/]{22}) ([1-9][0-9]?)")


class AgeError(ValueError):
    """A file that cannot be opened: another format, a wrong passphrase, or damage. The text says which."""


def encrypt(
    data: Iterable[bytes], passphrase: str, random: Callable[[int], bytes], *, log2_work: int = LOG2_WORK
) -> Iterator[bytes]:
    """The encrypted file, piece by piece. `random(n)` gives n bytes nobody can guess (`secrets.token_bytes`)."""
    file_key, salt, nonce = random(16), random(16), random(16)
    wrapped = ChaCha20Poly1305(_wrapping_key(passphrase, salt, log2_work)).encrypt(bytes(12), file_key, None)
    header = f"{_VERSION}\n-> scrypt {_b64(salt)} {log2_work}\n{_b64(wrapped)}\n---".encode()
    yield header + b" " + _b64(_mac(file_key, header)).encode() + b"\n" + nonce
    box = ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))
    held, counter = bytearray(), 0
    for part in data:
        held += part
        while len(held) > PIECE_BYTES:  # a full one is held back: it may be the last, and that one is marked
            yield box.encrypt(_piece_nonce(counter, is_last=False), bytes(held[:PIECE_BYTES]), None)
            del held[:PIECE_BYTES]
            counter += 1
    yield box.encrypt(_piece_nonce(counter, is_last=True), bytes(held), None)


def decrypt(file: IO[bytes], passphrase: str) -> Iterator[bytes]:
    """The content, piece by piece. Raises AgeError, at the latest with the last piece: keep nothing before.

    Each piece that was yielded is authentic and in its place; only whether the file ends here is not known earlier.
    """
    file_key = _open_header(file, passphrase)
    nonce = file.read(16)
    if len(nonce) != 16:
        raise AgeError("the file ends early: it was not written to its end, or not copied whole")
    box = ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))
    piece = file.read(PIECE_BYTES + _TAG_BYTES)
    counter = 0
    while True:
        after = file.read(PIECE_BYTES + _TAG_BYTES)
        try:
            content = box.decrypt(_piece_nonce(counter, is_last=not after), piece, None)
        except InvalidTag as error:
            raise AgeError(f"the file is damaged or cut short, at its piece {counter + 1}") from error
        if not after and not content and counter:
            raise AgeError("the file is damaged: its last piece is empty")
        yield content
        if not after:
            return
        piece, counter = after, counter + 1


def _open_header(file: IO[bytes], passphrase: str) -> bytes:
    """The file's key."""
    lines = [file.readline(128).decode("ascii", "replace") for _ in range(4)]
    if lines[0] != _VERSION + "\n":
        raise AgeError(f"found no file encrypted with age (it would begin with {_VERSION})")
    stanza = _STANZA.fullmatch(lines[1].removesuffix("\n"))
    if stanza is None:
        raise AgeError("this file was encrypted to something else than a passphrase")
    log2_work = int(stanza[2])
    if log2_work > MAX_LOG2_WORK:
        raise AgeError(f"opening this would take 2^{log2_work} steps; at most 2^{MAX_LOG2_WORK} are tried")
    if not lines[3].startswith("--- ") or not all(line.endswith("\n") for line in lines):
        raise AgeError("the file's header is damaged")
    try:
        salt, wrapped, mac = (_unb64(text.removesuffix("\n")) for text in (stanza[1], lines[2], lines[3][4:]))
    except ValueError as error:  # binascii.Error is one
        raise AgeError("the file's header is damaged") from error
    try:
        file_key = ChaCha20Poly1305(_wrapping_key(passphrase, salt, log2_work)).decrypt(
            bytes(12), wrapped, None
        )
    except InvalidTag as error:
        raise AgeError("the passphrase is not the one of this file") from error
    header = "".join(lines[:3]).encode() + b"---"
    if len(file_key) != 16 or not hmac.compare_digest(mac, _mac(file_key, header)):
        raise AgeError("the file's header is damaged")
    return file_key


def _wrapping_key(passphrase: str, salt: bytes, log2_work: int) -> bytes:
    return Scrypt(salt=_LABEL + salt, length=32, n=1 << log2_work, r=8, p=1).derive(passphrase.encode())


def _mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(_hkdf(file_key, b"", b"header"), header, sha256)


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(key)


def _piece_nonce(counter: int, *, is_last: bool) -> bytes:
    return counter.to_bytes(11, "big") + bytes([is_last])


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    """Canonical base64 without padding: one text for each value, so that a header cannot be altered unnoticed."""
    data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    if _b64(data) != text:
        raise ValueError("not canonical")
    return data
