"""Show that the tests catch what they are for: `python -m tools.seeded_faults`, or `make seeded-faults`.

Each row of the table (`tools/seeded_faults_table.py`) breaks one promise by one edit. The tool copies the tree, makes
the edit there and runs the tests that the row names; they must fail, and by what they assert: not because
something cannot be imported or started. The same tests must pass on an unedited copy. Processes that a run leaves
behind (the fault may be that nobody ends them) are ended by the tool.

Exit codes: 0 every fault was caught; 1 one survived or could not be seeded, or a test fails without any; 2 wrong usage;
130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tools.seeded_faults_table import FAULTS, SeededFault

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".git",
    ".venv*",
    "demo",
    "demo-full",
    "results",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "datasets",
    "dist",
    "htmlcov",
)
LIMIT_S = 240.0
FOLDER_VARIABLE = "SEEDED_FAULT_FOLDER"
"""In the environment of everything that a run starts, so that it is found again. Tests hide `CIS490_*` from theirs."""
PROOF = ("AssertionError", "assert ", "Failed: ")
"""How the report of a failed assertion begins (`Failed`: pytest.raises and pytest.fail). An edit that merely breaks the
program raises something else."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended. `caught_by` is empty unless a test failed by its own judgement."""

    fault: SeededFault | None
    caught_by: str
    problem: str
    took_s: float


def edited(text: str, fault: SeededFault) -> str:
    """The file's text with the fault in it. ValueError unless the old text stands there exactly once."""
    found = text.count(fault.old)
    if found != 1:
        raise ValueError(
            f"{fault.name}: {fault.file} holds the text to replace {found} times, expected once; "
            f"adjust the row in tools/seeded_faults_table.py: {fault.old.strip()!r}"
        )
    return text.replace(fault.old, fault.new)


def try_fault(fault: SeededFault) -> Outcome:
    """Seed it, run its tests."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cis490-seeded-") as name:
        copy = Path(name) / "tree"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT, symlinks=True)
        path = copy / fault.file
        try:
            path.write_text(edited(path.read_text(encoding="utf-8"), fault), encoding="utf-8")
        except ValueError as error:
            return Outcome(fault, "", str(error), time.monotonic() - started_s)
        caught_by, problem = _run(copy, fault.tests)
    problem = problem if caught_by else problem or "it survived"
    return Outcome(fault, caught_by, problem, time.monotonic() - started_s)


def try_nothing(faults: Sequence[SeededFault]) -> Outcome:
    """All their tests on an unedited copy."""
    started_s = time.monotonic()
    tests = sorted({test for fault in faults for test in fault.tests})
    with tempfile.TemporaryDirectory(prefix="cis490-seeded-") as name:
        copy = Path(name) / "tree"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT, symlinks=True)
        caught_by, problem = _run(copy, tests)
    said = f"{caught_by} fails without any fault" if caught_by else problem
    return Outcome(None, "", said, time.monotonic() - started_s)


def _run(copy: Path, tests: Sequence[str]) -> tuple[str, str]:
    """(test that failed by what it asserts, what else went wrong)."""
    report = copy.parent / "report.xml"
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not cuda",
        f"--junitxml={report}", f"--basetemp={copy.parent / 'tmp'}", *tests,
    ]  # fmt: skip
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    env[FOLDER_VARIABLE] = str(copy.parent)
    with (copy.parent / "output").open("w+") as output:
        process = subprocess.Popen(command, cwd=copy, env=env, stdout=output, stderr=output)
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            return "", f"the tests took longer than {LIMIT_S:g} s"
        finally:
            process.kill()
            end_what_is_left(copy.parent)
            process.wait()
        output.seek(0)
        said = output.read()
    if code == 0:
        return "", ""
    if code != 1:
        return "", f"pytest ended with {code}: {said[-600:]}"
    return judged(report.read_text(encoding="utf-8"))


def end_what_is_left(folder: Path) -> int:
    """Kill every process whose environment, command or working folder names `folder`; how many. Linux only."""
    ended: set[int] = set()
    while found := _naming(folder):  # again: one may have started another meanwhile
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= found
        time.sleep(0.05)
    return len(ended)


def _naming(folder: Path) -> set[int]:
    name, found = str(folder).encode(), set[int]()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            said = (entry / "environ").read_bytes() + b"\0" + (entry / "cmdline").read_bytes()
            if name in said + b"\0" + os.readlink(entry / "cwd").encode() and int(entry.name) != os.getpid():
                found.add(int(entry.name))
    return found


def judged(report: str) -> tuple[str, str]:
    """From pytest's XML report: (first test that failed by what it asserts, else what it failed with)."""
    for case in ElementTree.fromstring(report).iter("testcase"):
        for failure in case.iter("failure"):
            message = failure.get("message", "")
            if not message.startswith(PROOF):
                return "", f"{case.get('name')} failed with {message[:200]}"
            return str(case.get("name")), ""
        for error in case.iter("error"):
            return "", f"{case.get('name')} could not run: {error.get('message', '')[:200]}"
    return "", "no test failed, and yet pytest ended with 1"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the table; the exit codes stand at the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.seeded_faults", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("names", nargs="*", help="only these faults (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (default 2)")
    args = parser.parse_args(argv)
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no fault {', '.join(unknown)}; there are: {', '.join(known)}")
    chosen = [known[name] for name in args.names] or list(FAULTS)
    started_s = time.monotonic()
    print("| fault | promise it breaks | caught by | seconds |\n|---|---|---|---|", flush=True)
    missed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        plain = pool.submit(try_nothing, chosen)
        try:
            for outcome in pool.map(try_fault, chosen):
                missed += not outcome.caught_by
                print(_row(outcome), flush=True)
            unedited = plain.result()
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            return 130
    print(f"| (none) | | {unedited.problem or 'all pass'} | {unedited.took_s:.0f} |")
    caught = len(chosen) - missed
    print(f"{caught} of {len(chosen)} seeded faults were caught in {time.monotonic() - started_s:.0f} s")
    return 1 if missed or unedited.problem else 0


def _row(outcome: Outcome) -> str:
    assert outcome.fault is not None
    found = outcome.caught_by or f"**NOT CAUGHT**: {' '.join(outcome.problem.split())}"
    return f"| {outcome.fault.name} | {outcome.fault.promise} | {found} | {outcome.took_s:.0f} |"


if __name__ == "__main__":
    raise SystemExit(main())
