"""Keys, requests and certificates as values: no file, no clock, no network.

All keys are ECDSA on P-256, which OpenSSL, Go and every browser take for client certificates. Profile: RFC 5280.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Usage = Literal["clients", "servers", "signing"]
PURPOSE = {
    "clients": ExtendedKeyUsageOID.CLIENT_AUTH,
    "servers": ExtendedKeyUsageOID.SERVER_AUTH,
    "signing": ExtendedKeyUsageOID.CODE_SIGNING,
}
BACKDATED = timedelta(minutes=10)
"""A host whose clock runs a little late must still accept what was issued this moment."""
MAX_REQUEST_BYTES = 8 * 1024
MAX_COMMON_NAME, MAX_DNS_NAME = 64, 253
ROOT_LIFETIME, INTERMEDIATE_LIFETIME = timedelta(days=3653), timedelta(days=3 * 365)
_KEY_BLOCK = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


class PkiError(ValueError):
    """A key, request or certificate that cannot be used; the text says what was found and expected."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate that may issue others, its key, and what lies between it and the root (itself first)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 without a password: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises PkiError; its text never holds a part of the key."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not `from`: nothing that a parser says of a key belongs into a log.
        raise PkiError("found no private key in PEM form without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PkiError("found a private key of another kind, expected ECDSA on P-256")
    return key


def load_keys(pem: bytes) -> tuple[ec.EllipticCurvePrivateKey, ...]:
    """Every key of a PEM text, in its order; at least one. Raises PkiError as `load_key` does."""
    return tuple(load_key(block) for block in _KEY_BLOCK.findall(pem)) or (load_key(pem),)


def load_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Every certificate of a PEM text, in its order; at least one. Raises PkiError."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except Exception as error:  # the parser raises many kinds for bytes that nobody wrote, as below
        raise PkiError("found no certificate in PEM form") from error


def chain_pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates)


def fingerprint(certificate: x509.Certificate) -> str:
    """sha256 of the DER form, 64 hex digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as lower-case hex, as tables and messages write it."""
    return f"{certificate.serial_number:x}"


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """sha256 of the public key's SubjectPublicKeyInfo, 64 hex digits."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return digest.finalize().hex()


def public_key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Raises PkiError when it is no ECDSA key on P-256."""
    try:
        key = certificate.public_key()
    except Exception as error:
        raise PkiError("the certificate's key cannot be read") from error
    return _p256(key, "certificate")


def make_root(name: str, *, now: datetime, lifetime: timedelta = ROOT_LIFETIME) -> Issuer:
    """A self-signed certificate that may issue intermediates, and no leaf of them may issue further."""
    key = new_key()
    made = _builder(name, _subject(name), key.public_key(), now, lifetime)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    made = made.add_extension(_ca_usage(), critical=True)
    return Issuer(made.sign(key, hashes.SHA256()), key)


def make_intermediate(
    root: Issuer,
    name: str,
    usage: Usage,
    *,
    now: datetime,
    lifetime: timedelta = INTERMEDIATE_LIFETIME,
    permitted: Sequence[x509.GeneralName] = (),
) -> Issuer:
    """A certificate that may issue leaves of this one usage and no other authority; it never outlives the root.

    `permitted`: what its leaves' alternative names must lie within, of each kind that occurs here (RFC 5280 4.2.1.10);
    kinds that do not occur are free, and so is everything when it is empty.
    """
    key = new_key()
    lifetime = _within(root.certificate, now, lifetime)
    made = _builder(name, root.certificate.subject, key.public_key(), now, lifetime)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(_ca_usage(), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage([PURPOSE[usage]]), critical=True)
    if permitted:
        made = made.add_extension(x509.NameConstraints(list(permitted), None), critical=True)
    made = made.add_extension(_authority(root), critical=False)
    certificate = made.sign(root.key, hashes.SHA256())
    return Issuer(certificate, key, (certificate,))


def issue(
    issuer: Issuer,
    public_key: ec.EllipticCurvePublicKey,
    usage: Usage,
    *,
    name: str,
    now: datetime,
    lifetime: timedelta,
    uri: str | None = None,
    hosts: Sequence[str] = (),
    serial: int | None = None,
) -> x509.Certificate:
    """A leaf for one usage. `uri` is the identity of a client; `hosts` are a server's names and IP addresses.

    `name` is the subject's common name, for people; nothing is decided by it. It never outlives its issuer.
    Raises PkiError when the issuer is no longer valid at `now`, or a name cannot stand in a certificate.
    """
    names: list[x509.GeneralName] = [] if uri is None else [x509.UniformResourceIdentifier(uri)]
    names += [general_name(host) for host in hosts]
    lifetime = _within(issuer.certificate, now, lifetime)
    made = _builder(name, issuer.certificate.subject, public_key, now, lifetime, serial)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_leaf_usage(), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage([PURPOSE[usage]]), critical=False)
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = made.add_extension(_authority(issuer), critical=False)
    return made.sign(issuer.key, hashes.SHA256())


