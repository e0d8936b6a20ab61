"""The checks of `leakage.json`: each finds what it looks for, and leaves a clean split alone."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from training.trainer import leakage, leakage_probes
from training.trainer.leakage import Check
from training.trainer.leakage_probes import Shuffles, single_column_auc
from training.trainer.metrics_ranking import roc_auc
from training.trainer.split_keys import EpisodeKey
from training.trainer.splits import make_split, side_rows
from training.trainer.windows import Windows

HOSTS = ("lab-a", "lab-b", "lab-c")
EACH = 8
"""Windows of an episode; the first two are the quiet baseline."""
N_COLUMNS = 30


def keys(variants: int = 6) -> list[EpisodeKey]:
    return [
        EpisodeKey(
            f"{host}-{family}-{n}", host, family, f"{host}{n}", suspicious, 1000 + 60 * (4 * n + nth), 12.0
        )
        for host in HOSTS
        for n in range(variants)
        for nth, (family, suspicious) in enumerate(
            (("web", False), ("beacon", True), ("logs", False), ("wipe", True))
        )
    ]


def windows_of(all_keys: list[EpisodeKey], seed: int = 0, signal: float = 1.0) -> Windows:
    """Noise, plus `signal` in the first columns of suspicious windows."""
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(len(all_keys)), EACH)
    start_s = np.tile(np.arange(EACH, dtype=np.float64), len(all_keys))
    active = start_s >= 2
    suspicious = np.array([key.suspicious for key in all_keys])[episode] & active
    features = rng.normal(size=(len(episode), N_COLUMNS)).astype(np.float32)
    features[:, :5] += signal * suspicious[:, None]
    return Windows(features, suspicious, active, episode, start_s, start_s + 4)


def checks_of(
    windows: Windows, recipe: str = "random_group", all_keys: list[EpisodeKey] | None = None
) -> dict[str, Check]:
    known = keys() if all_keys is None else all_keys
    split = make_split(known, recipe, [], seed=1)
    names = [f"c{column}" for column in range(windows.features.shape[1])]
    return leakage.examine(known, split, windows, side_rows(split, windows, known), names, window_s=4.0)


@pytest.mark.parametrize(
    "recipe", ["host_disjoint", "family_disjoint", "variant_disjoint", "time", "random_group"]
)
def test_a_clean_split_is_found_clean(recipe: str) -> None:
    checks = checks_of(windows_of(keys()), recipe)
    assert leakage.worst(checks) == "ok", leakage.sentences(checks, "warn")
    assert ("time_gap" in checks) == (recipe == "time")


def test_every_check_says_what_it_found_and_expected_in_one_sentence_each() -> None:
    split = make_split(keys(), "random_window", [], seed=1)
    report = leakage.to_json(split, checks_of(windows_of(keys()), "random_window"))
    assert json.loads(json.dumps(report)) == report
    assert (report["leaky"], report["verdict"]) == (True, "warn")
    for name, check in cast(Mapping[str, Mapping[str, str]], report["checks"]).items():
        assert {"value", "expected", "verdict", "text"} <= set(check), name
        assert check["text"].endswith("."), name
        assert check["verdict"] in ("ok", "warn"), name


def test_random_windows_are_told_apart_by_what_they_share() -> None:
    checks = checks_of(windows_of(keys()), "random_window")
    assert checks["episodes_on_both_sides"].verdict == "warn"
    assert checks["windows_that_share_time"].verdict == "warn"
    assert cast(float, checks["windows_that_share_time"].details["share"]) > 0.9


def test_an_episode_on_both_sides_of_an_honest_recipe_is_fatal() -> None:
    split = make_split(keys(), "random_group", [], seed=1)
    leaky = replace(split, test=tuple(sorted((*split.test, split.train[0]))))
    windows = windows_of(keys())
    names = [f"c{column}" for column in range(N_COLUMNS)]
    checks = leakage.examine(keys(), leaky, windows, side_rows(leaky, windows, keys()), names, 4.0)
    assert checks["episodes_on_both_sides"].verdict == "fatal"
    assert checks["windows_that_share_time"].verdict == "fatal"
    assert leakage.worst(checks) == "fatal"
    assert "random_group promises none" in leakage.sentences(checks, "fatal")[0]


def test_windows_that_only_touch_share_no_time() -> None:
    windows = windows_of(keys())
    apart = replace(windows, start_s=windows.start_s * 4, end_s=windows.start_s * 4 + 4)
    assert checks_of(apart, "random_window")["windows_that_share_time"].value == 0


def test_copies_of_training_windows_on_the_test_side_are_counted() -> None:
    windows = windows_of(keys())
    split = make_split(keys(), "random_group", [], seed=1)
    rows = side_rows(split, windows, keys())
    windows.features[rows["test"][:3]] = windows.features[rows["train"][:3]]
    windows.features[rows["test"][3]] = windows.features[rows["validation"][0]]
    check = checks_of(windows)["duplicate_windows"]
    assert (check.value, check.verdict) == (4, "warn")


def test_minus_zero_is_no_other_content_than_zero() -> None:
    windows = windows_of(keys())
    split = make_split(keys(), "random_group", [], seed=1)
    rows = side_rows(split, windows, keys())
    windows.features[rows["train"][0]] = 0.0
    windows.features[rows["test"][0]] = -0.0
    assert checks_of(windows)["duplicate_windows"].value == 1


def test_constant_columns_are_named_and_most_of_them_are_a_warning() -> None:
    windows = windows_of(keys())
    windows.features[:, 7] = 3.0
    check = checks_of(windows)["constant_columns"]
    assert (check.value, check.verdict, check.details["names"]) == (1, "ok", ["c7"])
    windows.features[:, 5:] = 3.0
    assert checks_of(windows)["constant_columns"].verdict == "warn"


def test_a_column_that_is_constant_in_training_only_is_counted() -> None:
    windows = windows_of(keys())
    split = make_split(keys(), "random_group", [], seed=1)
    rows = side_rows(split, windows, keys())
    windows.features[rows["train"], 7] = 3.0
    assert checks_of(windows)["constant_columns"].details["changing_on_the_test_side"] == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_column_that_carries_the_label_is_named(sign: int) -> None:
    """A niced workload lands in `cpu_nice`: one column, either direction."""
    windows = windows_of(keys())
    windows.features[:, 9] = sign * windows.suspicious + 0.001 * windows.features[:, 9]
    check = checks_of(windows)["single_feature_auc"]
    assert (check.verdict, check.details["feature"], check.details["names_above"]) == ("warn", "c9", ["c9"])
    assert cast(float, check.value) > 0.99


def test_the_area_of_every_column_is_its_roc_auc_with_ties() -> None:
    rng = np.random.default_rng(1)
    features = rng.integers(0, 6, size=(60, 20)).astype(np.float32)
    suspicious = rng.random(60) < 0.4
    slow = [roc_auc(suspicious, features[:, column].astype(np.float64)) or 0.0 for column in range(20)]
    assert single_column_auc(features, suspicious) == pytest.approx([max(auc, 1 - auc) for auc in slow])


def fingerprinted(size: float) -> Windows:
    """Every host has its own level in every column, as free memory would have."""
    windows = windows_of(keys())
    hosts = np.array([HOSTS.index(key.host) for key in keys()])[windows.episode]
    windows.features[:] += (size * np.random.default_rng(5).normal(size=(3, N_COLUMNS)))[hosts]
    return windows


def test_a_fingerprint_of_the_host_is_found_and_matters_where_hosts_are_on_both_sides() -> None:
    shared = checks_of(fingerprinted(1.0), "random_group")["host_probe"]
    disjoint = checks_of(fingerprinted(1.0), "host_disjoint")["host_probe"]
    assert (shared.verdict, shared.details["fingerprint"]) == ("warn", True)
    assert (disjoint.verdict, disjoint.details["fingerprint"]) == ("ok", True)
    assert cast(float, shared.value) > 0.9


def test_without_a_fingerprint_the_host_is_a_guess() -> None:
    check = checks_of(fingerprinted(0.0))["host_probe"]
    assert check.details["fingerprint"] is False
    assert check.details["chance"] == pytest.approx(1 / 3)


def test_one_host_has_nothing_to_probe() -> None:
    one = [replace(key, host="lab-a") for key in keys()]
    check = checks_of(windows_of(one), all_keys=one)["host_probe"]
    assert (check.value, check.verdict) == (None, "ok")
    assert "lab-a" in check.text


def test_shuffled_labels_give_chance_where_the_true_ones_give_a_result() -> None:
    check = checks_of(windows_of(keys(), signal=3.0))["label_shuffle"]
    assert check.verdict == "ok"
    assert cast(float, check.details["with_true_labels"]) > 0.95
    assert abs(cast(float, check.value) - 0.5) < cast(float, check.details["band"]) < 0.15


def episode_marked() -> Windows:
    """Every episode has a pattern of its own, which says nothing about its label."""
    windows = windows_of(keys(), signal=0.0)
    marks = np.random.default_rng(6).normal(size=(len(keys()), N_COLUMNS)).astype(np.float32)
    windows.features[:] += 3 * marks[windows.episode]
    return windows


def test_memory_of_episodes_pays_with_random_windows_only() -> None:
    leaky = checks_of(episode_marked(), "random_window")["episode_shuffle"]
    honest = checks_of(episode_marked(), "random_group")["episode_shuffle"]
    assert (leaky.verdict, honest.verdict) == ("warn", "ok")
    assert cast(float, leaky.value) > 0.65


@pytest.mark.parametrize("seed", range(10))
def test_chance_alone_raises_no_warning(seed: int) -> None:
    split = replace(make_split(keys(), "random_group", [], seed=1), seed=seed)
    windows = windows_of(keys(), seed=seed, signal=0.0)
    names = [f"c{column}" for column in range(N_COLUMNS)]
    checks = leakage.examine(keys(), split, windows, side_rows(split, windows, keys()), names, 4.0)
    assert leakage.worst(checks) == "ok", leakage.sentences(checks, "warn")


def test_a_mean_outside_its_band_is_off_and_high_only_above() -> None:
    low, high = Shuffles(0.4, 0.05, 0.05, None), Shuffles(0.6, 0.05, 0.05, None)
    assert (low.is_off, low.is_high, high.is_off, high.is_high) == (True, False, True, True)


def test_a_baseline_without_end_leaves_nothing_to_measure_and_says_so() -> None:
    windows = windows_of(keys())
    windows.active[:] = False
    checks = checks_of(windows)
    for name in ("single_feature_auc", "label_shuffle", "episode_shuffle"):
        assert (checks[name].value, checks[name].verdict) == (None, "warn"), name
        assert checks[name].text.startswith("Not measured"), name


def test_many_windows_are_thinned_for_the_shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage_probes, "_MOST_ROWS", 50)
    checks = checks_of(windows_of(keys(), signal=3.0))
    assert checks["label_shuffle"].verdict == "ok"
    assert cast(float, checks["label_shuffle"].details["with_true_labels"]) > 0.9


def test_large_data_is_looked_at_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = checks_of(windows_of(keys()))
    monkeypatch.setattr(leakage_probes, "_CELLS", 2500)
    for name, check in checks_of(windows_of(keys())).items():
        assert check.value == pytest.approx(whole[name].value, abs=1e-3), name


def test_the_report_is_the_same_twice() -> None:
    def report() -> str:
        split = make_split(keys(), "time", [], seed=1)
        return json.dumps(leakage.to_json(split, checks_of(windows_of(keys()), "time")))

    assert report() == report()
