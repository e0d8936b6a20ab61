"""The tables behind the pictures, and the pictures drawn from them."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from training.trainer import curves
from training.trainer.curves import Table
from training.trainer.metrics_ranking import average_precision, operating_points, roc_auc
from training.trainer.metrics_scored import Scored
from training.trainer.plots import NAMES, plots
from training.trainer.spec import parse_job
from training.trainer.split_keys import EpisodeKey

SVG = "{http://www.w3.org/2000/svg}"
KEYS = [
    EpisodeKey(f"e{n}", "lab-a", ("web", "rewrite")[n % 2], f"{n}", suspicious=n % 2 == 1) for n in range(20)
]


def scored(decimals: int = 2, seed: int = 0) -> Scored:
    """Six windows for each of twenty episodes; those of odd number turn suspicious after the second."""
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(20), 6)
    suspicious = (episode % 2 == 1) & (np.tile(np.arange(6), 20) >= 2)
    scores = np.clip(rng.normal(0.35 + 0.3 * suspicious, 0.2), 0, 1).round(decimals)
    return Scored(
        suspicious=suspicious,
        scores=scores,
        active=np.ones(120, dtype=bool),
        episode=episode,
        end_s=np.tile(np.arange(4.0, 10), 20),
        stride_s=1.0,
        family={n: key.family for n, key in enumerate(KEYS)},
        onset_s={n: 4.5 if n % 2 else None for n in range(20)},
    )


def area(x: list[float], y: list[float]) -> float:
    return float(np.trapezoid(y, x))


@pytest.mark.parametrize("decimals", [1, 2, 6])
def test_the_area_under_the_corners_is_the_roc_auc(decimals: int) -> None:
    windows = scored(decimals)
    roc, _ = curves.roc_and_pr(windows, 0.5)
    found = area(roc.numbers("false_positive_rate"), roc.numbers("true_positive_rate"))
    assert found == pytest.approx(roc_auc(windows.suspicious, windows.scores), abs=1e-5)


@pytest.mark.parametrize("decimals", [0, 1, 2, 6])
@pytest.mark.parametrize("seed", range(4))
def test_the_precision_recall_curve_is_drawn_in_the_steps_whose_area_is_the_pr_auc(
    decimals: int, seed: int
) -> None:
    """Neither the table nor the picture may join two thresholds by a straight line: no threshold lies on it."""
    windows = scored(decimals, seed)
    expected = average_precision(windows.suspicious, windows.scores)
    _, pr = curves.roc_and_pr(windows, 0.5)
    recall, precision = pr.numbers("recall"), pr.numbers("precision")
    assert np.diff(recall, prepend=0.0) @ np.array(precision) == pytest.approx(expected, abs=1e-5)
    drawn = drawn_points(files(windows=windows)["plots/pr.svg"])
    assert area(drawn[:, 0].tolist(), drawn[:, 1].tolist()) == pytest.approx(expected, abs=1e-3)
    assert not (np.diff(drawn, axis=0) != 0).all(axis=1).any(), "a slope"


def test_a_curve_has_its_corners_only() -> None:
    windows = scored(6)
    roc, _ = curves.roc_and_pr(windows, 2.0)
    assert len(roc.rows) < len(operating_points(windows.suspicious, windows.scores)[0])
    points = list(zip(roc.numbers("false_positive_rate"), roc.numbers("true_positive_rate"), strict=True))
    assert (points[0], points[-1]) == ((0.0, 0.0), (1.0, 1.0))
    for before, here, after in zip(points[1:], points[2:], points[3:], strict=False):
        across = (here[0] - before[0]) * (after[1] - here[1]) - (here[1] - before[1]) * (after[0] - here[0])
        assert abs(across) > 1e-9


@pytest.mark.parametrize("threshold", [0.123, 0.5, 0.5001, 0.9])
def test_the_marked_row_raises_the_alarms_of_the_threshold(threshold: float) -> None:
    windows = scored()
    roc, pr = curves.roc_and_pr(windows, threshold)
    alarm = windows.scores >= threshold
    marked = roc.rows[roc.column("at_threshold").index(1)]
    assert marked[1] == pytest.approx(alarm[~windows.suspicious].mean(), abs=1e-6)
    assert marked[2] == pytest.approx(alarm[windows.suspicious].mean(), abs=1e-6)
    assert pr.rows[pr.column("at_threshold").index(1)][2] == pytest.approx(
        windows.suspicious[alarm].mean(), abs=1e-6
    )


def test_a_threshold_above_every_score_is_the_corner_without_alarms() -> None:
    roc, pr = curves.roc_and_pr(scored(), 1.5)
    assert roc.rows[0] == (None, 0.0, 0.0, 1)
    assert 1 not in pr.column("at_threshold")


def test_the_last_precision_is_the_base_rate() -> None:
    windows = scored()
    _, pr = curves.roc_and_pr(windows, 0.5)
    assert pr.numbers("precision")[-1] == pytest.approx(windows.suspicious.mean(), abs=1e-6)


def test_a_curve_of_very_many_corners_is_thinned_and_keeps_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "MOST_POINTS", 5)
    roc, _ = curves.roc_and_pr(scored(6), 1.5)
    assert len(roc.rows) == 6
    assert roc.rows[-1][1:3] == (1.0, 1.0)


def test_the_share_detected_grows_to_one_less_the_never_detected() -> None:
    windows = scored()
    windows.scores[windows.episode == 3] = 0.0
    table = curves.delay_table(windows, 0.5, KEYS)
    assert len(table.rows) == 10
    delays = [row[0] for row in table.rows if row[0] is not None]
    assert delays == sorted(delays)
    missed = [row for row in table.rows if row[0] is None]
    assert (None, None, "rewrite", "e3") in missed
    assert table.rows[len(delays) - 1][1] == pytest.approx(1 - len(missed) / 10)


def test_families_and_confusion_count_every_window_once() -> None:
    families, cells = curves.family_table(scored(), 0.5), curves.confusion_table(scored(), 0.5)
    assert sum(families.numbers("windows")) == sum(cells.numbers("windows")) == 120
    alarms = sum(families.numbers("alarms"))
    assert alarms == sum(row[2] for row in cells.rows if row[1] == "alarm")  # type: ignore[misc]


def test_calibration_is_listed_as_given_and_with_temperature() -> None:
    table = curves.calibration_table(scored(), 2.0)
    for name in ("as given", "with temperature"):
        assert sum(row[3] for row in table.rows if row[0] == name) == 120  # type: ignore[misc]


def test_a_table_as_csv_gives_its_rows_back() -> None:
    table = Table(("a", "b"), ((None, 0.5), ("x,y", 1)))
    assert list(csv.reader(io.StringIO(table.csv().decode()))) == [["a", "b"], ["", "0.5"], ["x,y", "1"]]


def files(recipe: str = "random_group", windows: Scored | None = None) -> dict[str, bytes]:
    job = parse_job({"model": "gbt", "mode": "oracle", "split_recipe": recipe})
    return dict(plots(job, windows or scored(), 0.5, 1.5, KEYS))


def drawn_points(svg: bytes) -> NDArray[np.float64]:
    """(points, 2) of the main line as shares of the plot, whose frame is the axis line."""
    paths: dict[str | None, str] = {}
    for element in ET.fromstring(svg).iter(f"{SVG}path"):
        paths.setdefault(element.get("class"), element.get("d") or "")  # the legend repeats the line's class
    left, top, bottom, right = (float(n) for n in re.findall(r"[\d.]+", paths["axis"]))
    pixels = np.array([[float(n) for n in point.split()] for point in paths["line main"][1:].split("L")])
    return np.stack(
        ((pixels[:, 0] - left) / (right - left), (bottom - pixels[:, 1]) / (bottom - top)), axis=1
    )


def test_each_picture_lies_beside_its_table() -> None:
    assert set(files()) == {f"plots/{name}.{kind}" for name in NAMES for kind in ("svg", "csv")}


def test_the_curve_that_is_drawn_is_the_one_in_the_table() -> None:
    """Turns the pixels of the path back into rates."""
    made = files()
    rows = list(csv.DictReader(io.StringIO(made["plots/roc.csv"].decode())))
    path = next(
        element.get("d") or ""
        for element in ET.fromstring(made["plots/roc.svg"]).iter(f"{SVG}path")
        if element.get("class") == "line main"
    )
    pixels = np.array([[float(n) for n in point.split()] for point in path[1:].split("L")])
    left, top, right, bottom = pixels[:, 0].min(), pixels[:, 1].min(), pixels[:, 0].max(), pixels[:, 1].max()
    fpr, tpr = (pixels[:, 0] - left) / (right - left), (bottom - pixels[:, 1]) / (bottom - top)
    assert fpr == pytest.approx([float(row["false_positive_rate"]) for row in rows], abs=1e-4)
    assert tpr == pytest.approx([float(row["true_positive_rate"]) for row in rows], abs=1e-4)


@pytest.mark.parametrize(("recipe", "is_labelled"), [("random_window", True), ("random_group", False)])
def test_the_title_of_every_picture_says_when_the_split_is_leaky(recipe: str, is_labelled: bool) -> None:
    for name, content in files(recipe).items():
        if name.endswith(".svg"):
            title = ET.fromstring(content).find(f"{SVG}title")
            assert title is not None
            assert ("LEAKY" in (title.text or "")) == is_labelled, name


@pytest.mark.parametrize("score", [0.0, 0.9])
def test_pictures_are_drawn_of_a_model_that_gives_one_score_only(score: float) -> None:
    windows = scored()
    constant = replace(windows, scores=np.full(120, score))
    for name, content in files(windows=constant).items():
        assert b"nan" not in content.lower(), name
