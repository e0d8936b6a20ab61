"""A client certificate, as the proxy hands it on, read as an identity of this fleet.

The proxy has checked the certificate when the connection began. The receiver checks it again by itself: then a
mistake in the proxy's configuration admits nobody, and its dates are looked at on every request, since a connection
that is kept open outlives a certificate.
"""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict

from cryptography import x509

from cis490.pki import certificates as pki
from cis490.pki.authority import Authority
from training.fleet.peers import Certified, Role, Unidentified, parse_uri

MAX_KEPT = 1024
"""Certificates remembered as good; a fleet has as many as hosts and people. One takes some 2 KiB."""
MAX_HEADER_CHARS = 16 * 1024


class PeerCertificates:
    """Reads header values; those of good certificates are remembered. For one thread."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._known: OrderedDict[bytes, Certified] = OrderedDict()

    def read(self, header: bytes) -> Certified:
        """Of base64 of a certificate in DER form. Raises Unidentified. Says nothing of dates."""
        found = self._known.get(header)
        if found is None:
            found = self._known[header] = certified(_parsed(header), self._authority)
            if len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(header)
        return found


def certified(certificate: x509.Certificate, authority: Authority) -> Certified:
    """Whom a certificate of this fleet names. Raises Unidentified. Says nothing of dates."""
    issuers = (authority.clients.certificate, *authority.former)
    if not any(pki.is_issued_by(certificate, issuer) for issuer in issuers):
        raise Unidentified("the client certificate was not issued by this fleet's authority for clients")
    if not pki.has_usage(certificate, "clients"):
        raise Unidentified("the certificate is not meant for clients (extended key usage clientAuth)")
    uris = pki.uris_of(certificate)
    if len(uris) != 1:
        raise Unidentified(f"the client certificate names {len(uris)} identities (URIs), expected one")
    identity = parse_uri(uris[0])
    if identity is None or identity[0] != authority.fleet.name:
        raise Unidentified(f"the client certificate names no identity of the fleet {authority.fleet.name}")
    return Certified(
        _ROLES[identity[1]],
        identity[2],
        pki.serial_of(certificate),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        pki.fingerprint(certificate),
    )


_ROLES: dict[str, Role] = {"host": "host", "operator": "operator", "reader": "reader"}


def _parsed(header: bytes) -> x509.Certificate:
    if len(header) > MAX_HEADER_CHARS:
        raise Unidentified(
            f"the client certificate has {len(header)} characters, expected at most {MAX_HEADER_CHARS}"
        )
    try:
        return x509.load_der_x509_certificate(base64.b64decode(header, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Unidentified("what the proxy handed on as client certificate is none") from error
