"""What a command line costs: CPU time of whole processes, `cis490-jobs --help` and `status` at a real receiver.

    python -m benchmarks.cli [--runs 20] [--jobs 14]

Measured is user plus system time of the child, as `time` shows it: what a person waits for on an idle machine, and
what is stolen from a busy one. The receiver runs in this process; its time does not count.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.factories import seeded_fleet
from tests.factories.live_receiver import live_receiver

ROOT = Path(__file__).resolve().parents[1]
LIMITS_MS = {"--help": 100.0, "status": 250.0}
"""What each may cost at most, best of all runs."""


def cpu_ms(argv: Sequence[str], env: Mapping[str, str]) -> float:
    """User plus system time of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def measured(words: Sequence[str], url: str, runs: int, folder: Path) -> tuple[float, float]:
    """(best, median) of so many runs in milliseconds, once the byte code is there as in an installation."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    env |= {"CIS490_RECEIVER_URL": url, "PYTHONPYCACHEPREFIX": str(folder / "pycache")}
    argv = [sys.executable, "-m", "training.fleet.cli", *words]
    cpu_ms(argv, env)
    found = [cpu_ms(argv, env) for _ in range(runs)]
    return min(found), statistics.median(found)


def main() -> int:
    """Print a table; 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description="CPU time of cis490-jobs")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--big", action="store_true", help="100 hosts and 1,000 jobs instead of 4 and 14")
    args = parser.parse_args()
    manifest = seeded_fleet.big_manifest() if args.big else seeded_fleet.SMALL_MANIFEST
    worst = 0
    with tempfile.TemporaryDirectory() as scratch, live_receiver(Path(scratch), manifest) as receiver:
        (seeded_fleet.seed_big if args.big else seeded_fleet.seed_small)(receiver.queue)
        print(f"{'command':<24} {'best':>8} {'median':>8} {'limit':>8}   ms of CPU, {args.runs} runs")
        why = ["why", "gru-0004" if args.big else "gru-oracle"]
        for words in (["--help"], ["status"], ["status", "--json"], ["list"], why, ["__complete", "sta"]):
            best, median = measured(words, receiver.url, args.runs, Path(scratch))
            limit = LIMITS_MS.get(words[0])
            worst |= int(limit is not None and best > limit)
            shown = "" if limit is None else f"{limit:.0f}"
            print(f"{' '.join(words):<24} {best:8.1f} {median:8.1f} {shown:>8}")
        bare = [cpu_ms([sys.executable, "-c", "import argparse"], os.environ) for _ in range(args.runs)]
        print(f"{'(python, argparse)':<24} {min(bare):8.1f} {statistics.median(bare):8.1f}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
