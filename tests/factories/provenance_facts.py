"""What a receiver knows of a result that it accepts, for tests of its signed records."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from training.fleet.provenance import Facts

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ARTIFACT = hashlib.sha256(b"bundle").hexdigest()
JOB = hashlib.sha256(b"job").hexdigest()
FACTS = Facts(
    fleet="lab.test",
    job_id=JOB,
    name="gbt-oracle",
    kind="job",
    model="gbt",
    mode="oracle",
    spec={
        "hyper": {"trees": 9},
        "seed": 7,
        "split_recipe": "host_disjoint",
        "train_hosts": [],
        "priority": 3,
    },
    generation=1,
    epoch=2,
    artifact_id=ARTIFACT,
    host="gpu-box-1",
    claimed_at=NOW.timestamp() - 60,
    ended_at=NOW.timestamp(),
    recorded="at completion",
    recorded_at=NOW.timestamp(),
    size_bytes=6,
    certificate_serial="5e3a",
    certificate_sha256="ab" * 32,
    dataset_id="cd" * 32,
    trainer_digest="ef" * 32,
    manifest_digest="01" * 32,
    capability={"git_commit": "12" * 20, "trainer_digest": "ef" * 32, "python_version": "3.13.5", "cores": 4},
)
