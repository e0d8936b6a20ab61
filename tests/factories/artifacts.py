"""Artifacts as a trainer leaves them, without training: the tables of the charts, a card, figures."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.factories.live_receiver import LiveReceiver
from training.fleet import bundle

ROC = (
    "threshold,false_positive_rate,true_positive_rate,at_threshold\n"
    ",0.0,0.0,0\n0.9,0.0,0.6,0\n0.7,0.1,0.9,1\n0.1,1.0,1.0,0\n"
)
PR = "threshold,recall,precision,at_threshold\n0.9,0.6,1.0,0\n0.7,0.9,0.86,1\n0.1,1.0,0.4,0\n"
CONFUSION = (
    "label,outcome,windows,share_of_label\nbenign,no alarm,54,0.9\nbenign,alarm,6,0.1\n"
    "suspicious,no alarm,4,0.1\nsuspicious,alarm,36,0.9\n"
)
CALIBRATION = (
    "scores,from,to,windows,mean_score,suspicious_share\nas given,0.0,0.1,50,0.02,0.04\nas given,0.9,1.0,40,0.97,0.9\n"
    "with temperature,0.0,0.1,50,0.05,0.04\nwith temperature,0.9,1.0,40,0.92,0.9\n"
)
MEASURED: dict[str, Any] = {
    "roc_auc": 0.94, "roc_auc_ci95": [0.9, 0.97], "roc_auc_active": 0.92, "pr_auc": 0.91, "base_rate": 0.4,
    "fpr_at_tpr90": 0.1,
}  # fmt: skip


def files(**changed: str) -> dict[str, str]:
    """What a small artifact holds. `changed` replaces or adds members; `__` stands for `/`, `_dot_` for a dot."""
    found = {
        "config.json": json.dumps({"model": "gbt", "hyper": {"num_rounds": 200}, "seed": 0}),
        "metrics.json": json.dumps({"test": {"roc_auc": 0.94}}),
        "model_card.md": "# gbt, realistic\n\nTrained on recordings of five hosts. <script>alert(1)</script>\n",
        "plots/roc.csv": ROC,
        "plots/pr.csv": PR,
        "plots/confusion.csv": CONFUSION,
        "plots/calibration.csv": CALIBRATION,
        "plots/roc.svg": '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    }
    return found | {key.replace("__", "/").replace("_dot_", "."): value for key, value in changed.items()}


def packed(members: Mapping[str, str | bytes]) -> bytes:
    """These files as a bundle."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in members.items():
            path = root / "out" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        bundle.pack(root / "out", root / "bundle.tar.zst")
        return (root / "bundle.tar.zst").read_bytes()


def complete_next(
    receiver: LiveReceiver,
    data: bytes,
    metrics: Mapping[str, Any] | None = None,
    *,
    host: str = "a",
    **body: Any,
) -> str:
    """The next job is claimed, its artifact uploaded, the job completed; the artifact id."""
    job_id = receiver.worker("POST", "/v1/job/claim", {"capability": {}}, host=host).body["job_id"]
    digest = hashlib.sha256(data).hexdigest()
    sent = receiver.worker("PUT", f"/v1/model/{job_id}", data, host=host, **{"X-Content-SHA256": digest})
    assert sent.status in (200, 201), sent.body
    done = receiver.worker(
        "POST",
        f"/v1/job/{job_id}/complete",
        {"artifact_id": digest, "metrics": dict(MEASURED if metrics is None else metrics), **body},
        host=host,
    )
    assert done.status == 200, done.body
    return digest
