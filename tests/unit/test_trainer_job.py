"""The whole pipeline in one process: it finds a signal where there is one, and none where there is none."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tests.factories.episodes import recipes, write_dataset
from training.trainer.errors import BadData
from training.trainer.job import train_job
from training.trainer.options import IMPLEMENTED, SPLIT_RECIPES, Json
from training.trainer.progress import Progress
from training.trainer.scoring import score_artifact
from training.trainer.spec import parse_job

QUICK: Mapping[str, Mapping[str, object]] = {
    "gbt": {"rounds": 30, "min_data_in_leaf": 5},
    "mlp": {"epochs": 15, "hidden": [8]},
}
HOSTS = ("lab-a", "lab-b", "lab-c", "lab-d")


def train(data: Path, model: str, **more: object) -> dict[str, Json]:
    """Headline measures of one job."""
    job = parse_job({"model": model, "mode": "realistic", "hyper": QUICK[model], "seed": 1, **more})
    return train_job(job, data, 1, Progress(None, lambda: 0.0), lambda: None)[1]


@pytest.mark.parametrize("recipe", sorted(SPLIT_RECIPES))
@pytest.mark.parametrize("model", IMPLEMENTED)
def test_a_signal_is_found_with_every_split(model: str, recipe: str, tmp_path: Path) -> None:
    data = write_dataset(tmp_path, recipes(HOSTS, per_host=12))
    assert cast(float, train(data, model, split_recipe=recipe)["roc_auc_active"]) > 0.95


@pytest.mark.parametrize("model", IMPLEMENTED)
def test_without_a_signal_nothing_beyond_activity_is_found(model: str, tmp_path: Path) -> None:
    """Labels that mean nothing: whatever is found here leaked through split, features or labels."""
    plain = [replace(recipe, signal=False) for recipe in recipes(HOSTS, per_host=24)]
    found = train(write_dataset(tmp_path, plain), model, train_hosts=["lab-a", "lab-b"])
    assert 0.35 < cast(float, found["roc_auc_active"]) < 0.65
    # Of 14 benign windows per pair of episodes, 4 lie in the baseline and are told apart by being quiet.
    assert cast(float, found["roc_auc_of_mere_activity"]) == pytest.approx(0.5 + 0.5 * 4 / 14, abs=1e-6)


def test_behaviour_too_short_to_fill_half_a_window_is_refused(tmp_path: Path) -> None:
    late = [replace(recipe, onset_s=14.0) for recipe in recipes(HOSTS)]
    with pytest.raises(BadData, match=r"training side has 0 suspicious of .* windows"):
        train(write_dataset(tmp_path, late), "gbt")


def test_an_artifact_without_its_model_is_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", recipes(HOSTS))
    job = parse_job({"model": "mlp", "mode": "oracle", "hyper": QUICK["mlp"]})
    files, _ = train_job(job, data, 1, Progress(None, lambda: 0.0), lambda: None)
    for name, content in files.items():
        if name != "model.safetensors":
            (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match="its model cannot be read"):
        score_artifact(tmp_path, data)
