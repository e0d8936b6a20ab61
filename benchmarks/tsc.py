"""All seven models on four public data sets, beside aeon's MiniRocket and MultiRocket: `make bench-tsc`.

    python -m benchmarks.tsc [--sets A,B] [--models a,b] [--seeds N] [--jobs N] [--json FILE] [--write]

Each training is a process of its own (`benchmarks.tsc_one`), one thread each, which measures its CPU time from its
start to the fitted model. aeon runs in an environment of its own (`--peer-python`; without one its rows are left
out). numba compiles aeon's code at its first use on a machine and keeps it: seed 0 starts with an empty cache
("cold"), the other seeds with a filled one ("warm"). Byte code is written before anything is measured.

Finished trainings are kept in the JSON file, and a second run does what is missing: a row counts as long as its
recipe and the code of the models are what they were. `--write` puts rows and table into docs/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import positive, side_by_side
from benchmarks.tsc_data import PEERS, SETS, NoData, Problem, folder, load
from benchmarks.tsc_recipes import OURS, RECIPES
from benchmarks.tsc_table import MEASURED, page
from cis490.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
PEER_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
KEPT = ROOT / "results" / "tsc.json"
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


@dataclass(frozen=True)
class Run:
    """One training. `code` stands for what it depends on beside its recipe."""

    program: str
    set: str
    seed: int
    cache: str
    hyper: dict[str, Any]
    code: str


def planned(problems: Mapping[str, Problem], programs: Sequence[str], seeds: int, code: str) -> Iterator[Run]:
    """Every training, the long ones of aeon's first runs at the front."""
    for program in programs:
        for name, problem in problems.items():
            for seed in range(seeds):
                if program in PEERS:
                    yield Run(program, name, seed, "warm" if seed else "cold", {}, "")
                else:
                    hyper = RECIPES[program].hyper_for(program, len(problem.train_y))
                    yield Run(program, name, seed, "", hyper, code)


