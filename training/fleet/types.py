"""The nouns of the fleet as plain data. Pure: no I/O, no clock, nothing heavier than dataclasses.

Sizes are GiB (2**30 bytes) as floats, durations seconds, wall times seconds since the epoch (UTC).
Every field of `Capability` may be None: an absent value is *unknown*. Unknown never satisfies a
constraint that asks for it (`require_cuda`, `min_ram_gib`), with the two exceptions that the public
contract grants: no `models` means "every model", no `trainer_digest` means "a client that does not tell".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Status = Literal["pending", "claimed", "running", "completed", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)

RowKind = Literal["job", "shadow"]
"""`shadow`: a completed job trained once more, to compare; see `training.fleet.shadows`."""
ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)

FailClass = Literal[
    "program", "bad_config", "bad_data", "missing", "no_cuda", "oom", "timeout", "stalled", "preempted"
]
"""Why an attempt failed, as the worker judged it from the trainer's exit code (see `training.fleet.guard`)."""
FAIL_CLASSES: tuple[FailClass, ...] = get_args(FailClass)

AllowedDevice = Literal["auto", "cpu"]
"""What a trainer may compute with: `auto` is CUDA where the model can use it and the host has it."""

Figure = float | list[float]
"""A measure, or an interval: its low and its high end."""

OnChange = Literal["keep", "retrain"]
HyperValue = bool | int | float | str | list[int] | list[float] | list[str]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver reports it."""

    name: str
    vram_gib: float


@dataclass(frozen=True, slots=True)
class Capability:
    """What a host can do, as it detected itself or as the manifest declares it."""

    hostname: str | None = None
    os: str | None = None
    arch: str | None = None
    cores: int | None = None
    ram_gib: float | None = None
    has_cuda: bool | None = None
    gpus: list[Gpu] | None = None
    vram_gib: float | None = None
    """Of the largest single GPU, never the sum."""
    torch_version: str | None = None
    python_version: str | None = None
    git_commit: str | None = None
    models: list[str] | None = None
    trainer_digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON object with the absent fields left out."""
        found = {key: value for key in self.__slots__ if (value := getattr(self, key)) is not None}
        if self.gpus is not None:
            found["gpus"] = [{"name": gpu.name, "vram_gib": gpu.vram_gib} for gpu in self.gpus]
        if self.models is not None:
            found["models"] = list(self.models)
        return found


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host's policy and declared capability, as one `[[hosts]]` table of the manifest states them."""

    name: str
    allow_jobs: tuple[str, ...] = ()
    """Model names; empty allows every model."""
    deny_jobs: tuple[str, ...] = ()
    """Model names; wins over `allow_jobs`."""
    capability: Capability = field(default_factory=Capability)
    """Declared values; they lower what the host detects, and raise it only with `force`."""
    force: bool = False
    slots: int | None = None
    """Jobs at once; None: one per GPU, else one."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Key -> line in the manifest ("" is the table's header), so that `why` can point at it."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One `[[jobs]]` table. The identity fields come first; the rest may change without a new job id."""

    job_id: str
    model: str
    mode: str
    hyper: Mapping[str, HyperValue]
    """As written (checked and normalised); defaults are *not* filled in."""
    split_recipe: str
    train_hosts: tuple[str, ...]
    seed: int
    name: str
    priority: int = 0
    require_cuda: bool = False
    prefer_cuda: bool = False
    min_vram_gib: float = 0.0
    min_ram_gib: float = 0.0
    allowed_hosts: tuple[str, ...] = ()
    timeout_s: float | None = None
    """An attempt that runs longer is ended and counts as failed; None: no limit."""
    stall_s: float | None = None
    """An attempt without a progress line for so long is ended; None: no limit."""
    on_change: OnChange = "keep"
    line: int | None = None
    """Where the table starts in the manifest."""
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)
    """Key -> line in the manifest; only of a job that was just read from it."""

    def to_dict(self) -> dict[str, Any]:
        """JSON object that `JobQueue.sync_from_manifest` takes and that a claim's `spec` carries."""
        out = {name: getattr(self, name) for name in self.__slots__ if name != "lines"}
        out["hyper"] = dict(self.hyper)
        out["train_hosts"] = list(self.train_hosts)
        out["allowed_hosts"] = list(self.allowed_hosts)
        return out


UnknownHosts = Literal["deny", "allow"]
TrainerPolicy = Literal["same", "any"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The manifest's `[policy]` table: what holds for the whole fleet."""

    unknown_hosts: UnknownHosts = "deny"
    """Asked only once the manifest names at least one host."""
    trainer: TrainerPolicy = "same"
    """`same`: a worker whose trainer differs from the receiver's checkout gets no job."""
    prefer_cuda_grace_s: float = 600.0
    same_host_s: float = 600.0
    """How long a released job waits for the host that released it."""
    max_failures: int = 3
    max_host_losses: int = 3
    pause_after_failures: int = 3
    """So many failures in a row, of different jobs, pause a host; 0 never does."""


@dataclass(frozen=True, slots=True)
class DatasetPin:
    """Which episodes the jobs train on: `dataset_id` names them, `path` is where the receiver has them."""

    dataset_id: str
    path: str
    """Absolute path of the packed dataset (`.tar.zst`)."""


@dataclass(frozen=True, slots=True)
class Retention:
    """The manifest's `[retention]` table: after how many days what may go. None: kept for ever."""

    artifact_days: float | None = None
    """Artifacts that nothing needs any more: of older generations, and of attempts that never completed."""
    audit_days: float | None = None
    log_days: float | None = None
    shadow_days: float | None = None
    """Verification runs that have ended, with their attempts."""


NotifyKind = Literal["failed", "all_done", "host_lost", "disk_low"]
NOTIFY_KINDS: tuple[NotifyKind, ...] = get_args(NotifyKind)


@dataclass(frozen=True, slots=True)
class Notify:
    """The manifest's `[notify]` table: whom the receiver tells of what. The secrets are in environment variables."""

    webhook_url_env: str | None = None
    smtp_host: str | None = None
    smtp_port: int = 587
    smtp_starttls: bool = True
    smtp_user: str | None = None
    smtp_password_env: str | None = None
    mail_from: str | None = None
    mail_to: tuple[str, ...] = ()
    events: tuple[str, ...] = NOTIFY_KINDS
    digest_s: float = 300.0
    """The first message goes out at once; what comes within so long after it is gathered into one."""

    @property
    def is_on(self) -> bool:
        """Is anybody told of anything?"""
        return self.webhook_url_env is not None or self.smtp_host is not None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole manifest that passed every check."""

    name: str
    hosts: Mapping[str, HostSpec]
    jobs: tuple[JobSpec, ...]
    policy: Policy = field(default_factory=Policy)
    dataset: DatasetPin | None = None
    retention: Retention = field(default_factory=Retention)
    notify: Notify = field(default_factory=Notify)
    path: str = ""
    digest: str = ""
    """sha256 of the file's bytes."""
