"""The deny list: what counts after a revocation, and from which moment on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cis490 import failpoints
from cis490.clock import ManualClock
from cis490.database import sqlite
from cis490.pki import certificates as pki
from training.fleet import enrolment, enrolment_store
from training.fleet.enrolment import Former, Grant, Refused, Request, Token
from training.fleet.ledger import QueueUnavailable
from training.fleet.queue import JobQueue
from training.fleet.sql import MIGRATIONS
from training.fleet.standing import Standing

KEY = pki.new_key().public_key()
serials = iter(range(0x1000, 0x10000))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(tmp_path: Path, clock: ManualClock) -> Iterator[JobQueue]:
    opened = JobQueue(tmp_path / "q.db", clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def standing(queue: JobQueue) -> Standing:
    return Standing(queue)


def joined(queue: JobQueue, standing: Standing, name: str = "a", role: str = "host") -> str:
    """Somebody has joined; the serial."""
    serial = next(serials)
    now = enrolment.moment(queue.clock.wall_s())
    secret = enrolment.secret_sha256(f"secret {serial}")
    ends_s = (now + enrolment.TOKEN_LIFE).timestamp()
    enrolment_store.add_token(
        queue, Token(enrolment.token_id(secret), secret, role, name, ends_s), actor="operator"
    )
    given = Grant(Request(role, name, KEY, f"key {serial}"), serial, now, enrolment.CERTIFICATE_LIFE)
    assert enrolment_store.join(queue, standing, secret, given) is None
    return f"{serial:x}"


def revoke(queue: JobQueue, standing: Standing, name: str = "a", role: str = "host") -> int:
    return enrolment_store.revoke(queue, standing, role, name, "lost", actor="operator")


def test_who_was_never_revoked_is_denied_nothing(queue: JobQueue, standing: Standing) -> None:
    serial = joined(queue, standing)
    assert standing.is_denied("host", "a", serial) is None
    assert standing.is_denied("host", "a", "5eed") is None, "made without the receiver"


def test_after_a_revocation_no_certificate_of_the_name_counts(queue: JobQueue, standing: Standing) -> None:
    known = [joined(queue, standing), joined(queue, standing)]
    assert revoke(queue, standing) == 2
    assert [standing.is_denied("host", "a", serial) for serial in [*known, "5eed"]] == ["lost"] * 3


def test_others_and_other_roles_of_the_same_name_are_left_alone(queue: JobQueue, standing: Standing) -> None:
    other, reader = joined(queue, standing, "b"), joined(queue, standing, "a", "reader")
    revoke(queue, standing)
    assert standing.is_denied("host", "b", other) is None
    assert standing.is_denied("reader", "a", reader) is None


def test_who_joins_again_is_let_in_with_the_new_certificate_alone(
    queue: JobQueue, standing: Standing
) -> None:
    old = joined(queue, standing)
    revoke(queue, standing)
    new = joined(queue, standing)
    assert standing.is_denied("host", "a", new) is None
    assert standing.is_denied("host", "a", old) == "lost"
    assert standing.is_denied("host", "a", "5eed") == "lost"


def test_a_second_revocation_takes_the_new_one_too(queue: JobQueue, standing: Standing) -> None:
    joined(queue, standing)
    revoke(queue, standing)
    new = joined(queue, standing)
    assert revoke(queue, standing) == 1
    assert standing.is_denied("host", "a", new) == "lost"


def test_a_restart_forgets_nothing(queue: JobQueue, standing: Standing) -> None:
    old = joined(queue, standing)
    revoke(queue, standing)
    new = joined(queue, standing)
    again = Standing(queue)
    assert again.is_denied("host", "a", old) == "lost"
    assert again.is_denied("host", "a", new) is None


def test_it_counts_from_the_commit_and_not_before(queue: JobQueue, standing: Standing) -> None:
    serial = joined(queue, standing)
    with queue.atomic():
        revoke(queue, standing)
        assert standing.is_denied("host", "a", serial) is None
    assert standing.is_denied("host", "a", serial) == "lost"


def test_a_revocation_whose_commit_failed_changes_nothing(
    queue: JobQueue, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = joined(queue, standing)
    monkeypatch.setattr(failpoints, "_armed", failpoints.parse("ledger.before_commit=broken"))
    with pytest.raises(QueueUnavailable):
        revoke(queue, standing)
    assert standing.is_denied("host", "a", serial) is None
    with queue.atomic():
        queue.audit_host("operator", "drain", "b", "the next transaction")
    assert standing.is_denied("host", "a", serial) is None, "what was taken back is not put in force later"


def test_of_a_batch_one_that_fails_takes_no_other_with_it(queue: JobQueue, standing: Standing) -> None:
    one, other = joined(queue, standing), joined(queue, standing, "b")

    def fails() -> int:
        revoke(queue, standing, "b")
        raise ValueError("no")

    found = queue.run_batch([lambda: revoke(queue, standing), fails])
    assert found[0] == 1
    assert isinstance(found[1], ValueError)
    assert standing.is_denied("host", "a", one) == "lost"
    assert standing.is_denied("host", "b", other) is None


def test_a_revocation_ends_tokens_also_the_one_that_was_used(queue: JobQueue, standing: Standing) -> None:
    now = enrolment.moment(queue.clock.wall_s())
    for secret, key_id in (("waits", None), ("was used", "my key")):
        sha256 = enrolment.secret_sha256(secret)
        ends_s = (now + enrolment.TOKEN_LIFE).timestamp()
        enrolment_store.add_token(
            queue, Token(enrolment.token_id(sha256), sha256, "host", "a", ends_s), actor="x"
        )
        if key_id is not None:
            given = Grant(Request("host", "a", KEY, key_id), next(serials), now, enrolment.CERTIFICATE_LIFE)
            assert enrolment_store.join(queue, standing, sha256, given) is None
    revoke(queue, standing)
    for secret in ("waits", "was used"):
        given = Grant(Request("host", "a", KEY, "my key"), next(serials), now, enrolment.CERTIFICATE_LIFE)
        refused = enrolment_store.join(queue, standing, enrolment.secret_sha256(secret), given)
        assert refused is not None
        assert refused.code == "E306"


def test_a_revoked_identity_cannot_renew(queue: JobQueue, standing: Standing) -> None:
    serial = joined(queue, standing)
    revoke(queue, standing)
    now = enrolment.moment(queue.clock.wall_s())
    former = Former("host", "a", serial, now, "old key")
    given = Grant(Request("host", "a", KEY, "new key"), next(serials), now, enrolment.CERTIFICATE_LIFE)
    for late in (False, True):
        refused = enrolment_store.renew(queue, standing, former, given, late=late)
        assert refused is not None
        assert (refused.status, refused.code) == (403, "E317")
        assert "cis490-jobs hosts add a" in refused.error


def test_everything_leaves_an_audit_row(queue: JobQueue, standing: Standing) -> None:
    joined(queue, standing)
    joined(queue, standing, "ada", "operator")
    revoke(queue, standing)
    found = [
        (row["actor"], row["event"], row["host"]) for row in queue.read("audit_after", after=0, limit=99)
    ]
    assert found == [
        ("operator", "token", "a"), ("host:a", "join", "a"),
        ("operator", "token", ""), ("operator ada", "join", ""),
        ("operator", "revoke", "a"),
    ]  # fmt: skip


def test_rows_are_forgotten_long_after_they_ended(
    queue: JobQueue, standing: Standing, clock: ManualClock
) -> None:
    joined(queue, standing)
    clock.advance((enrolment.CERTIFICATE_LIFE + enrolment.KEPT).total_seconds() - 60)
    joined(queue, standing, "b")
    assert [one["name"] for one in enrolment_store.identities(queue)] == ["a", "b"]
    clock.advance(120)
    joined(queue, standing, "b")
    assert [one["name"] for one in enrolment_store.identities(queue)] == ["b"]
    assert len(queue.read("certificates_all")) == 2


class TestMigration:
    def test_a_database_of_version_6_keeps_what_it_has_and_nobody_is_denied(self, tmp_path: Path) -> None:
        path = tmp_path / "old.db"
        old = sqlite.connect(str(path))
        sqlite.migrate(old, MIGRATIONS[:6])
        old.execute("INSERT INTO drained_host VALUES ('b', 'moves', 1.0)")
        old.close()
        opened = JobQueue(path)
        try:
            standing = Standing(opened)
            assert opened.matcher.drained == {"b": "moves"}
            assert enrolment_store.identities(opened) == []
            assert standing.is_denied("host", "a", joined(opened, standing)) is None
        finally:
            opened.close()

    def test_the_tables_refuse_what_no_code_of_ours_writes(self, queue: JobQueue) -> None:
        for statement in (
            "INSERT INTO join_tokens VALUES ('1', 'x', 'session', 'a', 1.0, 2.0, NULL, NULL)",
            "INSERT INTO certificates VALUES ('1', 'host', 'a', 'k', 1.0, 2.0, 1.0, 'stolen', NULL, NULL)",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                queue._connection.execute(statement)

    def test_of_one_secret_there_is_one_token(self, queue: JobQueue) -> None:
        token = Token("1" * 12, "1" * 64, "host", "a", 2.0e9)
        enrolment_store.add_token(queue, token, actor="operator")
        with pytest.raises(sqlite3.IntegrityError):
            enrolment_store.add_token(queue, token, actor="operator")


def test_a_renewal_in_the_transaction_of_a_revocation_is_refused(queue: JobQueue, standing: Standing) -> None:
    """Memory learns of the revocation by the commit; who renews meanwhile must not slip through."""
    serial = joined(queue, standing)
    now = enrolment.moment(queue.clock.wall_s())
    former = Former("host", "a", serial, now, "old key")
    given = Grant(Request("host", "a", KEY, "new key"), next(serials), now, enrolment.CERTIFICATE_LIFE)
    renew = partial(enrolment_store.renew, queue, standing, former, given)
    together: list[Callable[[], object]] = [partial(revoke, queue, standing), renew]
    _, refused = queue.run_batch(together)
    assert isinstance(refused, Refused)
    assert standing.is_denied("host", "a", f"{given.serial:x}") == "lost"


def test_a_clock_that_is_set_back_revives_no_token(
    queue: JobQueue, standing: Standing, clock: ManualClock
) -> None:
    now = enrolment.moment(queue.clock.wall_s())
    sha256 = enrolment.secret_sha256("waits")
    ends_s = (now + enrolment.TOKEN_LIFE).timestamp()
    token = Token(enrolment.token_id(sha256), sha256, "host", "a", ends_s)
    enrolment_store.add_token(queue, token, actor="operator")
    revoke(queue, standing)
    clock.step_wall(-3600.0)
    given = Grant(Request("host", "a", KEY, "my key"), next(serials), now, enrolment.CERTIFICATE_LIFE)
    refused = enrolment_store.join(queue, standing, sha256, given)
    assert refused is not None
    assert "when the host a was revoked" in refused.error
