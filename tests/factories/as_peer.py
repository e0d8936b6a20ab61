"""The headers with which the proxy hands a request on, without a proxy: for tests of the receiver alone."""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from tests.factories.fleet_pki import leaf_of
from training.fleet import wire_headers


def certificate_header(folder: Path) -> str:
    """What the proxy makes of the certificate in a folder of credentials."""
    return base64.b64encode(leaf_of(folder).public_bytes(Encoding.DER)).decode()


def proxied(folder: Path | None = None, site: str = "workers") -> dict[str, str]:
    """As the proxy's `site` sends them, for whoever holds `folder`; None: somebody without a certificate."""
    return {
        wire_headers.HEADER_PEER_SITE: site,
        wire_headers.HEADER_PEER_CERTIFICATE: "" if folder is None else certificate_header(folder),
    }
