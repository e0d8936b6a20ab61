"""What a worker host must install, and what it need not: the worker as a process that may import nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest

from cis490.episodes.dataset import pack
from tests.factories.episodes import write_dataset
from tests.factories.fake_receiver import FakeReceiver, lease
from tests.factories.fleet_pki import leaf_of
from tests.factories.proxied_fleet import ProxiedFleet, proxied_fleet

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0
DATASET = "d" * 64
OWN = ("cis490", "training", "tests")
ZSTD = () if sys.version_info >= (3, 14) else ("backports",)
CERTIFICATES = ("cryptography", "cffi", "_cffi_backend", "typing_extensions")
"""`cryptography`, and what it imports itself."""
DOORMAN = '''
import sys

class Doorman:
    """First in line: whatever is neither Python's own nor on the list is not installed here."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in {allowed!r} or top.endswith("customize"):
            return None
        raise ModuleNotFoundError("No module named %r: this test has not installed it" % name, name=top)

sys.meta_path.insert(0, Doorman)
'''


def only(folder: Path, *allowed: str) -> dict[str, str]:
    """An environment whose Python has these packages, and ours, alone. Child processes inherit it."""
    place = folder / "doorman"
    place.mkdir()
    (place / "sitecustomize.py").write_text(DOORMAN.format(allowed={*OWN, *allowed}), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(place)}


def work(env: dict[str, str], folder: Path, *options: str) -> str:
    """One job, with the stub trainer; what the worker logged."""
    done = subprocess.run(
        [
            sys.executable, "-m", "training.fleet.worker", "--once", "--state-dir", str(folder / "state"),
            "--trainer-module", "tests.factories.stub_trainer", *options,
        ],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture
def receiver(tmp_path: Path) -> Iterable[FakeReceiver]:
    (tmp_path / "state/datasets" / DATASET).mkdir(parents=True)
    with FakeReceiver() as fake:
        fake.jobs.append(lease())
        yield fake


@pytest.fixture
def fleet(tmp_path: Path) -> Iterable[ProxiedFleet]:
    """A whole one, behind its proxy, with a job and its data."""
    dataset = pack(write_dataset(tmp_path / "episodes"), tmp_path / "data.tar.zst")
    manifest = (
        f'[dataset]\nid = "{dataset}"\nfile = "{tmp_path / "data.tar.zst"}"\n[policy]\ntrainer = "any"\n'
        '[[hosts]]\nname = "lab-a"\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n'
    )
    with proxied_fleet(tmp_path, manifest, build="wheel") as running:
        yield running


def test_the_doorman_lets_nothing_else_in(tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    env = only(tmp_path, *ZSTD)
    for module, code in {
        "json": 0,
        "cis490.zstd": 0,
        "numpy": 1,
        "cryptography": 1,
        "msgspec": 1,
        "psutil": 1,
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"], cwd=ROOT, env=env, capture_output=True, check=False
        )
        assert done.returncode == code, (module, done.stderr)


def test_a_worker_needs_zstd_and_nothing_else(receiver: FakeReceiver, tmp_path: Path) -> None:
    work(only(tmp_path, *ZSTD), tmp_path, "--receiver-url", receiver.url, "--host", "lab-a")
    assert receiver.verbs()[-2:] == ["model", "complete"]


def test_a_worker_with_a_certificate_trains_without_cryptography(fleet: ProxiedFleet, tmp_path: Path) -> None:
    """TLS is Python's own. The package is for making keys: so nothing that breaks there stops a training."""
    folder = fleet.pki.host("lab-a")
    work(only(tmp_path, *ZSTD), tmp_path, "--credentials", str(folder))
    assert [row.status for row in fleet.receiver.queue.list_jobs()] == ["completed"]


def test_with_cryptography_it_renews_its_certificate_too(fleet: ProxiedFleet, tmp_path: Path) -> None:
    folder = fleet.pki.host("lab-a", age=timedelta(days=11))
    before = leaf_of(folder)
    done = subprocess.run(
        [sys.executable, "-m", "training.fleet.renewal", "--credentials", str(folder)],
        cwd=ROOT, env=only(tmp_path, *CERTIFICATES), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert leaf_of(folder).not_valid_after_utc > before.not_valid_after_utc


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("training.fleet.worker", ZSTD),
        ("training.fleet.guard_main", ()),
        ("training.fleet.join", ZSTD),
        ("training.fleet.renewal", ()),
        ("training.fleet.cli", ()),
    ],
)
def test_a_program_of_a_worker_host_starts_with_its_packages_alone(
    tmp_path: Path, module: str, allowed: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        cwd=ROOT, env=only(tmp_path, *allowed), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
