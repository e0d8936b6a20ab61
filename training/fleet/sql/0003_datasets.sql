-- Every dataset that a manifest in force has pinned: an attempt claimed before a reload still fetches its own,
-- also after a restart of the receiver.

CREATE TABLE dataset (
    dataset_id TEXT PRIMARY KEY,
    path       TEXT NOT NULL                   -- where the receiver has it, as the manifest said last
) STRICT, WITHOUT ROWID;
