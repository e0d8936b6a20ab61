"""What the Linux installers do at the edges, by their own functions in a shell, with folders of this test's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALLERS = ("install-training-worker.sh", "install-trainer-receiver.sh")
pytestmark = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="for Linux alone")


def shell(script: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """`script` after the installers' common part; `systemctl` does nothing."""
    before = "set -euo pipefail; . scripts/install-common.sh; systemctl() { :; }\n"
    return subprocess.run(
        ["bash", "-c", before + script], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], **{name: str(value) for name, value in variables.items()}},
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["/opt/cis490", "/opt/cis490-lab", "/opt/cis490/two", "/srv/fleet"])
@pytest.mark.parametrize("venv", [".venv", ".venv-full"])
def test_units_name_the_clone_wherever_it_lies(folder: str, venv: str) -> None:
    done = shell(f"here={folder} venv={venv}; unit_text cis490-trainer-worker.service")
    lines = done.stdout.splitlines()
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    assert start.startswith(f"ExecStart={folder}/{venv}/bin/python -m training.fleet.worker ")
    assert f"WorkingDirectory={folder}" in lines


def test_units_are_written_once_and_readable_for_all(tmp_path: Path) -> None:
    script = 'units=$UNITS venv=.venv; install_units cis490-trainer-worker.service; echo "wrote ${#units_changed[@]}"'
    assert "wrote 1" in shell("umask 077; . scripts/install-common.sh;" + script, UNITS=tmp_path).stdout
    assert "wrote 0" in shell(script, UNITS=tmp_path).stdout
    (unit,) = tmp_path.iterdir()
    assert unit.stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_the_old_unit_as_it_was_and_says_so(tmp_path: Path) -> None:
    unit = tmp_path / "cis490-trainer-worker.service"
    unit.write_text("old\n")
    (tmp_path / (unit.name + ".new")).symlink_to("/dev/full")
    done = shell(f"units=$UNITS venv=.venv; install_units {unit.name}; echo went on", UNITS=tmp_path)
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert unit.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [unit]


@pytest.mark.parametrize("newer", ["", "code", "packages", "its file"])
def test_a_service_is_started_anew_when_what_it_reads_is_newer(tmp_path: Path, newer: str) -> None:
    """Also when the run that changed it did not come to its end."""
    read = {
        "code": tmp_path / ".git/logs/HEAD",
        "packages": tmp_path / ".venv/cis490-setup",
        "its file": tmp_path / "unit",
    }
    for name, path in read.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (2000, 2000) if name == newer else (1000, 1000))
    (tmp_path / "run").mkdir()
    os.utime(tmp_path / "run", (1500, 1500))
    done = shell('here=$AT venv=.venv; anew "$AT/run" "$AT/unit"', AT=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "restart" if newer else "")


def test_a_clone_that_everybody_may_change_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.touch()
    file.chmod(0o644)
    (tmp_path / "link").symlink_to("code.py")  # a link's own mode is always open
    assert shell("here=$AT; require_own_code", AT=tmp_path).returncode == 0
    file.chmod(0o666)
    done = shell("here=$AT; require_own_code", AT=tmp_path)
    assert done.returncode == 1
    assert str(file) in done.stderr
    assert f"chmod -R o-w {tmp_path}" in done.stderr


@pytest.mark.parametrize(
    ("top", "code"), [("/root", 1), ("/home", 1), ("/tmp", 1), ("/run", 1), ("/rootfs", 0), ("/opt", 0)]
)
def test_a_place_where_no_service_may_look_is_refused(top: str, code: int) -> None:
    assert shell(f"here={top}/cis490; require_place").returncode == code


@pytest.mark.parametrize("script", INSTALLERS)
@pytest.mark.parametrize("options", [("--check", "--uninstall"), ("--uninstall", "--check")])
def test_a_check_never_uninstalls(script: str, options: tuple[str, str]) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / script, *options],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2
    assert "only one of them" in done.stderr


@pytest.mark.parametrize("is_there", [False, True])
def test_a_half_made_environment_is_marked_so_that_uninstalling_takes_it_away(
    tmp_path: Path, is_there: bool
) -> None:
    (tmp_path / "scripts").mkdir()
    if is_there:  # of a run that was killed
        (tmp_path / ".venv").mkdir()
    setup = tmp_path / "scripts" / "setup.sh"
    setup.write_text("#!/bin/sh\nmkdir -p .venv; exit 1\n")
    setup.chmod(0o755)
    done = shell('here=$AT units=$AT; cd "$AT"; (require_venv run) || remove_venvs', AT=tmp_path)
    assert "removed" in done.stdout
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("outcome", "kept"), [("true", "x-new"), ("false", "x-old")])
def test_what_runs_on_platforms_keeps_the_old_image_until_there_is_a_new_one(
    tmp_path: Path, outcome: str, kept: str
) -> None:
    (tmp_path / "x-old").mkdir()
    (tmp_path / "x-older.partial").mkdir()
    done = shell(
        'eval "$(sed -n "/^prepared() {/,/^}/p" scripts/platforms.sh)"; say() { :; }; fingerprint() { echo new; }\n'
        f'cache=$AT; make_x() {{ test -d "$AT/x-old"; {outcome}; }}; prepared x',
        AT=tmp_path,
    )
    assert (done.returncode == 0) == (outcome == "true")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".partial"] == [kept]
    assert not (tmp_path / "x-older.partial").exists()
