"""A trainer that saves every step and goes on from what it finds: `python -m tests.factories.resuming_trainer`.

Its model is a chain of digests, so a step that was left out or done twice shows in the result. `hyper` holds
`steps` and `log`, a file that gets one line a start: the step from which it went on. From step `hold_at` on it
waits for the file `go` to be there.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cis490.digest import sha256_bytes
from cis490.files import atomic_write

DESCRIPTION = {"protocol": 1, "trainer_digest": "e" * 64, "models": {"gbt": {"implemented": True}}}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--describe", action="store_true")
    for name in ("--spec", "--data", "--out", "--progress-file", "--checkpoint-dir"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device")
    args = parser.parse_args()
    if args.describe:
        print(json.dumps(DESCRIPTION))
        return 0
    do = json.loads(args.spec.read_text())["hyper"]
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    saved = args.checkpoint_dir / "state.json"
    state: dict[str, Any] = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "chain": ""}
    with Path(do["log"]).open("a") as log:
        log.write(f"{state['step']}\n")
    with args.progress_file.open("w", buffering=1) as progress:
        while state["step"] < do["steps"]:
            state = {"step": state["step"] + 1, "chain": sha256_bytes(state["chain"].encode())}
            atomic_write(saved, json.dumps(state).encode())
            progress.write(json.dumps({"step": state["step"], "total": do["steps"]}) + "\n")
            while state["step"] == do["hold_at"] and not Path(do["go"]).exists() and not asked:
                time.sleep(0.01)
            if asked:
                print("stopped, and saved", file=sys.stderr)
                return 75
    (args.out / "model.txt").write_text(state["chain"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
