"""The completed jobs side by side: groups, order, marks, and the gap between the modes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories.fleet import job
from training.fleet.eligibility import Learned
from training.fleet.leaderboard import board
from training.fleet.render import View
from training.fleet.render_models import board as screen
from training.fleet.render_models import metrics_text
from training.fleet.rows import JobRow
from training.fleet.specs import Reference

DATA, TRAINER = "1" * 64, "2" * 64
NOW = Reference(DATA, TRAINER)


def done(name: str, auc: float | None = 0.9, **fields: Any) -> JobRow:
    """A completed job; what belongs to its specification goes there."""
    model, _, mode = name.partition("-")
    of_spec = {
        key: fields.pop(key) for key in ("hyper", "split_recipe", "train_hosts", "seed") if key in fields
    }
    spec = job(name, model=model, mode=mode.split("-")[0], **of_spec).to_dict()
    metrics: dict[str, Any] = {} if auc is None else {"roc_auc": auc, "roc_auc_active": auc - 0.01}
    values: dict[str, Any] = {
        "seq": 1, "job_id": spec["job_id"], "name": name, "model": model, "mode": spec["mode"], "spec": spec,
        "priority": 0, "class_id": 1, "status": "completed", "lapsed": False, "held": False, "ready_at": None,
        "generation": 1, "epoch": 1, "attempts": 1, "host_losses": 0, "program_failures": 0, "learned": Learned(),
        "claimed_by": "pi", "claimed_at": 1.0, "heartbeat_at": 2.0, "completed_at": 3.0, "last_error": None,
        "artifact_id": "a" * 64, "metrics": metrics, "dataset_id": DATA, "trainer_digest": TRAINER,
    }  # fmt: skip
    return JobRow(**(values | fields))


def entries(*rows: JobRow) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for group in board(rows, NOW)["groups"] for one in group["models"]}


# -- groups and order --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["transformer-realistic", "transformer-realistic-with-a-name-that-never-ends"]
)
@pytest.mark.parametrize("host", ["pi", "gpu-box-in-the-room-2.lab.example"])
def test_the_table_fits_80_columns_whatever_the_names(name: str, host: str) -> None:
    wide = {
        "roc_auc": 0.9,
        "roc_auc_ci95": [0.85, 0.95],
        "pr_auc": 0.8,
        "base_rate": 0.4,
        "fpr_at_tpr90": 0.1,
    }
    rows = [
        done(name, claimed_by=host, metrics=wide | {"roc_auc_active": 0.88}),
        done("transformer-oracle", claimed_by=host, metrics=wide | {"roc_auc_active": 0.93}),
    ]
    lines = screen(View(0.0, 80), board(rows, NOW)["groups"])
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"  {name[:28]}") for line in lines)
    assert any("+0.050" in line for line in lines)


def test_only_what_was_tested_alike_stands_in_one_group() -> None:
    rows = [
        done("gbt-realistic"),
        done("mlp-realistic", train_hosts=("b", "a")),
        done("gbt-oracle", train_hosts=("a", "b")),
        done("cnn-realistic", dataset_id="9" * 64),
        done("gru-realistic", split_recipe="random_window"),
        done("tcn-realistic", split_recipe="variant_disjoint"),
    ]
    groups = board(rows, NOW)["groups"]
    assert [
        (
            one["split_recipe"],
            one["train_hosts"],
            one["dataset_id"][0],
            [model["name"] for model in one["models"]],
        )
        for one in groups
    ] == [
        ("host_disjoint", [], "1", ["gbt-realistic"]),
        ("host_disjoint", [], "9", ["cnn-realistic"]),
        ("host_disjoint", ["a", "b"], "1", ["gbt-oracle", "mlp-realistic"]),
        ("variant_disjoint", [], "1", ["tcn-realistic"]),
        ("random_window", [], "1", ["gru-realistic"]),
    ]
    assert [one["leaky"] for one in groups] == [False, False, False, False, True]


def test_the_best_goes_first_and_what_reports_nothing_last() -> None:
    rows = [done("gbt-realistic", 0.7), done("mlp-realistic", None), done("cnn-realistic", 0.9)]
    assert list(entries(*rows)) == ["cnn-realistic", "gbt-realistic", "mlp-realistic"]


@pytest.mark.parametrize("auc", [1e308, -1e308, 1.5, -0.1])
def test_what_cannot_be_a_roc_auc_is_neither_the_best_nor_half_of_a_gap(auc: float) -> None:
    """Any client may send any number: one of them must not spoil the table for the others."""
    odd = done("gbt-oracle", metrics={"roc_auc": auc, "pr_auc": auc, "roc_auc_ci95": [auc, 1.0]})
    rows = [odd, done("gbt-realistic", 0.7), done("mlp-realistic", 0.6)]
    assert list(entries(*rows)) == ["gbt-realistic", "mlp-realistic", "gbt-oracle"]
    assert entries(*rows)["gbt-realistic"]["gap"]["value"] is None
    lines = screen(View(0.0, 80), board(rows, NOW)["groups"])
    assert max(map(len, lines)) <= 100


def test_what_is_not_completed_is_not_shown() -> None:
    assert board([done("gbt-realistic", status="failed")], NOW) == {"groups": []}


def test_a_stale_and_a_leaky_result_are_marked() -> None:
    found = entries(
        done("gbt-realistic", dataset_id="9" * 64),
        done("gbt-oracle", split_recipe="random_window"),
        done("mlp-oracle"),
    )
    assert (found["gbt-realistic"]["stale"], found["gbt-oracle"]["leaky"]) == (["data changed"], True)
    assert (found["mlp-oracle"]["stale"], found["mlp-oracle"]["leaky"]) == ([], False)


# -- the gap -----------------------------------------------------------------------------------------------


def gap_of(*rows: JobRow) -> dict[str, Any]:
    """Of the first row."""
    found: dict[str, Any] = entries(*rows)[rows[0].name]["gap"]
    return found


def test_the_gap_is_oracle_minus_realistic_on_active_windows_from_both_sides() -> None:
    pair = done("gbt-realistic", 0.8), done("gbt-oracle", 0.95)
    wanted = {"value": 0.15, "measure": "roc_auc_active", "oracle": 0.94, "realistic": 0.79, "reason": ""}
    assert gap_of(*pair) == wanted | {"partner": "gbt-oracle"}
    assert gap_of(*pair[::-1]) == wanted | {"partner": "gbt-realistic"}


def test_without_active_windows_on_one_side_both_sides_use_all_windows() -> None:
    found = gap_of(done("gbt-realistic", 0.8), done("gbt-oracle", metrics={"roc_auc": 0.9}))
    assert (found["measure"], found["oracle"], found["realistic"]) == ("roc_auc", 0.9, 0.8)


def test_hyper_that_stands_at_its_default_is_equal_to_hyper_left_out() -> None:
    assert gap_of(done("gbt-realistic", 0.8), done("gbt-oracle", 0.9, hyper={"window_s": 4}))["value"] == 0.1


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"seed": 1}, "no oracle job of gbt with the same split, hosts, seed and hyper"),
        ({"hyper": {"window_s": 5}}, "no oracle job of gbt with the same split, hosts, seed and hyper"),
        ({"train_hosts": ("a",)}, "no oracle job of gbt with the same split, hosts, seed and hyper"),
        ({"split_recipe": "time"}, "no oracle job of gbt with the same split, hosts, seed and hyper"),
        ({"status": "pending"}, "gbt-oracle is pending"),
        ({"dataset_id": "9" * 64}, "gbt-oracle was trained on other data"),
        ({"trainer_digest": "9" * 64}, "gbt-oracle was trained by another trainer"),
        ({"metrics": {}}, "gbt-realistic and gbt-oracle do not both report a ROC-AUC"),
    ],
)
def test_a_pair_that_is_not_equal_in_all_but_mode_has_no_gap_and_says_why(
    other: dict[str, Any], reason: str
) -> None:
    found = gap_of(done("gbt-realistic"), done("gbt-oracle", **other))
    assert (found["value"], found["reason"]) == (None, reason)


def test_of_two_partners_the_one_in_the_manifest_counts() -> None:
    twins = [done("gbt-oracle", 0.9, held=True, completed_at=9.0), done("gbt-oracle-2", 0.8)]
    assert gap_of(done("gbt-realistic", 0.7), *twins)["partner"] == "gbt-oracle-2"


# -- the screen --------------------------------------------------------------------------------------------

MEASURED: dict[str, Any] = {
    "roc_auc": 0.9413, "roc_auc_ci95": [0.921, 0.958], "roc_auc_active": 0.93, "pr_auc": 0.912, "base_rate": 0.4,
    "fpr_at_tpr90": 0.0831,
}  # fmt: skip


def test_the_screen_shows_intervals_base_rate_gap_and_marks() -> None:
    rows = [
        done("gbt-realistic", metrics=MEASURED), done("gbt-oracle", 0.99), done("mlp-oracle", held=True),
        done("best", 0.95, model="mlp", mode="oracle"),
        done("gru-realistic", split_recipe="random_window", dataset_id="9" * 64),
    ]  # fmt: skip
    lines = screen(View(0.0, 100), board(rows, NOW)["groups"])
    text = " ".join(" ".join(lines).split())
    assert lines[0] == "split host_disjoint, train hosts: by the recipe, data set 111111111111"
    (row,) = [line for line in lines if line.startswith("  gbt-realistic ")]
    assert row.split() == [
        "gbt-realistic", "pi", "0.941", "(.921-.958)", "0.912/0.40", "0.083", "+0.050", "(.980-.930)",
    ]  # fmt: skip
    assert "split random_window (LEAKY: no results to quote)" in text
    assert "gru-realistic (leaky, stale)" in text
    assert "best (oracle)" in text, "the mode is told where the name does not"
    assert "is not in the manifest any more" in text
    assert "no gap: no realistic job of mlp with the same split, hosts, seed and hyper" in text
    assert "GAP: oracle minus realistic of one model, in roc_auc_active." in text
    assert max(map(len, lines)) <= 100


def test_in_a_pipe_nothing_is_cut_and_every_row_names_its_group() -> None:
    rows = [done("gbt-realistic", metrics=MEASURED), done("gbt-oracle", 0.99)]
    header, *lines = screen(View(0.0, None), board(rows, NOW)["groups"])
    cells = dict(zip(header.split("\t"), lines[1].split("\t"), strict=True))
    assert (cells["NAME"], cells["SPLIT"], cells["LEAKY"]) == ("gbt-realistic", "host_disjoint", "no")
    assert (cells["ROC_AUC_CI95"], cells["GAP"]) == ("0.921,0.958", "0.05")


def test_without_a_completed_job_it_says_so() -> None:
    assert screen(View(0.0, 80), [])[0] == "no job is completed yet"


def test_a_line_of_figures_has_each_interval_behind_its_measure() -> None:
    assert metrics_text(MEASURED) == (
        "roc_auc 0.9413 [0.921, 0.958], roc_auc_active 0.93, pr_auc 0.912, base_rate 0.4, fpr_at_tpr90 0.0831"
    )
