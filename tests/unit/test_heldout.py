"""The table of docs/data.md."""

from __future__ import annotations

import pytest

from benchmarks import heldout

MEASURED = {
    "roc_auc_active": 0.9, "roc_auc_active_ci95": [0.8, 1.0], "roc_auc": 0.95, "roc_auc_ci95": None,
    "roc_auc_of_mere_activity": 0.643, "pr_auc": 0.93, "base_rate": 0.417, "windows": 288, "episodes": 24,
}  # fmt: skip


def test_a_row_has_each_interval_behind_its_value() -> None:
    row = heldout.cells("gbt-oracle", "test", heldout.shown({"test": MEASURED}))
    assert row == (
        "gbt-oracle",
        "test",
        "0.900 (0.800 to 1.000)",
        "0.950 (- to -)",
        "0.643",
        "0.930",
        "0.417",
    )


def test_a_measure_that_the_trainer_no_longer_writes_is_not_left_out_unseen() -> None:
    with pytest.raises(KeyError, match="pr_auc"):
        heldout.shown({key: value for key, value in MEASURED.items() if key != "pr_auc"})


def test_a_model_whose_library_is_not_here_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heldout, "find_spec", lambda name: None if name == "torch" else name)
    assert heldout.trainable(["gbt", "cnn"]) == ["gbt"]
    assert capsys.readouterr().err == "cnn is left out: this Python has no torch\n"
