"""Any history of tokens, joinings, renewals, revocations and restarts: what counts is what a plain model says.

Real queue, real tables, real deny list; keys are names, as nothing here looks into a certificate.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cis490 import failpoints
from cis490.clock import ManualClock
from cis490.pki import certificates as pki
from training.fleet import enrolment, enrolment_store
from training.fleet.enrolment import Former, Grant, Refused, Request, Token
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import JobQueue
from training.fleet.standing import Standing

PUBLIC_KEY = pki.new_key().public_key()
NAMES = st.sampled_from([("host", "a"), ("host", "b"), ("operator", "a")])
KEYS = st.sampled_from(["k1", "k2", "k3"])
Identity = tuple[str, str]


@dataclass
class Given:
    """A token of the model."""

    identity: Identity
    ends_s: float
    key: str | None = None


@dataclass
class Certificate:
    identity: Identity
    key: str
    is_revoked: bool = False


@dataclass
class Model:
    """The rules in the fewest words."""

    tokens: list[Given] = field(default_factory=list)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    revoked: set[Identity] = field(default_factory=set)


class EnrolmentMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
        self.clock, self.model, self.serial = ManualClock(), Model(), 0
        self.open()

    def open(self) -> None:
        self.queue = JobQueue(self.folder / "q.db", clock=self.clock)
        self.standing = Standing(self.queue)

    def teardown(self) -> None:
        self.queue.close()
        shutil.rmtree(self.folder)

    def grant(self, identity: Identity, key: str) -> Grant:
        self.serial += 1
        now = enrolment.moment(self.clock.wall_s())
        return Grant(Request(*identity, PUBLIC_KEY, key), self.serial, now, enrolment.CERTIFICATE_LIFE)

    @rule(identity=NAMES)
    def give_a_token(self, identity: Identity) -> None:
        sha256 = enrolment.secret_sha256(f"secret {len(self.model.tokens)}")
        ends_s = self.clock.wall_s() + enrolment.TOKEN_LIFE.total_seconds()
        token = Token(enrolment.token_id(sha256), sha256, *identity, ends_s)
        enrolment_store.add_token(self.queue, token, actor="operator")
        self.model.tokens.append(Given(identity, ends_s))

    @rule(which=st.integers(0, 5), key=KEYS, identity=NAMES)
    def join(self, which: int, key: str, identity: Identity) -> None:
        given = self.grant(identity, key)
        sha256 = enrolment.secret_sha256(f"secret {which}")
        refused = enrolment_store.join(self.queue, self.standing, sha256, given)
        token = self.model.tokens[which] if which < len(self.model.tokens) else None
        may = (
            token is not None
            and token.identity == identity
            and self.clock.wall_s() < token.ends_s
            and token.key in (None, key)
        )
        assert (refused is None) == may
        if token is not None and may:
            token.key = key
            self.model.certificates[f"{given.serial:x}"] = Certificate(identity, key)

    @rule(which=st.integers(0, 5), key=KEYS, late=st.booleans())
    def renew(self, which: int, key: str, late: bool) -> None:
        if which >= len(self.model.certificates):
            return
        serial, old = list(self.model.certificates.items())[which]
        given = self.grant(old.identity, key)
        former = Former(*old.identity, serial, given.now, old.key)
        refused = enrolment_store.renew(self.queue, self.standing, former, given, late=late)
        assert (refused is None) == (not old.is_revoked and key != old.key)
        if refused is None:
            self.model.certificates[f"{given.serial:x}"] = Certificate(old.identity, key)

    @rule(identity=NAMES)
    def revoke(self, identity: Identity) -> None:
        counted = enrolment_store.revoke(self.queue, self.standing, *identity, "lost", actor="operator")
        mine = [one for one in self.model.certificates.values() if one.identity == identity]
        assert counted == sum(not one.is_revoked for one in mine)
        self._now_revoked(identity)

    def _now_revoked(self, identity: Identity) -> None:
        for one in self.model.certificates.values():
            one.is_revoked |= one.identity == identity
        for token in self.model.tokens:
            if token.identity == identity:
                token.ends_s = 0.0
        self.model.revoked.add(identity)

    @rule(identity=NAMES)
    def revoke_on_a_disk_that_fails(self, identity: Identity) -> None:
        failpoints._armed = failpoints.parse("ledger.before_commit=broken")
        try:
            with pytest.raises(QueueUnavailable):
                enrolment_store.revoke(self.queue, self.standing, *identity, "lost", actor="operator")
        finally:
            failpoints._armed = None

    @rule(which=st.integers(0, 5), keys=st.lists(KEYS, min_size=2, max_size=4))
    def join_together(self, which: int, keys: list[str]) -> None:
        """Several requests in one transaction, as the writer makes them of what comes at once."""
        if which >= len(self.model.tokens):
            return
        token = self.model.tokens[which]
        grants = [self.grant(token.identity, key) for key in keys]
        sha256 = enrolment.secret_sha256(f"secret {which}")
        calls = [partial(enrolment_store.join, self.queue, self.standing, sha256, given) for given in grants]
        found = self.queue.run_batch(calls)
        assert all(one is None or isinstance(one, Refused) for one in found)
        joined = {
            given.request.key_id for given, refused in zip(grants, found, strict=True) if refused is None
        }
        assert len(joined) <= 1, "one token, one key"
        if self.clock.wall_s() < token.ends_s:
            assert joined == {token.key or keys[0]} & set(keys)
        else:
            assert joined == set()
        for given, refused in zip(grants, found, strict=True):
            if refused is None:
                token.key = given.request.key_id
                self.model.certificates[f"{given.serial:x}"] = Certificate(
                    token.identity, given.request.key_id
                )

    @rule(which=st.integers(0, 5), key=KEYS, is_revoked_first=st.booleans())
    def renew_and_revoke_together(self, which: int, key: str, is_revoked_first: bool) -> None:
        """In one transaction, where memory does not know of the revocation yet."""
        if which >= len(self.model.certificates):
            return
        serial, old = list(self.model.certificates.items())[which]
        given, was_revoked = self.grant(old.identity, key), old.is_revoked
        former = Former(*old.identity, serial, given.now, old.key)
        revoke = partial(
            enrolment_store.revoke, self.queue, self.standing, *old.identity, "lost", actor="operator"
        )
        renew = partial(enrolment_store.renew, self.queue, self.standing, former, given)
        calls: list[partial[int] | partial[Refused | None]] = [renew, revoke]
        found = self.queue.run_batch(calls[::-1] if is_revoked_first else calls)
        refused = found[1] if is_revoked_first else found[0]
        assert (refused is None) == (not is_revoked_first and not was_revoked and key != old.key)
        if refused is None:
            self.model.certificates[f"{given.serial:x}"] = Certificate(old.identity, key, is_revoked=True)
        self._now_revoked(old.identity)

    @rule(seconds=st.sampled_from([1.0, 300.0, 900.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.queue.close()
        self.open()

    @invariant()
    def what_counts_is_what_the_model_says(self) -> None:
        for serial, one in self.model.certificates.items():
            denied = self.standing.is_denied(*one.identity, serial)
            assert (denied is not None) == one.is_revoked
        for identity in (("host", "a"), ("host", "b"), ("operator", "a")):
            denied = self.standing.is_denied(*identity, "5eed")
            assert (denied is not None) == (identity in self.model.revoked), "one that no table knows"

    @invariant()
    def the_list_tells_the_same(self) -> None:
        told = {
            (one["role"], one["name"]): set(one["serials"]) for one in enrolment_store.identities(self.queue)
        }
        good: dict[Identity, set[str]] = {}
        for serial, one in self.model.certificates.items():
            if not one.is_revoked:
                good.setdefault(one.identity, set()).add(serial)
        assert {identity: serials for identity, serials in told.items() if serials} == good


TestEnrolmentMachine = EnrolmentMachine.TestCase
TestEnrolmentMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
