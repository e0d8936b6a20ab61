"""One training of `benchmarks.tsc`, in a process of its own: `python -m benchmarks.tsc_one PROGRAM SET --seed N`.

PROGRAM is one of our models, or one of PEERS, which need aeon and its dependencies in this Python and nothing of the
project. Prints one JSON line. `cpu_s` counts user and system time of the process from its start to the fitted model,
`peak_mib` is the largest resident size until then.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tsc_data import PEERS, Problem, load

Predict = Callable[[NDArray[np.float32]], NDArray[np.int64]]
Fitted = tuple[Predict, Callable[[], int]]
"""Predicts classes; how many bytes the model takes when it is kept."""


def peer(name: str) -> Callable[[Problem, int], Fitted]:
    """A classifier of aeon with its defaults."""
    from aeon.classification import convolution_based

    kind = getattr(convolution_based, PEERS[name])

    def fit(problem: Problem, seed: int) -> Fitted:
        made = kind(random_state=seed, n_jobs=1)
        made.fit(problem.train_x, problem.train_y)
        return made.predict, lambda: len(pickle.dumps(made, protocol=5))

    return fit


def ours(model: str, hyper: Mapping[str, Any]) -> Callable[[Problem, int], Fitted]:
    """A model of the trainer, with `hyper` over its defaults; no validation side, all training series train."""
    from training.trainer.models import Context, NoSession, TrainingData, module_of
    from training.trainer.options import effective_hyper

    module = module_of(model)
    full = effective_hyper(model, hyper)
    summary = module.reads(full) == "summary"

    def inputs(series: NDArray[np.float32]) -> NDArray[np.float32]:
        return summaries(series) if summary else series

    def fit(problem: Problem, seed: int) -> Fitted:
        x = inputs(problem.train_x)
        data = TrainingData(x, problem.train_y, x[:0], problem.train_y[:0], len(problem.classes))
        trained = module.fit(data, full, Context(seed, NoSession()))
        return (
            lambda series: trained.predict(inputs(series)).argmax(axis=1),
            lambda: sum(map(len, trained.files().values())),
        )

    return fit


def summaries(series: NDArray[np.float32]) -> NDArray[np.float32]:
    """The fleet's summary statistics of each series, one sample a second."""
    from training.trainer.features import summarise

    t_s = np.arange(series.shape[2], dtype=np.float64)
    return np.stack([summarise(t_s, window.T.astype(np.float64)) for window in series])


def measure(
    program: str, problem_name: str, seed: int, hyper: Mapping[str, Any], data: Path | None
) -> dict[str, Any]:
    """Train and test once."""
    import resource  # POSIX only, and this is the only function that needs it

    fit = peer(program) if program in PEERS else ours(program, hyper)
    import_cpu_s = time.process_time()
    problem = load(problem_name, data)
    predict, size = fit(problem, seed)
    cpu_s = time.process_time()
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    accuracy = float((predict(problem.test_x) == problem.test_y).mean())
    return {
        "accuracy": round(accuracy, 5),
        "cpu_s": round(cpu_s, 3),
        "import_cpu_s": round(import_cpu_s, 3),
        "peak_mib": round(peak_kib / 1024, 1),
        "model_bytes": size(),
    }


def versions() -> dict[str, str]:
    """What this Python is made of."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("numpy", "lightgbm", "torch", "aeon", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measure one training, or with `--versions` and `--warm-up` only look."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("program", help="one of our models, or " + ", ".join(PEERS))
    parser.add_argument("set", nargs="?", default="GunPoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hyper", type=json.loads, default={}, help="JSON table over the model's defaults")
    parser.add_argument("--data", type=Path, help="aeon/datasets/data, where aeon itself is not installed")
    parser.add_argument(
        "--warm-up", action="store_true", help="import what PROGRAM needs and print the versions"
    )
    args = parser.parse_args()
    if args.warm_up:
        _ = peer(args.program) if args.program in PEERS else ours(args.program, args.hyper)
        print(json.dumps(versions()))
    else:
        print(json.dumps(measure(args.program, args.set, args.seed, args.hyper, args.data)))


if __name__ == "__main__":
    main()
