"""A receiver with jobs in every state that a job's page and the models page show: results with artifacts, an attempt
that failed, one that runs and tells its points and its log, one that nobody can run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.factories import artifacts
from tests.factories.live_receiver import LiveReceiver, live_receiver

MANIFEST = """
name = "job-lab"
[[hosts]]
name = "a"
[[hosts]]
name = "b"
[[jobs]]
model = "gbt"
mode = "realistic"
priority = 90
[[jobs]]
model = "gbt"
mode = "oracle"
priority = 80
[[jobs]]
model = "mlp"
mode = "realistic"
name = "leaky-mlp"
split_recipe = "random_window"
priority = 70
[[jobs]]
model = "mlp"
mode = "oracle"
priority = 60
[[jobs]]
model = "cnn"
mode = "oracle"
priority = 50
[[jobs]]
model = "gru"
mode = "oracle"
require_cuda = true
min_vram_gib = 10
priority = 40
"""
MACHINE: dict[str, Any] = {"hostname": "a", "cores": 8, "ram_gib": 31.2, "has_cuda": False}
LOG = "\x1b[32mloading\x1b[0m 120 episodes\n10 %\r100 %\n<script>alert('log')</script>\n"
ERROR = "Traceback (most recent call last):\nValueError: \x1b[31mfeature_17\x1b[0m holds NaN <b>"


@dataclass
class JobLab:
    """The receiver and what the tests ask for by name."""

    receiver: LiveReceiver
    gbt: str
    """Artifact of gbt-realistic."""
    oracle: str
    leaky: str
    running: str
    """Job id of mlp-oracle, whose second attempt runs on `b`."""
    sent_bytes: int = 0

    @property
    def url(self) -> str:
        return self.receiver.url

    def tell(self, step: int, *, loss: float | None = None) -> None:
        """The running attempt reports a step with a heartbeat."""
        answer = self.receiver.worker(
            "POST", f"/v1/job/{self.running}/heartbeat", {"points": [point(step, loss)], "progress": point(step, loss)},
            host="b",
        )  # fmt: skip
        assert answer.status == 200, answer.body

    def say(self, text: str) -> None:
        """The running attempt prints."""
        body = {"offset": self.sent_bytes, "text": text}
        answer = self.receiver.worker("POST", f"/v1/job/{self.running}/log", body, host="b")
        assert answer.status == 200, answer.body
        self.sent_bytes = answer.body["offset"]


def point(step: int, loss: float | None = None, total: int = 400) -> dict[str, Any]:
    found = 1.1 * math.exp(-step / 15) + 0.15 if loss is None else loss
    return {
        "step": step,
        "total": total,
        "unit": "epoch",
        "loss": found,
        "metric": {"validation_loss": found + 0.05},
    }


@contextmanager
def job_lab(folder: Path) -> Iterator[JobLab]:
    """Start it below `folder`."""
    with live_receiver(folder, MANIFEST, max_artifact_bytes=1 << 22) as receiver:
        gbt = artifacts.complete_next(
            receiver, artifacts.packed(artifacts.files()), duration_s=41.0, peak_rss_mib=812
        )
        better = artifacts.MEASURED | {"roc_auc": 0.98, "roc_auc_ci95": [0.96, 0.99], "roc_auc_active": 0.97}
        config = '{"hyper": {"num_rounds": 300}}'
        oracle = artifacts.complete_next(
            receiver, artifacts.packed(artifacts.files(config_dot_json=config)), better
        )
        leaky = artifacts.complete_next(receiver, b"no bundle at all", {"roc_auc": 0.999})
        running = _claim(receiver, "a")
        first = {"points": [point(step, 1.5 - step / 10) for step in range(1, 6)]}
        assert receiver.worker("POST", f"/v1/job/{running}/heartbeat", first).status == 200
        assert (
            receiver.worker("POST", f"/v1/job/{running}/log", {"offset": 0, "text": "first try\n"}).status
            == 200
        )
        assert (
            receiver.worker("POST", f"/v1/job/{running}/fail", {"error": ERROR, "exit_code": 1}).status == 200
        )
        assert _claim(receiver, "b") == running
        lab = JobLab(receiver, gbt, oracle, leaky, running)
        told = {
            "points": [point(step) for step in range(1, 13)],
            "progress": point(12),
            "usage": {"cpu_percent": 80.0, "job_rss_gib": 1.9, "job_vram_gib": 7.3},
        }
        assert receiver.worker("POST", f"/v1/job/{running}/heartbeat", told, host="b").status == 200
        lab.say(LOG)
        yield lab


def _claim(receiver: LiveReceiver, host: str) -> str:
    return str(receiver.worker("POST", "/v1/job/claim", {"capability": MACHINE}, host=host).body["job_id"])
