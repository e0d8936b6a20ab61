-- Pauses by the operator: of one job, or of the whole fleet. Neither is a state of a job: what runs goes on, and what waits
-- is not handed out until it is resumed. (A host is paused in `worker`, by failures in a row, or drained by an operator.)
-- And what retention has taken away.

ALTER TABLE job ADD COLUMN paused_reason TEXT;             -- NULL: not paused

DROP INDEX job_head;
CREATE INDEX job_head ON job (class_id, priority DESC, seq)
    WHERE status = 'pending' AND held = 0 AND paused_reason IS NULL;

CREATE TABLE fleet_pause (                                 -- one row while the fleet is paused, else none
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    reason TEXT NOT NULL,
    at     REAL NOT NULL
) STRICT;

CREATE TABLE removed_artifact (            -- taken away by retention: written before the file goes, deleted when it comes again
    artifact_id TEXT PRIMARY KEY,
    size_bytes  INTEGER NOT NULL,
    why         TEXT NOT NULL,
    at          REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX upload_artifact ON upload (artifact_id);

CREATE TABLE gc_run (                                      -- one row once retention has run
    one INTEGER PRIMARY KEY CHECK (one = 1),
    at  REAL NOT NULL
) STRICT;
