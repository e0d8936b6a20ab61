-- Shadow runs: a completed job trained once more to see whether the same artifact comes out. Each is a row of its own, so
-- that leases, retries and uploads work as for any job and the row of the job itself is never written to.

ALTER TABLE job ADD COLUMN kind TEXT NOT NULL DEFAULT 'job' CHECK (kind IN ('job', 'shadow'));
ALTER TABLE job ADD COLUMN of_job_id TEXT                  -- whose artifact is verified
    CHECK ((kind = 'shadow') = (of_job_id IS NOT NULL));
ALTER TABLE job ADD COLUMN of_artifact_id TEXT             -- which one: the job may have a newer one meanwhile
    CHECK ((kind = 'shadow') = (of_artifact_id IS NOT NULL));

CREATE INDEX job_shadows ON job (of_job_id, seq) WHERE kind = 'shadow';
