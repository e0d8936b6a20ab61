"""`python -m training.trainer.score --artifact DIR --data DIR`: measure a trained model on another data set.

All episodes of that data set are scored, at the threshold that the training run fixed. The measures go to
standard output as JSON; exit codes are those of `run`. Episodes that trained the model are counted and told: a
score on them says how well it remembers.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from training.trainer.process import Parser, one_blas_thread, sentence_exit
from training.trainer.registry import load_plugins

one_blas_thread()


def main(arguments: Sequence[str] | None = None) -> int:
    """Score and print. Returns the exit code."""
    return sentence_exit("score", lambda: _score(_parse(arguments)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m training.trainer.score", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--artifact", type=Path, required=True, help="folder that a training run wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set to score")
    return parser.parse_args(arguments)


def _score(options: argparse.Namespace) -> str:
    from training.trainer import metrics, report
    from training.trainer.scoring import score_artifact

    for fault in load_plugins():
        print(f"score: {fault}", file=sys.stderr)
    measured = score_artifact(options.artifact, options.data)
    sys.stdout.write(report.json_bytes(report.rounded(measured)).decode())
    test = cast(dict[str, float | None], metrics.headline(measured))
    seen = measured["episodes_seen_in_training"]
    leaky = f", {seen} of which trained or validated this model: not a result to quote" if seen else ""
    return (
        f"scored {measured['windows']} windows of {measured['episodes']} episodes{leaky}: "
        f"ROC-AUC {test['roc_auc']}"
    )


if __name__ == "__main__":
    sys.exit(main())
