"""The receiver's HTTP interface as methods, for workers and the operator's command line. Standard library alone.

The errors (`Unreachable`, `Refused`, `LeaseGone`, all of them `FleetError`) are drawn in
`training.fleet.transport`, and so is `retry_reason`, which says what is worth asking again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from training.fleet import wire_headers as names
from training.fleet.transport import (
    FleetError,
    LeaseGone,
    OnProgress,
    Refused,
    Transport,
    Unreachable,
    backoff_s,
    retry_reason,
)

if TYPE_CHECKING:  # what only a worker or a stream needs is imported where it is needed: a verb starts sooner
    from pathlib import Path

    from training.fleet.reports import Usage
    from training.fleet.sse import StreamedEvent
    from training.fleet.tls import TlsSettings
    from training.fleet.types import Capability
    from training.fleet.wire import ClaimAnswer, CompleteRequest, FailRequest, Progress

ASK_FROM_BYTES = 1024 * 1024
"""From this size on a bundle's upload asks first whether a part of it is there already."""
EVENT_SILENCE_S = 45.0
"""The receiver says something every 15 s on a stream of events; silent for three of these, it is gone."""
FOLLOW_CAP_S = 15.0
"""The longest pause before a broken stream of events is asked for again."""
MAX_CORRECTIONS = 5
"""So often the receiver may name another offset than the one we came with; then the upload starts anew."""

__all__ = ["FleetClient", "FleetError", "LeaseGone", "Refused", "Unreachable", "backoff_s", "retry_reason"]


