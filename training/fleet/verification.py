"""`cis490-jobs verify JOB`: have a completed job trained once more, wait for that run, compare the two artifacts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from training.fleet.client import FleetClient, FleetError, Refused, retry_reason
from training.fleet.comparison import IDENTICAL, Comparison, compare
from training.fleet.exits import (
    INTERRUPTED,
    UNREACHABLE,
    VERIFY_CLOSE,
    VERIFY_DIFFERENT,
    VERIFY_FAILED,
    VERIFY_IMPOSSIBLE,
    Stop,
)
from training.fleet.render import ACTIVE, progress_text
from training.fleet.tables import Row, gist, row_of, rows_of, safe, text_of

POLL_S = 2.0
PROGRESS_EVERY_S = 10.0
"""Between two lines about a run whose state has not changed."""
PATIENCE_S = 600.0
"""How long a receiver may be away, for a restart or an update, while a run is waited for."""
ENDED = ("completed", "failed", "cancelled")

EXIT_OF = {"bit-identical": 0, "close": VERIFY_CLOSE, "different": VERIFY_DIFFERENT}


@dataclass(frozen=True, slots=True)
class Verified:
    """The run that was waited for, and what the comparison found (None: it was only started)."""

    shadow: Row
    hosts: tuple[str, ...]
    comparison: Comparison | None
    is_earlier: bool = False
    """Reported, not run: it had ended before."""

    def as_json(self, job: Row) -> dict[str, Any]:
        found = self.comparison
        return {
            "job_id": job["job_id"],
            "name": job["name"],
            "shadow_job_id": self.shadow["job_id"],
            "shadow_name": self.shadow["name"],
            "status": self.shadow["status"],
            "host": self.shadow.get("claimed_by"),
            "hosts": list(self.hosts),
            "accepted_artifact_id": self.shadow.get("of_artifact_id"),
            "artifact_id": self.shadow.get("artifact_id"),
            "verdict": None if found is None else found.verdict,
            "comparison": None if found is None else _finite(asdict(found)),
        }


def find(job: Row, shadows: Sequence[Row]) -> Row | None:
    """The run to attach to or to report: the newest one of this very artifact that was not cancelled."""
    own = [
        one
        for one in shadows
        if one.get("of_job_id") == job.get("job_id") and one.get("of_artifact_id") == job.get("artifact_id")
    ]
    newest = max(own, key=_number, default=None)
    return None if newest is None or text_of(newest, "status") == "cancelled" else newest


def begin(client: FleetClient, job: Row, *, again: bool) -> tuple[Row, tuple[str, ...], bool]:
    """The run, the hosts it may be given to (none told for one that was there already), and whether it was.

    Raises Stop when the receiver does not want to start one.
    """
    job_id = text_of(job, "job_id")
    known = find(job, client.shadows())
    if known is not None and (not again or text_of(known, "status") not in ENDED):
        return known, (), True
    try:
        answer = client.verify(job_id)
    except Refused as refusal:
        if refusal.status != 409:
            raise
        other = refusal.body.get("shadow_job_id")
        if isinstance(other, str):  # somebody else was quicker
            return client.job(other), (), True
        said = str(refusal.body.get("error") or refusal.reason)
        raise Stop(
            VERIFY_IMPOSSIBLE, f"verify: {safe(said)}", f"  next: cis490-jobs show {text_of(job, 'name')}"
        ) from refusal
    hosts = answer.get("hosts")
    return client.job(str(answer["shadow_job_id"])), tuple(hosts) if isinstance(hosts, list) else (), False


def wait(
    client: FleetClient, shadow: Row, err: TextIO, now_s: Callable[[], float], sleep: Callable[[float], None]
) -> Row:
    """Until the run has ended, with a line on `err` when something has changed. Raises Stop on Ctrl-C, and when the
    receiver stays away: the run goes on."""
    name, job_id = text_of(shadow, "name"), text_of(shadow, "job_id")
    said, state, next_s = "", "", now_s()
    heard_s = now_s()
    try:
        while True:
            try:
                shadow = client.job(job_id)
                if text_of(shadow, "status") in ENDED:
                    return shadow
                line = _line(client, shadow)
                heard_s = now_s()
            except FleetError as error:
                if retry_reason(error) is None:
                    raise
                if now_s() - heard_s > PATIENCE_S:
                    raise _left_alone(shadow, UNREACHABLE, f": {error}") from error
                line = f"no word from the receiver, which is asked again: {safe(str(error))}"
            changed = f"{shadow.get('status')} {shadow.get('claimed_by')}"
            if changed != state or (line != said and now_s() >= next_s):
                print(f"{name}: {line}", file=err, flush=True)
                said, state, next_s = line, changed, now_s() + PROGRESS_EVERY_S
            sleep(POLL_S)
    except KeyboardInterrupt:
        raise _left_alone(shadow, INTERRUPTED) from None


def _left_alone(shadow: Row, code: int, why: str = "") -> Stop:
    return Stop(
        code,
        f"{text_of(shadow, 'name')} goes on without this command{safe(why)}",
        f"  next: cis490-jobs verify {text_of(shadow, 'of_job_id')[:12]}   (waits for it again)",
        f"  stop it: cis490-jobs cancel {text_of(shadow, 'job_id')[:12]}",
    )


def judge(client: FleetClient, shadow: Row, progress: Callable[[int, int], None]) -> Comparison:
    """What a run that has ended says about the artifact it verifies. Raises Stop when it says nothing, PullError."""
    name, job_id = text_of(shadow, "name"), text_of(shadow, "job_id")
    status = text_of(shadow, "status")
    if status != "completed":
        error = gist(str(shadow.get("last_error") or ""))
        again = f"cis490-jobs verify {text_of(shadow, 'of_job_id')[:12]} --again"
        raise Stop(
            VERIFY_FAILED,
            f"{name} {'has failed: ' + error if status == 'failed' else 'was cancelled'}",
            f"  next: cis490-jobs show {job_id[:12]}   then: {again}",
        )
    if shadow.get("artifact_id") == shadow.get("of_artifact_id"):
        return IDENTICAL
    _check_trainer(client, shadow)
    return _compared(client, text_of(shadow, "of_artifact_id"), text_of(shadow, "artifact_id"), progress)


def _check_trainer(client: FleetClient, shadow: Row) -> None:
    """A checkout that was updated while the run waited makes it a run of another trainer."""
    attempts = rows_of(client.job(text_of(shadow, "of_job_id")), "attempts_log")
    made = next((one for one in attempts if one.get("artifact_id") == shadow.get("of_artifact_id")), None)
    used = client.job(text_of(shadow, "job_id")).get("trainer_digest")
    if made is not None and used and made.get("trainer_digest") not in (None, used):
        raise Stop(
            VERIFY_IMPOSSIBLE,
            f"{text_of(shadow, 'name')} was trained by another trainer ({str(used)[:12]}) than the artifact "
            f"({str(made.get('trainer_digest'))[:12]}): the checkouts were updated in between",
            "  next: train the job anew: cis490-jobs requeue JOB --force",
        )


def _compared(
    client: FleetClient, accepted: str, repeated: str, progress: Callable[[int, int], None]
) -> Comparison:
    from training.fleet.pull import fetch

    with tempfile.TemporaryDirectory(prefix="cis490-verify-") as work:
        folders = [Path(work) / side for side in ("accepted", "repeated")]
        for artifact, folder in zip((accepted, repeated), folders, strict=True):
            try:
                fetch(client, artifact, folder, progress)
            except Refused as refusal:
                said = safe(str(refusal.body.get("error") or refusal.reason))
                raise Stop(
                    VERIFY_IMPOSSIBLE, f"verify: the receiver does not give artifact {artifact[:12]}: {said}"
                ) from refusal
        return compare(*folders)


def _line(client: FleetClient, shadow: Row) -> str:
    status = text_of(shadow, "status")
    if status in ACTIVE:
        done = progress_text(row_of(shadow, "progress"))
        return f"{status} on {text_of(shadow, 'claimed_by')}  {done}".rstrip()
    return f"waits: {text_of(client.eligibility(text_of(shadow, 'job_id')), 'summary')}"


def _number(shadow: Row) -> int:
    _, _, number = text_of(shadow, "name").rpartition("-")
    return int(number) if number.isdigit() else 0


def _finite(found: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity."""
    return {key: str(value) if value == float("inf") else value for key, value in found.items()}