def make_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A certificate signing request (PKCS #10, PEM). The issuer takes its public key and nothing else."""
    made = x509.CertificateSigningRequestBuilder().subject_name(_subject(name)).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def read_request(pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request that was signed with the private one. Raises PkiError."""
    if len(pem) > MAX_REQUEST_BYTES or not pem.isascii():
        raise PkiError(
            f"found a request of {len(pem)} characters, expected PEM of at most {MAX_REQUEST_BYTES}"
        )
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        if not request.is_signature_valid:
            raise PkiError("the request's signature was not made with its key")
        return _p256(request.public_key(), "request")
    except PkiError:
        raise
    except Exception as error:  # the parser raises many kinds for bytes that nobody wrote
        raise PkiError("found no certificate signing request in PEM form") from error


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether names fit and the issuer's key signed it. Says nothing of dates or usage."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - the parser raises many kinds, and none of them is a yes
        return False
    return True


def uris_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The URIs among its alternative names; () when it has none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # noqa: BLE001 - as above
        return ()
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))


def has_usage(certificate: x509.Certificate, usage: Usage) -> bool:
    """Whether its extended key usage names this one. Without that extension: no."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except Exception:  # noqa: BLE001 - as above
        return False
    return PURPOSE[usage] in found


def name_of(certificate: x509.Certificate) -> str:
    """Its subject's common name, for people; "" when it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def general_name(host: str) -> x509.IPAddress | x509.DNSName:
    """A DNS name or an IP address as certificates write it. Raises PkiError.

    A name that ends in a number is a mistyped address; a zone (`fe80::1%eth0`) means something on one machine alone.
    """
    if "%" not in host:
        with contextlib.suppress(ValueError):
            return x509.IPAddress(ipaddress.ip_address(host))
    if len(host) > MAX_DNS_NAME or not _DNS_NAME.fullmatch(host) or host.rpartition(".")[2].isdigit():
        raise PkiError(
            f"found {host!r}, expected an IP address or a host name of letters, digits, hyphens and dots"
        )
    return x509.DNSName(host.lower())


def is_permitted(host: str, issuer: x509.Certificate) -> bool:
    """Whether the issuer's constraints let it name this host. Raises PkiError when `host` is no name at all."""
    try:
        found = issuer.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return True
    return is_within(host, found.permitted_subtrees or ())


def is_within(host: str, permitted: Sequence[x509.GeneralName]) -> bool:
    """Whether constraints allow this name: one of its kind covers it, or there is none of its kind."""
    name = general_name(host)
    if isinstance(name, x509.IPAddress):
        address = ipaddress.ip_address(host)
        networks = [
            ipaddress.ip_network(str(item.value)) for item in permitted if isinstance(item, x509.IPAddress)
        ]
        return not networks or any(address in network for network in networks)
    domains = [item.value for item in permitted if isinstance(item, x509.DNSName)]
    return not domains or any(name.value == item or name.value.endswith(f".{item}") for item in domains)


def renew_after(certificate: x509.Certificate) -> datetime:
    """From when on a new one is due: after a third of its life (day 10 of 30)."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start + (end - start) / 3


def _builder(
    name: str,
    issuer_name: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    now = now.replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .issuer_name(issuer_name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _authority(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _subject(name: str) -> x509.Name:
    """A common name alone; RFC 5280 gives it 64 characters."""
    if not name or len(name) > MAX_COMMON_NAME:
        raise PkiError(
            f"found a name of {len(name)} characters for a certificate, expected 1 to {MAX_COMMON_NAME}"
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _within(issuer: x509.Certificate, now: datetime, lifetime: timedelta) -> timedelta:
    """`lifetime`, or less where the issuer ends before: a chain is valid while all of it is."""
    left = issuer.not_valid_after_utc - now
    if left <= timedelta(0) or now + BACKDATED < issuer.not_valid_before_utc:
        raise PkiError(
            f"{name_of(issuer)!r} is valid from {issuer.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{issuer.not_valid_after_utc:%Y-%m-%d %H:%M} UTC and can issue nothing at {now:%Y-%m-%d %H:%M}"
        )
    return min(lifetime, left)


def _p256(key: object, what: str) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PkiError(f"the {what} has a key of another kind, expected ECDSA on P-256")
    return key


def _ca_usage() -> x509.KeyUsage:
    return _key_usage(sign=False, issue_certificates=True)


def _leaf_usage() -> x509.KeyUsage:
    return _key_usage(sign=True, issue_certificates=False)


def _key_usage(*, sign: bool, issue_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=issue_certificates, crl_sign=issue_certificates, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
