"""The pure parts of the job and models pages: harmless logs, tables out of artifacts, the next step, differences."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import artifacts
from training.dashboard import artifact_tables, job_next, models_page
from training.dashboard.log_text import clean

# -- logs

DIRTY = {
    "colours": ("\x1b[31mred\x1b[0m and \x1b[1;38;5;200mpink\x1b[m", "red and pink"),
    "the cursor": ("a\x1b[2Kb\x1b[10;20Hc", "abc"),
    "a window's title": ("\x1b]0;title\x07text", "text"),
    "a link": ("\x1b]8;;http://x\x1b\\here\x1b]8;;\x1b\\", "here"),
    "half a sequence": ("end\x1b", "end"),
    "a title that never ends": ("a\x1b]0;title\nthe rest\n", "a\nthe rest\n"),
    "a bar that writes over itself": ("10 %\r50 %\r100 %\nnext\r", "100 %\nnext"),
    "windows lines": ("a\r\nb\r\n", "a\nb\n"),
    "control characters": ("bell\x07 back\x08space null\x00", "bell\ufffd back\ufffdspace null\ufffd"),
    "text that turns round": ("ab\u202ecd\u2066ef\u061c", "ab\ufffdcd\ufffdef\ufffd"),
    "what is fine": ("tab\tand ünïcode 漢字 <b>", "tab\tand ünïcode 漢字 <b>"),
}


@pytest.mark.parametrize(("raw", "shown"), DIRTY.values(), ids=DIRTY)
def test_a_log_is_shown_without(raw: str, shown: str) -> None:
    assert clean(raw) == shown


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_no_log_holds_a_character_that_a_terminal_obeys(raw: str) -> None:
    assert not any(ord(char) < 32 and char not in "\n\t" for char in clean(raw))
    assert clean(clean(raw)) == clean(raw)


# -- tables

NAMES = ("roc", "pr", "confusion", "calibration")


def texts() -> dict[str, str]:
    return {name: text for name, text in artifacts.files().items() if name in artifact_tables.FILES}


def test_the_tables_of_an_artifact_are_read() -> None:
    found = artifact_tables.tables(texts())
    assert tuple(found) == NAMES
    assert found["roc"] == {
        "points": [[0.0, 0.0], [0.0, 0.6], [0.1, 0.9], [1.0, 1.0]],
        "at_threshold": [0.1, 0.9],
    }
    assert [cell["windows"] for cell in found["confusion"]] == [54, 6, 4, 36]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00",
        "threshold\n",
        "a,b\n1,2,3\n",
        "recall,precision\nnan,1e999\n2,3\n-1,0\nx,y\n",
        '"',
        "recall\n" * 9999,
    ],
)
def test_what_is_no_such_table_is_left_out(text: str) -> None:
    assert artifact_tables.tables(dict.fromkeys(artifact_tables.FILES, text)) == {}


@given(st.dictionaries(st.sampled_from(artifact_tables.FILES), st.text()))
def test_no_artifact_breaks_a_page(found: dict[str, str]) -> None:
    artifact_tables.tables(found)


def test_half_a_confusion_is_none() -> None:
    assert artifact_tables.confusion("label,outcome,windows,share_of_label\nbenign,alarm,6,0.1\n") == []


# -- what to do next


def job(**changed: Any) -> dict[str, Any]:
    return {
        "name": "gbt-oracle", "status": "pending", "kind": "job", "paused_reason": None, "lapsed": False, "stale": [],
        "claimed_by": None, "spec": {}, "attempts_log": [],
    } | changed  # fmt: skip


WHY = {
    "claimable": False,
    "summary": "It cannot start.",
    "suggestions": [{"text": "undrain gpu-1", "starts": "at once", "command": "cis490-jobs undrain gpu-1"}],
}


@pytest.mark.parametrize(
    ("found", "why", "command"),
    [
        (job(), WHY, "cis490-jobs undrain gpu-1"),
        (job(), {**WHY, "claimable": True}, None),
        (job(paused_reason="by hand"), None, "cis490-jobs resume gbt-oracle"),
        (job(status="running"), None, "cis490-jobs logs gbt-oracle -f"),
        (job(status="failed"), None, "cis490-jobs requeue gbt-oracle"),
        (job(status="cancelled"), None, "cis490-jobs requeue gbt-oracle"),
        (job(status="completed"), None, "cis490-jobs pull gbt-oracle"),
        (job(status="completed", stale=["data changed"]), None, "cis490-jobs requeue --force gbt-oracle"),
        (
            job(status="completed", kind="shadow", of_job_id="ab" * 32),
            None,
            "cis490-jobs verify abababababab",
        ),
        (job(lapsed=True, claimed_by="gpu-1"), None, None),
    ],
)
def test_each_state_has_its_next_step(
    found: dict[str, Any], why: dict[str, Any] | None, command: str | None
) -> None:
    step = job_next.next_step(found, why)
    assert step["command"] == command
    assert step["text"]


def test_what_was_asked_for_stands_beside_what_was_used() -> None:
    found = job(spec={"min_vram_gib": 10, "timeout_s": 60}, attempts_log=[{"duration_s": 41.5}])
    rows = {row["what"]: row for row in job_next.used(found, {"peak": {"job_vram_gib": 7.1}})}
    assert (rows["VRAM"]["asked"], rows["VRAM"]["used"]) == (10, 7.1)
    assert (rows["RAM"]["asked"], rows["RAM"]["used"]) == (None, None)
    assert (rows["Time"]["asked"], rows["Time"]["used"]) == (60, 41.5)


# -- models side by side


def model(name: str, **metrics: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": "gbt",
        "mode": "oracle",
        "seed": 0,
        "metrics": metrics,
        "hyper_used": {"rounds": 100},
    }


def test_figures_are_compared_with_the_first() -> None:
    (row,) = models_page.metrics_diff([model("a", roc_auc=0.9), model("b", roc_auc=0.95), model("c")])
    assert (row["values"], row["off"]) == ([0.9, 0.95, None], [0.0, pytest.approx(0.05), None])


def test_only_hyperparameters_that_differ_are_shown() -> None:
    other = {**model("b"), "hyper_used": {"rounds": 200, "depth": 3}}
    found = models_page.hyper_diff([model("a"), other])
    assert [(row["key"], row["values"]) for row in found["rows"]] == [
        ("rounds", [100, 200]),
        ("depth", [None, 3]),
    ]
    assert found["n_same"] == 3


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"hyper": 3}', '{"hyper": {"a": "\\ud800"}}', "[" * 100_000]
)
def test_a_configuration_that_is_none_has_no_hyperparameters(text: str) -> None:
    assert models_page.hyper_of({"text": text}) == {}


def test_hyperparameters_of_any_size_fit_a_page_and_its_json() -> None:
    """An artifact may say what it likes."""
    nested = '{"a": ' * 500 + "1" + "}" * 500
    found = models_page.hyper_of(
        {"text": f'{{"hyper": {{"long": "{"x" * 9000}", "big": 1{"0" * 300}, "deep": {nested}}}}}'}
    )
    assert found["long"].startswith('"xxx')
    assert max(len(text) for text in map(str, found.values())) < 350
    msgspec.json.encode(found)
    many = models_page.hyper_of({"text": json.dumps({"hyper": {f"k{n}": n for n in range(5000)}})})
    assert len(many) == models_page.MOST_HYPER


def test_boards_keep_modes_apart_and_leaky_ones_last() -> None:
    group = {"split_recipe": "host_disjoint", "leaky": False, "train_hosts": [], "dataset_id": None}
    leaky = {**group, "split_recipe": "random_window", "leaky": True}
    names = [{"name": f"m{n}", "mode": mode} for n, mode in enumerate(["oracle", "realistic", "oracle"])]
    found = models_page.boards([{**group, "models": names}, {**leaky, "models": names[:1]}], False)
    assert [(one["mode"], one["leaky"], one["n_models"]) for one in found] == [
        ("realistic", False, 1), ("oracle", False, 2), ("oracle", True, 1),
    ]  # fmt: skip
