-- The queue's schema, version 1. Wall times are seconds since the epoch (UTC), for display only;
-- `ready_at` is on the clock that counts suspend and is set anew at every start.

CREATE TABLE requirement_class (
    class_id INTEGER PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE              -- canonical JSON of eligibility.Requirement
) STRICT;

CREATE TABLE job (
    seq              INTEGER PRIMARY KEY,      -- order of creation
    job_id           TEXT NOT NULL UNIQUE,
    name             TEXT NOT NULL,
    model            TEXT NOT NULL,
    mode             TEXT NOT NULL,
    spec             TEXT NOT NULL,            -- JSON of JobSpec.to_dict()
    priority         INTEGER NOT NULL,
    class_id         INTEGER NOT NULL REFERENCES requirement_class (class_id),
    status           TEXT NOT NULL
        CHECK (status IN ('pending', 'claimed', 'running', 'completed', 'failed', 'cancelled')),
    lapsed           INTEGER NOT NULL DEFAULT 0 CHECK (lapsed IN (0, 1)),
    held             INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),   -- 1: not in the manifest now
    ready_at         REAL,                     -- when a wish (prefer_cuda, wait_for_host) is dropped
    generation       INTEGER NOT NULL DEFAULT 1,
    epoch            INTEGER NOT NULL DEFAULT 0,   -- fencing token: grows with each claim, never reused
    attempts         INTEGER NOT NULL DEFAULT 0,   -- claims of this generation
    host_losses      INTEGER NOT NULL DEFAULT 0,
    program_failures INTEGER NOT NULL DEFAULT 0,
    learned          TEXT NOT NULL DEFAULT '{}',   -- JSON of eligibility.Learned
    claimed_by       TEXT,
    claimed_at       REAL,
    heartbeat_at     REAL,
    completed_at     REAL,
    last_error       TEXT,
    artifact_id      TEXT,
    metrics          TEXT NOT NULL DEFAULT '{}',
    dataset_id       TEXT,                     -- of the attempt that completed it
    trainer_digest   TEXT,
    CHECK (lapsed = 0 OR status IN ('pending', 'failed')),
    CHECK (status NOT IN ('claimed', 'running') OR claimed_by IS NOT NULL),
    CHECK (status <> 'completed' OR artifact_id IS NOT NULL)
) STRICT;

CREATE INDEX job_head ON job (class_id, priority DESC, seq) WHERE status = 'pending' AND held = 0;
CREATE INDEX job_ripe ON job (class_id, ready_at) WHERE status = 'pending' AND ready_at IS NOT NULL;
CREATE INDEX job_live ON job (status) WHERE status IN ('claimed', 'running');
CREATE INDEX job_name ON job (name);

CREATE TABLE attempt (
    job_id         TEXT NOT NULL,
    epoch          INTEGER NOT NULL,
    generation     INTEGER NOT NULL,
    host           TEXT NOT NULL,
    token          TEXT,                       -- NULL: claimed by a plain client, judged by host
    claim_request  TEXT,
    claimed_at     REAL NOT NULL,
    ended_at       REAL,
    outcome        TEXT
        CHECK (outcome IN ('lapsed', 'completed', 'failed', 'released', 'cancelled', 'superseded')),
    fail_class     TEXT,
    error          TEXT,
    exit_code      INTEGER,
    duration_s     REAL,
    peak_rss_mib   REAL,
    cpu_s          REAL,
    artifact_id    TEXT,
    dataset_id     TEXT,
    trainer_digest TEXT,
    PRIMARY KEY (job_id, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE upload (                          -- artifacts answered 201 or already-present, per attempt
    job_id      TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    artifact_id TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    at          REAL NOT NULL,
    PRIMARY KEY (job_id, epoch, artifact_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE worker (
    host              TEXT PRIMARY KEY,
    capability        TEXT NOT NULL,           -- JSON, as the host detected it
    first_seen_at     REAL NOT NULL,
    last_seen_at      REAL NOT NULL,
    paused_reason     TEXT,
    failures_in_a_row INTEGER NOT NULL DEFAULT 0,
    last_failed_job   TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (                           -- append-only: one row per state change, in its transaction
    seq        INTEGER PRIMARY KEY,
    at         REAL NOT NULL,
    actor      TEXT NOT NULL,
    event      TEXT NOT NULL,
    job_id     TEXT NOT NULL,
    from_phase TEXT NOT NULL,
    to_phase   TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    detail     TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX audit_job ON audit (job_id, seq);
