"""The software bill of materials (`make sbom`): what a receiver and an enrolled worker install, as CycloneDX in JSON.

The locked packages are installed into an environment of their own, as users install them, and the generator reads
what is there: names, versions, licences as the packages declare them, and who needs whom. Equal locks give equal
files on one platform and Python. Nothing is written unless each package is the locked one.

    dist/sbom/cis490.cdx.json          everything that `scripts/setup.sh run` installs
    dist/sbom/worker.cdx.json          of that, what a worker with a certificate needs; the trainer's packages not
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "run.txt"
OUT = ROOT / "dist" / "sbom"
WORKER = ("worker", "enrolled")
"""The extras of pyproject.toml that a worker with a certificate installs."""
Bom = Mapping[str, Any]


class SbomError(Exception):
    """The list would not be true; the text says why."""


def canonical(name: str) -> str:
    """A package's name as indexes compare them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(text: str) -> dict[str, str]:
    """Canonical name -> version of a lock's packages."""
    return {canonical(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", text)}


def require_locked(bom: Bom, versions: Mapping[str, str]) -> None:
    """Raises SbomError when a package of the list is not the locked one, or has no licence."""
    found = {canonical(one["name"]): one["version"] for one in bom["components"]}
    odd = {name: version for name, version in found.items() if versions.get(name) != version}
    if odd or not found:
        raise SbomError(
            f"installed and not locked so: {odd or 'nothing at all'}; expected requirements/{LOCK.name}"
        )
    silent = sorted(one["name"] for one in bom["components"] if not one.get("licenses"))
    if silent:
        raise SbomError(f"without a licence: {', '.join(silent)}")


def part_of(bom: Bom, names: Sequence[str]) -> dict[str, Any]:
    """The same list with these packages alone, and what they need in turn. Raises SbomError for one it lacks."""
    by_name = {canonical(one["name"]): one["bom-ref"] for one in bom["components"]}
    missing = sorted(name for name in map(canonical, names) if name not in by_name)
    if missing:
        raise SbomError(f"not in the list: {', '.join(missing)}")
    wanted = [by_name[canonical(name)] for name in names]
    needs = {one["ref"]: one.get("dependsOn", []) for one in bom["dependencies"]}
    kept: set[str] = set()
    todo = list(wanted)
    while todo:
        one = todo.pop()
        if one not in kept:
            kept.add(one)
            todo += needs.get(one, [])
    root = bom["metadata"]["component"]["bom-ref"]
    graph = [one for one in bom["dependencies"] if one["ref"] in kept]
    return {
        **bom,
        "components": [one for one in bom["components"] if one["bom-ref"] in kept],
        "dependencies": [*graph, {"ref": root, "dependsOn": sorted(wanted)}],
    }


def workers_packages(pyproject: Mapping[str, Any], is_installed: Mapping[str, str]) -> list[str]:
    """What the worker's extras name, but for what this Python has by itself."""
    extras = pyproject["project"]["optional-dependencies"]
    named = [re.split(r"[<>=;\s]", line, maxsplit=1)[0] for extra in WORKER for line in extras[extra]]
    return [name for name in named if canonical(name) in is_installed]


def written(bom: Bom) -> bytes:
    """The file's content: sorted, so that equal lists are equal bytes."""
    return (json.dumps(bom, indent=1, sort_keys=True) + "\n").encode()


def generated(lock: Path) -> dict[str, Any]:
    """Install the lock into a fresh environment and list what is there. Raises SbomError."""
    with tempfile.TemporaryDirectory(prefix="cis490-sbom-") as work:
        place = Path(work) / "env"
        venv.create(place, with_pip=False)
        python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
        _run([*pip, "install", "--require-hashes", "--only-binary", ":all:", "-r", str(lock)])
        out = Path(work) / "all.json"
        _run(
            [
                sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--pyproject",
                str(ROOT / "pyproject.toml"), "--output-format", "JSON", "--output-file", str(out), str(python),
            ]
        )  # fmt: skip
        found: dict[str, Any] = json.loads(out.read_bytes())
        return found


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SbomError(f"{' '.join(command[:4])} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def main() -> int:
    """Write both files; 1 with a sentence when the list would not be true."""
    argparse.ArgumentParser(
        prog="python -m tools.sbom", description=(__doc__ or "").partition("\n")[0]
    ).parse_args()
    try:
        bom = generated(LOCK)
        require_locked(bom, locked(LOCK.read_text(encoding="utf-8")))
        here = {canonical(one["name"]): one["version"] for one in bom["components"]}
        pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        worker = part_of(bom, workers_packages(pyproject, here))
    except SbomError as error:
        print(f"make sbom: {error}", file=sys.stderr)
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    for name, content in (("cis490", bom), ("worker", worker)):
        path = OUT / f"{name}.cdx.json"
        path.write_bytes(written(content))
        print(f"{path.relative_to(ROOT)}: {len(content['components'])} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
