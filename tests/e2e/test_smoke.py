"""The smoke test of the contract with real processes: receiver, one CPU worker, its four jobs, their artifacts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.digest import sha256_file
from cis490.episodes.dataset import pack
from tests.factories.episodes import write_dataset
from training.fleet.bundle import extract
from training.fleet.client import FleetClient

TOKEN = "smoke-operator-token"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FleetClient, Path]]:
    """A fleet whose worker has run out of jobs; the receiver still answers."""
    folder = tmp_path_factory.mktemp("fleet")
    episodes = folder / "episodes"
    write_dataset(episodes)
    dataset_id = pack(episodes, folder / "data.tar.zst")
    example = Path("etc/training_manifest.toml.example").read_text(encoding="utf-8")
    jobs = "[[jobs]]" + example.split("[[jobs]]", 1)[1]
    head = f'[dataset]\nid = "{dataset_id}"\nfile = "data.tar.zst"\n'
    head += '[[hosts]]\nname = "cpu-1"\nallow_jobs = ["gbt", "mlp"]\n'
    (folder / "manifest.toml").write_text(head + jobs, encoding="utf-8")
    environment = os.environ | {"CIS490_OPERATOR_TOKEN": TOKEN}
    log = (folder / "receiver.log").open("w")
    receiver = subprocess.Popen(
        [
            sys.executable, "-m", "training.fleet.receiver", "--listen-addr", f"unix:{folder}/r.sock",
            "--manifest", str(folder / "manifest.toml"), "--db", str(folder / "q.db"),
            "--store-root", str(folder / "models"), "--incoming-root", str(folder / "incoming"),
            "--index-path", str(folder / "models" / "index.jsonl"), "--heartbeat-s", "1",
        ],
        env=environment, stderr=log,
    )  # fmt: skip
    client = FleetClient(f"unix:{folder}/r.sock", operator_token=TOKEN)
    try:
        _until_healthy(client, receiver)
        worker = subprocess.run(
            [
                sys.executable, "-m", "training.fleet.worker", "--receiver-url", f"unix:{folder}/r.sock",
                "--state-dir", str(folder / "state"), "--host", "cpu-1", "--exit-when-idle", "1", "--poll-s", "0.1",
            ],
            env=environment, capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert worker.returncode == 0, worker.stderr[-3000:]
        yield client, folder
    finally:
        receiver.send_signal(signal.SIGTERM)
        log.close()
        assert receiver.wait(timeout=20) == 0, (folder / "receiver.log").read_text()[-3000:]


def _until_healthy(client: FleetClient, receiver: subprocess.Popen[bytes]) -> None:
    import time

    from training.fleet.client import Unreachable

    ends = time.monotonic() + 30
    while True:
        try:
            client.health()
            return
        except Unreachable:
            assert receiver.poll() is None, "the receiver ended"
            assert time.monotonic() < ends, "the receiver does not answer"
            time.sleep(0.05)


def test_the_four_eligible_jobs_are_completed_and_the_ten_others_wait(
    finished: tuple[FleetClient, Path],
) -> None:
    client, _ = finished
    status = {job["name"]: job["status"] for job in client.jobs()}
    done = {name for name, state in status.items() if state == "completed"}
    assert done == {"gbt-realistic", "gbt-oracle", "mlp-realistic", "mlp-oracle"}, client.jobs()
    assert len(status) == 14
    assert set(status.values()) == {"completed", "pending"}


def test_each_artifact_lies_in_the_store_with_its_index_row(finished: tuple[FleetClient, Path]) -> None:
    client, folder = finished
    rows = [json.loads(line) for line in (folder / "models" / "index.jsonl").read_text().splitlines()]
    for job in client.jobs("completed"):
        path = folder / "models" / f"{job['model']}_{job['mode']}" / job["artifact_id"] / "bundle.tar.zst"
        assert sha256_file(path) == job["artifact_id"]
        assert [row["worker"] for row in rows if row["artifact_id"] == job["artifact_id"]] == ["cpu-1"]


def test_a_bundle_opens_with_our_extractor_and_holds_its_metrics(
    finished: tuple[FleetClient, Path], tmp_path: Path
) -> None:
    client, _ = finished
    job = client.jobs("completed")[0]
    client.download_model(job["artifact_id"], tmp_path / "b.tar.zst")
    names = extract(tmp_path / "b.tar.zst", tmp_path / "out")
    assert {"metrics.json", "config.json", "split.json", "model_card.md"} <= set(names)


def test_why_says_what_the_ten_others_lack(finished: tuple[FleetClient, Path]) -> None:
    client, _ = finished
    for job in client.jobs("pending"):
        found = client.eligibility(job["job_id"])
        assert not found["claimable"]
        (host,) = found["hosts"]
        assert "allow_jobs" in {check["constraint"] for check in host["checks"] if not check["ok"]}


def test_a_second_reload_changes_nothing(finished: tuple[FleetClient, Path]) -> None:
    client, _ = finished
    answer = client.reload()
    assert answer["counts"]["unchanged"] == answer["n_jobs"] == 14
