"""What travels over HTTP: request bodies and answers, shared by client and routes.

Plain dataclasses of the standard library: the worker builds them without any dependency, the receiver
decodes them with msgspec, which checks every type and names the path of what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.fleet.reports import ProgressPoint, Usage, points_fault
from training.fleet.types import AllowedDevice, Capability, FailClass, Figure, Gpu

MAX_BODY_BYTES = 64 * 1024
"""Of any JSON body but `fail` and `log`."""
MAX_ERROR_BODY_BYTES = 1024 * 1024
MAX_ERROR_CHARS = 8 * 1024
"""Of an error text as stored; the worker sends the tail, the receiver cuts again."""
MAX_WAIT_S = 60.0
MAX_EXIT_CODE = 2**32
"""Windows has exit codes of 32 bits without sign."""


def capability_of(raw: Mapping[str, Any]) -> Capability:
    """A capability from a JSON object whose types were checked already; unknown keys are ignored."""
    known = {key: raw[key] for key in Capability.__slots__ if raw.get(key) is not None}
    if "gpus" in known:
        known["gpus"] = [
            gpu if isinstance(gpu, Gpu) else Gpu(str(gpu.get("name", "")), float(gpu.get("vram_gib", 0.0)))
            for gpu in known["gpus"]
        ]
    return Capability(**known)


MAX_CORES = 1_000_000
MAX_GIB = 10_000_000.0
MAX_TEXT_CHARS = 256
MAX_GPUS = 64
MAX_MODELS = 256


def capability_fault(found: Capability) -> str | None:
    """What no machine can have, as a sentence; None when the values are believable."""
    sizes = {"ram_gib": found.ram_gib, "vram_gib": found.vram_gib}
    sizes |= {f"gpus[{index}].vram_gib": gpu.vram_gib for index, gpu in enumerate(found.gpus or ())}
    for name, size in sizes.items():
        if size is not None and not 0 <= size <= MAX_GIB:
            return f"capability.{name} must lie between 0 and {MAX_GIB:g}"
    if found.cores is not None and not 0 <= found.cores <= MAX_CORES:
        return f"capability.cores must lie between 0 and {MAX_CORES}"
    if len(found.gpus or ()) > MAX_GPUS or len(found.models or ()) > MAX_MODELS:
        return f"capability lists more than {MAX_GPUS} gpus or {MAX_MODELS} models"
    texts = [getattr(found, name) for name in Capability.__slots__]
    texts += [gpu.name for gpu in found.gpus or ()] + list(found.models or ())
    if any(isinstance(text, str) and len(text) > MAX_TEXT_CHARS for text in texts):
        return f"capability holds a text of more than {MAX_TEXT_CHARS} characters"
    return None


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """`POST /v1/job/claim`."""

    capability: Capability = field(default_factory=Capability)
    wait_s: float = 0.0
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The latest line of the trainer's progress file, as it rides on a heartbeat."""

    event: str = "progress"
    step: int | None = None
    total: int | None = None
    unit: str | None = None
    loss: float | None = None
    metric: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    """`POST /v1/job/{id}/heartbeat`; the body may be empty."""

    progress: Progress | None = None
    points: list[ProgressPoint] = field(default_factory=list)
    """What is new since the last heartbeat that was confirmed."""
    sent_s: float | None = None
    """When it was sent, on the worker's own clock; places `points` in time."""
    usage: Usage | None = None

    def news(self, before: Progress | None) -> list[ProgressPoint]:
        """The points it brings. `before` is the progress known so far: a client that sends no points tells by
        another `progress` than before that there is a new one; one that could not be kept is none."""
        if self.points or self.progress is None or self.progress == before:
            return self.points
        made = ProgressPoint(**{key: getattr(self.progress, key) for key in Progress.__slots__})
        return [] if points_fault([made]) else [made]


