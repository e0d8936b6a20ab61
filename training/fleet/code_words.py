"""The words that the fleet prints about jobs, attempts and hosts, and what they mean. Data alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One code or word."""

    code: str
    title: str
    meaning: str
    action: str
    """What to do, or to type."""
    example: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Entries of one kind, under a heading."""

    title: str
    about: str
    entries: tuple[Entry, ...]


_FAIL_CLASSES = (
    Entry(
        "program", "the trainer ended with an error of its own",
        "It raised an exception, or ended with an exit code that has no other meaning.",
        "`cis490-jobs show JOB` prints the whole error. It is tried again on another host first.",
    ),
    Entry(
        "bad_config", "the job cannot be trained as it is written",
        "The trainer refused the job's options. The same configuration fails everywhere, so it is not "
        "tried again.",
        "Change `hyper` in the manifest, then `cis490-jobs plan`.",
    ),
    Entry(
        "bad_data", "the data set cannot be used",
        "It is damaged, or lacks what the job needs, for instance an episode of a class.",
        "Look at the error; pin another data set.",
    ),
    Entry(
        "missing", "a module or a file is missing on that host",
        "The trainer could not import what the model needs.",
        "Install it there: `scripts/setup.sh`; the host is asked last meanwhile.",
    ),
    Entry(
        "no_cuda", "the job needs CUDA, and the trainer found none",
        "The host promised CUDA, but the trainer could not use it.",
        "Look at the driver: `nvidia-smi`; `cis490-jobs drain HOST` keeps other jobs away.",
    ),
    Entry(
        "oom", "out of memory",
        "The GPU's memory, or the machine's, was not enough. Only a host with more is tried next.",
        "`cis490-jobs why JOB`; make the job smaller (batch, width), or set `min_vram_gib` or `min_ram_gib`.",
    ),
    Entry(
        "timeout", "it ran longer than timeout_s",
        "The guard ended it at the limit that the manifest sets.",
        "Raise `timeout_s`, or make the job smaller.",
    ),
    Entry(
        "stalled", "no progress for stall_s",
        "The trainer wrote no progress line for so long that the guard ended it.",
        "Look at the log: `cis490-jobs logs JOB`; raise `stall_s` if one step takes that long.",
    ),
    Entry(
        "preempted", "the host wanted its machine back",
        "The attempt was given back unharmed. It uses no budget.",
        "Nothing: it goes on later, on the same host if that calls soon.",
    ),
)  # fmt: skip

_EXIT_CODES = (
    Entry("0", "done", "The trainer finished, and its result was written.", "Nothing."),
    Entry(
        "64", "trainer: wrong usage",
        "The trainer was called in a way it does not know: class `bad_config`.",
        "Update the checkout of that host: worker and trainer do not fit together.",
    ),
    Entry(
        "65", "trainer: bad data",
        "The data set cannot be used: class `bad_data`.",
        "`cis490-jobs show JOB` names what is wrong with it.",
    ),
    Entry(
        "66", "trainer: something is missing",
        "A file or a module is not there: class `missing`.",
        "Install it on that host.",
    ),
    Entry(
        "69", "trainer: no CUDA",
        "The job requires CUDA and there is none: class `no_cuda`. Of the receiver: its address is taken, "
        "or another receiver has the database.",
        "Look at the driver; or stop the other receiver.",
    ),
    Entry("71", "trainer: out of memory", "Class `oom`.", "`cis490-jobs explain oom`"),
    Entry(
        "73", "receiver: a folder cannot be written",
        "The receiver cannot create its files.",
        "Check the owner of the folders, and the disk.",
    ),
    Entry(
        "75", "trainer: stopped when asked",
        "It left a checkpoint and ended: class `preempted`.",
        "Nothing.",
    ),
    Entry(
        "78", "a configuration is faulty",
        "Of the trainer: the job's options do not fit (class `bad_config`). Of `plan`, `reload` and the "
        "receiver: the manifest or an option is faulty; nothing was changed.",
        "All faults are listed, each with what to type.",
    ),
)  # fmt: skip

_CONSTRAINTS = (
    Entry(
        "known_host", "the manifest names the host",
        "Once the manifest names hosts, others get nothing.",
        'Add `[[hosts]] name = "HOST"`, or `[policy] unknown_hosts = "allow"`, then reload.',
    ),
    Entry(
        "deny_jobs", "the host's deny_jobs lists the model",
        "The manifest keeps this model from the host.",
        "Remove it from `deny_jobs` of that host, then reload.",
    ),
    Entry(
        "allow_jobs", "the host's allow_jobs does not list the model",
        "With `allow_jobs` a host gets these models alone.",
        "Add it to `allow_jobs` of that host, then reload.",
    ),
    Entry(
        "allowed_hosts", "the job's allowed_hosts does not list the host",
        "The job is for other hosts.",
        "Add the host to `allowed_hosts` of the job, then reload.",
    ),
    Entry(
        "model", "the host's trainer has the model",
        "The host reports which models it can train.",
        "Install what the model needs there, or update its checkout.",
    ),
    Entry(
        "trainer", "the host's trainer is the receiver's",
        "Another version could give other results.",
        'Update the checkout there, or `[policy] trainer = "any"`.',
    ),
    Entry(
        "require_cuda", "the job needs CUDA",
        "The host has none, or keeps it to itself.",
        "Run it elsewhere, or `require_cuda = false`.",
    ),
    Entry(
        "min_vram_gib", "enough memory on one GPU",
        "Sizes compare nominally: 23.5 GiB is a 24 GB card.",
        "Lower `min_vram_gib`, or run it on a larger GPU.",
    ),
    Entry(
        "min_ram_gib", "enough memory in the machine",
        "Sizes compare nominally.",
        "Lower `min_ram_gib`, or run it on a larger host.",
    ),
    Entry(
        "vram_after_oom", "more GPU memory than where it ran out",
        "The job ran out of memory on a GPU of that size.",
        "Enrol a larger one, or make the job smaller and requeue it: that forgets the lesson.",
    ),
    Entry(
        "ram_after_oom", "more memory than where it ran out",
        "The job ran out of memory on a host of that size.",
        "Enrol a larger one, or make the job smaller and requeue it: that forgets the lesson.",
    ),
    Entry(
        "live", "a worker reports from the host",
        "It has not called for a while, or never.",
        "`systemctl start cis490-trainer-worker` there; `cis490-jobs doctor --worker` finds out why not.",
    ),
    Entry(
        "not_paused", "the host is not paused",
        "Failures of different jobs in a row paused it.",
        "Mend it, then `cis490-jobs resume --host HOST`.",
    ),
    Entry(
        "not_drained", "the host is not drained",
        "An operator wants it to take no more jobs.",
        "`cis490-jobs undrain HOST`",
    ),
    Entry(
        "free_slot", "the host has a free slot",
        "It runs as many jobs as it may.",
        "Wait, or raise `slots` of the host.",
    ),
    Entry(
        "preference", "no better live host",
        "The job waits a while for a host that suits it better.",
        "Wait: the grace period ends by itself.",
    ),
    Entry(
        "fleet_not_paused", "the fleet is not paused",
        "An operator paused it: no job is handed out.",
        "`cis490-jobs resume`",
    ),
    Entry(
        "not_paused_job", "the job is not paused",
        "An operator paused this job.",
        "`cis490-jobs resume JOB`",
    ),
    Entry(
        "in_manifest", "the manifest has the job",
        "It is no longer there, so the job is held.",
        "Put it back and reload, or `cis490-jobs cancel ID`.",
    ),
    Entry(
        "disk", "room on the receiver's disk",
        "While the disk is full nothing is handed out.",
        "Free space there; nothing needs a restart.",
    ),
)  # fmt: skip

_STATES = (
    Entry(
        "pending", "the job waits",
        "It will be handed out to a host that may run it.",
        "`cis490-jobs why JOB` says what it waits for.",
    ),
    Entry("claimed", "a host has taken the job", "Its first heartbeat is still to come.", "Nothing."),
    Entry(
        "running", "a host trains the job",
        "Its lease is renewed by heartbeats.",
        "`cis490-jobs logs -f JOB`",
    ),
    Entry(
        "completed", "the job is done",
        "Its artifact lies in the receiver's store. Of an attempt: it brought it.",
        "`cis490-jobs pull JOB`",
    ),
    Entry(
        "failed", "the job has failed for good",
        "Its budget is used up, or trying again is useless. Of an attempt: it ended with an error.",
        "`cis490-jobs show JOB`, then `cis490-jobs requeue JOB`.",
    ),
    Entry(
        "cancelled", "an operator ended it",
        "Of an attempt: its job was cancelled meanwhile.",
        "`cis490-jobs requeue JOB`",
    ),
    Entry(
        "held", "the manifest no longer has the job",
        "It is kept with all its attempts, and not handed out.",
        "Put it back and reload, or `cis490-jobs cancel ID`.",
    ),
)  # fmt: skip

_OUTCOMES = (
    Entry(
        "lapsed", "the lease ran out",
        "The host stopped reporting. It may still come back while nobody else has the job.",
        "Look at the host: `cis490-jobs doctor --worker` there.",
    ),
    Entry(
        "released", "given back unharmed",
        "The worker stopped, or its host was wanted back. It uses no budget.",
        "Nothing.",
    ),
    Entry(
        "superseded", "another attempt took its place",
        "The job was given to another host, or queued again.",
        "Nothing.",
    ),
)  # fmt: skip

WORDS: tuple[Section, ...] = (
    Section("Classes of failure", "Why an attempt failed.", _FAIL_CLASSES),
    Section(
        "Exit codes",
        "Of the trainer, and of the receiver. Those of `cis490-jobs` stand in [cli.md](cli.md).",
        _EXIT_CODES,
    ),
    Section("Constraints", "What `why` judges.", _CONSTRAINTS),
    Section("States of a job", "", _STATES),
    Section("Outcomes of an attempt", "Beside `completed`, `failed` and `cancelled`.", _OUTCOMES),
)
