"""A training that is stopped anywhere and resumed ends with the bytes of one that was left alone."""

import json
from collections.abc import Mapping

import pytest

from tests.factories.small_models import data_of, hyper_of, stopped, summary_data, train
from tests.factories.small_series import Interrupted, Recorded
from training.trainer.errors import Preempted
from training.trainer.models import Context, TrainingData, UnusableState, module_of
from training.trainer.models.gbt import SEGMENT
from training.trainer.options import HyperValue

ROUNDS = 2 * SEGMENT + 5
GBT: Mapping[str, HyperValue] = {"rounds": ROUNDS, "num_leaves": 4}

MLP: Mapping[str, HyperValue] = {"epochs": 3, "batch_size": 60, "schedule": "cosine", "dropout": 0.3}
MLP_TICKS = 12
"""3 epochs of 4 batches."""


class Resumed(Recorded):
    """Begins with a checkpoint and remembers the steps."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__()
        self._files = files

    def resume(self) -> Mapping[str, bytes] | None:
        """See `Session`."""
        return self._files or None


@pytest.mark.parametrize("stop_at", [1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 1, ROUNDS])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_stop_of_gbt_at_any_round_changes_no_byte(stop_at: int, n_classes: int) -> None:
    data = summary_data(n_classes=n_classes, train=80)
    files = stopped("gbt", stop_at, data, given=GBT)
    assert (
        train("gbt", data, session=Resumed(files), given=GBT).files() == train("gbt", data, given=GBT).files()
    )


def test_gbt_has_nothing_to_keep_until_its_first_segment_is_complete() -> None:
    assert stopped("gbt", SEGMENT, given=GBT) == {}
    assert stopped("gbt", SEGMENT + 1, given=GBT) != {}


def test_gbt_goes_on_from_the_last_whole_segment() -> None:
    session = Resumed(stopped("gbt", SEGMENT + 7, given=GBT))
    train("gbt", session=session, given=GBT)
    assert [step.step for step in session.steps] == list(range(SEGMENT + 1, ROUNDS + 1))


def test_a_resumed_gbt_may_have_other_threads() -> None:
    files = stopped("gbt", SEGMENT + 7, given=GBT)
    assert (
        train("gbt", session=Resumed(files), threads=2, given=GBT).files() == train("gbt", given=GBT).files()
    )


def test_the_segments_of_gbt_draw_different_windows_and_features() -> None:
    """The same draws again and again would train a poorer model."""
    data = summary_data(train=80)
    texts = [
        stopped("gbt", at, data, given=GBT)["model.lgb.txt"].decode() for at in (SEGMENT + 1, 2 * SEGMENT + 1)
    ]
    found = [[line for line in text.splitlines() if line.startswith("[bagging_seed")] for text in texts]
    assert found[0] != found[1]


@pytest.mark.parametrize("inputs", ["summary", "raw"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_stop_of_mlp_after_any_batch_changes_no_byte(inputs: str, n_classes: int) -> None:
    case = "mlp on raw windows" if inputs == "raw" else "mlp"
    data = data_of(case, n_classes=n_classes)
    batch_size = len(data.train_y) // 4
    expected = train(case, data, given={**MLP, "batch_size": batch_size}).files()
    for stop_at in range(1, MLP_TICKS + 1):
        files = stopped(case, stop_at, data, given={**MLP, "batch_size": batch_size})
        resumed = train(case, data, session=Resumed(files), given={**MLP, "batch_size": batch_size})
        assert resumed.files() == expected, f"after a stop at tick {stop_at}"


@pytest.mark.parametrize(("case", "hyper", "stops"), [("gbt", GBT, (3, 60, 20)), ("mlp", MLP, (1, 1, 4))])
def test_a_training_may_be_stopped_again_and_again(
    case: str, hyper: Mapping[str, HyperValue], stops: tuple[int, ...]
) -> None:
    files: Mapping[str, bytes] | None = None
    for stop_at in stops:
        session = Interrupted(stop_at, files)
        with pytest.raises(Preempted):
            train(case, session=session, given=hyper)
        files = session.files or None  # a session keeps no empty checkpoint
    assert files is not None
    assert train(case, session=Resumed(files), given=hyper).files() == train(case, given=hyper).files()


def test_a_stop_with_patience_goes_back_to_the_same_best_epoch() -> None:
    hyper: Mapping[str, HyperValue] = {
        "epochs": 60,
        "batch_size": 100,
        "learning_rate": 0.05,
        "weight_decay": 0,
        "patience": 3,
    }
    whole = Recorded()
    expected = train("mlp", session=whole, given=hyper).files()
    assert len(whole.steps) < 60
    for stop_at in range(1, 2 * len(whole.steps) + 1):
        files = stopped("mlp", stop_at, given=hyper)
        assert train("mlp", session=Resumed(files), given=hyper).files() == expected, f"tick {stop_at}"
    after_the_end = Resumed(stopped("mlp", 2 * len(whole.steps), given=hyper))
    train("mlp", session=after_the_end, given=hyper)
    assert after_the_end.steps == [], "patience had ended the training"


@pytest.mark.parametrize(("case", "hyper", "stop_at", "left"), [("gbt", GBT, 51, 55), ("mlp", MLP, 7, 2)])
def test_a_resumed_training_reports_what_one_that_was_left_alone_does(
    case: str, hyper: Mapping[str, HyperValue], stop_at: int, left: int
) -> None:
    whole, resumed = Recorded(), Resumed(stopped(case, stop_at, given=hyper))
    train(case, session=whole, given=hyper)
    train(case, session=resumed, given=hyper)
    assert len(resumed.steps) == left
    assert resumed.steps == whole.steps[-left:]


@pytest.mark.parametrize(("case", "hyper", "stop_at"), [("gbt", GBT, 60), ("mlp", MLP, 5)])
@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b"tree\nversion=v4\n"])
def test_a_damaged_state_is_refused(
    case: str, hyper: Mapping[str, HyperValue], stop_at: int, damage: bytes
) -> None:
    files = stopped(case, stop_at, given=hyper)
    for name in files:
        with pytest.raises(UnusableState, match=f"the state of {case} "):
            train(case, session=Resumed({**files, name: damage}), given=hyper)
        with pytest.raises(UnusableState, match=f"the state of {case} cannot be read"):
            train(case, session=Resumed({k: v for k, v in files.items() if k != name}), given=hyper)


def test_a_gbt_text_that_was_cut_short_never_reaches_lightgbm() -> None:
    """It would end the whole process on some of them."""
    files = stopped("gbt", 60, given=GBT)
    text = files["model.lgb.txt"]
    for end in range(0, len(text), len(text) // 20):
        with pytest.raises(UnusableState, match="its text is not the one that was saved"):
            train("gbt", session=Resumed({**files, "model.lgb.txt": text[:end]}), given=GBT)


@pytest.mark.parametrize(
    ("case", "hyper", "stop_at", "other"),
    [
        ("gbt", GBT, 60, {"rounds": SEGMENT - 1}),
        ("mlp", MLP, 5, {"hidden": [9]}),
        ("mlp", MLP, 5, {"hidden": [8, 8]}),
        ("mlp", MLP, 11, {"epochs": 2}),
    ],
)
def test_the_state_of_another_training_is_refused(
    case: str, hyper: Mapping[str, HyperValue], stop_at: int, other: Mapping[str, HyperValue]
) -> None:
    files = stopped(case, stop_at, given=hyper)
    with pytest.raises(UnusableState, match=f"the state of {case} is of another training"):
        train(case, session=Resumed(files), given={**hyper, **other})


@pytest.mark.parametrize(("case", "hyper", "stop_at"), [("gbt", GBT, 60), ("mlp", MLP, 5)])
def test_the_state_of_a_training_on_other_data_is_refused(
    case: str, hyper: Mapping[str, HyperValue], stop_at: int
) -> None:
    files, data = stopped(case, stop_at, given=hyper), summary_data()
    fewer = TrainingData(data.train_x[:, :5], data.train_y, data.validation_x[:, :5], data.validation_y)
    for other in (fewer, summary_data(n_classes=3)):
        with pytest.raises(UnusableState, match="is of another training"):
            train(case, other, session=Resumed(files), given=hyper)


@pytest.mark.parametrize("case", ["gbt", "mlp"])
def test_a_state_of_the_other_model_is_refused(case: str) -> None:
    files = stopped("mlp", 5, given=MLP) if case == "gbt" else stopped("gbt", 60, given=GBT)
    with pytest.raises(UnusableState, match=f"the state of {case} cannot be read"):
        train(case, session=Resumed(files))


def test_a_state_holds_no_more_than_json_safetensors_and_text() -> None:
    assert set(stopped("gbt", 60, given=GBT)) == {"state.json", "model.lgb.txt"}
    files = stopped("mlp", 5, given=MLP)
    assert set(files) == {"state.json", "state.safetensors"}
    assert json.loads(files["state.json"])["done"] == 5


def test_rocket_has_nothing_to_resume_and_may_be_stopped_between_any_two_kernels() -> None:
    session = Interrupted(0)
    train("rocket", session=session)
    assert session.ticks > 84
    for stop_at in (1, 85, session.ticks):
        assert stopped("rocket", stop_at) == {}
    assert train("rocket", session=Resumed({})).files() == train("rocket").files()


def test_a_training_begins_with_its_number_of_steps() -> None:
    class Started(Recorded):
        begun: tuple[int, str] | None = None

        def start(self, total: int, unit: str) -> None:
            self.begun = (total, unit)

    for case, expected in {"gbt": (20, "round"), "mlp": (15, "epoch"), "rocket": (1, "step")}.items():
        session = Started()
        module_of(case).fit(data_of(case), hyper_of(case), Context(1, session))
        assert session.begun == expected
        assert session.steps[-1].step == session.steps[-1].total == expected[0]
