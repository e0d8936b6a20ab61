"""Two artifacts side by side: the verdict, and what it rests on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from training.fleet.comparison import CLOSE, compare, metric_differences

HEADER = "episode_id,start_s,suspicious,score\n"
ROWS = (("e1", "0.000", 0, 0.25), ("e1", "1.000", 1, 0.75))


def artifact(folder: Path, *, shift: float = 0.0, rows: object = None, **files: str) -> Path:
    """An unpacked artifact whose last score is moved by `shift`."""
    folder.mkdir()
    text = HEADER + "".join(
        f"{episode},{start_s},{label},{score + (shift if at else 0.0):.6f}\n"
        for at, (episode, start_s, label, score) in enumerate(ROWS)
    )
    (folder / "predictions.csv").write_text(text if rows is None else str(rows))
    metrics = {"test": {"roc_auc": round(0.9 + shift, 6), "roc_auc_ci95": [0.8, 0.95]}, "schema": 1}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def test_what_no_trainer_writes_is_told_as_a_difference_and_not_as_a_traceback(tmp_path: Path) -> None:
    endless = compare(
        artifact(tmp_path / "a"), artifact(tmp_path / "b", rows=HEADER + "e" * 200_000 + ",0,0,1\n")
    )
    assert (endless.verdict, "predictions.csv is no table" in endless.reason) == ("different", True)
    assert metric_differences({"x": 10**400}, {"x": 1.0}) == ("x", math.inf)


def test_small_differences_of_scores_are_close_and_named(tmp_path: Path) -> None:
    found = compare(artifact(tmp_path / "a"), artifact(tmp_path / "b", shift=0.0005, model_txt="more"))
    assert (found.verdict, found.windows) == ("close", 2)
    assert found.score_difference == pytest.approx(0.0005)
    assert found.metric == "test.roc_auc"
    assert found.metric_difference == pytest.approx(0.0005)
    assert found.differing_files == ("metrics.json", "model.txt", "predictions.csv")


def test_a_model_file_alone_that_differs_is_close_since_every_score_is_the_same(tmp_path: Path) -> None:
    found = compare(artifact(tmp_path / "a", model_txt="1"), artifact(tmp_path / "b", model_txt="2"))
    assert (found.verdict, found.score_difference, found.differing_files) == ("close", 0.0, ("model.txt",))
    assert (found.metric, found.metric_difference) == ("", 0.0)


@pytest.mark.parametrize(
    ("shift", "verdict"), [(CLOSE, "close"), (CLOSE + 1e-6, "different"), (-0.2, "different")]
)
def test_one_score_beyond_the_limit_makes_them_different(tmp_path: Path, shift: float, verdict: str) -> None:
    assert compare(artifact(tmp_path / "a"), artifact(tmp_path / "b", shift=shift)).verdict == verdict


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", "missing or empty"),
        (HEADER + "e1,0.000,0,0.250000\n", "2 windows were scored, and 1 the second time"),
        (HEADER + "e1,0.000,0,0.250000\ne2,1.000,1,0.750000\n", "other windows were scored, from line 3"),
        (HEADER + "e1,0.000,0,0.250000\ne1,1.000,0,0.750000\n", "other windows were scored, from line 3"),
        (HEADER + "e1,0.000,0,0.250000\ne1\n", "line 3 is no row"),
        ("a,b\n1,2\n1,2\n", "other columns"),
    ],
)
def test_predictions_of_other_windows_are_different_and_say_how(
    tmp_path: Path, rows: str, words: str
) -> None:
    found = compare(artifact(tmp_path / "a"), artifact(tmp_path / "b", rows=rows))
    assert (found.verdict, found.score_difference) == ("different", None)
    assert words in found.reason


@pytest.mark.parametrize("score", ["nan", "", "inf"])
def test_a_score_that_is_no_number_on_one_side_is_different(tmp_path: Path, score: str) -> None:
    rows = HEADER + f"e1,0.000,0,0.250000\ne1,1.000,1,{score}\n"
    found = compare(artifact(tmp_path / "a"), artifact(tmp_path / "b", rows=rows))
    assert (found.verdict, found.score_difference) == ("different", math.inf)


def test_the_measure_that_differs_most_is_found_in_lists_too() -> None:
    one = {"test": {"ci": [0.1, 0.2], "n": 3}, "split": "x"}
    assert metric_differences(one, {"test": {"ci": [0.1, 0.5], "n": 3}, "split": "x"}) == ("test.ci[1]", 0.3)
    assert metric_differences(one, one) == ("", 0.0)
    assert metric_differences(one, {"test": {"ci": [0.1, None], "n": 3}, "split": "x"})[1] == math.inf
    assert metric_differences({"a": True}, {}) == ("a", math.inf), "on one side only"
    assert metric_differences(None, None) == ("", None)
