"""The model card: what a reviewer looks for is there, and nothing that differs between two runs."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from tests.factories.episodes import recipes, write_dataset
from training.trainer.job import train_job
from training.trainer.models import NoSession
from training.trainer.progress import Progress
from training.trainer.session import Surroundings
from training.trainer.spec import parse_job

SECTIONS = (
    "Model details",
    "Intended use",
    "Factors",
    "Metrics, on the test side",
    "Evaluation and training data",
    "Could the test be easier than it looks?",
    "Ethical considerations and limits",
    "To measure it on other data",
)


def artifact(folder: Path, recipe: str) -> Mapping[str, bytes]:
    data = write_dataset(folder, recipes(("lab-a", "lab-b"), per_host=12))
    hyper = {"rounds": 10, "min_data_in_leaf": 5}
    job = parse_job({"model": "gbt", "mode": "realistic", "hyper": hyper, "split_recipe": recipe})
    around = Surroundings(Progress(None, lambda: 0.0), lambda: None, lambda training: NoSession())
    return train_job(job, data, around)[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    return artifact(tmp_path_factory.mktemp("data"), "variant_disjoint")


@pytest.fixture(scope="module")
def card(files: Mapping[str, bytes]) -> str:
    return files["model_card.md"].decode()


def test_the_sections_are_those_of_the_literature_in_order(card: str) -> None:
    assert tuple(re.findall(r"^## (.+)$", card, re.MULTILINE)) == SECTIONS


def test_every_picture_that_it_shows_is_in_the_artifact(card: str, files: Mapping[str, bytes]) -> None:
    shown = set(re.findall(r"\]\(([^)]+)\)", card))
    assert shown == {name for name in files if name.endswith(".svg")}


def test_every_leakage_check_stands_in_it_with_its_verdict(card: str, files: Mapping[str, bytes]) -> None:
    checks = json.loads(files["leakage.json"])["checks"]
    for name, check in checks.items():
        assert f"| {name} | {check['verdict']} | {check['text'].replace('|', chr(92) + '|')} |" in card


def test_its_tables_have_equal_columns_throughout(card: str) -> None:
    """Names of features hold a bar, which would add a column."""
    rows = [line for line in card.splitlines() if line.startswith("|")]
    columns = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    separators = [n for n, row in enumerate(rows) if set(row) <= set("|-")]
    assert len(separators) == 5
    for n, start in enumerate(separators):
        end = separators[n + 1] - 1 if n + 1 < len(separators) else len(rows)
        assert set(columns[start - 1 : end]) == {columns[start]}, rows[start - 1]


def test_its_figures_are_those_of_the_metrics(card: str, files: Mapping[str, bytes]) -> None:
    test = cast(Mapping[str, float], json.loads(files["metrics.json"])["test"])
    assert f"| {test['roc_auc_active']:.3f} |" in card
    assert f"base rate: {test['base_rate']:.3f}" in card


def test_an_honest_split_carries_no_banner(card: str) -> None:
    assert card.startswith("# gbt-realistic\n")
    assert "LEAKY" not in card
    assert "Not a result" not in card


def test_a_leaky_split_is_called_that_before_anything_else(tmp_path: Path) -> None:
    lines = artifact(tmp_path, "random_window")["model_card.md"].decode().splitlines()
    assert lines[0] == "# gbt-realistic (LEAKY split: for comparison only)"
    assert lines[2].startswith("> **Not a result.** The split `random_window`")


def test_an_embargo_is_told(tmp_path: Path) -> None:
    card = artifact(tmp_path, "time")["model_card.md"].decode()
    assert "0 episodes end too close to the cut and lie on no side." in card
