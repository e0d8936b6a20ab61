"""The whole pipeline in one process: it finds a signal where there is one, and none where there is none."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.factories.episodes import episode_bytes, recipes, write_dataset, write_episode
from training.trainer import job as job_module
from training.trainer.errors import BadConfig, BadData
from training.trainer.job import suspicion, train_job
from training.trainer.models import Context, NoSession, Trained, TrainingData, module_of
from training.trainer.options import MODELS, SPLIT_RECIPES, HyperValue, Json
from training.trainer.progress import Progress
from training.trainer.score import main as score_main
from training.trainer.scoring import score_artifact
from training.trainer.session import Surroundings
from training.trainer.spec import parse_job
from training.trainer.splits import side_rows

QUICK: Mapping[str, Mapping[str, object]] = {
    "gbt": {"rounds": 30, "min_data_in_leaf": 5},
    "mlp": {"epochs": 15, "hidden": [8]},
    "rocket": {"num_features": 420},
}
TORCH_FREE = sorted(name for name, model in MODELS.items() if "torch" not in model.needs.libraries)
HOSTS = ("lab-a", "lab-b", "lab-c", "lab-d")


def surroundings(progress: Progress) -> Surroundings:
    return Surroundings(progress, lambda: None, lambda training: NoSession())


def train(
    data: Path, model: str, progress: Path | None = None, **more: object
) -> tuple[dict[str, bytes], dict[str, Json]]:
    """Files and headline measures of one job."""
    job = parse_job({"model": model, "mode": "realistic", "hyper": QUICK[model], "seed": 1, **more})
    with Progress(progress, lambda: 0.0) as lines:
        files, headline = train_job(job, data, surroundings(lines))
    return dict(files), headline


def read(files: Mapping[str, bytes], name: str) -> dict[str, Json]:
    return cast(dict[str, Json], json.loads(files[name]))


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), recipes(HOSTS, per_host=12))


@pytest.fixture(scope="module")
def gbt(data: Path) -> Mapping[str, bytes]:
    """The files of one job that several tests look at."""
    return train(data, "gbt")[0]


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        *(("gbt", recipe) for recipe in sorted(SPLIT_RECIPES)),
        *((model, "host_disjoint") for model in TORCH_FREE),
    ],
)
def test_a_signal_is_found_with_every_split(model: str, recipe: str, data: Path) -> None:
    files, headline = train(data, model, split_recipe=recipe)
    # Families that nobody trained on are the hard case: one benign and one suspicious one remain to learn from.
    assert cast(float, headline["roc_auc_active"]) > (0.9 if recipe == "family_disjoint" else 0.95)
    for name in ("config.json", "metrics.json"):
        assert read(files, name)["split_is_leaky"] == (recipe == "random_window"), name
    for name in ("split.json", "leakage.json"):
        assert read(files, name)["leaky"] == (recipe == "random_window"), name
    assert files["model_card.md"].startswith(b"# ")
    assert (b"LEAKY" in files["model_card.md"].splitlines()[0]) == (recipe == "random_window")


@pytest.mark.parametrize("model", TORCH_FREE)
def test_without_a_signal_nothing_beyond_activity_is_found(model: str, tmp_path: Path) -> None:
    """Labels that mean nothing: whatever is found here leaked through split, features or labels."""
    plain = [replace(recipe, signal=False) for recipe in recipes(HOSTS[:3], per_host=24)]
    _, found = train(write_dataset(tmp_path, plain), model, train_hosts=["lab-a", "lab-b"])
    assert 0.35 < cast(float, found["roc_auc_active"]) < 0.65
    # Of 14 benign windows per pair of episodes, 4 lie in the baseline and are told apart by being quiet.
    assert cast(float, found["roc_auc_of_mere_activity"]) == pytest.approx(0.5 + 0.5 * 4 / 14, abs=1e-6)


@pytest.mark.parametrize("model", TORCH_FREE)
def test_scoring_the_test_episodes_again_gives_the_measures_of_the_artifact(
    model: str, data: Path, tmp_path: Path
) -> None:
    files, _ = train(data, model, train_hosts=["lab-a", "lab-b", "lab-c"])
    held_out = tmp_path / "held-out"
    (held_out / "lab-d").mkdir(parents=True)
    for path in (data / "lab-d").iterdir():
        (held_out / "lab-d" / path.name).write_bytes(path.read_bytes())
    measured = score_artifact(write(tmp_path / "artifact", files), held_out)
    test = cast(Mapping[str, Json], read(files, "metrics.json")["test"])
    for name in ("windows", "roc_auc", "pr_auc", "roc_auc_active", "brier"):
        assert measured[name] == pytest.approx(test[name], abs=1e-6), name
    assert measured["episodes_seen_in_training"] == 0


def test_scoring_what_trained_the_model_says_how_many_episodes_that_are(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The obvious command, on the data set at hand, would show what the model remembers as if it were a result."""
    files, _ = train(data, "gbt", train_hosts=["lab-a", "lab-b", "lab-c"])
    artifact = write(tmp_path / "artifact", files)
    assert score_main(["--artifact", str(artifact), "--data", str(data)]) == 0
    said = capsys.readouterr()
    sides = cast(Mapping[str, Mapping[str, int]], read(files, "split.json")["sides"])
    seen = sides["train"]["n_episodes"] + sides["validation"]["n_episodes"]
    assert json.loads(said.out)["episodes_seen_in_training"] == seen
    assert f"{seen} of which trained or validated this model: not a result to quote" in said.err


