"""From when until when a certificate of our own counts, read with the standard library alone.

A worker must know this without `cryptography`, which it loads only to make a key. Nothing is trusted by what is read
here: the certificate is our own, and the receiver judges it for itself. Pure.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _INTEGER, _UTC_TIME, _GENERAL_TIME, _VERSION = 0x30, 0x02, 0x17, 0x18, 0xA0


class NoDates(ValueError):
    """No certificate of a readable form; the text says what was found instead."""


@dataclass(frozen=True, slots=True)
class Dates:
    """Of one certificate; UTC, seconds since the epoch."""

    not_before_s: float
    not_after_s: float
    serial: str
    """Lower-case hex, as tables and messages write it."""

    @property
    def due_s(self) -> float:
        """From when on a new one is due: after a third of its life (day 10 of 30)."""
        return self.not_before_s + (self.not_after_s - self.not_before_s) / 3


def dates_of(pem: bytes) -> Dates:
    """Of the first certificate in a PEM text, whatever else stands in it. Raises NoDates."""
    block = _BLOCK.search(pem)
    if block is None:
        raise NoDates("found no certificate in PEM form")
    try:
        return _read(base64.b64decode(b"".join(block[1].split()), validate=True))
    except (binascii.Error, ValueError, IndexError) as error:
        raise NoDates("found a certificate that is cut or damaged") from error


def _read(der: bytes) -> Dates:
    """RFC 5280, 4.1: version, serial number, signature, issuer, validity come first in the signed part."""
    certificate, _ = _item(der, _SEQUENCE)
    signed, _ = _item(certificate, _SEQUENCE)
    if signed[0] == _VERSION:
        _, signed = _item(signed, _VERSION)
    serial, signed = _item(signed, _INTEGER)
    for _ in ("signature", "issuer"):
        _, signed = _item(signed, _SEQUENCE)
    validity, _ = _item(signed, _SEQUENCE)
    start, validity = _time(validity)
    end, _ = _time(validity)
    return Dates(start, end, f"{int.from_bytes(serial, 'big'):x}")


def _item(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """(content of the first item, which must have this tag; what follows it)."""
    if data[0] != tag:
        raise ValueError(f"tag {data[0]:#x} where {tag:#x} belongs")
    length, at = data[1], 2
    if length & 0x80:
        count = length & 0x7F
        length, at = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if at + length > len(data):
        raise ValueError("an item is longer than what holds it")
    return data[at : at + length], data[at + length :]


def _time(data: bytes) -> tuple[float, bytes]:
    """UTCTime has two digits of the year, 1950 to 2049 (RFC 5280, 4.1.2.5.1); GeneralizedTime has four."""
    tag = data[0]
    content, rest = _item(data, tag if tag in (_UTC_TIME, _GENERAL_TIME) else _UTC_TIME)
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp(), rest
