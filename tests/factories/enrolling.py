"""Joining and renewing as a machine does it, over plain HTTP to a receiver of the test: token, key, request."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cis490.pki import certificates as pki
from tests.factories.fleet_pki import key_of, leaf_of
from tests.factories.live_receiver import Answer, LiveReceiver
from training.fleet import join_token
from training.fleet.enrolment import LATE_CONTEXT


@dataclass
class Machine:
    """One that wants a certificate: it makes a key, and knows a receiver."""

    receiver: LiveReceiver
    new_key: Callable[[], ec.EllipticCurvePrivateKey] = pki.new_key

    def __post_init__(self) -> None:
        self.key = self.new_key()

    def csr(self, name: str = "whatever") -> str:
        """A request with this machine's key; the name in it is not looked at."""
        return pki.make_request(self.key, name).decode()

    def join(self, token: str, **instead: str) -> Answer:
        """Join with the token as an operator was given it; `instead` replaces what the request says."""
        found = join_token.parse(token)
        body = {"secret": found.secret, "role": found.role, "name": found.name, "csr_pem": self.csr()}
        return self.receiver.send("POST", "/v1/enrol/join", body | instead)

    def renew_late(self, folder: Path, **instead: str) -> Answer:
        """Show the certificate in the folder, and prove its key."""
        csr = self.csr()
        signature = key_of(folder).sign(LATE_CONTEXT + csr.encode(), ec.ECDSA(hashes.SHA256()))
        body = {
            "certificate_pem": pki.chain_pem(leaf_of(folder)).decode(),
            "csr_pem": csr,
            "signature": base64.b64encode(signature).decode(),
        }
        return self.receiver.send("POST", "/v1/enrol/renew-late", body | instead)


def token_for(receiver: LiveReceiver, name: str, role: str = "host") -> str:
    """A join token, as the operator gets it."""
    made = receiver.operator(f"/v1/identity/{role}/{name}/token")
    assert made.status == 200, made
    return str(made.body["token"])


def enrolled(receiver: LiveReceiver, name: str, role: str = "host") -> Answer:
    """Somebody who joined: the receiver's answer."""
    joined = Machine(receiver).join(token_for(receiver, name, role))
    assert joined.status == 200, joined
    return joined
