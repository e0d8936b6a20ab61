-- Hosts that an operator drained: they finish what they have and are given nothing more. A host may be drained
-- before it ever called, so it has no row in `worker` to write that into.

CREATE TABLE drained_host (
    host   TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    at     REAL NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE audit ADD COLUMN host TEXT NOT NULL DEFAULT '';   -- of an event that is about a host; job_id is '' then
