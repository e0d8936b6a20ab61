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
WHERE class_id = :class_id AND status = 'pending' AND held = 0 AND paused_reason IS NULL
ORDER BY priority DESC, seq LIMIT :most;

-- name: class_following
-- The jobs after the head, in the order in which they will be handed out; read from the index alone.
SELECT seq, priority FROM job
WHERE class_id = :class_id AND status = 'pending' AND held = 0 AND paused_reason IS NULL
ORDER BY priority DESC, seq LIMIT :most OFFSET 1;

-- name: class_waiting
SELECT class_id, count(*) AS n FROM job WHERE status = 'pending' AND held = 0 AND paused_reason IS NULL GROUP BY class_id;

-- name: class_names
-- The names of the jobs of a class that go first.
SELECT name FROM job
WHERE class_id = :class_id AND status = 'pending' AND held = 0 AND paused_reason IS NULL
ORDER BY priority DESC, seq LIMIT :most;

-- name: held_names
-- Jobs that would wait if the manifest still had them; each row with how many there are.
SELECT name, count(*) OVER () AS n FROM job
WHERE status = 'pending' AND held = 1 AND kind = 'job' ORDER BY priority DESC, seq LIMIT :most;

-- name: paused_names
-- Jobs that would wait if an operator had not paused them; each row with how many have the same reason.
SELECT name, paused_reason, count(*) OVER (PARTITION BY paused_reason) AS n FROM job
WHERE status = 'pending' AND held = 0 AND paused_reason IS NOT NULL AND kind = 'job'
ORDER BY priority DESC, seq LIMIT 1000;

-- name: class_before
-- How many jobs of each class are handed out before one of this priority and age.
SELECT class_id, count(*) AS n FROM job
WHERE status = 'pending' AND held = 0 AND paused_reason IS NULL
    AND (priority > :priority OR (priority = :priority AND seq < :seq))
GROUP BY class_id;

-- name: jobs_in_line
-- What waits, in the order in which it is handed out.
SELECT job_id, class_id, model, mode FROM job
WHERE status = 'pending' AND held = 0 AND paused_reason IS NULL ORDER BY priority DESC, seq;

-- name: jobs_under_way
SELECT job_id, model, mode, claimed_by, claimed_at FROM job WHERE status IN ('claimed', 'running');

-- name: attempts_past
-- How long completed attempts took, the newest first; without those that went on from a checkpoint.
SELECT job.model, job.mode, attempt.host, coalesce(attempt.duration_s, attempt.ended_at - attempt.claimed_at) AS took_s,
    attempt.peak_rss_mib
FROM attempt JOIN job USING (job_id)
WHERE attempt.outcome = 'completed' AND NOT EXISTS (
    SELECT 1 FROM attempt AS before WHERE before.job_id = attempt.job_id AND before.epoch = attempt.epoch - 1
        AND before.generation = attempt.generation AND before.outcome = 'released')
ORDER BY attempt.ended_at DESC LIMIT :most;

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
SELECT * FROM job WHERE kind = :kind ORDER BY priority DESC, seq LIMIT :limit OFFSET :offset;

-- name: job_noteworthy
-- Of all jobs those that somebody may have to look after, or that run.
SELECT * FROM job WHERE kind = :kind AND (status IN ('claimed', 'running', 'failed')
    OR (status = 'pending' AND (program_failures > 0 OR host_losses > 0 OR kind = 'shadow')))
ORDER BY priority DESC, seq;

-- name: job_names
-- What a word on a command line may mean; in the order of the list.
SELECT job_id, name, status, held, kind, artifact_id, claimed_by FROM job ORDER BY priority DESC, seq;

-- name: job_list_by_status
SELECT * FROM job WHERE kind = :kind AND status = :status ORDER BY priority DESC, seq LIMIT :limit OFFSET :offset;

-- name: job_live
SELECT * FROM job WHERE status IN ('claimed', 'running');

-- name: job_counts
SELECT status, count(*) AS n FROM job WHERE kind = :kind GROUP BY status;

-- name: jobs_in_manifest
-- Shadow runs never stand there: a reload leaves them alone.
SELECT * FROM job WHERE held = 0 AND kind = 'job';

