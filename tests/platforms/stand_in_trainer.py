"""Stands in for the trainer where NumPy cannot be loaded (under Wine): `python -m tests.platforms.stand_in_trainer`.

It has the trainer's command line and really learns something, in pure Python: which of two episodes is the longer
one. What else it does is told by a JSON file that $STAND_IN_ORDERS names, since a manifest takes no keys that it does
not know: `pid`, `grandchild` (files to write process ids into), `wait_for` (a file that it waits for before it ends),
`exit` (its exit code), `say` (for stderr).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from training.trainer.digest import trainer_digest

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"gbt": {"implemented": True}, "mlp": {"implemented": True}}
STEPS = 20
ORDERS = "STAND_IN_ORDERS"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--describe", action="store_true")
    for name in ("--spec", "--data", "--out", "--progress-file", "--checkpoint-dir"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device")
    args = parser.parse_args()
    if args.describe:
        # The real trainer's digest: the receiver gives jobs to no other, and so Windows' line ends are tried as well.
        print(json.dumps({"protocol": 1, "trainer_digest": trainer_digest(ROOT), "models": MODELS}))
        return 0
    spec: dict[str, Any] = json.loads(args.spec.read_text(encoding="utf-8"))
    do: dict[str, Any] = {}
    if ORDERS in os.environ:
        do = json.loads(Path(os.environ[ORDERS]).read_text(encoding="utf-8"))
    if "grandchild" in do:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        _write(Path(do["grandchild"]), str(child.pid))
    sizes = [path.stat().st_size for path in sorted(args.data.rglob("*")) if path.is_file()]
    with args.progress_file.open("w", encoding="utf-8", buffering=1) as progress:
        model = _learn(sizes, lambda step, loss: progress.write(_line(step, loss)))
    if "pid" in do:
        _write(Path(do["pid"]), str(os.getpid()))
    while "wait_for" in do and not Path(do["wait_for"]).exists():
        time.sleep(0.05)
    (args.out / "model.json").write_text(
        json.dumps({"model": spec["model"], "files": len(sizes), **model}), encoding="utf-8"
    )
    sys.stderr.write(do.get("say", ""))
    return int(do.get("exit", 0))


def _learn(sizes: list[int], tell: Any) -> dict[str, float]:
    """Logistic regression on one feature by gradient descent: is a file larger than the middle one?"""
    middle = sorted(sizes)[len(sizes) // 2] if sizes else 1
    rows = [(size / middle - 1.0, float(size > middle)) for size in sizes] or [(0.0, 0.0)]
    weight = bias = 0.0
    for step in range(1, STEPS + 1):
        loss = slope = shift = 0.0
        for x, y in rows:
            p = 1.0 / (1.0 + math.exp(-(weight * x + bias)))
            loss -= math.log(max(1e-12, p if y else 1.0 - p))
            slope, shift = slope + (p - y) * x, shift + (p - y)
        weight, bias = weight - slope / len(rows), bias - shift / len(rows)
        tell(step, loss / len(rows))
    return {"weight": weight, "bias": bias}


def _line(step: int, loss: float) -> str:
    return json.dumps({"step": step, "total": STEPS, "unit": "epoch", "loss": loss}) + "\n"


def _write(path: Path, text: str) -> None:
    """In one step: whoever waits for the file finds it whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
