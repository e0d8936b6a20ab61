-- Who may join, which certificates were issued, and which of them no longer count.

CREATE TABLE join_tokens (
  token_id TEXT PRIMARY KEY,          -- the first 12 hex digits of secret_sha256: names it in messages and audit rows
  secret_sha256 TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL CHECK (role IN ('host', 'operator', 'reader')),
  name TEXT NOT NULL,
  created_at REAL NOT NULL,           -- UTC, seconds since the epoch
  expires_at REAL NOT NULL,
  used_at REAL,
  key_id TEXT                         -- sha256 of the public key that used it: the same one may ask again
) STRICT;

CREATE TABLE certificates (
  serial TEXT PRIMARY KEY,            -- lower-case hex
  role TEXT NOT NULL,
  name TEXT NOT NULL,
  key_id TEXT NOT NULL,
  not_before REAL NOT NULL,
  not_after REAL NOT NULL,
  issued_at REAL NOT NULL,
  how TEXT NOT NULL CHECK (how IN ('join', 'renew', 'late')),
  revoked_at REAL,
  revoked_reason TEXT
) STRICT;

CREATE INDEX certificates_of ON certificates (role, name);

-- A certificate that is not in the table above (issued before a restored backup, or offline) is denied when its
-- identity was revoked at any time.
CREATE TABLE revoked_identities (
  role TEXT NOT NULL,
  name TEXT NOT NULL,
  revoked_at REAL NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (role, name)
) STRICT, WITHOUT ROWID;

-- What the receiver signed when it accepted a result.
CREATE TABLE provenance (
  job_id TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  artifact_id TEXT NOT NULL,
  envelope TEXT NOT NULL,             -- DSSE, JSON
  PRIMARY KEY (job_id, epoch)
) STRICT, WITHOUT ROWID;

CREATE INDEX provenance_of ON provenance (artifact_id);
