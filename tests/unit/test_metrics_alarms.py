"""What alarms mean to the person who is called, by hand."""

import numpy as np
import pytest

from training.trainer import metrics_alarms as metrics
from training.trainer.metrics_scored import Scored


def scored(
    suspicious: list[bool], scores: list[float], episode: list[int], end_s: list[float], onset_s: float | None
) -> Scored:
    """Windows of 4 s, one second apart; episode 0 has family `rewrite`, episode 1 `web`."""
    return Scored(
        suspicious=np.array(suspicious),
        scores=np.array(scores),
        active=np.ones(len(scores), dtype=bool),
        episode=np.array(episode, dtype=np.intp),
        end_s=np.array(end_s, dtype=np.float64),
        stride_s=1.0,
        family={0: "rewrite", 1: "web"},
        onset_s={0: onset_s, 1: None},
    )


def test_recall_and_false_positives_are_counted_per_family() -> None:
    windows = scored([False, True, True, False], [0.7, 0.9, 0.2, 0.1], [0, 0, 0, 1], [4, 5, 6, 4], onset_s=4)
    assert metrics.alarm_rate_by_family(windows, 0.5, suspicious=True) == {"rewrite": 0.5}
    assert metrics.alarm_rate_by_family(windows, 0.5, suspicious=False) == {"rewrite": 1.0, "web": 0.0}
    assert list(metrics.family_counts(windows, 0.5, suspicious=True)) == [("rewrite", 2, 1)]


def test_neighbouring_false_alarms_are_one_alarm_but_never_across_episodes() -> None:
    benign = [False] * 6
    windows = scored(
        benign, [0.9, 0.9, 0.1, 0.9, 0.9, 0.1], [0, 0, 0, 0, 1, 1], [4, 5, 6, 7, 4, 5], onset_s=None
    )
    # Runs: {0, 1}, {3} and, in the other episode, {4}; six benign windows of one second.
    assert metrics.false_alarms_per_host_hour(windows, 0.5) == pytest.approx(3 / (6 / 3600))


def test_false_alarms_on_both_sides_of_a_missing_window_are_two() -> None:
    """The recorder was late: nobody knows what lay between."""
    windows = scored([False] * 3, [0.9] * 3, [0] * 3, [4, 5, 7], onset_s=None)
    assert metrics.false_alarms_per_host_hour(windows, 0.5) == pytest.approx(2 / (3 / 3600))


def test_a_detection_is_no_false_alarm() -> None:
    windows = scored([False, True], [0.1, 0.9], [0, 0], [4, 5], onset_s=3)
    assert metrics.false_alarms_per_host_hour(windows, 0.5) == 0.0


def test_without_benign_time_there_is_no_rate_of_false_alarms() -> None:
    assert metrics.false_alarms_per_host_hour(scored([True], [0.9], [0], [5], 1), 0.5) is None


def test_the_delay_runs_from_onset_to_the_end_of_the_first_alarming_window() -> None:
    windows = scored([False, False, True, True], [0.9, 0.1, 0.1, 0.9], [0] * 4, [4, 5, 6, 7], onset_s=4.5)
    # The alarm at 4 s came before the onset: no detection.
    assert metrics.delays_s(windows, 0.5) == {0: 2.5}


def test_an_episode_without_alarm_counts_as_never_detected() -> None:
    windows = scored([True, False], [0.1, 0.9], [0, 1], [5, 5], onset_s=4)
    assert metrics.detection_delay(windows, 0.5) == {
        "episodes": 1,
        "median_s": None,
        "p90_s": None,
        "never_share": 1.0,
    }


def test_median_and_tail_are_over_the_detected_episodes() -> None:
    n = 11
    windows = Scored(
        suspicious=np.ones(n, dtype=bool),
        scores=np.array([0.9] * 10 + [0.1]),
        active=np.ones(n, dtype=bool),
        episode=np.arange(n),
        end_s=np.array([5.0 + k for k in range(10)] + [5.0]),
        stride_s=1.0,
        family=dict.fromkeys(range(n), "wipe"),
        onset_s=dict.fromkeys(range(n), 4.0),
    )
    found = metrics.detection_delay(windows, 0.5)
    assert (found["episodes"], found["median_s"]) == (11, 5.5)
    assert found["p90_s"] == pytest.approx(9.1)
    assert found["never_share"] == pytest.approx(1 / 11)


def test_without_suspicious_episodes_there_is_no_share() -> None:
    assert metrics.detection_delay(scored([False], [0.9], [1], [5], None), 0.5)["never_share"] is None
