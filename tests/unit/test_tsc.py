"""The benchmark on public data: its reader, its recipes and its verdicts (the trainings are `make bench-tsc`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tsc_table
from benchmarks.tsc_data import SETS, NoData, load, padded, read_ts
from benchmarks.tsc_recipes import OURS, RECIPES, Recipe
from training.trainer.options import MODELS, check_hyper

HEAD = "#a comment\n@problemName Small\n@classLabel true 1 2\n@data\n"


def ts(folder: Path, lines: str) -> Path:
    path = folder / "Small_TRAIN.ts"
    path.write_text(HEAD + lines, encoding="utf-8")
    return path


def test_a_series_has_its_channels_and_samples(tmp_path: Path) -> None:
    series, labels = read_ts(ts(tmp_path, "1,2,3:4,5,6:b\n7,8:9,10:a\n"))
    assert [values.tolist() for values in series] == [[[1, 2, 3], [4, 5, 6]], [[7, 8], [9, 10]]]
    assert labels == ["b", "a"]


@pytest.mark.parametrize("line", ["1,x:a", "1,2:3:a", "1,NaN:a", "1,?:a"])
def test_a_line_that_is_no_series_is_refused_by_file_and_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(NoData, match=r"Small_TRAIN\.ts:6: found .*, expected"):
        read_ts(ts(tmp_path, f"1,2:a\n{line}\n"))


def test_a_file_without_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ts"
    path.write_text("@problemName x\n", encoding="utf-8")
    with pytest.raises(NoData, match="found no line '@data'"):
        read_ts(path)


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoData, match=r"GunPoint_TRAIN\.ts: cannot be read"):
        load("GunPoint", tmp_path)


def test_short_series_get_zeros_behind_them() -> None:
    made = padded([np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)], 3)
    assert made.tolist() == [[[1, 1, 0]], [[1, 1, 1]]]


def test_both_parts_are_padded_to_one_length_and_classes_keep_their_number(tmp_path: Path) -> None:
    folder = tmp_path / "Small"
    folder.mkdir()
    (folder / "Small_TRAIN.ts").write_text(HEAD + "1,2:b\n3,4:a\n", encoding="utf-8")
    (folder / "Small_TEST.ts").write_text(HEAD + "5,6,7:b\n", encoding="utf-8")
    problem = load("Small", tmp_path)
    assert (problem.train_x.shape, problem.test_x.shape) == ((2, 1, 3), (1, 1, 3))
    assert (problem.classes, problem.train_y.tolist(), problem.test_y.tolist()) == (("a", "b"), [1, 0], [1])


@pytest.mark.parametrize("model", OURS)
def test_a_recipe_fits_the_models_options(model: str) -> None:
    assert check_hyper(model, RECIPES[model].hyper_for(model, 40)) == []


def test_every_model_of_the_trainer_has_a_recipe() -> None:
    assert {name for name, model in MODELS.items() if not model.plugin} == set(RECIPES)


def test_steps_become_epochs_that_give_at_least_so_many() -> None:
    recipe = Recipe("", {"batch_size": 16}, steps=100)
    assert recipe.hyper_for("cnn", 50)["epochs"] == 25  # four batches an epoch
    assert recipe.hyper_for("cnn", 1000)["epochs"] == 2


CHANCE = dict.fromkeys(SETS, 0.5)


def rows(accuracy: dict[str, float], cpu_s: float = 1.0) -> list[dict[str, Any]]:
    """One row for each of our models and set, and aeon's MiniRocket with 20 CPU seconds."""
    found = [row(model, name, "", accuracy.get(model, 1.0), cpu_s) for model in OURS for name in SETS]
    return found + [row(tsc_table.PEER, name, "cold", 0.99, 20.0) for name in SETS]


def row(program: str, name: str, cache: str, accuracy: float, cpu_s: float) -> dict[str, Any]:
    return {
        "program": program, "set": name, "seed": 0, "cache": cache, "accuracy": accuracy, "cpu_s": cpu_s,
        "import_cpu_s": 0.1, "peak_mib": 50.0, "model_bytes": 1000,
    }  # fmt: skip


def verdict(found: list[str], start: str) -> str:
    (line,) = [line for line in found if line.startswith(start)]
    return line.partition(": ")[2]


def test_what_reaches_everything_gets_yes_everywhere() -> None:
    assert {line.partition(": ")[2][:3] for line in tsc_table.verdicts(rows({}), CHANCE)} == {"yes"}


def test_more_than_two_points_below_a_published_figure_is_a_no_with_both_figures() -> None:
    found = verdict(tsc_table.verdicts(rows({"cnn": 0.95}), CHANCE), "`cnn`")
    assert found == "no: JapaneseVowels 95.0 against 99.3; GunPoint 95.0 against 100.0"


def test_a_model_at_chance_is_named() -> None:
    found = verdict(tsc_table.verdicts(rows({"gru": 0.5}), CHANCE), "every model")
    assert found.startswith("no: gru on BasicMotions 50.0")


def test_less_than_ten_times_faster_is_a_no() -> None:
    found = verdict(tsc_table.verdicts(rows({}, cpu_s=2.1), CHANCE), "`rocket` cold")
    assert found.startswith("no: BasicMotions")


def test_aeons_warm_runs_do_not_count_as_cold_ones() -> None:
    measured = [*rows({}), *(row(tsc_table.PEER, name, "warm", 0.99, 0.1) for name in SETS)]
    assert verdict(tsc_table.verdicts(measured, CHANCE), "`rocket` cold").startswith(
        "yes (BasicMotions 20 times"
    )


def test_what_was_not_measured_is_no_yes() -> None:
    found = tsc_table.verdicts(rows({})[:3], CHANCE)
    assert [line for line in found if "not measured" not in line] == []


def test_the_page_shows_each_set_with_its_chance() -> None:
    text = tsc_table.page(rows({}), CHANCE, {"ours": {"numpy": "2.4"}})
    assert [name for name in SETS if f"### {name}\n\nThe largest class alone: 50.0 %." not in text] == []


def test_without_measurements_the_page_says_so(tmp_path: Path) -> None:
    assert "Not measured" in tsc_table.published(tmp_path / "absent.json")