class FleetClient:
    """Talks to one receiver. May be shared by threads; one of them claims."""

    def __init__(
        self,
        base_url: str,
        *,
        host: str | None = None,
        operator_token: str | None = None,
        timeout_s: float = 30.0,
        credentials: Path | None = None,
    ) -> None:
        """`base_url`: `http://HOST:PORT`, `https://HOST[:PORT]` or `unix:/path/to.sock`; ValueError for others.

        `host` is sent as X-Lab-Host. `timeout_s` bounds each wait for the network, not a whole transfer.
        `credentials`: the folder with the identity to show, and the root to trust, over https; CredentialsError when
        it cannot be used. A renewed identity is taken up by the next request.
        """
        own = {} if host is None else {names.HEADER_HOST: host}
        self._transport = Transport(base_url, own, timeout_s, _identity(credentials))
        self.url = base_url
        self.credentials = credentials
        self.has_operator_token = operator_token is not None
        self._operator = {} if operator_token is None else {names.HEADER_OPERATOR_TOKEN: operator_token}
        self.idle_reason: str | None = None
        """Why the last claim brought no job, in the receiver's words."""

    def close(self) -> None:
        """Close this thread's kept connection."""
        self._transport.close()

    # -- worker --------------------------------------------------------------------------------------

    def claim(
        self, capability: Capability, *, request_id: str, wait_s: float = 0.0, usage: Usage | None = None
    ) -> ClaimAnswer | None:
        """Ask for a job, waiting up to `wait_s` at the receiver; None when there is none (see `idle_reason`).

        `request_id` makes the claim repeatable: until its lease ends, the same id gets the same lease.
        """
        path = "/v1/job/claim"
        headers = {names.HEADER_PROTOCOL: names.PROTOCOL, names.HEADER_CLAIM_REQUEST: request_id}
        body: dict[str, Any] = {"capability": capability.to_dict(), "wait_s": wait_s}
        if usage is not None:
            from training.fleet.reports import usage_json

            body["usage"] = usage_json(usage)
        answer = self._transport.json("POST", path, body, headers, wait_s=wait_s, interruptible=True)
        if answer.get("job", ...) is None:
            reason = answer.get("reason")
            self.idle_reason = reason if isinstance(reason, str) else None
            return None
        return _claim_answer(answer, self._transport.where("POST", path))

    def hurry(self, timeout_s: float) -> None:
        """End a claim that waits for its answer, refuse later ones, and wait less long for every answer.

        For a worker that stops. Takes no lock, so a signal handler may call it. The claim raises Unreachable.
        """
        self._transport.timeout_s = timeout_s
        self._transport.interrupt()

    def heartbeat(
        self,
        job_id: str,
        token: str | None,
        progress: Progress | None = None,
        news: Mapping[str, Any] | None = None,
    ) -> float | None:
        """Renew the lease; its length in seconds from now on, if the receiver says it. LeaseGone when it has ended.

        `news` are further keys of the body (`points`, `sent_s`, `usage`); who does not know them ignores them.
        """
        body = {"progress": None if progress is None else _as_json(progress), **(news or {})}
        lease_s = self._post(f"/v1/job/{job_id}/heartbeat", body, _lease(token)).get("lease_s")
        if isinstance(lease_s, int | float) and not isinstance(lease_s, bool) and lease_s > 0:
            return float(lease_s)
        return None

    def upload(
        self, job_id: str, token: str | None, path: Path, sha256: str, on_progress: OnProgress | None = None
    ) -> str:
        """Send the bundle at `path`; returns "stored" or "already-present". OSError when `path` cannot be read.

        Goes on where an upload of the same bytes for the same lease was broken off, and once more by itself after
        each break after which the receiver can be reached and has more than before.
        """
        target = f"/v1/model/{job_id}"
        headers = {**_lease(token), names.HEADER_SHA256: sha256}
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # A small bundle is sent in less time than it takes to ask.
            offset = self._upload_offset(job_id, headers, size) if size >= ASK_FROM_BYTES else 0
            corrections = 0
            while offset is not None:
                try:
                    answer = self._transport.send_file(
                        target, file, _typed(headers), on_progress, offset=offset
                    )
                except Refused as error:
                    if error.status != 416 or offset == 0:
                        raise
                    corrections += 1
                    told = error.body.get("offset") if corrections <= MAX_CORRECTIONS else None
                    offset = _sensible(told, other_than=offset, size=size)
                    continue
                except Unreachable:
                    reached = self._upload_offset(job_id, headers, size)
                    if reached is not None and reached <= offset:
                        raise
                    offset = reached
                    continue
                status = answer.get("status")
                if status in ("stored", "already-present"):
                    return str(status)
                where = self._transport.where("PUT", target)
                raise Unreachable(f"{where} was answered without a known status: {str(answer)[:200]}")
        return "already-present"

    def _upload_offset(self, job_id: str, headers: Mapping[str, str], size: int) -> int | None:
        """From which byte to send; None when the receiver has stored the bytes for this very lease."""
        answer = self._transport.json("GET", f"{_job_path(job_id)}/upload", None, headers)
        if answer.get("status") == "stored":
            return None
        return _sensible(answer.get("offset"), other_than=-1, size=size)

    def complete(self, job_id: str, token: str | None, request: CompleteRequest) -> None:
        """Say that the job is done. Raises LeaseGone, or Refused(409) when the artifact is not there."""
        self._post(f"/v1/job/{job_id}/complete", _as_json(request), _lease(token))

    def fail(self, job_id: str, token: str | None, request: FailRequest) -> None:
        """Say that the attempt failed, and why."""
        self._post(f"/v1/job/{job_id}/fail", _as_json(request), _lease(token))

    def release(self, job_id: str, token: str | None, reason: str) -> None:
        """Give the job back unfinished; this costs it nothing."""
        self._post(f"/v1/job/{job_id}/release", {"reason": reason}, _lease(token))

    def append_log(self, job_id: str, token: str | None, offset: int, text: str) -> int:
        """Add to the log of the lease's attempt, which has `offset` bytes so far; how many it has now.

        Refused(409) names the right offset in its body.
        """
        answer = self._post(f"{_job_path(job_id)}/log", {"offset": offset, "text": text}, _lease(token))
        end = answer.get("offset")
        return end if isinstance(end, int) and end >= 0 else offset + len(text.encode())

    def fetch_dataset(self, dataset_id: str, target: Path, on_progress: OnProgress | None = None) -> None:
        """Stream the packed data set to `target`, which the caller verifies. OSError when it cannot be written."""
        self._transport.download(f"/v1/dataset/{dataset_id}", target, on_progress)

    # -- anyone --------------------------------------------------------------------------------------

    def jobs(self, status: str | None = None, *, reasons: bool = False) -> list[dict[str, Any]]:
        """All jobs, or those in one status; with `reasons` also what each one waits for."""
        asked = ({} if status is None else {"status": status}) | ({"reasons": "1"} if reasons else {})
        return self._rows("/v1/jobs" + ("?" + urlencode(asked) if asked else ""), "jobs")

    def shadows(self) -> list[dict[str, Any]]:
        """All verification runs; none at a receiver that does not know them."""
        return [row for row in self._rows("/v1/jobs?kind=shadow", "jobs") if row.get("kind") == "shadow"]

    def job(self, job_id: str) -> dict[str, Any]:
        """One job with its attempts and audit rows."""
        path = _job_path(job_id)
        job = self._get(path).get("job")
        if not isinstance(job, dict):
            raise Unreachable(f"{self._transport.where('GET', path)} was answered without a job")
        return job

    def models(self) -> dict[str, Any]:
        """The completed jobs in comparable groups."""
        path = "/v1/models"
        found = self._get(path)
        if not isinstance(found.get("groups"), list):
            raise Unreachable(f"{self._transport.where('GET', path)} was answered without groups")
        return found

    def eligibility(self, job_id: str) -> dict[str, Any]:
        """Host by host, why the job may or may not run there."""
        return self._get(f"{_job_path(job_id)}/eligibility")

    def overview(self) -> dict[str, Any]:
        """The fleet on one screen: sentence, hosts, what runs, what needs a person."""
        path = "/v1/overview"
        found = self._get(path)
        if not isinstance(found.get("hosts"), list) or not isinstance(found.get("problems"), list):
            raise Unreachable(f"{self._transport.where('GET', path)} was answered without hosts and problems")
        return found

    def resolve(self, kind: Literal["job", "host"], word: str) -> dict[str, Any]:
        """What a word names; Refused(404) with `candidates` and `did_you_mean` when it names not exactly one thing."""
        return self._get(f"/v1/resolve?{kind}={quote(word, safe='')}")

    def log(self, job_id: str, **asked: int) -> dict[str, Any]:
        """A part of an attempt's log: `epoch`, `offset`, `limit`, `tail`."""
        query = "?" + urlencode(asked) if asked else ""
        return self._get(f"{_job_path(job_id)}/log{query}")

    def progress(self, job_id: str, **asked: int) -> dict[str, Any]:
        """The progress points of an attempt (`epoch`), and the most that it used."""
        query = "?" + urlencode(asked) if asked else ""
        return self._get(f"{_job_path(job_id)}/progress{query}")

    def host_eligibility(self, host: str) -> dict[str, Any]:
        """What waits, kind by kind, as this host is judged for it."""
        return self._get(f"/v1/host/{quote(host, safe='')}/eligibility")

    def workers(self) -> list[dict[str, Any]]:
        """The hosts as last seen."""
        return self._rows("/v1/workers", "workers")

    def health(self) -> dict[str, Any]:
        """Whether the receiver serves."""
        return self._get("/v1/health")

    def events(
        self,
        after: int | None = None,
        *,
        kinds: Sequence[str] = (),
        job: str | None = None,
        host: str | None = None,
    ) -> Generator[StreamedEvent]:
        """What happens, as it happens; `after` an event's `seq` the kept ones since come first.

        One stream: it ends when the receiver ends it, and raises Unreachable when the connection breaks. Ask again
        with the last `seq` seen, and nothing is missed, as `follow` does. Closing it hangs up.
        `job` is an id or a name.
        """
        from training.fleet import sse

        asked = {"after": after, "kind": ",".join(kinds) or None, "job": job, "host": host}
        path = _with_query("/v1/events", asked)
        lines = self._transport.lines(path, {"Accept": "text/event-stream"}, EVENT_SILENCE_S)
        try:
            yield from sse.parse(line.rstrip("\r\n") for line in lines)
        except ValueError as error:
            where = self._transport.where("GET", path)
            raise Unreachable(f"{where} was answered with something else than events: {error}") from error

    def follow(
        self,
        after: int | None = None,
        *,
        kinds: Sequence[str] = (),
        job: str | None = None,
        host: str | None = None,
        sleep: Callable[[float], object] = time.sleep,
        random01: Callable[[], float] | None = None,
    ) -> Generator[StreamedEvent]:
        """As `events`, but connects again, from where it was, for as long as the caller listens.

        Each break shows as an event `down` (`reason`, `again_in_s`), the end of one as the next `hello`. A refusal
        that no repeat can change is raised.
        """
        from random import random

        from training.fleet.sse import StreamedEvent

        failures, drawn = 0, random01 or random
        while True:
            reason = "the receiver ended the stream"
            try:
                for found in self.events(after, kinds=kinds, job=job, host=host):
                    failures = 0
                    after = after if found.seq is None else found.seq
                    yield found
            except FleetError as error:
                if retry_reason(error) is None:
                    raise
                reason = str(error)
            pause_s = backoff_s(failures, drawn(), cap_s=FOLLOW_CAP_S)
            yield StreamedEvent("down", None, {"reason": reason, "again_in_s": pause_s})
            sleep(pause_s)
            failures += 1

    def audit(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = 100,
        job: str | None = None,
        host: str | None = None,
        event: str | None = None,
    ) -> dict[str, Any]:
        """A page of the audit trail, oldest first: the `limit` newest, or with `after` the first ones behind it.

        `{"events": [...], "first_seq", "last_seq", "more"}`.
        """
        asked = {"after": after, "before": before, "limit": limit, "job": job, "host": host, "event": event}
        return self._get(_with_query("/v1/audit", asked))

    def model_files(self, artifact_id: str) -> dict[str, Any]:
        """The names and sizes of what lies in an artifact."""
        return self._get(f"/v1/model/{quote(artifact_id, safe='')}/files")

    def model_text(self, artifact_id: str, name: str) -> str:
        """One small text out of an artifact."""
        found = self._get(f"/v1/model/{quote(artifact_id, safe='')}/file/{quote(name)}?as=json")
        return str(found.get("text") or "")

    def lineage(self, artifact_id: str) -> dict[str, Any]:
        """Where an artifact comes from: job, attempt, host, data, code."""
        return self._get(f"/v1/model/{quote(artifact_id, safe='')}/lineage")

    def provenance(self, artifact_id: str) -> list[dict[str, Any]]:
        """The signed records of an artifact: DSSE envelopes, which the caller verifies."""
        return self._rows(f"/v1/model/{quote(artifact_id, safe='')}/provenance", "provenance")

    def clock(self) -> float | None:
        """The receiver's clock (UTC, whole seconds) by the `Date` header of its answer; None when it sends none."""
        return self._transport.clock("/v1/health")

    def download_model(self, artifact_id: str, target: Path, on_progress: OnProgress | None = None) -> int:
        """Stream an artifact to `target` and return its size in bytes; the caller compares its sha256."""
        return self._transport.download(f"/v1/model/{quote(artifact_id, safe='')}", target, on_progress)

    # -- operator ------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> dict[str, Any]:
        """End the job for good."""
        return self._post(f"{_job_path(job_id)}/cancel", {}, self._operator)

    def requeue(self, job_id: str, *, force: bool = False) -> dict[str, Any]:
        """Put the job back in line; a completed one only with `force`."""
        return self._post(f"{_job_path(job_id)}/requeue", {"force": force}, self._operator)

    def verify(self, job_id: str) -> dict[str, Any]:
        """Let a completed job be trained once more, to compare; the answer names the run and the hosts for it."""
        return self._post(f"{_job_path(job_id)}/verify", {}, self._operator)

    def plan(self, text: str | None = None, name: str = "") -> dict[str, Any]:
        """What a reload would do; with `text` what that manifest would do, which messages call `name`."""
        return self._post("/v1/manifest/plan", {"text": text, "name": name}, self._operator)

    def reload(self, plan: str | None = None) -> dict[str, Any]:
        """Make the receiver read its manifest again; with the id of a plan only if that still holds."""
        return self._post("/v1/manifest/reload", {} if plan is None else {"plan": plan}, self._operator)

    def notify_test(self) -> dict[str, Any]:
        """Send a test message to everybody whom the manifest's `[notify]` names: `{"ok", "targets": [...]}`."""
        return self._post("/v1/notify/test", {}, self._operator)

    def drain(self, host: str, reason: str = "") -> dict[str, Any]:
        """Let the host finish what it has and give it nothing more; "" leaves the reason to the receiver."""
        return self._post(f"/v1/host/{quote(host, safe='')}/drain", {"reason": reason}, self._operator)

    def undrain(self, host: str) -> dict[str, Any]:
        """Give the host jobs again."""
        return self._post(f"/v1/host/{quote(host, safe='')}/undrain", {}, self._operator)

    def resume_host(self, host: str) -> dict[str, Any]:
        """End the host's pause after failures in a row."""
        return self._post(f"/v1/host/{quote(host, safe='')}/resume", {}, self._operator)

    def gc(self, *, dry_run: bool) -> dict[str, Any]:
        """Remove what the manifest's retention lets go, or only say what that is."""
        return self._post("/v1/gc", {"dry_run": dry_run}, self._operator)

    def pause_fleet(self, reason: str = "") -> dict[str, Any]:
        """Hand out no job; what runs goes on. "" leaves the reason to the receiver."""
        return self._post("/v1/fleet/pause", {"reason": reason}, self._operator)

    def resume_fleet(self) -> dict[str, Any]:
        """Hand out jobs again."""
        return self._post("/v1/fleet/resume", {}, self._operator)

    def pause_job(self, job_id: str, reason: str = "") -> dict[str, Any]:
        """Hand this job out to nobody; if it runs, it goes on."""
        return self._post(f"{_job_path(job_id)}/pause", {"reason": reason}, self._operator)

    def resume_job(self, job_id: str) -> dict[str, Any]:
        """Let the job be handed out again."""
        return self._post(f"{_job_path(job_id)}/resume", {}, self._operator)

    def identities(self) -> list[dict[str, Any]]:
        """Everybody who has a certificate, may join or was revoked."""
        return self._rows("/v1/identities", "identities")

    def join_token(self, role: str, name: str) -> dict[str, Any]:
        """A token with which this host, operator or reader may join once: `{"token", "role", "name", "expires_at"}`."""
        return self._post(f"{_identity_path(role, name)}/token", {}, self._operator)

    def revoke_identity(self, role: str, name: str, reason: str = "") -> dict[str, Any]:
        """Let no certificate of it count any longer; "" leaves the reason to the receiver."""
        return self._post(f"{_identity_path(role, name)}/revoke", {"reason": reason}, self._operator)

    def _get(self, path: str) -> dict[str, Any]:
        return self._transport.json("GET", path, None, {})

    def _post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        return self._transport.json("POST", path, body, headers)

    def _rows(self, path: str, key: str) -> list[dict[str, Any]]:
        rows = self._get(path).get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Unreachable(f"{self._transport.where('GET', path)} was answered without a list {key!r}")
        return rows


