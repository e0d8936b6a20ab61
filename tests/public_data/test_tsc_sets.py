"""The four data sets of the benchmark, as aeon's wheel ships them."""

from __future__ import annotations

import pytest

from benchmarks.tsc_data import NoData, folder, load
from benchmarks.tsc_one import measure

pytestmark = pytest.mark.public_data


@pytest.fixture(autouse=True)
def _data() -> None:
    try:
        folder()
    except NoData as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "train", "test", "shape", "classes"),
    [
        ("BasicMotions", 40, 40, (6, 100), 4),
        ("JapaneseVowels", 270, 370, (12, 29), 9),
        ("ItalyPowerDemand", 67, 1029, (1, 24), 2),
        ("GunPoint", 50, 150, (1, 150), 2),
    ],
)
def test_a_set_has_the_size_that_its_authors_state(
    name: str, train: int, test: int, shape: tuple[int, int], classes: int
) -> None:
    problem = load(name)
    assert (problem.train_x.shape, problem.test_x.shape) == ((train, *shape), (test, *shape))
    assert len(problem.classes) == classes


def test_one_training_reports_all_that_the_table_shows() -> None:
    row = measure("rocket", "ItalyPowerDemand", 0, {}, None)
    assert set(row) == {"accuracy", "cpu_s", "import_cpu_s", "peak_mib", "model_bytes"}
    assert row["accuracy"] > 0.9