-- name: jobs_held
-- Where the jobs stand that the manifest no longer has: a plan is bound to these too.
SELECT job_id, name, status, generation, held, epoch FROM job WHERE held = 1 AND kind = 'job';

-- name: job_add
INSERT INTO job (job_id, name, model, mode, spec, priority, class_id, status, ready_at)
VALUES (:job_id, :name, :model, :mode, :spec, :priority, :class_id, 'pending', :ready_at);

-- name: shadow_add
INSERT INTO job (job_id, name, model, mode, spec, priority, class_id, status, dataset_id, kind, of_job_id, of_artifact_id)
VALUES (:job_id, :name, :model, :mode, :spec, :priority, :class_id, 'pending', :dataset_id, 'shadow', :of_job_id,
    :of_artifact_id);

-- name: shadows_of_artifact
SELECT * FROM job WHERE kind = 'shadow' AND of_artifact_id = :artifact_id ORDER BY seq;

-- name: shadows_of
SELECT * FROM job WHERE kind = 'shadow' AND of_job_id = :job_id ORDER BY seq;

-- name: job_claim
-- The atomic claim: one conditional UPDATE on a pending row. (RETURNING would double its time; who claims knows
-- the row as it was.)
UPDATE job SET status = 'claimed', lapsed = 0, epoch = epoch + 1, attempts = attempts + 1, claimed_by = :host,
    claimed_at = :at, heartbeat_at = NULL, ready_at = NULL
WHERE seq = :seq AND epoch = :epoch AND status = 'pending' AND held = 0 AND paused_reason IS NULL;

-- name: job_save
-- Writes every mutable column of a row, if it is still in the phase and epoch it was read in.
UPDATE job SET name = :name, spec = :spec, priority = :priority, class_id = :class_id, status = :status,
    lapsed = :lapsed, held = :held, ready_at = :ready_at, generation = :generation, attempts = :attempts,
    host_losses = :host_losses, program_failures = :program_failures, learned = :learned,
    claimed_by = :claimed_by, claimed_at = :claimed_at, heartbeat_at = :heartbeat_at,
    completed_at = :completed_at, last_error = :last_error, artifact_id = :artifact_id, metrics = :metrics,
    dataset_id = :dataset_id, trainer_digest = :trainer_digest, paused_reason = :paused_reason
WHERE job_id = :job_id AND epoch = :epoch AND status = :old_status AND lapsed = :old_lapsed;

-- name: job_seen
UPDATE job SET heartbeat_at = :at WHERE job_id = :job_id AND epoch = :epoch AND status IN ('claimed', 'running');

-- name: attempt_add
INSERT INTO attempt (job_id, epoch, generation, host, token, claim_request, claimed_at, dataset_id, trainer_digest)
VALUES (:job_id, :epoch, :generation, :host, :token, :claim_request, :at, :dataset_id, :trainer_digest);

-- name: attempts
SELECT * FROM attempt WHERE job_id = :job_id ORDER BY epoch;

-- name: attempts_made
-- How each artifact that completed a job was made.
SELECT attempt.job_id, attempt.artifact_id, duration_s, peak_rss_mib, size_bytes FROM attempt
LEFT JOIN upload ON upload.job_id = attempt.job_id AND upload.epoch = attempt.epoch
    AND upload.artifact_id = attempt.artifact_id
WHERE outcome = 'completed';

-- name: attempts_with_artifact
SELECT * FROM attempt WHERE artifact_id = :artifact_id AND outcome = 'completed' ORDER BY claimed_at;

-- name: attempts_on_host
-- The latest attempts on a host, with the names of their jobs.
SELECT attempt.*, job.name FROM attempt JOIN job ON job.job_id = attempt.job_id
WHERE host = :host ORDER BY attempt.claimed_at DESC LIMIT :most;

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

-- name: uploads_of
SELECT job_id, epoch, size_bytes, at FROM upload WHERE artifact_id = :artifact_id ORDER BY at;

-- name: uploads_since
SELECT attempt.host, upload.size_bytes, upload.at FROM upload JOIN attempt USING (job_id, epoch)
WHERE upload.at > :after;

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

