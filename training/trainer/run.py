"""Train one job: `python -m training.trainer.run --spec job.json --data DIR --out DIR`.

The worker runs this program as a subprocess. Exit codes (sysexits): 0 trained; 64 wrong command line; 65 bad
data; 66 no data; 69 this host lacks a library or CUDA; 70 defect; 71 out of memory; 73 cannot write; 75 stopped
by SIGTERM; 78 the job itself is wrong. The last line of standard error is one sentence for a person.

SIGTERM ends a training between two batches. With `--checkpoint-dir` it first writes down where it is, and the
same command goes on from there: the result has the same bytes as that of a run that nobody interrupted.

`--describe` prints what this trainer can do as JSON, quickly: numpy, LightGBM and torch are imported only to
train.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import cast

from cis490.failpoints import failpoint
from training.trainer.checkpoints import EVERY_S, Checkpoints, identity_of
from training.trainer.device import choose_device, why_no_cuda
from training.trainer.digest import trainer_digest
from training.trainer.errors import BadConfig, Preempted, Unavailable, Usage
from training.trainer.options import (
    DEFAULT_SPLIT_RECIPE,
    LEAKY_RECIPES,
    MODELS,
    MODES,
    SEED_MAX,
    SPLIT_RECIPES,
    Json,
    ModelOptions,
    Option,
    json_schema,
)
from training.trainer.process import Parser, one_blas_thread, sentence_exit
from training.trainer.progress import Progress
from training.trainer.registry import load_plugins
from training.trainer.session import LiveSession, Surroundings
from training.trainer.spec import Job, parse_job

PROTOCOL = 1
_ROOT = Path(__file__).resolve().parents[2]
_HYPER_PREFIX = "hyper:"


class Stop:
    """Set by SIGTERM; the training looks at it between two steps."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        """Take SIGTERM (on Windows Ctrl-Break) from now on."""
        signal.signal(signal.SIGTERM, self._request)
        if hasattr(signal, "SIGBREAK"):
            signal.signal(signal.SIGBREAK, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """Raises Preempted once a stop was requested."""
        if self.requested:
            raise Preempted("stopped on request outside the training itself; no result was written")


def describe(root: Path) -> dict[str, Json]:
    """What this trainer can do, for the coordinator and the worker."""
    recipes: dict[str, Json] = {**SPLIT_RECIPES}
    leaky: list[Json] = [*sorted(LEAKY_RECIPES)]
    return {
        "protocol": PROTOCOL,
        "trainer_digest": trainer_digest(root),
        "models": {name: _describe_model(model) for name, model in MODELS.items()},
        "split_recipes": recipes,
        "default_split_recipe": DEFAULT_SPLIT_RECIPE,
        "leaky_recipes": leaky,
        "seed_max": SEED_MAX,
    }


def _describe_model(model: ModelOptions) -> dict[str, Json]:
    modes: list[Json] = [*MODES]
    libraries: list[Json] = [*model.needs.libraries]
    hyper: dict[str, Json] = json_schema(model.name)
    return {
        "help": model.help,
        "implemented": True,  # a reader of protocol 1 looks for it: an older trainer named models it did not have
        "plugin": model.plugin,
        "iterative": model.iterative,
        "modes": modes,
        "hyper": hyper,
        "needs": {
            "cuda": model.needs.cuda,
            "min_ram_gib": model.needs.min_ram_gib,
            "libraries": libraries,
        },
    }


def _parser() -> Parser:
    parser = Parser("python -m training.trainer.run", "Train one job of the fleet, or try one by hand.")
    parser.add_argument(
        "--describe", action="store_true", help="print what this trainer can do as JSON, and exit"
    )
    parser.add_argument("--data", type=Path, help="folder of the data set")
    parser.add_argument("--out", type=Path, help="folder for the results; made if need be")
    parser.add_argument("--progress-file", type=Path, help="write progress there as JSON lines")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of LightGBM (default 1); changes no result"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to train; auto (the default): with CUDA when the model can use it and this host has it",
    )
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        help="a folder of this job's own: write down there how far the training is, and go on from what lies there",
    )
    parser.add_argument(
        "--checkpoint-every-s",
        type=float,
        default=EVERY_S,
        help="write a checkpoint about so often (default %(default)g s), and always before stopping",
    )
    job = parser.add_argument_group("the job", "a file, or single options; an option wins over the file")
    job.add_argument("--spec", type=Path, help="JSON file of the job")
    job.add_argument("--model", help="one of " + ", ".join(MODELS))
    job.add_argument("--mode", help="one of " + ", ".join(MODES))
    job.add_argument("--split-recipe", help="one of " + ", ".join(SPLIT_RECIPES))
    job.add_argument(
        "--train-hosts", type=_words, help="hosts that train, separated by commas; empty: all but one"
    )
    job.add_argument("--seed", type=int, help=f"0 to {SEED_MAX}")
    hyper = parser.add_argument_group(
        "hyper-parameters", "which of them a model has, and their ranges, stand here"
    )
    for name in sorted({name for model in MODELS.values() for name in model.options}):
        hyper.add_argument("--" + name.replace("_", "-"), dest=_HYPER_PREFIX + name, help=_option_help(name))
    return parser


def _option_help(name: str) -> str:
    texts: dict[str, list[str]] = {}
    for model in MODELS.values():
        if name in model.options:
            option = model.options[name]
            unit = f" {option.unit}" if option.unit else ""
            default = _spelled(option)
            texts.setdefault(f"{option.help} (default {default}{unit})", []).append(model.name)
    return "; ".join(f"{', '.join(models)}: {text}" for text, models in texts.items()).replace("%", "%%")


def _spelled(option: Option) -> str:
    value = option.default_value()
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _job(options: argparse.Namespace) -> Job:
    """The job of the command line. Raises Usage, BadConfig."""
    raw: dict[str, object] = {} if options.spec is None else dict(_read_spec(options.spec))
    for name in ("model", "mode", "split_recipe", "train_hosts", "seed"):
        value = getattr(options, name)
        if value is not None:
            raw[name] = value
    given = {
        name.removeprefix(_HYPER_PREFIX): text
        for name, text in vars(options).items()
        if name.startswith(_HYPER_PREFIX) and text is not None
    }
    hyper = raw.get("hyper", {})
    if given and isinstance(hyper, Mapping):
        model = MODELS.get(str(raw.get("model")))
        raw["hyper"] = {**hyper, **{name: _value(model, name, text) for name, text in given.items()}}
    return parse_job(raw)


def _read_spec(path: Path) -> Mapping[str, object]:
    try:
        value: object = json.loads(path.read_bytes())
    except OSError as error:
        raise Usage(f"--spec {path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadConfig(f"{path}: is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise BadConfig(f"{path}: found a {type(value).__name__}, expected a JSON object with model and mode")
    return cast(Mapping[str, object], value)


def _value(model: ModelOptions | None, name: str, text: str) -> object:
    """Text of a flag as its option's type; text that does not parse is left for `check_hyper` to refuse."""
    option = None if model is None else model.options.get(name)
    if option is None or option.type == "choice":
        return text
    try:
        if option.type == "int_list":
            return [int(word) for word in text.split(",")]
        if option.type == "bool":
            return {"true": True, "false": False}.get(text, text)
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, write. Returns the exit code."""
    stop = Stop()
    ended: list[Progress] = []

    def on_end(code: int, text: str) -> None:
        for progress in ended:
            with progress:
                progress.end(code, text)

    def work() -> str:
        one_blas_thread()  # before a model of another package can import numpy
        faults = load_plugins()
        for fault in faults:
            print(f"run: {fault}", file=sys.stderr)
        options = _parser().parse_args(arguments)
        if options.describe:
            print(json.dumps(describe(_ROOT), sort_keys=True, indent=2))
            return "described"
        stop.listen()
        failpoint("trainer.started")
        ended.append(Progress(options.progress_file, time.monotonic))
        return _train(options, ended[0], stop)

    return sentence_exit("run", work, on_end)


def _train(options: argparse.Namespace, progress: Progress, stop: Stop) -> str:
    if options.data is None or options.out is None:
        raise Usage("--data and --out are required to train; see --help")
    if options.threads < 1:
        raise Usage(f"--threads: found {options.threads}, expected 1 or more")
    if not options.checkpoint_every_s >= 0:
        raise Usage(f"--checkpoint-every-s: found {options.checkpoint_every_s}, expected 0 or more seconds")
    job = _job(options)
    model = MODELS[job.model]
    device = choose_device(
        model, options.device, job_requires_cuda=job.requires_cuda, why_no_cuda=why_no_cuda
    )
    try:
        from training.trainer.job import train_job
        from training.trainer.report import write
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "training", "cis490"):
            raise  # a defect of this checkout: no package helps against it
        raise Unavailable(
            f"{job.model} needs {package}, which is not installed; pip install {package}"
        ) from error

    sessions: list[LiveSession] = []

    def open_session(training: Mapping[str, Json]) -> LiveSession:
        sessions.append(
            LiveSession(progress, lambda: stop.requested, _checkpoints(options, training, progress))
        )
        return sessions[-1]

    failpoint("trainer.before_training")
    surroundings = Surroundings(progress, stop.check, open_session, device, options.threads)
    files, headline = train_job(job, options.data, surroundings)
    failpoint("trainer.trained")
    write(options.out, files)
    failpoint("trainer.result_written")
    progress.result(headline)
    for session in sessions:
        session.complete()
    failpoint("trainer.result_reported")
    auc = f"test ROC-AUC {headline['roc_auc']} ({headline['roc_auc_active']} without the quiet baseline)"
    leaky = (
        f", split {job.split_recipe} is leaky: not a result to quote"
        if job.split_recipe in LEAKY_RECIPES
        else ""
    )
    return f"trained {job.model}-{job.mode}: {auc}{leaky}, wrote {len(files)} files to {options.out}"


def _checkpoints(
    options: argparse.Namespace, training: Mapping[str, Json], progress: Progress
) -> Checkpoints | None:
    if options.checkpoint_dir is None:
        return None
    identity = identity_of({**training, "trainer_digest": trainer_digest(_ROOT)})
    return Checkpoints(
        options.checkpoint_dir, identity, progress.warn, time.monotonic, options.checkpoint_every_s
    )


if __name__ == "__main__":
    ended = main()
    # While Python shuts down, a second with torch, it puts back what SIGTERM does by default: a training that is over
    # would look killed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(ended)