def _identity(folder: Path | None) -> TlsSettings | None:
    if folder is None:
        return None
    from training.fleet.tls_identity import Identity

    return Identity(folder)


def _as_json(request: Progress | CompleteRequest | FailRequest) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(request)


def _lease(token: str | None) -> dict[str, str]:
    return {} if token is None else {names.HEADER_LEASE_TOKEN: token}


def _typed(headers: Mapping[str, str]) -> dict[str, str]:
    return {**headers, "Content-Type": "application/zstd"}


def _sensible(offset: object, *, other_than: int, size: int) -> int:
    """The receiver's word on where to go on; 0, to start anew, when it makes no sense."""
    if isinstance(offset, int) and 0 <= offset <= size and offset != other_than:
        return offset
    return 0


def _with_query(path: str, asked: Mapping[str, object]) -> str:
    """`path?...` with what is not None."""
    given = {key: value for key, value in asked.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _identity_path(role: str, name: str) -> str:
    return f"/v1/identity/{role}/{quote(name, safe='')}"


def _job_path(job_id: str) -> str:
    return f"/v1/job/{quote(job_id, safe='')}"


_LEASE_FIELDS: dict[str, type | tuple[type, ...]] = {
    "job_id": str,
    "name": str,
    "spec": dict,
    "attempts": int,
    "epoch": int,
    "lease_s": (int, float),
    "heartbeat_s": (int, float),
}


def _claim_answer(answer: Mapping[str, Any], where: str) -> ClaimAnswer:
    """The answer as its type. What does not fit is taken for a broken answer: the claim is asked again."""
    from cis490.digest import is_digest
    from training.fleet.wire import ClaimAnswer

    for key, kind in _LEASE_FIELDS.items():
        found = answer.get(key)
        if not isinstance(found, kind) or isinstance(found, bool):
            raise Unreachable(f"{where} was answered with {key} = {str(found)[:80]!r}, which is no lease")
    spec, dataset_id, token = answer["spec"], answer.get("dataset_id"), answer.get("lease_token")
    if not is_digest(answer["job_id"]) or not (dataset_id is None or is_digest(dataset_id)):
        raise Unreachable(
            f"{where} was answered with a job or data set id that is no sha256"
        )  # both become paths
    if answer["heartbeat_s"] <= 0 or answer["lease_s"] <= 0 or not isinstance(token, str | None):
        raise Unreachable(f"{where} was answered with a lease that cannot be kept")
    hyper = spec.get("hyper")
    return ClaimAnswer(
        job_id=answer["job_id"],
        name=answer["name"],
        spec=spec,
        attempts=answer["attempts"],
        model=str(answer.get("model") or spec.get("model") or ""),
        mode=str(answer.get("mode") or spec.get("mode") or ""),
        hyper=hyper if isinstance(hyper, dict) else {},
        epoch=answer["epoch"],
        lease_s=float(answer["lease_s"]),
        heartbeat_s=float(answer["heartbeat_s"]),
        dataset_id=dataset_id,
        lease_token=token,
        device="cpu" if answer.get("device") == "cpu" else "auto",
        resume=answer.get("resume") is True,
    )
