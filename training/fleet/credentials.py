"""The folder with a machine's (or an operator's) identity, and the TLS settings that come out of it. Standard library.

credentials.json   where the receiver is and who this is (`About`)
root.pem           the lab's root certificate: the only one that is trusted
identity.pem       private key, then certificate and intermediate, in one file (0600), so that a renewal is one
                   rename and key and certificate cannot be out of step
operator-token     an operator's second secret (0600); absent elsewhere
"""

from __future__ import annotations

import json
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path

ABOUT, ROOT, IDENTITY, OPERATOR_TOKEN = "credentials.json", "root.pem", "identity.pem", "operator-token"


class CredentialsError(Exception):
    """A folder that holds no usable identity; the text names the file and what to type."""


@dataclass(frozen=True, slots=True)
class About:
    """credentials.json."""

    fleet: str
    role: str
    name: str
    url: str
    """Where this identity talks to the receiver: the workers' site or the operators'."""
    join_url: str
    """Where an expired certificate is renewed."""
    server_name: str
    """What the server's certificate must name; sent as SNI and Host, whatever the address in `url`."""


def read_about(folder: Path) -> About:
    """Raises CredentialsError."""
    path = folder / ABOUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return About(**found)
    except OSError as error:
        raise CredentialsError(
            f"{path} cannot be read: {error.strerror}. Was this machine enrolled?"
        ) from error
    except (ValueError, TypeError) as error:
        raise CredentialsError(f"{path} is damaged ({error}); enrol this machine again") from error


def about_json(about: About) -> bytes:
    return (json.dumps(asdict(about), indent=2) + "\n").encode()


def context_of(folder: Path) -> ssl.SSLContext:
    """TLS 1.3 with this identity, trusting the lab's root alone. Raises CredentialsError."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(folder / ROOT)
        context.load_cert_chain(folder / IDENTITY)
    except OSError as error:  # ssl.SSLError is one
        raise CredentialsError(
            f"the identity in {folder} cannot be used: {error.strerror or error}"
        ) from error
    return context
