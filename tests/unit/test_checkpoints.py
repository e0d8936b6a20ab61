"""Checkpoints: what was saved comes back whole or not at all, and nothing that goes wrong ends a training."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from cis490.clock import ManualClock
from cis490.files import temporary_name
from training.trainer.checkpoints import MAGIC, MOST_SHARE, Checkpoints, Unusable, decode, encode, identity_of
from training.trainer.errors import Preempted
from training.trainer.models import Step
from training.trainer.options import Json
from training.trainer.progress import Progress
from training.trainer.session import LiveSession

JOB: dict[str, Json] = {"model": "mlp", "seed": 1, "hyper": {"epochs": 3}}
ID = identity_of(JOB)
STATE = {"weights.safetensors": b"\x00\xff" * 50, "state.json": b"{}", "empty": b""}


class Desk:
    """Checkpoints in a folder, with the warnings they gave and a clock that moves when told to."""

    def __init__(self, folder: Path, identity: str = ID, every_s: float = 30.0) -> None:
        self.folder, self.clock = folder, ManualClock()
        self.warnings: list[str] = []
        self.checkpoints = Checkpoints(folder, identity, self.warnings.append, self.clock.now_s, every_s)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def test_what_was_saved_comes_back_in_another_process_of_the_same_training(tmp_path: Path) -> None:
    assert Desk(tmp_path / "new").checkpoints.save(STATE)
    again = Desk(tmp_path / "new")
    assert again.checkpoints.newest() == STATE
    assert again.warnings == []


def test_without_a_folder_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "none")
    assert desk.checkpoints.newest() is None
    assert desk.warnings == []


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"hyper": {"epochs": 4}}, {"device": "cuda"}, {"libraries": {"numpy": "9"}}],
    ids=lambda other: next(iter(other)),
)
def test_the_checkpoint_of_another_training_is_not_used_and_that_is_said(
    other: Mapping[str, Json], tmp_path: Path
) -> None:
    Desk(tmp_path).checkpoints.save(STATE)
    desk = Desk(tmp_path, identity_of({**JOB, **other}))
    assert desk.checkpoints.newest() is None
    assert "belongs to another training" in desk.warnings[0]


def test_the_order_of_keys_does_not_make_another_training() -> None:
    assert identity_of(dict(reversed(JOB.items()))) == ID


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for n in range(5):
        desk.checkpoints.save({"n": str(n).encode()})
    assert desk.names() == ["checkpoint-4", "checkpoint-5"]
    assert Desk(tmp_path).checkpoints.newest() == {"n": b"4"}


def test_a_next_process_does_not_overwrite_the_newest(tmp_path: Path) -> None:
    Desk(tmp_path).checkpoints.save({"n": b"old"})
    Desk(tmp_path).checkpoints.save({"n": b"new"})
    assert Desk(tmp_path).checkpoints.newest() == {"n": b"new"}


def test_every_single_damaged_byte_is_noticed() -> None:
    data = encode(ID, {"a": b"12", "b": b"345"})
    for at in range(len(data)):
        broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            assert decode(broken, ID) == {"a": b"12", "b": b"345"}, (
                at
            )  # a blank between two words of the head
        except Unusable:
            continue
        assert chr(data[at]).isspace(), at


def test_every_shortened_checkpoint_is_noticed() -> None:
    data = encode(ID, {"a": b"12", "b": b"345"})
    for size in range(len(data)):
        with pytest.raises(Unusable):
            decode(data[:size], ID)


def test_the_one_before_is_used_when_the_newest_is_damaged(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.checkpoints.save({"n": b"1"})
    desk.checkpoints.save({"n": b"2"})
    newest = tmp_path / "checkpoint-2"
    newest.write_bytes(newest.read_bytes()[:-1])
    again = Desk(tmp_path)
    assert again.checkpoints.newest() == {"n": b"1"}
    assert "checkpoint 2" in again.warnings[0]
    assert "damaged" in again.warnings[0]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    for name in ("checkpoint-x", "notes.txt", "checkpoint-1.bak"):
        (tmp_path / name).write_text("mine")
    desk = Desk(tmp_path)
    for _ in range(4):
        desk.checkpoints.save(STATE)
    desk.checkpoints.clear()
    assert desk.names() == ["checkpoint-1.bak", "checkpoint-x", "notes.txt"]


def test_a_disk_that_cannot_be_written_is_reported_once_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    desk = Desk(tmp_path / "file")
    assert not desk.checkpoints.save(STATE)
    assert not desk.checkpoints.save(STATE)
    assert len(desk.warnings) == 1
    assert "training goes on without" in desk.warnings[0]


def test_a_state_for_which_the_memory_is_too_little_is_reported_once_and_ends_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def state() -> Mapping[str, bytes]:
        raise MemoryError("cannot allocate 9 GiB")

    for _ in range(2):
        desk.clock.advance(31)
        session(desk, stops=False).tick(state)
        assert not desk.checkpoints.is_due
    assert len(desk.warnings) == 1
    assert "out of memory: cannot allocate 9 GiB" in desk.warnings[0]
    with pytest.raises(Preempted, match="could not be written"):
        session(desk, stops=True).tick(state)


def test_what_a_killed_process_left_unfinished_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    unfinished = temporary_name(tmp_path / "checkpoint-1")
    unfinished.write_bytes(b"half")
    foreign = tmp_path / ".notes.0123456789abcdef.tmp"
    foreign.write_text("mine")
    desk = Desk(tmp_path)
    assert desk.checkpoints.save(STATE)
    assert desk.names() == [foreign.name, "checkpoint-1"]
    unfinished.write_bytes(b"half")
    desk.checkpoints.clear()
    assert desk.names() == [foreign.name]


def test_an_old_checkpoint_that_cannot_be_deleted_does_not_make_the_new_one_unwritten(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    desk = Desk(tmp_path)
    assert [desk.checkpoints.save(STATE), desk.checkpoints.save(STATE)] == [True, True]
    assert desk.warnings == []


@pytest.mark.parametrize("head", [b"[" * 60_000, b'{"identity": "", "sha256": "", "files": [["a", 1e999]]}'])
def test_a_head_that_no_trainer_wrote_is_passed_over(head: bytes) -> None:
    with pytest.raises(Unusable, match="its head cannot be read"):
        decode(MAGIC + head + b"\n", ID)


def test_the_first_checkpoint_is_due_after_the_period_and_the_next_one_period_later(tmp_path: Path) -> None:
    desk = Desk(tmp_path, every_s=30)
    due: list[bool] = []
    for seconds in (29.9, 0.1):
        desk.clock.advance(seconds)
        due.append(desk.checkpoints.is_due)
    desk.checkpoints.save(STATE)
    assert [*due, desk.checkpoints.is_due] == [False, True, False]


def test_a_state_that_takes_long_to_save_is_saved_less_often(tmp_path: Path) -> None:
    times = [0.0, 0.0, 10.0]  # made; saving began; saving ended
    checkpoints = Checkpoints(tmp_path, ID, lambda text: None, lambda: times.pop(0), every_s=30)
    checkpoints.save(STATE)
    due_s = 10 + 10 / MOST_SHARE
    times += [due_s - 1, due_s]
    assert [checkpoints.is_due, checkpoints.is_due] == [False, True]


# --- the session around a training ---


def session(desk: Desk | None, *, stops: bool) -> LiveSession:
    return LiveSession(Progress(None, lambda: 0.0), lambda: stops, desk.checkpoints if desk else None)


def test_a_stop_saves_first_and_says_how_far_it_was(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    running = session(desk, stops=True)
    running.start(9, "epoch")
    with pytest.raises(Preempted, match="after epoch 4 of 9; a checkpoint is kept for the next attempt"):
        running.step(Step(4, 9, 0.5), lambda: STATE)
    assert Desk(tmp_path).checkpoints.newest() == STATE


def test_a_stop_without_a_folder_says_that_nothing_is_kept() -> None:
    with pytest.raises(Preempted, match="nothing of it is kept"):
        session(None, stops=True).tick(lambda: STATE)


def test_a_stop_on_a_full_disk_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Preempted, match="could not be written"):
        session(Desk(tmp_path / "file"), stops=True).tick(lambda: STATE)


def test_a_model_without_a_state_leaves_no_checkpoint_and_promises_none(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with pytest.raises(Preempted, match="nothing yet that the next attempt could go on from"):
        session(desk, stops=True).tick(dict)
    assert desk.names() == []


def test_a_state_is_only_made_when_it_is_to_be_saved(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def state() -> Mapping[str, bytes]:
        raise AssertionError("was made")

    session(desk, stops=False).tick(state)
    desk.clock.advance(31)
    with pytest.raises(AssertionError, match="was made"):
        session(desk, stops=False).tick(state)


def test_a_refused_checkpoint_is_not_offered_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.checkpoints.save(STATE)
    running = session(desk, stops=False)
    assert running.resume() == STATE
    running.refuse("it is odd")
    assert running.resume() is None


def test_a_complete_training_leaves_no_checkpoint(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.checkpoints.save(STATE)
    session(desk, stops=False).complete()
    assert desk.names() == []
