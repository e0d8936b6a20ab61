"""A trainer that prints what a test tells it to, while it runs: `python -m tests.factories.printing_trainer`.

It repeats what the test appends to the file `say` in the folder that `$CIS490_TEST_SAY` names (lines that begin with
`out:` on standard output, `progress:` into the progress file, all others on standard error), and ends when the file
`end` is there, with the exit code in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

DESCRIPTION = {"protocol": 1, "trainer_digest": "e" * 64, "models": {"gbt": {"implemented": True}}}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--describe", action="store_true")
    for name in ("--spec", "--data", "--out", "--progress-file", "--checkpoint-dir", "--device"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    if args.describe:
        print(json.dumps(DESCRIPTION))
        return 0
    folder = Path(os.environ["CIS490_TEST_SAY"])
    (args.out / "model.txt").write_text("trained")
    at = 0
    while True:
        is_over = (folder / "end").exists()  # asked first: what was to be said before is then there
        text = (folder / "say").read_bytes()[at:]
        for line in text.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            at += len(line)
            _say(line, args.progress_file)
        if is_over:
            return int((folder / "end").read_text())
        time.sleep(0.01)


def _say(line: bytes, progress_file: Path) -> None:
    if line.startswith(b"progress:"):
        with progress_file.open("ab") as progress:
            progress.write(line.removeprefix(b"progress:"))
    elif line.startswith(b"out:"):
        sys.stdout.buffer.write(line.removeprefix(b"out:"))
        sys.stdout.flush()
    else:
        sys.stderr.buffer.write(line)
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
