"""What holds for the repository as a whole: nothing in it that does not belong, everything in it that should."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from training.fleet.manifest import load

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted(path.name for path in (ROOT / "requirements").glob("*.txt"))
PUBLIC_MODULES = (
    "training.fleet.receiver",
    "training.fleet.worker",
    "training.fleet.cli",
    "training.trainer.run",
)
MAX_FILE_BYTES = 2 * 1024 * 1024
MAX_PYTHON_LINES = 600
MAX_CONTRIBUTING_LINES = 80

# Written in two parts, so that this file does not find itself.
INDEX_HOSTS = re.compile(
    "|".join(("py" + r"pi\.org", "python" + r"hosted\.org", "deb" + r"ian\.org/debian", "npm" + r"js\.org"))
)
MACHINE_PATHS = re.compile(
    "/(?:" + "|".join(("wo" + "rk/main", "wo" + "rk/shared", "ro" + "ot/", "tm" + "p/venv")) + ")"
)
UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")


@cache
def tracked_files() -> tuple[Path, ...]:
    """Files that git has or would add; all of them in an unpacked archive without git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: which files belong to the repository is not known")
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


@cache
def texts() -> dict[str, str]:
    """Every tracked text file by its name in the repository."""
    found = {}
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            found[path.relative_to(ROOT).as_posix()] = data.decode("utf-8", "replace")
    return found


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_package_index() -> None:
    assert lines_with(INDEX_HOSTS) == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    assert lines_with(MACHINE_PATHS) == []


def test_nothing_is_marked_as_unfinished() -> None:
    assert lines_with(UNFINISHED) == []


def test_no_file_is_large() -> None:
    assert [
        (path.name, path.stat().st_size) for path in tracked_files() if path.stat().st_size > MAX_FILE_BYTES
    ] == []


def test_no_python_file_has_grown_two_subjects() -> None:
    lengths = {name: text.count("\n") for name, text in texts().items() if name.endswith(".py")}
    assert {name: length for name, length in lengths.items() if length > MAX_PYTHON_LINES} == {}


def test_no_built_or_downloaded_thing_is_tracked() -> None:
    suffixes = {".pyc", ".whl", ".so", ".db", ".pkl", ".pickle", ".sqlite3"}
    assert [path.name for path in tracked_files() if path.suffix in suffixes] == []


def test_contributing_stays_short_enough_to_be_read() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < MAX_CONTRIBUTING_LINES


def test_links_between_the_pages_lead_somewhere() -> None:
    broken = [
        f"{name}: {target}"
        for name, text in texts().items()
        if name.endswith(".md")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
        if "://" not in target and not (ROOT / name).parent.joinpath(target).exists()
    ]
    assert broken == []


def test_files_that_the_contributing_table_names_exist() -> None:
    text = texts()["CONTRIBUTING.md"]
    named = [name for name in re.findall(r"`([\w./-]+/[\w.*-]*)`", text) if not name.startswith("/")]
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_a_version_and_hashes(name: str) -> None:
    entries = re.split(r"\n(?=[a-z])", locked_text(name).strip())
    loose = [
        entry.splitlines()[0]
        for entry in entries
        if not re.match(r"[a-z0-9.-]+==\S+", entry) or "--hash=sha256:" not in entry
    ]
    assert entries[0]
    assert loose == []


@pytest.mark.parametrize("name", LOCKS)
def test_locked_packages_name_no_index_and_no_folder(name: str) -> None:
    text = locked_text(name)
    assert re.findall(r"(?m)^\s*-(?!-hash=)\S+|\S+://\S+|file:\S*", text) == []


@pytest.mark.parametrize("name", ["run.txt", "torch.txt"])
def test_locks_of_one_environment_agree_on_versions(name: str) -> None:
    dev, other = locked_versions("dev.txt"), locked_versions(name)
    assert {
        package: other[package] for package in other.keys() & dev.keys() if other[package] != dev[package]
    } == {}


def test_the_tests_run_on_every_package_that_users_run() -> None:
    assert locked_versions("run.txt").keys() - locked_versions("dev.txt").keys() == set()


def test_public_data_comes_from_the_wheel_that_the_benchmark_compares_with() -> None:
    assert locked_versions("public-data.txt").items() <= locked_versions("bench.txt").items()


def test_torch_is_in_no_lock() -> None:
    """The right build depends on the host's GPU, so its owner picks it."""
    assert [name for name in LOCKS if "torch" in locked_versions(name)] == []


def locked_text(name: str) -> str:
    return (ROOT / "requirements" / name).read_text(encoding="utf-8")


def locked_versions(name: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9.-]+)==(\S+)", locked_text(name)))


def test_the_example_manifest_loads_with_the_labs_fourteen_jobs() -> None:
    manifest = load(ROOT / "etc" / "training_manifest.toml.example")
    assert len(manifest.jobs) == 14


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_a_public_module_started_with_m_prints_its_help(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage:" in done.stdout


def test_each_marker_is_left_out_of_the_quick_suite_and_run_by_another_target() -> None:
    settings = tomllib.loads(texts()["pyproject.toml"])["tool"]["pytest"]["ini_options"]
    markers = {marker.partition(":")[0] for marker in settings["markers"]}
    quick = settings["addopts"][settings["addopts"].index("-m") + 1]
    assert set(re.findall(r"not (\w+)", quick)) == markers
    (whole,) = re.findall(r'-m "\((.*)\) and not faults"', texts()["Makefile"])
    assert "pytest -q -m platforms" in texts()["Makefile"]
    assert set(whole.split(" or ")) | {"faults", "platforms"} == markers


def test_a_set_that_set_up_does_not_know_is_refused_with_those_it_knows() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "setup.sh", "everything"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "'everything' is no set; expected run, dev, full, all, bench or sbom" in done.stderr