def test_a_side_of_single_windows_is_listed_in_the_predictions(data: Path) -> None:
    files, _ = train(data, "gbt", split_recipe="random_window")
    test = cast(Mapping[str, Json], read(files, "metrics.json")["test"])
    assert len(files["predictions.csv"].splitlines()) - 1 == test["windows"]
    assert test["windows"] == pytest.approx(12 * 48 / 4, abs=4)


def test_warnings_about_leakage_are_told_while_it_trains(data: Path, tmp_path: Path) -> None:
    files, _ = train(data, "gbt", tmp_path / "p", split_recipe="random_window")
    told = [json.loads(line) for line in (tmp_path / "p").read_text().splitlines()]
    warned = [line["text"] for line in told if line["event"] == "warn"]
    checks = cast(Mapping[str, Mapping[str, str]], read(files, "leakage.json")["checks"])
    assert set(warned) == {check["text"] for check in checks.values() if check["verdict"] == "warn"}
    assert any("share seconds of recording" in text for text in warned)


def test_windows_on_both_sides_of_an_honest_recipe_end_the_job(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of the split itself: it must not become a number."""

    def defect(*arguments: Any) -> Mapping[str, NDArray[np.intp]]:
        rows = side_rows(*arguments)
        return {**rows, "test": np.union1d(rows["test"], rows["train"][:40])}

    monkeypatch.setattr(job_module, "side_rows", defect)
    with pytest.raises(BadData, match=r"random_group: .* share seconds of recording .*Nothing was trained"):
        train(data, "gbt", split_recipe="random_group")


def test_threshold_and_temperature_come_from_the_validation_side_alone(data: Path) -> None:
    """Another test side changes neither, as long as the same episodes train and validate."""
    first = read(train(data, "gbt", train_hosts=["lab-a", "lab-b", "lab-c"])[0], "metrics.json")
    other = write_dataset(data.parent / "other", recipes(HOSTS, per_host=12))
    for path in sorted((other / "lab-d").iterdir())[6:]:
        path.unlink()
    second = read(train(other, "gbt", train_hosts=["lab-a", "lab-b", "lab-c"])[0], "metrics.json")
    assert first["test"] != second["test"]
    assert [first[name] for name in ("threshold", "temperature", "validation")] == [
        second[name] for name in ("threshold", "temperature", "validation")
    ]


def test_the_test_side_does_not_decide_which_features_exist(tmp_path: Path) -> None:
    """Free memory stands still on all hosts but the one that tests."""
    for n, recipe in enumerate(recipes(HOSTS, per_host=8)):
        still = {} if recipe.host == "lab-d" else {"sys.mem.free": np.full(150, 7, dtype=np.int64)}
        write_episode(tmp_path, f"{recipe.host}/{n:03d}", episode_bytes(recipe, n, overwrite=still))
    files, _ = train(tmp_path, "gbt", train_hosts=["lab-a", "lab-b", "lab-c"])
    kept = cast(list[str], read(files, "preprocess.json")["features"])
    assert {name.partition("|")[0] for name in kept} == {"block.write_bytes", "sys.cpu.user"}


def test_behaviour_too_short_to_fill_half_a_window_is_refused(tmp_path: Path) -> None:
    late = [replace(recipe, onset_s=14.0) for recipe in recipes(HOSTS)]
    with pytest.raises(BadData, match=r"training side has 0 suspicious of .* windows"):
        train(write_dataset(tmp_path, late), "gbt")


def test_an_artifact_without_its_model_is_refused(data: Path, tmp_path: Path) -> None:
    files, _ = train(data, "mlp")
    del files["model.safetensors"]
    with pytest.raises(BadData, match=r"model\.safetensors: cannot be read.*fetch the artifact again"):
        score_artifact(write(tmp_path, files), data)


@pytest.mark.parametrize("model", ["gbt", "mlp", "rocket"])
def test_a_model_that_was_changed_after_the_training_is_refused_and_never_loaded(
    model: str, data: Path, tmp_path: Path
) -> None:
    """A flipped bit of a weight would be scored as if nothing had happened; a text cut short ends LightGBM's whole
    process."""
    files, _ = train(data, model)
    for name in sorted(name for name in files if name.startswith(("model.", "arch."))):
        content = files[name]
        for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[: len(content) // 2], b""):
            folder = write(tmp_path / f"{name}-{len(damaged)}", {**files, name: damaged})
            with pytest.raises(BadData, match=f"{re.escape(name)}: its sha256 is"):
                score_artifact(folder, data)


def test_a_model_that_learned_nothing_is_not_passed_over_in_silence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(data, "gbt", hyper={"rounds": 2, "min_data_in_leaf": 10_000})
    assert "the same score" in capsys.readouterr().err
    train(data, "gbt", hyper={"rounds": 20})
    assert "the same score" not in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["inputs", "features", "scaling", "channels", "model_files"])
def test_an_artifact_that_does_not_say_how_it_reads_is_refused(
    lost: str, gbt: Mapping[str, bytes], data: Path, tmp_path: Path
) -> None:
    files = dict(gbt)
    prepared = read(files, "preprocess.json")
    del prepared[lost]
    files["preprocess.json"] = json.dumps(prepared).encode()
    with pytest.raises(BadData, match="train it again"):
        score_artifact(write(tmp_path, files), data)


class Diverged:
    """A model whose numbers went out of bounds."""

    def __init__(self, probabilities: NDArray[np.float64]) -> None:
        self._probabilities = probabilities

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._probabilities

    def files(self) -> Mapping[str, bytes]:
        return {}

    def preprocess(self) -> Mapping[str, Json]:
        return {}


@pytest.mark.parametrize("found", [np.full((3, 2), np.nan), np.zeros(3), np.zeros((3, 3)), np.zeros((2, 2))])
def test_scores_that_are_no_probabilities_are_refused(found: NDArray[np.float64]) -> None:
    with pytest.raises(BadConfig, match="two finite probabilities for each window"):
        suspicion(Diverged(found), np.zeros((3, 4), dtype=np.float32), "mlp")


class Watched:
    """A model module that notes what it is given."""

    def __init__(self, model: str, reads: str) -> None:
        self._module, self._reads = module_of(model), reads
        self.seen: list[TrainingData] = []

    def reads(self, hyper: Mapping[str, HyperValue]) -> str:
        return self._reads

    def fit(self, data: TrainingData, hyper: Mapping[str, HyperValue], context: Context) -> Trained:
        self.seen.append(data)
        return cast(Trained, Diverged(np.zeros((0, 0))))


@pytest.mark.parametrize(("reads", "shape"), [("series", (3, 40)), ("summary", (42,))])
def test_a_model_is_given_what_it_reads(
    reads: str, shape: tuple[int, ...], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three channels are visible to `realistic`; 40 samples or 14 statistics of each make a window."""
    watched = Watched("gbt", reads)
    monkeypatch.setattr(job_module, "module_of", lambda model: watched)
    with pytest.raises(BadConfig, match="two finite probabilities"):
        train(data, "gbt")
    given = watched.seen[0]
    assert (given.train_x.shape[1:], given.validation_x.shape[1:]) == (shape, shape)
    assert given.train_x.dtype == np.float32
    assert given.train_y.dtype == np.int64
    assert set(given.train_y.tolist()) == {0, 1}
    assert np.isfinite(given.train_x).all()
