"""`cis490-jobs diff` over real artifacts in a real receiver; the screen over sides that are made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import artifacts
from tests.factories.command import run
from tests.factories.live_receiver import LiveReceiver, live_receiver
from training.fleet import exits
from training.fleet.artifact_diff import Side, difference
from training.fleet.render import View
from training.fleet.render_diff import diff

MANIFEST = """
name = "two"
[[jobs]]
model = "gbt"
mode = "oracle"
priority = 9
hyper = { learning_rate = 0.1 }
[[jobs]]
model = "gbt"
mode = "realistic"
[[jobs]]
model = "mlp"
mode = "realistic"
priority = -1
"""


def config(**changes: object) -> str:
    return json.dumps({"hyper": {"num_rounds": 200, "learning_rate": 0.05}, "seed": 0} | changes)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path_factory.mktemp("diff"), MANIFEST) as running:
        better = {"test": {"roc_auc": 0.97, "roc_auc_ci95": [0.95, 0.98], "windows": 100}}
        worse = {"test": {"roc_auc": 0.91, "roc_auc_ci95": [0.88, 0.94], "windows": 100}}
        first = artifacts.files(
            config_dot_json=config(hyper={"num_rounds": 200, "learning_rate": 0.1}),
            metrics_dot_json=json.dumps(better),
        )
        second = artifacts.files(
            config_dot_json=config(), metrics_dot_json=json.dumps(worse), extra_dot_bin="x"
        )
        for members in (first, second):
            artifacts.complete_next(running, artifacts.packed(members), {"roc_auc": 0.9})
        yield running


def test_what_differs_stands_side_by_side_and_what_is_the_same_is_named(receiver: LiveReceiver) -> None:
    lines = run(receiver.url, "diff", "gbt-oracle", "gbt-realistic").out.splitlines()
    told = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert told["mode"] == ["oracle", "realistic"]
    assert told["hyper.learning_rate"] == ["0.1", "0.05"]
    assert told["roc_auc"] == ["0.970", "(.950-.980)", "0.910", "(.880-.940)", "-0.0600", "apart"]
    assert [line for line in lines if line.startswith("the same: model, seed")]
    assert [line for line in lines if line.startswith("extra.bin") and "not there" in line]


def test_an_artifact_may_be_named_by_the_beginning_of_its_id(receiver: LiveReceiver) -> None:
    one = run(receiver.url, "diff", "gbt-o", "gbt-r", "--json").json
    again = run(
        receiver.url, "diff", one["one"]["artifact_id"][:9], one["other"]["artifact_id"], "--json"
    ).json
    assert [fact for fact in again["facts"] if not fact["same"]] == [
        fact for fact in one["facts"] if not fact["same"]
    ]
    assert {file["name"]: file["same"] for file in again["files"]}["model_card.md"] is True


def test_an_artifact_does_not_differ_from_itself(receiver: LiveReceiver) -> None:
    assert (
        "the same artifact: every byte is equal" in run(receiver.url, "diff", "gbt-oracle", "gbt-oracle").out
    )


def test_in_a_pipe_every_line_has_five_columns(receiver: LiveReceiver) -> None:
    rows = [
        line.split("\t")
        for line in run(receiver.url, "diff", "gbt-o", "gbt-r", terminal=False).out.splitlines()
    ]
    assert rows[0] == ["KIND", "NAME", "ONE", "OTHER", "SAME"]
    assert {len(row) for row in rows} == {5}


def test_a_job_that_is_not_trained_has_nothing_to_compare(receiver: LiveReceiver) -> None:
    done = run(receiver.url, "diff", "gbt-oracle", "mlp-realistic")
    assert done.code == exits.REFUSED
    assert "mlp-realistic has no artifact yet: it is pending" in done.err


def test_nothing_is_fetched_but_small_texts(
    receiver: LiveReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(receiver.url, "diff", "gbt-oracle", "gbt-realistic")
    assert list(tmp_path.iterdir()) == []


def test_files_of_one_size_that_nobody_read_are_not_called_equal() -> None:
    one, other = Side("a" * 64, "a", files={"model.bin": 7}), Side("b" * 64, "b", files={"model.bin": 7})
    assert [file.same for file in difference(one, other).files] == [None]


def test_the_measures_of_a_real_training_fit_80_columns() -> None:
    high = {
        "roc_auc_of_mere_activity": 0.6429,
        "pr_auc": 0.9994,
        "pr_auc_ci95": [0.9971, 1.0],
        "windows": 360,
    }
    low = {
        "roc_auc_of_mere_activity": 0.5,
        "pr_auc": 0.97912345,
        "pr_auc_ci95": [0.9389, 0.9992],
        "windows": 360,
    }
    one, other = Side("a" * 64, "a", metrics=high), Side("b" * 64, "b", metrics=low)
    lines = diff(View(0.0, 80), difference(one, other))
    assert max(map(len, lines)) <= 80
    assert "metric\tpr_auc\t0.9994 (0.9971-1)\t0.97912345 (0.9389-0.9992)\toverlap" in diff(
        View(0.0, None), difference(one, other)
    )
    (row,) = (line.split() for line in lines if line.startswith("pr_auc "))
    assert row == ["pr_auc", "0.999", "(.997-1)", "0.979", "(.939-.999)", "-0.0203", "overlap"]


def test_intervals_that_touch_overlap() -> None:
    one = Side("a" * 64, "a", metrics={"auc": 0.9, "auc_ci95": [0.8, 0.93]})
    other = Side("b" * 64, "b", metrics={"auc": 0.95, "auc_ci95": [0.93, 0.99]})
    (found,) = difference(one, other).measures
    assert (found.intervals, round(found.difference or 0, 3)) == ("overlap", 0.05)
