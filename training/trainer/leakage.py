"""Could the test side be easier than it looks? Checks of one split on one data set, for `leakage.json`.

Each check has a value, what is expected, a verdict and one plain sentence. `fatal` is a broken promise of the
split recipe: no model is trained. `warn` is for a person to look at. The checks work on summary statistics,
whatever the model reads, and are the same on every machine: shares and areas are rounded.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np

from training.trainer.leakage_probes import (
    Shuffles,
    episode_shuffle,
    host_accuracy,
    label_shuffle,
    single_column_auc,
)
from training.trainer.metrics_scored import Indices
from training.trainer.options import Json
from training.trainer.split_checks import GROUPS, PROMISES, overlap, time_gap_s, validation_overlap
from training.trainer.split_keys import EpisodeKey, Split, named
from training.trainer.windows import Windows

Verdict = Literal["ok", "warn", "fatal"]
SCHEMA = 1
_DIGITS = 3
_LABEL_IN_A_COLUMN = 0.99
_MOST_NAMES = 20


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    value: Json
    expected: str
    verdict: Verdict
    text: str
    details: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """As it stands in the file."""
        return {
            "value": _rounded(self.value),
            "expected": self.expected,
            "verdict": self.verdict,
            "text": self.text,
            **{name: _rounded(value) for name, value in self.details.items()},
        }


def examine(
    keys: Sequence[EpisodeKey],
    split: Split,
    windows: Windows,
    rows: Mapping[str, Indices],
    names: Sequence[str],
    window_s: float,
) -> dict[str, Check]:
    """Every check by its name. `rows` are the windows of each side, `names` those of the feature columns."""
    known = np.sort(np.concatenate((rows["train"], rows["validation"])))
    train, test = windows.take(rows["train"]), windows.take(rows["test"])
    checks = {f"{what}_on_both_sides": _group(keys, split, what, windows, rows) for what in GROUPS}
    checks["validation_groups_that_train"] = _validation(keys, split)
    if split.recipe == "time":
        checks["time_gap"] = _time_gap(keys, split)
    checks["windows_that_share_time"] = _shared_time(split, windows.take(known), test, window_s)
    checks["duplicate_windows"] = _duplicates(windows.take(known), test)
    checks["constant_columns"] = _constant(train, test, names)
    checks["single_feature_auc"] = _single(train, names)
    checks["host_probe"] = _host_probe(keys, split, windows)
    checks["label_shuffle"] = _label_shuffle(train, test, split.seed)
    checks["episode_shuffle"] = _episode_shuffle(keys, split, train, test)
    return checks


def to_json(split: Split, checks: Mapping[str, Check]) -> dict[str, Json]:
    """`leakage.json`."""
    listed: dict[str, Json] = {name: check.to_json() for name, check in checks.items()}
    return {
        "schema": SCHEMA,
        "recipe": split.recipe,
        "leaky": split.is_leaky,
        "verdict": worst(checks),
        "checks": listed,
    }


def worst(checks: Mapping[str, Check]) -> Verdict:
    """The verdict over all checks."""
    found = {check.verdict for check in checks.values()}
    return "fatal" if "fatal" in found else "warn" if "warn" in found else "ok"


def sentences(checks: Mapping[str, Check], verdict: Verdict) -> list[str]:
    """What the checks with that verdict say."""
    return [check.text for check in checks.values() if check.verdict == verdict]


def _group(
    keys: Sequence[EpisodeKey], split: Split, what: str, windows: Windows, rows: Mapping[str, Indices]
) -> Check:
    count = overlap(keys, split)[what]
    group_of = GROUPS[what]
    known = {group_of(keys[index]) for index in (*split.train, *split.validation)}
    seen = [group_of(keys[int(index)]) in known for index in windows.episode[rows["test"]]]
    details: dict[str, Json] = {"share_of_test_windows": sum(seen) / max(1, len(seen))}
    if what in PROMISES[split.recipe]:
        text = f"{count} {what} lie on both the training and the test side; {split.recipe} promises none."
        return Check(count, "0", "fatal" if count else "ok", text, details)
    if split.is_leaky and what == "episodes":
        text = (
            f"{count} episodes lie on both the training and the test side: that is what {split.recipe} is for; "
            "its measures are for comparison only."
        )
        return Check(count, "0 for a split that can be believed", "warn", text, details)
    text = (
        f"{count} {what} lie on both the training and the test side; {split.recipe} promises nothing there."
    )
    return Check(count, "not promised", "ok", text, details)


def _validation(keys: Sequence[EpisodeKey], split: Split) -> Check:
    count = validation_overlap(keys, split)
    text = f"{count} groups of the validation side also train; validation is always taken by group."
    return Check(count, "0", "fatal" if count else "ok", text)


def _time_gap(keys: Sequence[EpisodeKey], split: Split) -> Check:
    gap_s = time_gap_s(keys, split)
    keeps = gap_s is not None and gap_s >= split.window_s
    shown = "unknown" if gap_s is None else f"{gap_s:.1f} s"
    text = (
        f"Between the end of the last training episode and the start of the first test episode: {shown}; "
        f"{len(split.embargoed)} episodes too close to the cut were left out."
    )
    details: dict[str, Json] = {"episodes_left_out": len(split.embargoed)}
    expected = f"at least one window, {split.window_s:g} s"
    return Check(gap_s, expected, "ok" if keeps else "fatal", text, details)


def _shared_time(split: Split, known: Windows, test: Windows, window_s: float) -> Check:
    """Test windows of which some part was seen in training, in a window that begins a little earlier or later."""
    count = 0
    for index in np.unique(test.episode).tolist():
        starts_s = np.sort(known.start_s[known.episode == index])
        if not len(starts_s):
            continue
        asked_s = test.start_s[test.episode == index]
        after = np.searchsorted(starts_s, asked_s)
        next_s = starts_s[np.minimum(after, len(starts_s) - 1)]
        last_s = starts_s[np.maximum(after - 1, 0)]
        count += int((np.minimum(np.abs(next_s - asked_s), np.abs(asked_s - last_s)) < window_s - 1e-6).sum())
    share = count / max(1, len(test))
    text = (
        f"{count} of {len(test)} test windows ({share:.0%}) share seconds of recording with training windows."
    )
    verdict: Verdict = "ok" if not count else "warn" if split.is_leaky else "fatal"
    return Check(count, "0", verdict, text, {"share": share})


def _duplicates(known: Windows, test: Windows) -> Check:
    seen = set(_content(known))
    count = sum(each in seen for each in _content(test))
    share = count / max(1, len(test))
    text = (
        f"{count} of {len(test)} test windows ({share:.1%}) have exactly the content of a training window"
        + ("; look whether a recording was copied, or whether the channels stand still." if count else ".")
    )
    return Check(count, "0", "warn" if count else "ok", text, {"share": share})


def _content(windows: Windows) -> list[bytes]:
    # + 0.0 makes 0 of -0
    return [
        hashlib.blake2b((row + np.float32(0)).tobytes(), digest_size=16).digest() for row in windows.features
    ]


def _constant(train: Windows, test: Windows, names: Sequence[str]) -> Check:
    constant = train.features.max(axis=0) == train.features.min(axis=0)
    unseen = constant & ((test.features != train.features[:1]).any(axis=0))
    listed: list[Json] = [names[column] for column in np.flatnonzero(constant).tolist()]
    count = len(listed)
    text = (
        f"{count} of {len(names)} feature columns are constant on the training side; models on summary "
        f"statistics do not get them. {int(unseen.sum())} of them change on the test side."
    )
    verdict: Verdict = "warn" if 2 * count > len(names) else "ok"
    details: dict[str, Json] = {"names": listed, "changing_on_the_test_side": int(unseen.sum())}
    return Check(count, "less than half of the columns", verdict, text, details)


def _single(train: Windows, names: Sequence[str]) -> Check:
    active = train.take(np.flatnonzero(train.active))
    expected = f"at most {_LABEL_IN_A_COLUMN:g}"
    if not len(active) or active.suspicious.all() or not active.suspicious.any():
        text = "Not measured: the training windows outside the quiet baseline hold one label only."
        return Check(None, expected, "warn", text)
    auc = single_column_auc(active.features, active.suspicious)
    best = int(np.argmax(auc))
    above = np.flatnonzero(auc > _LABEL_IN_A_COLUMN)
    above = above[np.argsort(-auc[above], kind="stable")]
    text = (
        f"The best single column, {names[best]}, tells suspicious from benign training windows with ROC-AUC "
        f"{auc[best]:.3f}"
    )
    if len(above):
        text += (
            f"; {len(above)} columns lie above {_LABEL_IN_A_COLUMN:g}: check that they do not carry the label by "
            "the way it was recorded."
        )
    else:
        text += "; none is so good that it must carry the label."
    listed: list[Json] = [names[column] for column in above[:_MOST_NAMES].tolist()]
    details: dict[str, Json] = {"feature": names[best], "above": len(above), "names_above": listed}
    return Check(float(auc[best]), expected, "warn" if len(above) else "ok", text, details)


def _host_probe(keys: Sequence[EpisodeKey], split: Split, windows: Windows) -> Check:
    used = sorted({index for side in split.sides().values() for index in side})
    hosts = sorted({keys[index].host for index in used})
    if len(hosts) < 2:
        text = f"Not measured: all episodes are of one host, {named(hosts)}."
        return Check(None, "more than one host", "ok", text)
    chosen = windows.take(np.flatnonzero(np.isin(windows.episode, np.array(used, dtype=np.intp))))
    accuracy, majority, n = host_accuracy(chosen.features, chosen.episode, keys)
    limit = min(1.0, majority + 3 * math.sqrt(majority * (1 - majority) / n))
    is_fingerprint = accuracy > limit
    text = (
        f"The host of an episode can be told from its inputs in {accuracy:.0%} of {n} episodes held out "
        f"(guessing: {majority:.0%})"
    )
    is_shared = bool(overlap(keys, split)["hosts"])
    if not is_fingerprint:
        text += ": no fingerprint of the host was found."
    elif is_shared:
        text += ": a fingerprint, and hosts lie on both sides, so part of the result may be knowing the host."
    else:
        text += ": a fingerprint; the test hosts did not train, so it cannot help here."
    details: dict[str, Json] = {"chance": majority, "episodes": n, "fingerprint": is_fingerprint}
    expected = f"at most {limit:.3f} (chance and three standard errors)"
    return Check(accuracy, expected, "warn" if is_fingerprint and is_shared else "ok", text, details)


def _label_shuffle(train: Windows, test: Windows, seed: int) -> Check:
    known, asked = train.take(np.flatnonzero(train.active)), test.take(np.flatnonzero(test.active))
    found = label_shuffle(known.features, known.suspicious, asked.features, asked.suspicious, seed)
    if found is None:
        return _not_measured("one of the sides holds one label only outside the quiet baseline")
    text = (
        f"Trained on shuffled labels a ridge regression reaches a test ROC-AUC of {found.mean:.3f} "
        f"(with the true labels {_shown(found.true)})"
    ) + (
        ": more or less than chance, so something tells the test labels besides training."
        if found.is_off
        else ": chance, as it should."
    )
    return _shuffled(found, "warn" if found.is_off else "ok", text)


def _episode_shuffle(keys: Sequence[EpisodeKey], split: Split, train: Windows, test: Windows) -> Check:
    known, asked = train.take(np.flatnonzero(train.active)), test.take(np.flatnonzero(test.active))
    labels = np.array([key.suspicious for key in keys], dtype=bool)
    found = (
        episode_shuffle(known.features, known.episode, asked.features, asked.episode, labels, split.seed)
        if len(known) and len(asked)
        else None
    )
    if found is None:
        return _not_measured("too few windows outside the quiet baseline")
    text = (
        "With labels shuffled among whole episodes, so that nothing but memory of episodes helps, a ridge "
        f"regression reaches {found.mean:.3f}"
    ) + (
        ": the test side can be answered by remembering the training side."
        if found.is_high
        else ": the test side cannot be answered by remembering the training side."
    )
    return _shuffled(found, "warn" if found.is_high else "ok", text)


def _not_measured(why: str) -> Check:
    return Check(None, "0.5", "warn", f"Not measured: {why}.")


def _shuffled(found: Shuffles, verdict: Verdict, text: str) -> Check:
    details: dict[str, Json] = {
        "sd_of_one_shuffle": found.sd,
        "with_true_labels": found.true,
        "band": found.band,
    }
    expected = f"0.5 within {found.band:.3f} (four standard errors over the shuffles)"
    return Check(found.mean, expected, verdict, text, details)


def _shown(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _rounded(value: Json) -> Json:
    return round(value, _DIGITS) + 0.0 if isinstance(value, float) else value


def warnings(report: Mapping[str, Json]) -> list[tuple[str, str]]:
    """(check, sentence) of every warning in a `leakage.json`."""
    checks = cast(Mapping[str, Mapping[str, str]], report["checks"])
    return [(name, check["text"]) for name, check in checks.items() if check["verdict"] == "warn"]
