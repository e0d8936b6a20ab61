"""The list of packages says what is locked, or it is not written."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tools import sbom
from tools.sbom import SbomError

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LICENCE = [{"license": {"id": "MIT"}}]
NEEDS = {
    "root": ["cryptography", "backports.zstd", "starlette"], "cryptography": ["cffi"], "cffi": ["pycparser"],
    "starlette": ["anyio"], "anyio": [], "pycparser": [], "backports.zstd": [],
}  # fmt: skip


def bom(**changed: str) -> dict[str, Any]:
    """A list as the generator writes it: small, version 1 of everything."""
    return {
        "metadata": {"component": {"bom-ref": "root", "name": "cis490"}},
        "components": [
            {"bom-ref": name, "name": name, "version": changed.get(name, "1"), "licenses": LICENCE}
            for name in NEEDS
            if name != "root"
        ],
        "dependencies": [{"ref": name, "dependsOn": needed} for name, needed in NEEDS.items()],
    }


LOCKED = {sbom.canonical(name): "1" for name in NEEDS}


def test_a_list_of_the_locked_packages_passes() -> None:
    sbom.require_locked(bom(), LOCKED)


def test_a_package_of_another_version_is_named() -> None:
    with pytest.raises(SbomError, match=r"'anyio': '2'"):
        sbom.require_locked(bom(anyio="2"), LOCKED)


def test_a_package_that_is_not_locked_is_named() -> None:
    with pytest.raises(SbomError, match="pycparser"):
        sbom.require_locked(bom(), {name: one for name, one in LOCKED.items() if name != "pycparser"})


def test_an_empty_list_is_not_taken_for_a_good_one() -> None:
    with pytest.raises(SbomError, match="nothing at all"):
        sbom.require_locked({"components": []}, LOCKED)


def test_a_package_without_a_licence_is_named() -> None:
    found = bom()
    found["components"][0]["licenses"] = []
    with pytest.raises(SbomError, match="without a licence: cryptography"):
        sbom.require_locked(found, LOCKED)


def test_the_workers_part_has_what_its_packages_need_in_turn_and_no_more() -> None:
    found = sbom.part_of(bom(), ["backports-zstd", "Cryptography"])
    assert {one["name"] for one in found["components"]} == {
        "cryptography",
        "cffi",
        "pycparser",
        "backports.zstd",
    }
    (root,) = [one for one in found["dependencies"] if one["ref"] == "root"]
    assert root["dependsOn"] == ["backports.zstd", "cryptography"]
    assert {one["ref"] for one in found["dependencies"]} == {
        "root", "cryptography", "cffi", "pycparser", "backports.zstd",
    }  # fmt: skip


def test_a_part_that_the_list_does_not_have_is_refused() -> None:
    with pytest.raises(SbomError, match="not in the list: torch"):
        sbom.part_of(bom(), ["torch"])


def test_a_worker_with_a_certificate_needs_zstd_and_cryptography_and_nothing_else() -> None:
    here = {"backports-zstd": "1", "cryptography": "1", "starlette": "1"}
    assert sbom.workers_packages(PYPROJECT, here) == ["backports.zstd", "cryptography"]


def test_where_python_has_zstd_by_itself_only_cryptography_is_left() -> None:
    assert sbom.workers_packages(PYPROJECT, {"cryptography": "1"}) == ["cryptography"]


def test_equal_lists_are_equal_bytes_in_whatever_order_they_were_made() -> None:
    assert sbom.written({"a": 1, "b": [2]}) == sbom.written(dict(reversed({"a": 1, "b": [2]}.items())))


def test_what_users_install_is_read_from_the_lock_with_its_markers() -> None:
    versions = sbom.locked((ROOT / "requirements" / "run.txt").read_text(encoding="utf-8"))
    assert {"cryptography", "backports-zstd", "starlette"} <= versions.keys()
    assert all(version[0].isdigit() for version in versions.values())
