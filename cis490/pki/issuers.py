"""What a new authority consists of, as values: who may issue what, and for which names. No file, no clock."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from cis490.pki import certificates as pki
from cis490.pki.authority import Fleet
from cis490.pki.certificates import Issuer

SERVER_LIFETIME = timedelta(days=90)
ALWAYS = ("localhost", "127.0.0.1", "::1")
"""Names that the proxy's certificate has beside the fleet's own: a browser on the machine itself, or a tunnel to it."""
PRIVATE_DOMAINS = ("internal", "local", "lan", "home.arpa", "localhost")
PRIVATE_NETWORKS = (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8",
    "fc00::/7", "fe80::/10", "::1/128",
)  # fmt: skip
"""Names and addresses that mean nothing outside a site. The issuer of servers is held to these and to the addresses
told when it was made, so that its key, stolen, cannot pose as a bank to a browser that trusts the lab's root."""


@dataclass(frozen=True, slots=True)
class Issuers:
    """The whole of a new authority."""

    root: Issuer
    clients: Issuer
    servers: Issuer
    signing: Issuer


def make_all(fleet: Fleet, now: datetime) -> Issuers:
    """Root, both intermediates, and the certificate that signs provenance records."""
    root = pki.make_root(f"root of {fleet.name}"[: pki.MAX_COMMON_NAME], now=now)
    return Issuers(
        root, make_clients(root, fleet, now), make_servers(root, fleet, now), make_signing(root, fleet, now)
    )


def make_clients(root: Issuer, fleet: Fleet, now: datetime) -> Issuer:
    """Issues hosts, operators and readers: client authentication alone, identities of this fleet alone."""
    permitted = [x509.UniformResourceIdentifier(fleet.name)]
    name = f"clients of {fleet.name}"[: pki.MAX_COMMON_NAME]
    return pki.make_intermediate(root, name, "clients", now=now, permitted=permitted)


def make_servers(root: Issuer, fleet: Fleet, now: datetime) -> Issuer:
    """Issues the proxy's certificate: server authentication alone, private names and the fleet's addresses alone."""
    permitted: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_network(item)) for item in PRIVATE_NETWORKS
    ]
    permitted += [x509.DNSName(item) for item in PRIVATE_DOMAINS]
    for host in (fleet.server_name, fleet.address, *fleet.also):
        if not pki.is_within(host, permitted):
            name = pki.general_name(host)
            is_address = isinstance(name, x509.IPAddress)  # a constraint is a network: of this one address
            permitted.append(x509.IPAddress(ipaddress.ip_network(host)) if is_address else name)
    subject = f"servers of {fleet.name}"[: pki.MAX_COMMON_NAME]
    return pki.make_intermediate(root, subject, "servers", now=now, permitted=permitted)


def make_signing(root: Issuer, fleet: Fleet, now: datetime) -> Issuer:
    """A leaf of the root that signs provenance records and can issue nothing."""
    key = pki.new_key()
    name = f"signing of {fleet.name}"[: pki.MAX_COMMON_NAME]
    leaf = pki.issue(
        root, key.public_key(), "signing", name=name, now=now, lifetime=pki.INTERMEDIATE_LIFETIME
    )
    return Issuer(leaf, key, (leaf,))


def server_names(fleet: Fleet) -> Sequence[str]:
    """What the proxy's certificate names, each once."""
    return tuple(dict.fromkeys((fleet.server_name, fleet.address, *fleet.also, *ALWAYS)))
