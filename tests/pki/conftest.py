"""The receiver's machine before and after `ca init`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories.ca_machine import Machine


@pytest.fixture
def bare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Machine:
    return Machine(tmp_path, capsys)


@pytest.fixture
def machine(bare: Machine) -> Machine:
    bare.init()
    return bare
