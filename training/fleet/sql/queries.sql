-- Named statements of the queue. Each write names the job and the epoch or phase it was decided on:
-- no row changed means that the decision was made on a row that has moved.

-- name: class_add
INSERT INTO requirement_class (key) VALUES (:key) ON CONFLICT (key) DO NOTHING;

-- name: class_by_key
SELECT class_id FROM requirement_class WHERE key = :key;

-- name: classes
SELECT class_id, key FROM requirement_class;

-- name: class_head
-- The best waiting jobs of a class, in the order in which they will be handed out: an index seek, whatever the
-- number of jobs.
SELECT * FROM job
WHERE class_id = :class_id AND status = 'pending' AND held = 0
ORDER BY priority DESC, seq LIMIT :most;

-- name: class_following
-- The jobs after the head, in the order in which they will be handed out; read from the index alone.
SELECT seq, priority FROM job
WHERE class_id = :class_id AND status = 'pending' AND held = 0
ORDER BY priority DESC, seq LIMIT :most OFFSET 1;

-- name: class_waiting
SELECT class_id, count(*) AS n FROM job WHERE status = 'pending' AND held = 0 GROUP BY class_id;

-- name: class_next_ripe
-- When the next job of the class loses its wish; NULL when none waits for that.
SELECT min(ready_at) FROM job WHERE class_id = :class_id AND status = 'pending' AND ready_at IS NOT NULL;

-- name: class_ripen
-- Jobs whose grace is over join the class without the wish.
UPDATE job SET class_id = :ripe_class_id, ready_at = NULL
WHERE class_id = :class_id AND status = 'pending' AND ready_at <= :now_s;

-- name: class_grace
UPDATE job SET ready_at = :ready_at WHERE class_id = :class_id AND status = 'pending' AND ready_at IS NOT NULL;

-- name: job_get
SELECT * FROM job WHERE job_id = :job_id;

-- name: job_list
SELECT * FROM job WHERE kind = :kind ORDER BY priority DESC, seq LIMIT :limit;

-- name: job_list_by_status
SELECT * FROM job WHERE kind = :kind AND status = :status ORDER BY priority DESC, seq LIMIT :limit;

-- name: job_live
SELECT * FROM job WHERE status IN ('claimed', 'running');

-- name: job_counts
SELECT status, count(*) AS n FROM job WHERE kind = 'job' GROUP BY status;

-- name: job_ids_in_manifest
-- Shadow runs never stand there: a reload leaves them alone.
SELECT job_id FROM job WHERE held = 0 AND kind = 'job';

-- name: job_add
INSERT INTO job (job_id, name, model, mode, spec, priority, class_id, status, ready_at)
VALUES (:job_id, :name, :model, :mode, :spec, :priority, :class_id, 'pending', :ready_at);

-- name: shadow_add
INSERT INTO job (job_id, name, model, mode, spec, priority, class_id, status, dataset_id, kind, of_job_id, of_artifact_id)
VALUES (:job_id, :name, :model, :mode, :spec, :priority, :class_id, 'pending', :dataset_id, 'shadow', :of_job_id,
    :of_artifact_id);

-- name: shadows_of
SELECT * FROM job WHERE kind = 'shadow' AND of_job_id = :job_id ORDER BY seq;

-- name: job_claim
-- The atomic claim: one conditional UPDATE on a pending row. (RETURNING would double its time; who claims knows
-- the row as it was.)
UPDATE job SET status = 'claimed', lapsed = 0, epoch = epoch + 1, attempts = attempts + 1, claimed_by = :host,
    claimed_at = :at, heartbeat_at = NULL, ready_at = NULL
WHERE seq = :seq AND epoch = :epoch AND status = 'pending' AND held = 0;

-- name: job_save
-- Writes every mutable column of a row, if it is still in the phase and epoch it was read in.
UPDATE job SET name = :name, spec = :spec, priority = :priority, class_id = :class_id, status = :status,
    lapsed = :lapsed, held = :held, ready_at = :ready_at, generation = :generation, attempts = :attempts,
    host_losses = :host_losses, program_failures = :program_failures, learned = :learned,
    claimed_by = :claimed_by, claimed_at = :claimed_at, heartbeat_at = :heartbeat_at,
    completed_at = :completed_at, last_error = :last_error, artifact_id = :artifact_id, metrics = :metrics,
    dataset_id = :dataset_id, trainer_digest = :trainer_digest
