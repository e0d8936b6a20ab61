"""Two runs of a job on one machine give the same artifact, for each of the fourteen jobs; interrupted ones too."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cis490.failpoints import VARIABLE
from tests.factories.episodes import write_dataset
from training.fleet.bundle import pack
from training.trainer.options import MODELS, MODES

pytest.importorskip("torch", reason="torch is not installed; scripts/setup.sh all brings it")
pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[2]
NEURAL = {"epochs": 2, "batch_size": 32}
QUICK: dict[str, dict[str, object]] = {
    "gbt": {"rounds": 120, "min_data_in_leaf": 5},
    "mlp": {"epochs": 20},
    "rocket": {"num_features": 840},
    "cnn": {**NEURAL, "channels": [8, 8, 8]},
    "gru": {**NEURAL, "hidden": 8},
    "tcn": {**NEURAL, "channels": 8},
    "transformer": {**NEURAL, "d_model": 16},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


class Job:
    """One job, run as the worker runs it."""

    def __init__(self, folder: Path, data: Path, model: str, mode: str) -> None:
        self.folder, self.data = folder, data
        spec = {"model": model, "mode": mode, "hyper": QUICK[model], "seed": 5}
        (folder / "job.json").write_text(json.dumps(spec))

    def run(self, out: str, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "training.trainer.run", "--spec", str(self.folder / "job.json"),
            "--data", str(self.data), "--out", str(self.folder / out), *more,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=300, check=False
        )

    def digest(self, out: str, *more: str, **env: str) -> str:
        """Train, pack, and give the artifact's id."""
        done = self.run(out, *more, **env)
        assert done.returncode == 0, done.stderr
        return pack(self.folder / out, self.folder / f"{out}.tar.zst").sha256


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_job_gives_the_same_artifact_twice(model: str, mode: str, data: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, data, model, mode)
    first = job.digest("first", PYTHONHASHSEED="1", OMP_NUM_THREADS="1")
    assert job.digest("second", "--threads", "2", PYTHONHASHSEED="2", OMP_NUM_THREADS="2") == first


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
@pytest.mark.parametrize("model", sorted(name for name, model in MODELS.items() if model.iterative))
def test_a_job_killed_after_a_checkpoint_gives_the_same_artifact(
    model: str, data: Path, tmp_path: Path
) -> None:
    job = Job(tmp_path, data, model, "oracle")
    whole = job.digest("whole")
    options = ("--checkpoint-dir", str(tmp_path / "checkpoints"), "--checkpoint-every-s", "0")
    killed = job.run("parts", *options, **{VARIABLE: "trainer.checkpoint_written=kill"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert job.digest("parts", *options) == whole
