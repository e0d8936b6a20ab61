"""The receiver's HTTP interface as methods, for workers and the operator's command line. Standard library alone.

The errors (`Unreachable`, `Refused`, `LeaseGone`, all of them `FleetError`) are drawn in
`training.fleet.transport`, and so is `retry_reason`, which says what is worth asking again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from cis490.digest import is_digest
from training.fleet import wire
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
from training.fleet.types import Capability
from training.fleet.wire import ClaimAnswer, CompleteRequest, FailRequest, Progress, ReleaseRequest

ASK_FROM_BYTES = 1024 * 1024
"""From this size on a bundle's upload asks first whether a part of it is there already."""
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
    ) -> None:
        """`base_url`: `http://HOST:PORT`, `https://HOST[:PORT]` or `unix:/path/to.sock`; ValueError for others.

        `host` is sent as X-Lab-Host. `timeout_s` bounds each wait for the network, not a whole transfer.
        """
        own = {} if host is None else {wire.HEADER_HOST: host}
        self._transport = Transport(base_url, own, timeout_s)
        self._operator = {} if operator_token is None else {wire.HEADER_OPERATOR_TOKEN: operator_token}
        self.idle_reason: str | None = None
        """Why the last claim brought no job, in the receiver's words."""

    def close(self) -> None:
        """Close this thread's kept connection."""
        self._transport.close()

    # -- worker --------------------------------------------------------------------------------------

    def claim(self, capability: Capability, *, request_id: str, wait_s: float = 0.0) -> ClaimAnswer | None:
        """Ask for a job, waiting up to `wait_s` at the receiver; None when there is none (see `idle_reason`).

        `request_id` makes the claim repeatable: until its lease ends, the same id gets the same lease.
        """
        path = "/v1/job/claim"
        headers = {wire.HEADER_PROTOCOL: wire.PROTOCOL, wire.HEADER_CLAIM_REQUEST: request_id}
        body = {"capability": capability.to_dict(), "wait_s": wait_s}
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

    def heartbeat(self, job_id: str, token: str | None, progress: Progress | None = None) -> float | None:
        """Renew the lease; its length in seconds from now on, if the receiver says it. LeaseGone when it has ended."""
        body = {"progress": None if progress is None else asdict(progress)}
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
        headers = {**_lease(token), wire.HEADER_SHA256: sha256}
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
        self._post(f"/v1/job/{job_id}/complete", asdict(request), _lease(token))

    def fail(self, job_id: str, token: str | None, request: FailRequest) -> None:
        """Say that the attempt failed, and why."""
        self._post(f"/v1/job/{job_id}/fail", asdict(request), _lease(token))

    def release(self, job_id: str, token: str | None, reason: str) -> None:
        """Give the job back unfinished; this costs it nothing."""
        self._post(f"/v1/job/{job_id}/release", asdict(ReleaseRequest(reason)), _lease(token))

    def fetch_dataset(self, dataset_id: str, target: Path, on_progress: OnProgress | None = None) -> None:
        """Stream the packed data set to `target`, which the caller verifies. OSError when it cannot be written."""
        self._transport.download(f"/v1/dataset/{dataset_id}", target, on_progress)

    # -- anyone --------------------------------------------------------------------------------------

    def jobs(self, status: str | None = None) -> list[dict[str, Any]]:
        """All jobs, or those in one status."""
        query = "" if status is None else "?" + urlencode({"status": status})
        return self._rows(f"/v1/jobs{query}", "jobs")

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

    def workers(self) -> list[dict[str, Any]]:
        """The hosts as last seen."""
        return self._rows("/v1/workers", "workers")

    def health(self) -> dict[str, Any]:
        """Whether the receiver serves."""
        return self._get("/v1/health")

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

    def reload(self) -> dict[str, Any]:
        """Make the receiver read its manifest again."""
        return self._post("/v1/manifest/reload", {}, self._operator)

    def drain(self, host: str, reason: str = "") -> dict[str, Any]:
        """Let the host finish what it has and give it nothing more; "" leaves the reason to the receiver."""
        return self._post(f"/v1/host/{quote(host, safe='')}/drain", {"reason": reason}, self._operator)

    def undrain(self, host: str) -> dict[str, Any]:
        """Give the host jobs again."""
        return self._post(f"/v1/host/{quote(host, safe='')}/undrain", {}, self._operator)

    def _get(self, path: str) -> dict[str, Any]:
        return self._transport.json("GET", path, None, {})

    def _post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        return self._transport.json("POST", path, body, headers)

    def _rows(self, path: str, key: str) -> list[dict[str, Any]]:
        rows = self._get(path).get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Unreachable(f"{self._transport.where('GET', path)} was answered without a list {key!r}")
        return rows


def _lease(token: str | None) -> dict[str, str]:
    return {} if token is None else {wire.HEADER_LEASE_TOKEN: token}


def _typed(headers: Mapping[str, str]) -> dict[str, str]:
    return {**headers, "Content-Type": "application/zstd"}


def _sensible(offset: object, *, other_than: int, size: int) -> int:
    """The receiver's word on where to go on; 0, to start anew, when it makes no sense."""
    if isinstance(offset, int) and 0 <= offset <= size and offset != other_than:
        return offset
    return 0


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
