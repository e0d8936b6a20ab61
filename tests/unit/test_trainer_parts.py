"""The smaller parts of the trainer: digest, job specification, progress lines, report values."""

import json
from pathlib import Path

import pytest

from training.trainer.digest import trainer_digest
from training.trainer.errors import BadConfig, BadData, CannotWrite
from training.trainer.process import sentence_exit
from training.trainer.progress import Progress
from training.trainer.report import json_bytes, read_json, rounded, write
from training.trainer.spec import parse_job


def checkout(root: Path, newline: str = "\n") -> Path:
    """A tiny checkout with the files that the digest covers, and one it does not."""
    for name in (
        "training/trainer/a.py",
        "training/trainer/models/b.py",
        "cis490/episodes/c.py",
        "cis490/charts.py",
        "cis490/d.py",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"x = 1{newline}".encode())
    return root


def test_the_digest_ignores_the_folder_and_the_line_ends(tmp_path: Path) -> None:
    assert trainer_digest(checkout(tmp_path / "one")) == trainer_digest(checkout(tmp_path / "two", "\r\n"))


@pytest.mark.parametrize(
    "name",
    ["training/trainer/a.py", "training/trainer/models/b.py", "cis490/episodes/c.py", "cis490/charts.py"],
)
def test_the_digest_sees_every_change_of_the_trainer(tmp_path: Path, name: str) -> None:
    root = checkout(tmp_path)
    before = trainer_digest(root)
    (root / name).write_text("x = 2\n")
    assert trainer_digest(root) != before


def test_the_digest_sees_a_file_that_was_renamed(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    before = trainer_digest(root)
    (root / "training/trainer/a.py").rename(root / "training/trainer/renamed.py")
    assert trainer_digest(root) != before


def test_the_digest_leaves_other_files_out(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    before = trainer_digest(root)
    (root / "cis490/d.py").write_text("x = 2\n")
    (root / "training/trainer/notes.txt").write_text("no code")
    assert trainer_digest(root) == before


def test_a_folder_that_is_no_checkout_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no Python files"):
        trainer_digest(tmp_path)


def test_a_job_needs_model_and_mode_only() -> None:
    job = parse_job({"model": "gbt", "mode": "oracle", "name": "gbt-oracle", "priority": 3})
    assert (job.split_recipe, job.train_hosts, job.seed) == ("host_disjoint", (), 0)
    assert job.hyper["rounds"] == 150


def test_train_hosts_are_a_sorted_set() -> None:
    job = parse_job({"model": "gbt", "mode": "oracle", "train_hosts": ["lab-b", "lab-a", "lab-b"]})
    assert job.train_hosts == ("lab-a", "lab-b")


def test_all_faults_of_a_job_are_named_at_once() -> None:
    with pytest.raises(BadConfig) as caught:
        parse_job(
            {
                "model": "gbt",
                "mode": "relistic",
                "hyper": {"num_leavs": 3, "rounds": 0},
                "train_hosts": "lab-a",
                "split_recipe": 7,
                "seed": True,
            }
        )
    for part in ("realistic?", "num_leaves?", "hyper.rounds", "train_hosts", "split_recipe", "seed"):
        assert part in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**31, 1.5, "1", None])
def test_a_seed_is_a_whole_number_in_range(seed: object) -> None:
    with pytest.raises(BadConfig, match="seed"):
        parse_job({"model": "gbt", "mode": "oracle", "seed": seed})


@pytest.mark.parametrize(
    "raw", [{}, {"model": None, "mode": []}, {"model": "gbt", "mode": "oracle", "hyper": 3}]
)
def test_a_job_of_the_wrong_shape_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(BadConfig, match="expected"):
        parse_job(raw)


def test_progress_is_written_at_most_twice_a_second_and_always_at_the_end(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "progress.jsonl"
    with Progress(path, lambda: now) as progress:
        progress.start(10, "round")
        for step in range(1, 11):
            progress.step(step, 10, 0.5, {"validation_loss": 0.25})
            now += 0.2
        progress.end(0, "done")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", *["progress"] * 4, "end"]
    assert [line["step"] for line in lines[1:-1]] == [1, 4, 7, 10]
    assert {line["v"] for line in lines} == {1}


def test_a_progress_line_is_readable_as_soon_as_it_is_written(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", lambda: 0.0)
    progress.warn("mind this")
    assert json.loads((tmp_path / "p").read_text()) == {"event": "warn", "text": "mind this", "v": 1}
    with progress:
        pass


def test_a_progress_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="progress file"):
        Progress(tmp_path / "no" / "folder", lambda: 0.0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here that is always full")
def test_a_full_disk_takes_the_progress_and_not_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(Path("/dev/full"), lambda: 0.0)
    with progress:
        progress.start(2, "epoch")
        progress.step(2, 2, 0.5, {})
        progress.end(0, "done")
    assert capsys.readouterr().err.count("progress can no longer be written") == 1


def test_without_a_progress_file_a_person_still_reads_the_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Progress(None, lambda: 0.0).warn("it leaks")
    assert capsys.readouterr().err == "warning: it leaks\n"
    with Progress(tmp_path / "p", lambda: 0.0) as progress:
        progress.warn("it leaks")
    assert capsys.readouterr().err == ""


class Panic(BaseException):
    """As an extension in Rust raises it."""


def test_nothing_ends_a_program_without_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def panics() -> str:
        raise Panic("pointer is null")

    assert sentence_exit("run", panics) == 70
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback")
    assert said[-1].startswith("run: internal error (Panic: pointer is null)")


def test_reported_floats_are_cut_and_never_minus_zero() -> None:
    assert (
        repr(rounded([0.1234567891, {"a": -1e-12}, 3, True, None])) == "[0.123457, {'a': 0.0}, 3, True, None]"
    )


def test_reports_never_hold_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        json_bytes({"x": float("nan")})


def test_writing_removes_what_an_earlier_run_left_but_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    for name in (
        "model.lgb.txt",
        "arch.json",
        "metrics.json",
        "notes.txt",
        "plots/roc.svg",
        "plots/mine.txt",
    ):
        (tmp_path / name).write_text("old")
    write(tmp_path, {"metrics.json": b"new", "plots/pr.svg": b"new"})
    left = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.*")}
    assert left == {
        "metrics.json": "new",
        "plots/pr.svg": "new",
        "notes.txt": "old",
        "plots/mine.txt": "old",
    }


def test_results_are_written_into_folders_that_were_not_there(tmp_path: Path) -> None:
    write(tmp_path / "out", {"metrics.json": b"1", "plots/roc.svg": b"2"})
    assert (tmp_path / "out/plots/roc.svg").read_bytes() == b"2"


def test_results_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="results cannot be written"):
        write(tmp_path / "file", {})


@pytest.mark.parametrize("content", ["{", "[]"])
def test_an_artifact_that_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadData, match=r"config\.json"):
        read_json(tmp_path / "config.json")
