"""Public recordings that ship inside aeon's wheel, imported and trained on. Nothing of them is kept here.

aeon is only looked for, never imported: its data files are all that is wanted.
"""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from collection.import_csv import main as import_csv
from tests.factories.csv_folder import Importer

pytestmark = pytest.mark.public_data

ROOT = Path(__file__).resolve().parents[2]
AXES = ("ankle_horiz_fwd", "ankle_vert", "ankle_horiz_lateral", "leg_horiz_fwd", "leg_vert", "leg_horiz_lateral",
        "trunk_horiz_fwd", "trunk_vert", "trunk_horiz_lateral")  # fmt: skip


def public(name: str) -> Path:
    """A file or folder of aeon's data, or a skip that says what is missing."""
    spec = importlib.util.find_spec("aeon")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("aeon is not installed: pip install --no-deps aeon brings the data")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / name
    if not path.exists():
        pytest.skip(f"this version of aeon ships no {name}")
    return path


def train(data: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "training.trainer.run",
        "--model",
        "gbt",
        "--mode",
        "realistic",
        "--seed",
        "1",
    ]
    return subprocess.run(
        [*command, *options, "--data", str(data), "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def importer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Importer:
    return Importer(tmp_path, capsys)


# --- Daphnet: acceleration at ankle, leg and trunk of a person who walks, 64 Hz, as the CSV file that was published ---

DAPHNET = """
[time]
column = "timestamp"
unit = "iso8601"
[label]
column = "is_anomaly"
suspicious = ["1"]
benign = ["0"]
[episode]
host = "S06"
family = "walk"
variant = { stretch_s = 10 }
seconds = 10
scaling = "plain"
licence = "see the UCI repository: Daphnet Freezing of Gait"
""" + "".join(f'[[channels]]\ncolumn = "{axis}"\nname = "sys.{axis}"\nunit = "mg"\n' for axis in AXES)


def test_daphnet_comes_through_value_by_value(importer: Importer) -> None:
    path = public("Daphnet_S06R02E0/S06R02E0.csv")
    done = importer({"S06R02E0.csv": path.read_bytes()}, DAPHNET)
    assert done.code == 0, done.err
    assert "7040 of 1 files, 64 rows a second" in done.out
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    published = np.array([[int(row[axis]) for axis in AXES] for row in rows])
    assert np.array_equal(np.concatenate([values for _, _, values in done.episodes()]), published)
    assert [meta.started_at_s for meta, _, _ in done.episodes()] == list(range(280, 390, 10))


def test_this_excerpt_of_daphnet_has_no_freezing_in_it_and_both_programs_say_so(
    importer: Importer, tmp_path: Path
) -> None:
    """Nobody can learn a difference from one label. aeon's own loader warns of the same since 1.6."""
    path = public("Daphnet_S06R02E0/S06R02E0.csv")
    done = importer({"S06R02E0.csv": path.read_bytes()}, DAPHNET)
    assert "labels            0 suspicious, 11 benign episodes" in done.out
    assert "time              no: the last quarter would hold benign episodes only" in done.out
    refused = train(done.folder, tmp_path / "model", "--split-recipe", "time")
    assert refused.returncode == 65
    assert "0 suspicious" in refused.stderr.splitlines()[-1]


# --- BasicMotions: acceleration and rotation at the wrist, four activities, 10 Hz, 10 s each ---

BASIC_MOTIONS = r"""
[files]
include = "*/*.csv"
name = '(?P<host>train|test)/(?P<family>(?P<label>[a-z]+))-\d+\.csv'
[time]
hz = 10
[label]
group = "label"
suspicious = ["running", "badminton"]
benign = ["standing", "walking"]
[episode]
host = { group = "host" }
family = { group = "family" }
scaling = "plain"
licence = "see timeseriesclassification: BasicMotions"
""" + "".join(
    f'[[channels]]\ncolumn = "{name}"\nname = "sys.{name}"\nunit = "steps"\ndecimals = 6\n'
    for name in ("ax", "ay", "az", "gx", "gy", "gz")
)


def write_csv(source: Path, folder: Path) -> int:
    """The series of a .ts file as one CSV file each, `<activity>-<number>.csv`; their number."""
    folder.mkdir(parents=True)
    count = 0
    data = source.read_text(encoding="utf-8").lower().partition("@data")[2]
    for line in data.split():
        *channels, activity = line.split(":")
        columns = [channel.split(",") for channel in channels]
        rows = [",".join(row) for row in zip(*columns, strict=True)]
        (folder / f"{activity}-{count}.csv").write_text("\n".join(["ax,ay,az,gx,gy,gz", *rows]) + "\n")
        count += 1
    return count


def test_basic_motions_trains_on_the_published_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folders train/ and test/ become hosts, so that `train_hosts` is the published split."""
    for part in ("TRAIN", "TEST"):
        found = write_csv(public(f"BasicMotions/BasicMotions_{part}.ts"), tmp_path / "csv" / part.lower())
        assert found == 40
    (tmp_path / "import.toml").write_text(BASIC_MOTIONS)
    arguments = [
        str(tmp_path / "csv"),
        "--description",
        str(tmp_path / "import.toml"),
        "--out",
        str(tmp_path / "set"),
    ]
    assert import_csv(arguments) == 0
    told = capsys.readouterr().out
    assert "8000 of 80 files, 10 rows a second" in told
    assert "host_disjoint     yes" in told
    trained = train(
        tmp_path / "set", tmp_path / "model", "--split-recipe", "host_disjoint", "--train-hosts", "train"
    )
    assert trained.returncode == 0, trained.stderr
    measured = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert measured["test"]["base_rate"] == pytest.approx(0.5)
    assert measured["test"]["roc_auc"] > 0.9
