-- The newest completed attempts, out of which starts and ends are estimated: read from their end.

CREATE INDEX attempt_done ON attempt (ended_at) WHERE outcome = 'completed';

-- The latest attempts on a host, for its page.

CREATE INDEX attempt_host ON attempt (host, claimed_at);
