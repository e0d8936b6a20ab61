"""docs/security.md is read when something was stolen: each command in it must be one that there is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from training.fleet import ca, cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?s)```sh\n(.*?)```", PAGE)
LINES = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("ca ")])
def test_a_command_of_the_authority_is_one(line: str) -> None:
    ca.parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("line", [line for line in LINES if re.match(r"(sudo )?cis490-jobs ", line)])
def test_a_command_of_the_operator_is_one(line: str) -> None:
    words = shlex.split(line.removeprefix("sudo "))
    assert cli.parser().parse_args(words[1:]).verb


@pytest.mark.parametrize("line", [line for line in LINES if "scripts/" in line])
def test_a_script_and_its_options_exist(line: str) -> None:
    script, *words = shlex.split(line.removeprefix("sudo "))
    text = (ROOT / script).read_text(encoding="utf-8")
    assert [word for word in words if word.startswith("--") and word not in text] == []


def test_every_other_line_is_the_shells_or_systemds() -> None:
    known = (
        "ca ",
        "sudo cis490-jobs",
        "cis490-jobs",
        "sudo systemctl restart",
        "sudo sh -c",
        "sudo scripts/",
    )
    assert [line for line in LINES if line and not line.startswith(known)] == []


def test_a_unit_that_is_restarted_exists() -> None:
    named = {
        word for line in LINES if "systemctl" in line for word in line.split() if word.startswith("cis490-")
    }
    assert named
    assert [name for name in named if not (ROOT / "etc" / f"{name}.service").is_file()] == []


def test_the_files_that_the_page_names_as_proof_exist() -> None:
    assert [name for name in re.findall(r"`(tests/[\w/.]+)`", PAGE) if not (ROOT / name).exists()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="a shell")
def test_rotating_the_operator_token_keeps_the_former_one_as_second_line(tmp_path: Path) -> None:
    """The line as it stands on the page, in another folder."""
    (line,) = [line for line in LINES if "/dev/urandom" in line]
    (tmp_path / "operator-token").write_text("former\n")
    command = shlex.split(line.removeprefix("sudo "))
    command[2] = command[2].replace("/etc/cis490", str(tmp_path))
    subprocess.run(command, check=True)
    found = (tmp_path / "operator-token").read_text().splitlines()
    assert len(found) == 2
    assert len(found[0]) == 44
    assert found[1] == "former"
    assert (tmp_path / "operator-token").stat().st_mode & 0o777 == 0o600
