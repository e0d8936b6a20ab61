"""The wheel: equal sources give equal bytes, and nothing lies in it that users should not get."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("cis490", "training", "collection", "pyproject.toml", "README.md")


def copied(to: Path, mtime_s: int, mode: int) -> Path:
    """The sources elsewhere, each file last changed at this time and with this mode."""
    to.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, to / name)
    for path in to.rglob("*"):
        os.utime(path, (mtime_s, mtime_s))
        if path.is_file():
            path.chmod(mode)
    return to


def built(source: Path, umask: int) -> Path:
    env = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"],
        cwd=source, env=env, umask=umask, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "out").iterdir()
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of the same sources: in other folders, with other times and modes, under another umask."""
    folder = tmp_path_factory.mktemp("wheels")
    return [
        built(copied(folder / "one", 1_000_000_000, 0o644), 0o022),
        built(copied(folder / "the other place", 1_700_000_000, 0o600), 0o077),
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no umask")
def test_equal_sources_give_an_equal_wheel_wherever_and_whenever_it_is_built(wheels: list[Path]) -> None:
    one, other = (hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels)
    assert one == other


def test_it_holds_the_packages_and_what_they_read_and_nothing_else(wheels: list[Path]) -> None:
    names = zipfile.ZipFile(wheels[0]).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cis490", "training", "collection"}
    assert "training/fleet/sql/0007_access.sql" in names
    assert [name for name in names if name.endswith((".pem", ".key", ".db", ".pyc", ".env"))] == []