-- name: worker_resume
UPDATE worker SET paused_reason = NULL, failures_in_a_row = 0, last_failed_job = NULL WHERE host = :host;

-- name: worker_forget
DELETE FROM worker WHERE host = :host;

-- name: drained
SELECT host, reason FROM drained_host;

-- name: drain_add
INSERT INTO drained_host (host, reason, at) VALUES (:host, :reason, :at)
ON CONFLICT (host) DO UPDATE SET reason = excluded.reason, at = excluded.at;

-- name: drain_remove
DELETE FROM drained_host WHERE host = :host;

-- name: fleet_paused
SELECT reason FROM fleet_pause;

-- name: fleet_pause
INSERT INTO fleet_pause (one, reason, at) VALUES (1, :reason, :at)
ON CONFLICT (one) DO UPDATE SET reason = excluded.reason, at = excluded.at;

-- name: fleet_resume
DELETE FROM fleet_pause;

-- name: audit_host_add
INSERT INTO audit (at, actor, event, job_id, from_phase, to_phase, epoch, detail, host)
VALUES (:at, :actor, :event, '', '', '', 0, :detail, :host);

-- name: audit_of_host
SELECT at, actor, event, detail FROM audit WHERE job_id = '' AND host = :host ORDER BY seq;

-- name: audit_add
INSERT INTO audit (at, actor, event, job_id, from_phase, to_phase, epoch, detail)
VALUES (:at, :actor, :event, :job_id, :from_phase, :to_phase, :epoch, :detail);

-- name: audit_last
SELECT coalesce(max(seq), 0) AS seq FROM audit;

-- name: audit_since
-- The last thing that happened to a job after an event.
SELECT at, actor, event, detail FROM audit WHERE job_id = :job_id AND seq > :after ORDER BY seq DESC LIMIT 1;

-- name: audit_of
SELECT * FROM audit WHERE job_id = :job_id ORDER BY seq;

-- name: audit_span
-- The oldest and the newest audit row's number; 0 when there is none.
SELECT coalesce((SELECT min(seq) FROM audit), 0) AS first_seq, coalesce((SELECT max(seq) FROM audit), 0) AS last_seq;

-- name: audit_count_after
SELECT count(*) AS n FROM audit WHERE seq > :after;

-- name: audit_after
SELECT audit.*, coalesce(job.name, '') AS name FROM audit LEFT JOIN job ON job.job_id = audit.job_id
WHERE audit.seq > :after ORDER BY audit.seq LIMIT :limit;

-- name: audit_page_up
-- Of a filtered list, the oldest first. An empty filter lets all pass.
SELECT audit.*, coalesce(job.name, '') AS name FROM audit LEFT JOIN job ON job.job_id = audit.job_id
WHERE audit.seq > :after AND audit.seq < :before AND (:event = '' OR audit.event = :event)
    AND (:job = '' OR audit.job_id = :job OR job.name = :job)
    AND (:host = '' OR audit.host = :host OR audit.actor = 'host:' || :host
        OR (audit.event = 'expire' AND audit.detail = :host))
ORDER BY audit.seq LIMIT :limit;

-- name: audit_page_down
-- The same, the newest first.
SELECT audit.*, coalesce(job.name, '') AS name FROM audit LEFT JOIN job ON job.job_id = audit.job_id
WHERE audit.seq > :after AND audit.seq < :before AND (:event = '' OR audit.event = :event)
    AND (:job = '' OR audit.job_id = :job OR job.name = :job)
    AND (:host = '' OR audit.host = :host OR audit.actor = 'host:' || :host
        OR (audit.event = 'expire' AND audit.detail = :host))
ORDER BY audit.seq DESC LIMIT :limit;

-- name: metrics_moves
-- What happened to jobs since, counted for GET /metrics.
SELECT event, from_phase, count(*) AS n FROM audit
WHERE seq > :after AND seq <= :upto AND job_id <> '' GROUP BY event, from_phase;

-- name: metrics_durations
-- How long the attempts took that were ended by their worker since.
SELECT audit.event, attempt.ended_at - attempt.claimed_at AS took_s
FROM audit JOIN attempt ON attempt.job_id = audit.job_id AND attempt.epoch = audit.epoch
WHERE audit.seq > :after AND audit.seq <= :upto AND audit.event IN ('complete', 'fail', 'release')
    AND attempt.ended_at IS NOT NULL;

