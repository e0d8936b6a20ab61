"""A trained `realistic` artifact that somebody has tampered with still reads no channel from inside the guest."""

import json
from pathlib import Path

import pytest

from tests.factories.episodes import write_dataset
from training.trainer.errors import BadData
from training.trainer.run import main
from training.trainer.scoring import score_artifact

INSIDE = {"name": "tree.io.wchar", "unit": "bytes", "kind": "counter"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def artifact(data: Path, tmp_path: Path) -> Path:
    command = ["--model", "gbt", "--mode", "realistic", "--rounds", "5", "--seed", "1"]
    assert main([*command, "--data", str(data), "--out", str(tmp_path / "model")]) == 0
    return tmp_path / "model"


def test_the_artifact_names_no_channel_from_inside(artifact: Path) -> None:
    prepared = json.loads((artifact / "preprocess.json").read_text())
    assert {channel["name"].partition(".")[0] for channel in prepared["channels"]} <= {"sys", "block", "net"}
    assert not any(name.startswith(("tree.", "guest.")) for name in prepared["features"])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_crafted_preprocess_json_cannot_ask_for_one(artifact: Path, data: Path, position: int) -> None:
    assert score_artifact(artifact, data)
    path = artifact / "preprocess.json"
    prepared = json.loads(path.read_text())
    prepared["channels"][position] = INSIDE
    path.write_text(json.dumps(prepared))
    with pytest.raises(BadData, match=r"missing: tree\.io\.wchar"):
        score_artifact(artifact, data)


def test_a_crafted_feature_name_cannot_reach_one(artifact: Path, data: Path) -> None:
    path = artifact / "preprocess.json"
    prepared = json.loads(path.read_text())
    prepared["features"][0] = "tree.io.wchar|mean"
    path.write_text(json.dumps(prepared))
    with pytest.raises(BadData, match=r"tree\.io\.wchar\|mean"):
        score_artifact(artifact, data)
