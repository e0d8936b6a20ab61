"""What alarms mean to the person who is called: how often for nothing, how late, and for which work."""

from collections.abc import Iterator

import numpy as np

from training.trainer.metrics_scored import Scored
from training.trainer.options import Json


def alarm_rate_by_family(scored: Scored, threshold: float, *, suspicious: bool) -> dict[str, float]:
    """Per family, the share of its suspicious windows (recall) or of its benign windows (false positive rate)
    that raise an alarm."""
    return {
        family: alarms / windows
        for family, windows, alarms in family_counts(scored, threshold, suspicious=suspicious)
    }


def family_counts(scored: Scored, threshold: float, *, suspicious: bool) -> Iterator[tuple[str, int, int]]:
    """(family, its windows of that label, those of them that raise an alarm), sorted by family; only families
    that have such windows."""
    chosen = scored.suspicious == suspicious
    families = np.array([scored.family[int(e)] for e in scored.episode])
    for family in sorted(set(families[chosen].tolist())):
        rows = chosen & (families == family)
        yield family, int(rows.sum()), int((scored.scores[rows] >= threshold).sum())


def false_alarms_per_host_hour(scored: Scored, threshold: float) -> float | None:
    """Runs of consecutive alarming windows that are benign, per hour of benign time.

    A run is one alarm to the person who is called; benign time is the number of benign windows times the
    stride. A window that is missing in between (the recorder was late) ends a run.
    """
    benign = ~scored.suspicious
    if not benign.any():
        return None
    false = benign & (scored.scores >= threshold)
    follows = (np.diff(scored.end_s) < 1.5 * scored.stride_s) & (scored.episode[1:] == scored.episode[:-1])
    goes_on = np.zeros_like(false)
    goes_on[1:] = false[:-1] & follows
    hours = float(benign.sum()) * scored.stride_s / 3600
    return float((false & ~goes_on).sum()) / hours


def delays_s(scored: Scored, threshold: float) -> dict[int, float | None]:
    """Per suspicious episode, by its index: seconds from the onset of suspicious behaviour to the end of the
    first alarming window that reaches into it; None without one. An alarm before the onset detects nothing."""
    delays: dict[int, float | None] = {}
    for index in sorted({int(e) for e in scored.episode}):
        onset_s = scored.onset_s[index]
        if onset_s is None:
            continue
        rows = (scored.episode == index) & (scored.scores >= threshold) & (scored.end_s > onset_s)
        delays[index] = float(scored.end_s[rows].min()) - onset_s if rows.any() else None
    return delays


def detection_delay(scored: Scored, threshold: float) -> dict[str, Json]:
    """`median_s` and `p90_s` are over the detected episodes (None without one), `never_share` is the share of
    suspicious episodes without an alarm after onset. A median alone would be better the more is missed."""
    every = delays_s(scored, threshold)
    delays = [delay for delay in every.values() if delay is not None]
    return {
        "episodes": len(every),
        "median_s": float(np.median(delays)) if delays else None,
        "p90_s": float(np.quantile(delays, 0.9)) if delays else None,
        "never_share": 1 - len(delays) / len(every) if every else None,
    }
