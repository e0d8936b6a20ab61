"""The queue of a receiver that is started for each act: a host joins, is revoked, and the queue is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from cis490.clock import ManualClock
from cis490.pki import certificates as pki
from training.fleet import ca_backup, enrolment, enrolment_store
from training.fleet.enrolment import Grant, Request, Token
from training.fleet.queue import JobQueue
from training.fleet.standing import Standing


class LabQueue:
    """The host `pc-1` at the receiver of a machine, which is started for each act."""

    def __init__(self, db: Path, since: datetime) -> None:
        self._db, self._clock = db, ManualClock(wall_s=since.timestamp())

    @contextmanager
    def _running(self) -> Iterator[tuple[JobQueue, Standing]]:
        self._clock.advance(60)
        with closing(JobQueue(self._db, clock=self._clock)) as queue:
            yield queue, Standing(queue)

    def joined(self, serial: int) -> None:
        secret = enrolment.secret_sha256(f"secret {serial}")
        with self._running() as (queue, standing):
            now = enrolment.moment(queue.clock.wall_s())
            ends_s = (now + enrolment.TOKEN_LIFE).timestamp()
            token = Token(enrolment.token_id(secret), secret, "host", "pc-1", ends_s)
            enrolment_store.add_token(queue, token, actor="operator")
            asked = Request("host", "pc-1", pki.new_key().public_key(), f"key {serial}")
            given = Grant(asked, serial, now, enrolment.CERTIFICATE_LIFE)
            assert enrolment_store.join(queue, standing, secret, given) is None

    def revoke(self) -> None:
        with self._running() as (queue, standing):
            enrolment_store.revoke(queue, standing, "host", "pc-1", "lost", actor="operator")

    def denied(self, serial: int) -> str | None:
        with self._running() as (_, standing):
            return standing.is_denied("host", "pc-1", f"{serial:x}")

    def forget(self) -> None:
        """Somebody removed the queue; the receiver begins a new one."""
        for path in ca_backup.with_side_files(self._db):
            path.unlink(missing_ok=True)
