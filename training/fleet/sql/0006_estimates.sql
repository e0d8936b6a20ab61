-- The newest completed attempts, out of which starts and ends are estimated: read from their end.

CREATE INDEX attempt_done ON attempt (ended_at) WHERE outcome = 'completed';