WHERE job_id = :job_id AND epoch = :epoch AND status = :old_status AND lapsed = :old_lapsed;

-- name: job_seen
UPDATE job SET heartbeat_at = :at WHERE job_id = :job_id AND epoch = :epoch AND status IN ('claimed', 'running');

-- name: attempt_add
INSERT INTO attempt (job_id, epoch, generation, host, token, claim_request, claimed_at, dataset_id, trainer_digest)
VALUES (:job_id, :epoch, :generation, :host, :token, :claim_request, :at, :dataset_id, :trainer_digest);

-- name: attempts
SELECT * FROM attempt WHERE job_id = :job_id ORDER BY epoch;

-- name: attempt_live
SELECT * FROM attempt WHERE job_id = :job_id AND epoch = :epoch;

-- name: attempt_end
UPDATE attempt SET ended_at = :at, outcome = :outcome, fail_class = :fail_class, error = coalesce(:error, error),
    exit_code = :exit_code, duration_s = :duration_s, peak_rss_mib = :peak_rss_mib, cpu_s = :cpu_s,
    artifact_id = :artifact_id
WHERE job_id = :job_id AND epoch = :epoch AND (outcome IS NULL OR outcome = 'lapsed');

-- name: attempt_reopen
-- A lapsed lease whose holder came back before anybody else was given the job.
UPDATE attempt SET ended_at = NULL, outcome = NULL WHERE job_id = :job_id AND epoch = :epoch AND outcome = 'lapsed';

-- name: upload_add
INSERT INTO upload (job_id, epoch, artifact_id, size_bytes, at) VALUES (:job_id, :epoch, :artifact_id, :size_bytes, :at)
ON CONFLICT (job_id, epoch, artifact_id) DO NOTHING;

-- name: upload_has
SELECT 1 FROM upload WHERE job_id = :job_id AND epoch = :epoch AND artifact_id = :artifact_id;

-- name: worker_seen
INSERT INTO worker (host, capability, first_seen_at, last_seen_at) VALUES (:host, :capability, :at, :at)
ON CONFLICT (host) DO UPDATE SET capability = excluded.capability, last_seen_at = excluded.last_seen_at;

-- name: worker_touch
UPDATE worker SET last_seen_at = :at WHERE host = :host;

-- name: workers
SELECT * FROM worker ORDER BY host;

-- name: worker_failures
UPDATE worker SET failures_in_a_row = :failures, last_failed_job = :job_id, paused_reason = :paused_reason
WHERE host = :host;

-- name: workers_resume
UPDATE worker SET paused_reason = NULL, failures_in_a_row = 0, last_failed_job = NULL;

-- name: worker_forget
DELETE FROM worker WHERE host = :host;

-- name: drained
SELECT host, reason FROM drained_host;

-- name: drain_add
INSERT INTO drained_host (host, reason, at) VALUES (:host, :reason, :at)
ON CONFLICT (host) DO UPDATE SET reason = excluded.reason, at = excluded.at;

-- name: drain_remove
DELETE FROM drained_host WHERE host = :host;

-- name: audit_host_add
INSERT INTO audit (at, actor, event, job_id, from_phase, to_phase, epoch, detail, host)
VALUES (:at, :actor, :event, '', '', '', 0, :detail, :host);

-- name: audit_of_host
SELECT at, actor, event, detail FROM audit WHERE job_id = '' AND host = :host ORDER BY seq;

-- name: audit_add
INSERT INTO audit (at, actor, event, job_id, from_phase, to_phase, epoch, detail)
VALUES (:at, :actor, :event, :job_id, :from_phase, :to_phase, :epoch, :detail);

-- name: audit_of
SELECT * FROM audit WHERE job_id = :job_id ORDER BY seq;

-- name: dataset_add
INSERT INTO dataset (dataset_id, path) VALUES (:dataset_id, :path)
ON CONFLICT (dataset_id) DO UPDATE SET path = excluded.path;

-- name: datasets
SELECT dataset_id, path FROM dataset;