-- name: metrics_uploads
SELECT coalesce(sum(size_bytes), 0) AS bytes FROM upload;

-- name: notify_unfinished
-- Jobs that wait or run; not those that the manifest no longer names, and no verification runs.
SELECT count(*) AS n FROM job
WHERE kind = 'job' AND (status IN ('claimed', 'running') OR (status = 'pending' AND held = 0));

-- name: notify_failed
-- What a message says of jobs that have failed for good.
SELECT job_id, epoch, name, claimed_by, last_error FROM job
WHERE kind = 'job' AND status = 'failed' ORDER BY priority DESC, seq;

-- name: dataset_add
INSERT INTO dataset (dataset_id, path) VALUES (:dataset_id, :path)
ON CONFLICT (dataset_id) DO UPDATE SET path = excluded.path;

-- name: datasets
SELECT dataset_id, path FROM dataset;

-- name: retention_jobs
-- `ended_at`: of the last event, which for a job that has ended is its end.
SELECT job_id, name, kind, status, lapsed, epoch, artifact_id, of_artifact_id,
    (SELECT max(at) FROM audit WHERE audit.job_id = job.job_id) AS ended_at
FROM job;

-- name: retention_completed
SELECT job_id, epoch, artifact_id, ended_at FROM attempt WHERE outcome = 'completed' AND artifact_id IS NOT NULL;

-- name: retention_uploads
SELECT job_id, epoch, artifact_id, at FROM upload;

-- name: artifact_in_use
-- Asked in the transaction that removes it: a job, a verification run or an attempt that may still complete names it,
-- or it is the newest result of a job.
SELECT 1 FROM job WHERE artifact_id = :artifact_id OR of_artifact_id = :artifact_id
UNION ALL
SELECT 1 FROM upload JOIN job ON job.job_id = upload.job_id AND job.epoch = upload.epoch
WHERE upload.artifact_id = :artifact_id AND (job.status IN ('claimed', 'running') OR job.lapsed = 1)
UNION ALL
SELECT 1 FROM upload JOIN attempt ON attempt.job_id = upload.job_id AND attempt.epoch = upload.epoch
WHERE upload.artifact_id = :artifact_id AND attempt.artifact_id = :artifact_id AND attempt.outcome = 'completed'
    AND NOT EXISTS (SELECT 1 FROM attempt AS later WHERE later.job_id = attempt.job_id AND later.epoch > attempt.epoch
        AND later.outcome = 'completed')
LIMIT 1;

-- name: removed_add
INSERT INTO removed_artifact (artifact_id, size_bytes, why, at) VALUES (:artifact_id, :size_bytes, :why, :at)
ON CONFLICT (artifact_id) DO UPDATE SET size_bytes = excluded.size_bytes, why = excluded.why, at = excluded.at;

-- name: removed_forget
DELETE FROM removed_artifact WHERE artifact_id = :artifact_id;

-- name: removed
SELECT artifact_id, why, at FROM removed_artifact;

-- name: removed_one
SELECT artifact_id, why, at FROM removed_artifact WHERE artifact_id = :artifact_id;

-- name: shadow_remove
DELETE FROM job WHERE job_id = :job_id AND kind = 'shadow' AND lapsed = 0 AND status IN ('completed', 'failed', 'cancelled');

-- name: attempts_remove
DELETE FROM attempt WHERE job_id = :job_id;

-- name: shadow_id_was_used
SELECT 1 FROM job WHERE job_id = :job_id
UNION ALL SELECT 1 FROM upload WHERE job_id = :job_id
UNION ALL SELECT 1 FROM audit WHERE job_id = :job_id LIMIT 1;

-- name: trail_old
-- Events before a moment, but the latest one of each job, of each host and of the fleet. A clean-up's own row is never
-- the latest in this sense: else each run would leave work for the next.
SELECT seq FROM audit
WHERE at < :before AND seq NOT IN (SELECT max(seq) FROM audit WHERE event <> 'gc' GROUP BY job_id, host) ORDER BY seq;

