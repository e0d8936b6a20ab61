"""What trainers measured, from `complete` to the operator's tables: intervals survive, leaky figures are marked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.factories.command import run
from tests.factories.live_receiver import TOKEN, Answer, LiveReceiver, live_receiver
from training.fleet import bundle

JOBS = """
name = "t"
[[jobs]]
model = "gbt"
mode = "realistic"
priority = 3
[[jobs]]
model = "gbt"
mode = "oracle"
priority = 2
[[jobs]]
model = "mlp"
mode = "realistic"
name = "leaky-one"
split_recipe = "random_window"
priority = 1
"""
MEASURED: dict[str, Any] = {
    "roc_auc": 0.9, "roc_auc_ci95": [0.85, 0.94], "roc_auc_active": 0.88, "pr_auc": 0.8, "base_rate": 0.4,
    "fpr_at_tpr90": 0.1,
}  # fmt: skip


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, JOBS) as running:
        yield running


def complete(receiver: LiveReceiver, metrics: object, data: bytes = b"an artifact") -> Answer:
    """The next job, with these metrics."""
    job_id = receiver.worker("POST", "/v1/job/claim", {"capability": {}}).body["job_id"]
    digest = hashlib.sha256(data).hexdigest()
    receiver.worker("PUT", f"/v1/model/{job_id}", data, **{"X-Content-SHA256": digest})
    return receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": digest, "metrics": metrics})


def test_intervals_survive_from_complete_to_the_table(receiver: LiveReceiver) -> None:
    assert complete(receiver, MEASURED).status == 200
    assert complete(receiver, MEASURED | {"roc_auc_active": 0.97}).status == 200
    (group,) = receiver.send("GET", "/v1/models").body["groups"]
    assert [(one["name"], one["metrics"]["roc_auc_ci95"]) for one in group["models"]] == [
        ("gbt-oracle", [0.85, 0.94]), ("gbt-realistic", [0.85, 0.94]),
    ]  # fmt: skip
    assert [one["gap"]["value"] for one in group["models"]] == [0.09, 0.09]
    shown = run(receiver.url, "models", token=TOKEN)
    assert (shown.code, "0.900 (.850-.940)" in shown.out, "+0.090 (.970-.880)" in shown.out) == (
        0,
        True,
        True,
    )
    assert run(receiver.url, "models", "--json", token=TOKEN).json == {"groups": [group]}
    assert "roc_auc 0.9 [0.85, 0.94]" in " ".join(
        run(receiver.url, "show", "gbt-oracle", token=TOKEN).out.split()
    )


def test_figures_of_a_leaky_split_are_marked_wherever_they_stand(
    receiver: LiveReceiver, tmp_path: Path
) -> None:
    for number in range(2):
        complete(receiver, MEASURED, b"%d" % number)
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text('{"split_recipe": "random_window"}')
    (out / "metrics.json").write_text('{"roc_auc": 0.9}')
    bundle.pack(out, tmp_path / "b.tar.zst")
    complete(receiver, MEASURED, (tmp_path / "b.tar.zst").read_bytes())
    listed = {row["name"]: row["leaky"] for row in receiver.send("GET", "/v1/jobs").body["jobs"]}
    assert listed == {"gbt-realistic": False, "gbt-oracle": False, "leaky-one": True}
    models = run(receiver.url, "models", token=TOKEN).out
    assert "random_window (LEAKY: no results to quote)" in models
    assert "leaky-one (realistic, leaky)" in models
    shown = run(receiver.url, "show", "leaky-one", token=TOKEN).out
    assert "random_window (leaky)" in shown
    assert "LEAKY, no result to quote: base_rate 0.4" in " ".join(shown.split())
    pulled = run(receiver.url, "pull", "leaky-one", "--out", str(tmp_path / "pulled"), token=TOKEN).out
    assert "LEAKY split: no result to quote" in pulled


@pytest.mark.parametrize("interval", [[], [0.1], [0.1, 0.2, 0.3], ["a", "b"], "x", [[0.1, 0.2]]])
def test_what_is_neither_a_number_nor_an_interval_is_refused_by_name(
    receiver: LiveReceiver, interval: object
) -> None:
    refused = complete(receiver, {"roc_auc_ci95": interval})
    assert refused.status == 400
    assert "metrics" in refused.body["error"]


def test_a_job_without_figures_stands_at_the_end(receiver: LiveReceiver) -> None:
    complete(receiver, {})
    (group,) = receiver.send("GET", "/v1/models").body["groups"]
    assert group["models"][0]["gap"]["reason"] == "gbt-oracle is pending"
    assert "gbt-realistic" in run(receiver.url, "models", token=TOKEN).out


def test_verification_runs_are_no_models(receiver: LiveReceiver) -> None:
    complete(receiver, MEASURED)
    (job,) = receiver.send("GET", "/v1/jobs?status=completed").body["jobs"]
    receiver.queue.cancel(next(row.job_id for row in receiver.queue.list_jobs("pending")))
    assert receiver.operator(f"/v1/job/{job['job_id']}/verify").status == 200
    for _ in range(2):  # the leaky job, then the run
        complete(receiver, MEASURED)
    names = [
        one["name"] for group in receiver.send("GET", "/v1/models").body["groups"] for one in group["models"]
    ]
    assert names == ["gbt-realistic", "leaky-one"]