@dataclass(frozen=True, slots=True)
class CompleteRequest:
    """`POST /v1/job/{id}/complete`."""

    artifact_id: str
    metrics: dict[str, Figure] = field(default_factory=dict)
    """Headline figures for lists, an interval as [low, high]; the artifact holds the full set."""
    duration_s: float | None = None
    peak_rss_mib: float | None = None
    cpu_s: float | None = None


def metrics_fault(metrics: Mapping[str, Figure]) -> str | None:
    """What is no figure for a list, as a sentence; None when all are."""
    for name, value in metrics.items():
        if isinstance(value, list) and len(value) != 2:
            return f"metrics.{name[:80]} has {len(value)} numbers; a list is an interval, [low, high]"
    return None


@dataclass(frozen=True, slots=True)
class FailRequest:
    """`POST /v1/job/{id}/fail`; the body may be empty."""

    error: str = "no error message"
    fail_class: FailClass = "program"
    exit_code: int | None = None
    duration_s: float | None = None
    peak_rss_mib: float | None = None
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """`POST /v1/job/{id}/release`; the body may be empty."""

    reason: str = "released by the worker"


@dataclass(frozen=True, slots=True)
class RequeueRequest:
    """`POST /v1/job/{id}/requeue`; the body may be empty."""

    force: bool = False


MAX_DRAIN_REASON_CHARS = 200


@dataclass(frozen=True, slots=True)
class DrainRequest:
    """`POST /v1/host/{name}/drain`; the body may be empty."""

    reason: str = "drained by the operator"


@dataclass(frozen=True, slots=True)
class PauseRequest:
    """`POST /v1/fleet/pause` and `POST /v1/job/{id}/pause`; the body may be empty."""

    reason: str = "paused by the operator"


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """`POST /v1/enrol/join`."""

    secret: str = field(repr=False)
    role: str
    name: str
    csr_pem: str


@dataclass(frozen=True, slots=True)
class RenewRequest:
    """`POST /v1/enrol/renew`."""

    csr_pem: str


@dataclass(frozen=True, slots=True)
class RenewLateRequest:
    """`POST /v1/enrol/renew-late`."""

    certificate_pem: str
    csr_pem: str
    signature: str
    """base64 of ECDSA with SHA-256, in DER, by the former key over `cis490-renew-late-1`, a line feed and `csr_pem`."""


@dataclass(frozen=True, slots=True)
class RevokeRequest:
    """`POST /v1/identity/{role}/{name}/revoke`; the body may be empty."""

    reason: str = "revoked by the operator"


@dataclass(frozen=True, slots=True)
class GcRequest:
    """`POST /v1/gc`; the body may be empty, which removes nothing."""

    dry_run: bool = True


MAX_PLAN_BODY_BYTES = 16 * 1024 * 1024
"""Of a manifest of 4 MiB as JSON."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """`POST /v1/manifest/plan`; the body may be empty."""

    text: str | None = None
    """A manifest to look at; None: the receiver's own file."""
    name: str = ""
    """What messages call that text, as in `my.toml:12`."""


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """`POST /v1/manifest/reload`; the body may be empty."""

    plan: str | None = None
    """Only if a reload would still do what this plan says."""


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """What a claim returns when a job was granted. A plain client ignores what it does not know."""

    job_id: str
    name: str
    spec: dict[str, Any]
    attempts: int
    model: str
    mode: str
    hyper: dict[str, Any]
    epoch: int
    lease_s: float
    heartbeat_s: float
    dataset_id: str | None = None
    lease_token: str | None = None
    """Only for a claim that sent `X-Fleet-Protocol: 2`."""
    device: AllowedDevice = "auto"
    """`cpu`: the manifest, or its own report, makes the host one without CUDA, and its trainer must not use any."""
    resume: bool = False
    """May the attempt go on from a checkpoint? Only after one that was given back: a failure may have been the
    checkpoint's fault, and whoever queues a job again wants it trained from the beginning."""
