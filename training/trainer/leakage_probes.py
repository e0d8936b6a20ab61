"""Small models that look for what should not be there: a label in one column, a host's fingerprint, a memory of
episodes. Each is a ridge regression or less, takes milliseconds, and is the same on every machine.

Ridge regression in its dual form (Hoerl and Kennard 1970; Saunders et al. 1998): with far more columns than
windows, the windows' inner products are the small matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.trainer.metrics_ranking import roc_auc
from training.trainer.metrics_scored import Bools, Floats, Indices
from training.trainer.split_keys import EpisodeKey, rank

Array = NDArray[np.float32]

SHUFFLES = 20
FOLDS = 4
_PENALTY = 1.0
"""Against a mean inner product of a window with itself of 1."""

_CLIP = 5.0
"""Standard deviations; one wild sample should not be the whole inner product."""

_CELLS = 2_000_000
"""Numbers in one go, to bound the memory on large data sets: 16 MB for each of a few arrays."""

_MOST_ROWS = 2000
"""The ridge of the shuffles is trained on at most so many windows, evenly spaced: its cost grows with their
cube, and a control needs no more."""


@dataclass(frozen=True)
class Shuffles:
    """ROC-AUC over shuffles of the labels: `mean` and `sd` (of one shuffle), and `true` with the true labels.
    `band` is how far from 0.5 the mean may lie by chance."""

    mean: float
    sd: float
    band: float
    true: float | None

    @property
    def is_high(self) -> bool:
        """Whether more was found than chance gives."""
        return self.mean > 0.5 + self.band

    @property
    def is_off(self) -> bool:
        """Whether the mean lies outside the band on either side."""
        return abs(self.mean - 0.5) > self.band


def single_column_auc(features: Array, suspicious: Bools) -> Floats:
    """ROC-AUC of each column alone, in the direction that is better: float32 (n, columns) -> float64 (columns,),
    0.5 to 1. Both labels must be there."""
    together = max(1, _CELLS // len(features))
    blocks = range(0, features.shape[1], together)
    return np.concatenate([_column_auc(features[:, at : at + together], suspicious) for at in blocks])


def _column_auc(features: Array, suspicious: Bools) -> Floats:
    n = len(features)
    order = np.argsort(features, axis=0, kind="stable")
    ordered = np.take_along_axis(features, order, axis=0)
    hits = suspicious[order]
    # Mean rank of a tie: half way between its first and its last position.
    at = np.arange(n)[:, None]
    begins = np.ones(ordered.shape, dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    ends = np.ones(ordered.shape, dtype=bool)
    ends[:-1] = begins[1:]
    first = np.maximum.accumulate(np.where(begins, at, 0), axis=0)
    last = np.minimum.accumulate(np.where(ends, at, n - 1)[::-1], axis=0)[::-1]
    mean_rank = (first + last) / 2 + 1
    n_pos = int(suspicious.sum())
    rank_sum = np.where(hits, mean_rank, 0.0).sum(axis=0)
    auc = (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * (n - n_pos))
    better: Floats = np.maximum(auc, 1 - auc)
    return better


def host_accuracy(features: Array, episode: Indices, keys: Sequence[EpisodeKey]) -> tuple[float, float, int]:
    """(accuracy, share of the most frequent host, episodes): how often the host of an episode can be told from
    the mean of its windows, by a ridge trained on other episodes, in FOLDS folds."""
    indices = np.unique(episode)
    means = np.stack([features[episode == index].mean(axis=0, dtype=np.float64) for index in indices])
    hosts, host = np.unique([keys[int(index)].host for index in indices], return_inverse=True)
    fold = np.zeros(len(indices), dtype=np.intp)
    for number in range(len(hosts)):
        own = sorted(
            np.flatnonzero(host == number).tolist(),
            key=lambda row: rank("leakage/host", keys[int(indices[row])].episode_id),
        )
        fold[own] = np.arange(len(own)) % FOLDS
    targets = (host[:, None] == np.arange(len(hosts))).astype(np.float64)
    right = 0
    for number in range(FOLDS):
        out = fold == number
        if out.any() and not out.all():
            scores = _ridge(means[~out], targets[~out], means[out])
            right += int((scores.argmax(axis=1) == host[out]).sum())
    return right / len(indices), float(targets.mean(axis=0).max()), len(indices)


def label_shuffle(train_x: Array, train_y: Bools, test_x: Array, test_y: Bools, seed: int) -> Shuffles | None:
    """Labels shuffled among the training windows, measured on the true labels of the test side: nothing can be
    learnt, so the mean must be 0.5. None when a side holds one label only."""
    if _has_one_label(train_y) or _has_one_label(test_y):
        return None
    rows = _at_most(len(train_x))
    y = train_y[rows]
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    labels = np.stack([y, *(rng.permutation(y) for _ in range(SHUFFLES))], axis=1)
    scores = _ridge(train_x[rows], labels.astype(np.float64), test_x)
    found = [roc_auc(test_y, scores[:, column]) for column in range(SHUFFLES + 1)]
    return _summary(found)


def episode_shuffle(
    train_x: Array,
    train_episode: Indices,
    test_x: Array,
    test_episode: Indices,
    labels: Bools,
    seed: int,
) -> Shuffles | None:
    """Labels shuffled among whole episodes, the same on both sides, and measured on those: what is found is
    memory of episodes that lie on both sides, or of what they share. 0.5 without any.

    `labels` bool (episodes,) by episode index. None when it cannot be measured.
    """
    rows = _at_most(len(train_x))
    used = np.unique(np.concatenate((train_episode, test_episode)))
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    drawn = np.stack([labels[used], *(rng.permutation(labels[used]) for _ in range(SHUFFLES))], axis=1)
    known = drawn[np.searchsorted(used, train_episode[rows])]
    asked = drawn[np.searchsorted(used, test_episode)]
    scores = _ridge(train_x[rows], known.astype(np.float64), test_x)
    return _summary([roc_auc(asked[:, column], scores[:, column]) for column in range(SHUFFLES + 1)])


def _summary(found: Sequence[float | None]) -> Shuffles | None:
    shuffled = [value for value in found[1:] if value is not None]
    if len(shuffled) < SHUFFLES // 2:
        return None
    sd = float(np.std(shuffled, ddof=1))
    # Four standard errors of the mean: by chance about once in a thousand jobs (Student's t, 19 degrees).
    return Shuffles(float(np.mean(shuffled)), sd, 4 * sd / len(shuffled) ** 0.5, found[0])


def _has_one_label(y: Bools) -> bool:
    return bool(y.all() or not y.any())


def _at_most(n: int) -> Indices:
    return np.arange(n) if n <= _MOST_ROWS else np.linspace(0, n - 1, _MOST_ROWS).astype(np.intp)


def _ridge(train_x: NDArray[np.floating], targets: Floats, test_x: NDArray[np.floating]) -> Floats:
    """Scores of the test rows, float64 (test, targets): standardised by the training rows."""
    mean, sd = train_x.mean(axis=0), train_x.std(axis=0)
    scale = np.where(sd > 0, sd, 1.0) * float(np.sqrt(train_x.shape[1]))
    limit = _CLIP / float(np.sqrt(train_x.shape[1]))
    known = np.clip((train_x - mean) / scale, -limit, limit).astype(np.float32)
    gram = (known @ known.T).astype(np.float64)
    gram[np.diag_indices_from(gram)] += _PENALTY
    weights = np.linalg.solve(gram, targets - targets.mean(axis=0))
    scores = np.empty((len(test_x), targets.shape[1]))
    together = max(1, _CELLS // len(known))
    for at in range(0, len(test_x), together):
        asked = np.clip((test_x[at : at + together] - mean) / scale, -limit, limit).astype(np.float32)
        scores[at : at + together] = (asked @ known.T).astype(np.float64) @ weights
    return scores
