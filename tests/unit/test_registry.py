"""Models of other packages: they are found, they work, and a faulty one harms nobody but itself."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from training.trainer import options
from training.trainer.options import MODELS, WINDOW_OPTIONS, ModelOptions, Needs, Option, register
from training.trainer.registry import GROUP, register_all
from training.trainer.run import main

ROOT = Path(__file__).resolve().parents[2]
LSTM = ModelOptions(
    "lstm",
    "a test",
    Needs("no", 0.5, ("numpy",)),
    True,
    "x",
    {option.name: option for option in WINDOW_OPTIONS},
)


@pytest.fixture(autouse=True)
def _known_models() -> Iterator[None]:
    before = dict(MODELS)
    yield
    options._MODELS.clear()
    options._MODELS.update(before)


def changed(option: Option) -> ModelOptions:
    return replace(LSTM, options={**LSTM.options, option.name: option})


def test_a_registered_model_has_its_options_checked_like_our_own() -> None:
    register(changed(Option("units", "int", 8, "units", minimum=1, maximum=64)))
    assert options.check_hyper("lstm", {"units": 9}) == []
    assert "units?" in str(options.check_hyper("lstm", {"unit": 9})[0])
    assert options.identity_hyper("lstm", {"units": 8}) == {}


def test_registering_twice_changes_nothing() -> None:
    register(LSTM)
    register(LSTM)
    assert MODELS["lstm"] is LSTM


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (replace(LSTM, name="gbt"), "there already, from the trainer itself"),
        (replace(LSTM, name=".lstm"), "no leading dot"),
        (replace(LSTM, options={}), "no option window_s, stride_s"),
        (changed(Option("units", "int", 0, "units", minimum=1, maximum=64)), "from 1 to 64"),
        (changed(Option("units", "int", 8, "units", minimum=1)), "needs a minimum and a maximum"),
        (changed(Option("seed", "int", 1, "seed", minimum=0, maximum=2)), "cannot be named 'seed'"),
        (changed(Option("Units", "int", 1, "units", minimum=0, maximum=2)), "cannot be named 'Units'"),
        (
            replace(LSTM, options={**LSTM.options, "units": WINDOW_OPTIONS[0]}),
            "stands under the name 'units'",
        ),
    ],
    ids=["taken", "name", "no windows", "default", "no limit", "reserved", "case", "key"],
)
def test_a_table_that_contradicts_itself_is_refused(model: ModelOptions, text: str) -> None:
    with pytest.raises(ValueError, match="model ") as caught:
        register(model)
    assert text in str(caught.value)
    assert MODELS.get(model.name) is not model


def test_no_hyper_parameter_can_take_the_place_of_an_option_of_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = {
        word.strip(",]").removeprefix("--") for word in capsys.readouterr().out.split() if word[:2] == "--"
    }
    ours = {name.replace("-", "_") for name in shown} - {name for m in MODELS.values() for name in m.options}
    assert ours <= options.RESERVED


def broken() -> object:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("tests.unit.nowhere:LSTM", "No module named"),
        ("training.trainer.options:NOTHING", "has no attribute"),
        ("training.trainer.options:MODES", "found a tuple, expected a ModelOptions"),
        ("tests.factories.module_that_exits:LSTM", "is left out: 3"),
    ],
)
def test_a_faulty_package_is_named_and_the_others_still_work(value: str, text: str) -> None:
    added: list[str] = []
    find: Callable[[str, str], EntryPoint] = lambda name, value: EntryPoint(name, value, GROUP)  # noqa: E731
    faults = register_all(
        [find("bad", value), find("gbt", "training.trainer.options:MODELS")],
        lambda model: added.append(model.name),
    )
    assert len(faults) == 2
    assert "'bad'" in faults[0]
    assert text in faults[0]
    assert "repair or uninstall" in faults[0]


PLUGIN_OPTIONS = """
from training.trainer.options import WINDOW_OPTIONS, ModelOptions, Needs, Option
ALL = (*WINDOW_OPTIONS, Option("level", "float", 0.5, "what it always says", minimum=0, maximum=1))
CONSTANT = ModelOptions("constant", "says the same of every window", Needs("no", 0.1, ("numpy",)), False,
                        "lab_models.constant", {option.name: option for option in ALL})
"""
PLUGIN_MODEL = """
import json
import numpy as np
def reads(hyper):
    return "summary"
class Constant:
    def __init__(self, level):
        self.level = level
    def predict(self, x):
        return np.tile(np.array([1 - self.level, self.level]), (len(x), 1))
    def files(self):
        return {"arch.json": json.dumps({"level": self.level}).encode()}
    def preprocess(self):
        return {}
def fit(data, hyper, context):
    context.session.start(1, "step")
    return Constant(float(hyper["level"]))
def load(folder, preprocess):
    return Constant(json.loads((folder / "arch.json").read_text())["level"])
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder with a package, installed as pip leaves it, that offers the model `constant`."""
    package, info = tmp_path / "lab_models", tmp_path / "lab_models-1.2.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("")
    (package / "options.py").write_text(PLUGIN_OPTIONS)
    (package / "constant.py").write_text(PLUGIN_MODEL)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-models\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nconstant = lab_models.options:CONSTANT\n")
    return tmp_path


def run(plugin: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{plugin}{os.pathsep}{ROOT}"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_an_installed_package_adds_its_model_to_trainer_and_manifest(plugin: Path) -> None:
    described = run(plugin, "-m", "training.trainer.run", "--describe").stdout
    assert '"plugin": "lab-models 1.2"' in described
    manifest = plugin / "m.toml"
    manifest.write_text('[[jobs]]\nmodel = "constant"\nmode = "oracle"\nhyper = { level = 2 }\n')
    check = run(
        plugin, "-c", "import sys; from training.fleet.manifest import load; load(sys.argv[1])", manifest
    )
    assert "from 0 to 1" in check.stderr


def test_a_model_of_another_package_trains(plugin: Path) -> None:
    from tests.factories.episodes import write_dataset

    data = write_dataset(plugin / "data")
    done = run(
        plugin, "-m", "training.trainer.run", "--model", "constant", "--mode", "oracle", "--level", "0.25",
        "--data", data, "--out", plugin / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"plugin": "lab-models 1.2"' in (plugin / "out" / "config.json").read_text()
    assert ",0.250000" in (plugin / "out" / "predictions.csv").read_text()


def test_an_artifact_of_another_packages_model_is_scored(plugin: Path) -> None:
    from tests.factories.episodes import write_dataset

    data = write_dataset(plugin / "data")
    words = ("--model", "constant", "--mode", "oracle", "--level", "0.25", "--data", data)
    assert run(plugin, "-m", "training.trainer.run", *words, "--out", plugin / "out").returncode == 0
    done = run(plugin, "-m", "training.trainer.score", "--artifact", plugin / "out", "--data", data)
    assert (done.returncode, '"roc_auc": 0.5' in done.stdout) == (0, True), done.stderr
