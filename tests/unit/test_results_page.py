"""The table of docs/results.md, from measured rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tools import results, results_table


def row(mode: str, split: str, auc: float | None) -> dict[str, Any]:
    test = {
        "roc_auc_active": auc, "roc_auc_active_ci95": None if auc is None else [auc - 0.1, auc + 0.1],
        "pr_auc": 0.7, "base_rate": 0.4, "fpr_at_tpr90": 0.2, "windows": 360,
    }  # fmt: skip
    return {"model": "gbt", "mode": mode, "split": split, "test": test, "cpu_s": 1.24}


def page(*rows: dict[str, Any]) -> str:
    return results_table.page(rows, {"numpy": "2.4"}, "f" * 64)


def test_a_row_shows_the_measures_with_interval_and_base_rate() -> None:
    cells = [
        cell.strip() for cell in page(row("oracle", "host_disjoint", 0.8)).splitlines()[8].split("|")[1:-1]
    ]
    assert cells == ["`gbt-oracle`", "0.800", "0.700 to 0.900", "0.700", "0.400", "0.200", "360", "1.2"]


def test_the_leaky_split_is_labelled_wherever_it_shows() -> None:
    text = page(row("oracle", "random_window", 0.8), row("realistic", "random_window", 0.7))
    assert [line for line in text.splitlines() if "random_window" in line and "leaky" not in line] == []


def test_the_honest_splits_are_not_labelled_leaky() -> None:
    text = page(row("oracle", "host_disjoint", 0.8))
    assert "### host_disjoint\n" in text


def test_the_gap_is_oracle_minus_realistic_under_the_same_split() -> None:
    text = page(row("oracle", "host_disjoint", 0.875), row("realistic", "host_disjoint", 0.625))
    assert [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]] == ["`gbt`", "+0.250", "-", "-"]


def test_a_measure_that_is_not_defined_is_a_dash_and_gives_no_gap() -> None:
    text = page(row("oracle", "host_disjoint", None), row("realistic", "host_disjoint", 0.6))
    assert text.splitlines()[-1].split("|")[2].strip() == "-"


def test_without_measurements_the_page_says_so(tmp_path: Path) -> None:
    assert "Not measured" in results_table.results(tmp_path / "absent.json")


def test_every_job_is_trained_under_every_split() -> None:
    assert len(list(results.trainings(""))) == 42


def test_a_training_that_fails_tells_its_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('first'); sys.exit('no such thing')"]
    with pytest.raises(results.TrainingFailed, match=r"^no such thing \(exit code 1; all of it: "):
        results.run(command, tmp_path / "log")


def test_each_training_has_a_name_of_its_own() -> None:
    assert len({training.name for training in results.trainings("")}) == 42


@pytest.mark.parametrize("other", [{"trainer": "b"}, {"dataset_id": "b"}, {"versions": {"numpy": "1"}}])
def test_a_finished_row_counts_only_if_it_was_made_with_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    made_with = {"trainer": "a", "dataset_id": "a", "versions": {"numpy": "2"}}
    training = next(results.trainings(""))
    kept = {"made_with": made_with, "spec": training.spec(), "cpu_s": 1.0}
    (tmp_path / f"{training.name}.json").write_text(json.dumps(kept))

    def trained_anew(command: Sequence[str], log: Path) -> float:
        raise results.TrainingFailed("anew")

    monkeypatch.setattr(results, "run", trained_anew)
    assert results.measured(training, tmp_path, tmp_path, made_with) == kept
    with pytest.raises(results.TrainingFailed, match="anew"):
        results.measured(training, tmp_path, tmp_path, made_with | other)


def test_a_word_that_no_training_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        results.main(["--only", "gtb"])
    assert stopped.value.code == 2
    assert "--only: found 'gtb', expected a part of a name such as gbt-realistic" in capsys.readouterr().err