def code_digest() -> str:
    """Of everything that decides how a model is trained here."""
    trainer = ROOT / "training" / "trainer"
    files = [*sorted((trainer / "models").glob("*.py")), trainer / "options.py", trainer / "features.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


class Bench:
    """Runs trainings and keeps their rows in a file."""

    def __init__(self, kept: Path, peer_python: Path, data: Path) -> None:
        self._kept = kept
        self._peer_python = peer_python
        self._data = data
        self._caches = kept.parent / "tsc-numba"
        self.rows: list[dict[str, Any]] = (
            json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
        )

    def warm_up(self, programs: Sequence[str]) -> dict[str, dict[str, str]]:
        """Write the byte code of each program's imports; the versions on both sides."""
        seen: dict[str, dict[str, str]] = {}
        for program in programs:
            side = "aeon's" if program in PEERS else "ours"
            print(f"   starting {program} once", file=sys.stderr, flush=True)
            seen[side] = self._child(program, "--warm-up", cache="import")
        return dict(sorted(seen.items(), reverse=True))

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """The runs without a row; rows of other recipes or other code are dropped from the file's next version."""
        wanted = {_key(asdict(run)) for run in runs}
        places = {(run.program, run.set, run.seed) for run in runs}
        self.rows = [
            row for row in self.rows
            if _key(row) in wanted or (row["program"], row["set"], row["seed"]) not in places
        ]  # fmt: skip
        done = {
            _key(row)
            for row in self.rows
            if row["cache"] != "cold" or self._cache(row["program"], row["set"]).is_dir()
        }
        return [run for run in runs if _key(asdict(run)) not in done]

    def run(self, runs: Sequence[Run], jobs: int) -> None:
        """Do all of `runs`, `jobs` at a time, a line each; aeon's warm ones after its cold ones of the same set."""
        started_s = time.monotonic()
        done = 0
        cold = [run for run in runs if run.cache == "cold"]
        with side_by_side(jobs) as pool:
            for some in (cold, [run for run in runs if run.cache != "cold"]):
                futures = {pool.submit(self._one, run): run for run in some}
                for future in as_completed(futures):
                    run, row = futures[future], future.result()
                    self.rows.append(row)
                    atomic_write(self._kept, json.dumps(self.rows, indent=1).encode())
                    done += 1
                    took_s = time.monotonic() - started_s
                    print(
                        f"{done:4}/{len(runs)}  {run.program:<16} {run.set:<17} seed {run.seed}  "
                        f"{100 * row['accuracy']:5.1f} %  {row['cpu_s']:6.1f} CPU s  {row['peak_mib']:5.0f} MiB   "
                        f"{took_s:.0f} s, about {took_s / done * (len(runs) - done):.0f} s to go",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip

    def _cache(self, program: str, name: str) -> Path:
        """One cache for each peer and set: the warm runs find what the cold one of theirs left."""
        return self._caches / f"{program}-{name}"

    def _one(self, run: Run) -> dict[str, Any]:
        cache = self._cache(run.program, run.set)
        if run.cache == "cold":
            shutil.rmtree(cache, ignore_errors=True)
        measured = self._child(
            run.program, run.set, "--seed", str(run.seed), "--hyper", json.dumps(run.hyper),
            "--data", str(self._data), cache=cache.name,
        )  # fmt: skip
        return asdict(run) | measured

    def _child(self, program: str, *options: str, cache: str) -> dict[str, Any]:
        python = self._peer_python if program in PEERS else Path(sys.executable)
        env = os.environ | ONE_THREAD | {"NUMBA_CACHE_DIR": str(self._caches / cache)}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [str(python), "-m", "benchmarks.tsc_one", program, *options]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(
                f"{' '.join(command)}\nended with exit code {done.returncode}:\n{done.stderr[-2000:]}"
            )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps(
        [row[name] for name in ("program", "set", "seed", "cache", "hyper", "code")], sort_keys=True
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=_words, default=list(SETS), help="default: all four")
    parser.add_argument("--models", type=_words, default=[*PEERS, *OURS], help="default: ours and aeon's")
    parser.add_argument("--seeds", type=positive, default=5)
    parser.add_argument("--jobs", type=positive, default=2, help="trainings at once (default 2)")
    parser.add_argument(
        "--json", type=Path, default=KEPT, help="finished trainings (default results/tsc.json)"
    )
    parser.add_argument(
        "--peer-python", type=Path, default=PEER_PYTHON, help="Python with aeon (scripts/setup.sh bench)"
    )
    parser.add_argument(
        "--data", type=Path, help="aeon/datasets/data, where aeon is not installed in this Python"
    )
    parser.add_argument("--write", action="store_true", help="put rows and table into docs/")
    return parser


def main() -> int:
    """Measure what is missing and print the page."""
    args = _arguments().parse_args()
    for given, known in ((args.sets, SETS), (args.models, (*PEERS, *OURS))):
        if wrong := [name for name in given if name not in known]:
            raise SystemExit(f"not known: {', '.join(wrong)}; expected some of {', '.join(known)}")
    if not args.peer_python.exists():
        print(
            f"no {args.peer_python}: aeon's rows are left out; type: scripts/setup.sh bench", file=sys.stderr
        )
        args.models = [name for name in args.models if name not in PEERS]
    try:
        data = args.data or folder()
        problems = {name: load(name, data) for name in args.sets}
    except NoData as error:
        raise SystemExit(str(error)) from None
    args.json.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.json, args.peer_python, data)
    runs = list(planned(problems, args.models, args.seeds, code_digest()))
    missing = bench.missing(runs)
    print(f"{len(runs)} trainings, {len(runs) - len(missing)} done before ({args.json})", file=sys.stderr)
    versions = bench.warm_up(args.models)
    bench.run(missing, args.jobs)
    order = {_key(asdict(run)): i for i, run in enumerate(runs)}
    rows = sorted((row for row in bench.rows if _key(row) in order), key=lambda row: order[_key(row)])
    chance = {name: round(problem.largest_class_share(), 4) for name, problem in problems.items()}
    print(page(rows, chance, versions))
    if args.write:
        found = {"versions": versions, "chance": chance, "rows": rows}
        atomic_write(MEASURED, (json.dumps(found, indent=1) + "\n").encode())
        return subprocess.run([sys.executable, "-m", "tools.docs"], cwd=ROOT, check=False).returncode
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        print("\nInterrupted; what is finished is kept. Type the same again to go on.", file=sys.stderr)
        raise SystemExit(130) from None
