"""The receiver's and the worker's suites on an emulated arm64, the processor of a Raspberry Pi."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import arm64

pytestmark = [
    pytest.mark.platforms,
    pytest.mark.skipif(arm64.why_not() is not None, reason=str(arm64.why_not())),
]

RECEIVER = (
    "tests/contract/test_queue_sqlite.py",
    "tests/contract/test_http_contract.py",
    "tests/contract/test_blobs_local.py",
    "tests/contract/test_uploads.py",
    "tests/unit/test_database.py",
    "tests/unit/test_store.py",
    "tests/unit/test_writer_and_reaper.py",
)
WORKER = (
    "tests/unit/test_capability.py",
    "tests/unit/test_credentials.py",
    "tests/unit/test_files.py",
    "tests/unit/test_guard.py",
    "tests/unit/test_locks.py",
    "tests/unit/test_worker.py",
    "tests/unit/test_worker_recovery.py",
)
UNDER_EMULATION = ("tests/unit/test_guard.py::test_a_crash_is_the_programs_fault",)
"""QEMU adds a line of its own to what a program that crashes says. Tests of whole processes are not among the files:
they give a receiver 30 s to start, which is too little here on a busy machine."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm64")
    arm64.copy_checkout(folder)
    return folder


def test_it_is_an_arm64_with_the_packages_of_a_receiver_and_a_trainer(checkout: Path) -> None:
    code = "import platform, cryptography, lightgbm, numpy, starlette; print(platform.machine())"
    found = arm64.run(checkout, "python3", "-c", code)
    assert found.stdout.strip() == "aarch64", found.stderr


def test_lightgbm_learns_there(checkout: Path) -> None:
    """The library under the model `gbt`. A whole training of the lab's takes more than five minutes under emulation."""
    code = (
        "import lightgbm, numpy; X = numpy.random.default_rng(1).normal(size=(200, 4)); y = (X[:, 0] > 0) * 1\n"
        "options = {'objective': 'binary', 'num_threads': 1, 'verbose': -1}\n"
        "model = lightgbm.train(options, lightgbm.Dataset(X, y), 10)\n"
        "print(float(((model.predict(X) > 0.5) == y).mean()))"
    )
    found = arm64.run(checkout, "python3", "-c", code)
    assert float(found.stdout) > 0.95, found.stderr


@pytest.mark.parametrize("files", [RECEIVER, WORKER], ids=["receiver", "worker"])
def test_the_suite_passes(checkout: Path, files: tuple[str, ...], record_property: Any) -> None:
    known = [argument for name in UNDER_EMULATION for argument in ("--deselect", name)]
    tested = arm64.run(
        checkout, "python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *known, *files
    )
    assert tested.returncode == 0, tested.stdout[-6000:] + tested.stderr[-1000:]
    last = tested.stdout.strip().splitlines()[-1]
    assert re.search(r"\d+ passed", last)
    record_property("passed_on_arm64", last)
    print(last)
