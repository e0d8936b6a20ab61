"""The recorder's command line, from recording to a packed data set."""

import os
import sys
import time
from pathlib import Path

import pytest

from cis490.episodes.arrays import from_payload
from cis490.episodes.dataset import iter_episodes, unpack
from collection.record import main

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the recorder reads /proc"),
    pytest.mark.skipif(
        hasattr(os, "getpriority") and os.getpriority(os.PRIO_PROCESS, 0) != 0,
        reason="workloads refuse to run niced",
    ),
]


def test_recorded_episodes_can_be_packed_and_recording_again_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collection.record.GAP_S", 0.0)
    (tmp_path / "scratch").mkdir()
    began_s = time.time()
    command = ["--set", "main", "--hosts", "own", "--episodes", "2", "--seconds", "1"]
    command += ["--out", str(tmp_path / "set"), "--scratch", str(tmp_path / "scratch")]
    assert main(command) == 0
    assert main(command) == 0
    assert "2 already in" in capsys.readouterr().out
    assert list((tmp_path / "scratch").iterdir()) == []

    assert main(["--pack", str(tmp_path / "set"), "--out", str(tmp_path / "set.tar.zst")]) == 0
    dataset_id = capsys.readouterr().out.split()[1]
    assert unpack(tmp_path / "set.tar.zst", tmp_path / "copy", dataset_id) == 2
    for _, meta, payload in iter_episodes(tmp_path / "copy"):
        _, values = from_payload(meta, payload)
        assert meta.host == "own"
        assert not meta.simulated
        assert meta.started_at_s is not None
        assert began_s - 1 <= meta.started_at_s <= time.time()
        assert meta.n_samples + meta.dropped_samples == 10
        assert [i.phase for i in meta.intervals][:2] == ["baseline", "onset"]
        assert values[:, [c.name for c in meta.channels].index("tree.processes")].max() >= 2


def test_an_empty_folder_cannot_be_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pack", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
    assert "found no <host>/<name>.episode" in capsys.readouterr().err