-- name: trail_remove
DELETE FROM audit WHERE seq IN (SELECT value FROM json_each(:seqs));

-- name: gc_ran
INSERT INTO gc_run (one, at) VALUES (1, :at) ON CONFLICT (one) DO UPDATE SET at = excluded.at;

-- name: gc_last
SELECT at FROM gc_run;

-- name: identities_revoked
-- Every identity that was ever revoked, once for each certificate of it that counts nevertheless (or once with NULL).
SELECT r.role, r.name, r.reason, c.serial FROM revoked_identities r
LEFT JOIN certificates c ON c.role = r.role AND c.name = r.name AND c.revoked_at IS NULL;

-- name: provenance_add
INSERT INTO provenance (job_id, epoch, artifact_id, envelope) VALUES (:job_id, :epoch, :artifact_id, :envelope)
ON CONFLICT (job_id, epoch) DO NOTHING;

-- name: provenance_of
SELECT envelope FROM provenance WHERE artifact_id = :artifact_id ORDER BY job_id, epoch;

-- name: provenance_missing
-- Completed attempts with this artifact that nothing was signed for: there was no key at hand then.
SELECT * FROM attempt WHERE artifact_id = :artifact_id AND outcome = 'completed' AND NOT EXISTS (
    SELECT 1 FROM provenance WHERE provenance.job_id = attempt.job_id AND provenance.epoch = attempt.epoch);

-- name: join_token_add
INSERT INTO join_tokens (token_id, secret_sha256, role, name, created_at, expires_at)
VALUES (:token_id, :secret_sha256, :role, :name, :now, :expires_at);

-- name: join_token_get
SELECT token_id, secret_sha256, role, name, expires_at, used_at, key_id FROM join_tokens WHERE token_id = :token_id;

-- name: join_token_use
-- The first key wins: no row changed means that the token was used by another one in between.
UPDATE join_tokens SET used_at = coalesce(used_at, :now), key_id = :key_id
WHERE token_id = :token_id AND (key_id IS NULL OR key_id = :key_id);

-- name: join_tokens_end
-- Of a revoked identity: neither a token that waits nor the one it joined with opens the door again, not even when
-- the clock is set back afterwards.
UPDATE join_tokens SET expires_at = 0 WHERE role = :role AND name = :name;

-- name: join_tokens_forget
DELETE FROM join_tokens WHERE created_at < :before;

-- name: join_tokens_open
SELECT role, name, max(expires_at) AS expires_at FROM join_tokens
WHERE used_at IS NULL AND expires_at > :now GROUP BY role, name;

-- name: certificate_add
INSERT INTO certificates (serial, role, name, key_id, not_before, not_after, issued_at, how)
VALUES (:serial, :role, :name, :key_id, :not_before, :not_after, :issued_at, :how);

-- name: certificates_all
SELECT * FROM certificates ORDER BY role, name, issued_at, serial;

-- name: certificates_ends
-- Of each host that has one which was not revoked: when the last of them ends.
SELECT name, max(not_after) AS not_after FROM certificates
WHERE role = 'host' AND revoked_at IS NULL GROUP BY name;

-- name: certificates_revoke
UPDATE certificates SET revoked_at = :now, revoked_reason = :reason
WHERE role = :role AND name = :name AND revoked_at IS NULL;

-- name: certificates_forget
DELETE FROM certificates WHERE not_after < :before;

-- name: identity_revoke
INSERT INTO revoked_identities (role, name, revoked_at, reason) VALUES (:role, :name, :now, :reason)
ON CONFLICT (role, name) DO UPDATE SET revoked_at = excluded.revoked_at, reason = excluded.reason;

-- name: identity_denied
-- Why this certificate no longer counts, as the transaction sees it; no row: it does. Means what `Standing` says.
SELECT reason FROM revoked_identities WHERE role = :role AND name = :name AND NOT EXISTS (
    SELECT 1 FROM certificates c
    WHERE c.serial = :serial AND c.role = :role AND c.name = :name AND c.revoked_at IS NULL);

-- name: revoked_identities
SELECT * FROM revoked_identities ORDER BY role, name;
