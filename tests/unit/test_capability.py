"""What a host says about itself: driver outputs by fixtures, children that are real processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from training.fleet import capability, capability_probe, host_facts
from training.fleet.capability import (
    ChildResult,
    Probe,
    choose_gpus,
    has_cuda,
    parse_describe,
    parse_nvidia_smi,
    parse_probe,
    run_child,
    survey,
)
from training.fleet.types import Gpu

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "nvidia-smi"
CARD = Gpu("NVIDIA GeForce RTX 3060", 12.0)
SLICE = Gpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4.75)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def said(name: str, code: int = 0) -> ChildResult:
    return ChildResult(code, (FIXTURES / name).read_text("utf-8"))


def probed(torch: object = None, nvml: object = None, notes: Sequence[str] = ()) -> ChildResult:
    return ChildResult(0, json.dumps({"torch": torch, "nvml": nvml, "notes": list(notes)}))


def described(**models: object) -> ChildResult:
    return ChildResult(0, json.dumps({"protocol": 1, "trainer_digest": "e" * 64, "models": models}, indent=2))


@pytest.mark.parametrize(
    ("fixture", "expected"),
    [
        ("one-gpu.csv", [("NVIDIA GeForce RTX 3060", 12.0)]),
        ("two-gpus.csv", [("NVIDIA GeForce RTX 4090", 23.99), ("NVIDIA GeForce GTX 1060 6GB", 6.0)]),
        ("name-with-comma.csv", [("Quadro T1000, with Max-Q Design", 4.0)]),
        ("vgpu-slice.csv", [("GRID A100-10C", 10.0)]),
        ("with-units.csv", [("Tesla T4", 15.0)]),
    ],
)
def test_cards_are_read_with_their_memory_in_gib(fixture: str, expected: list[tuple[str, float]]) -> None:
    assert parse_nvidia_smi(said(fixture)) == (tuple(Gpu(*one) for one in expected), "")


@pytest.mark.parametrize("fixture", ["unified-memory.csv", "mig.csv"])
def test_a_card_whose_memory_is_not_told_counts_with_none_and_says_so(fixture: str) -> None:
    gpus, note = parse_nvidia_smi(said(fixture))
    assert gpus is not None
    assert gpus[-1].vram_gib == 0.0
    assert note == f"nvidia-smi does not tell the memory of {gpus[-1].name}"


def test_no_devices_means_no_gpu() -> None:
    assert parse_nvidia_smi(said("no-devices.txt", code=6)) == ((), "")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            said("driver-mismatch.txt", code=18),
            "exit code 18: Failed to initialize NVML: Driver/library version mismatch",
        ),
        (said("no-driver.txt", code=9), "couldn't communicate with the NVIDIA driver"),
        (said("not-csv.txt"), "expected 'NAME, MEMORY IN MiB'"),
        (ChildResult(255), "exit code 255: no message"),
        (ChildResult(None, problem="gave no answer within 20 s"), "nvidia-smi gave no answer within 20 s"),
    ],
)
def test_a_driver_that_fails_means_not_known_and_says_why(result: ChildResult, words: str) -> None:
    gpus, note = parse_nvidia_smi(result)
    assert gpus is None
    assert words in note


def test_cuda_is_what_torch_says_and_its_devices_win() -> None:
    """A MIG slice or CUDA_VISIBLE_DEVICES gives a job less than the card that the driver lists."""
    gpus = [{"name": SLICE.name, "vram_gib": SLICE.vram_gib}]
    probe = parse_probe(probed(torch={"version": "2.6.0+cu124", "cuda": True, "gpus": gpus}))
    assert has_cuda(probe) is True
    assert probe.torch_version == "2.6.0+cu124"
    assert choose_gpus((CARD,), probe) == (SLICE,)


def test_without_torch_there_is_no_cuda_though_there_is_a_gpu() -> None:
    probe = parse_probe(probed())
    assert has_cuda(probe) is False
    assert choose_gpus((CARD,), probe) == (CARD,)


def test_a_torch_without_cuda_has_no_cuda() -> None:
    probe = parse_probe(probed(torch={"version": "2.6.0+cpu", "cuda": False, "gpus": []}))
    assert has_cuda(probe) is False


@pytest.mark.parametrize(
    "result",
    [
        ChildResult(None, problem="gave no answer within 120 s"),
        ChildResult(-11, "", "Fatal Python error: Segmentation fault"),
        ChildResult(0, "nothing of use"),
        probed(notes=["torch is installed but does not work: OSError: libcudart.so.12"]),
    ],
)
def test_a_torch_that_cannot_be_asked_is_unknown_not_false(result: ChildResult) -> None:
    probe = parse_probe(result)
    assert has_cuda(probe) is None
    assert "torch" in probe.notes[0]


@pytest.mark.parametrize(
    ("smi", "nvml", "expected"),
    [
        (None, (CARD,), (CARD,)),
        ((), (CARD,), (CARD,)),
        ((CARD,), None, (CARD,)),
        (None, None, None),
        (None, (), ()),
        ((), None, ()),
    ],
)
def test_nvml_is_asked_where_nvidia_smi_lists_nothing(
    smi: tuple[Gpu, ...] | None, nvml: tuple[Gpu, ...] | None, expected: tuple[Gpu, ...] | None
) -> None:
    assert choose_gpus(smi, Probe(torch_known=True, nvml_gpus=nvml)) == expected


def test_models_are_those_that_are_implemented_and_whose_libraries_are_here() -> None:
    result = described(
        gbt={"implemented": True, "needs": {"libraries": ["numpy", "lightgbm"]}},
        mlp={"implemented": True, "needs": {"libraries": ["numpy"]}},
        cnn={"implemented": False},
    )
    models, digest, notes = parse_describe(result, lambda library: library == "numpy")
    assert models == ["mlp"]
    assert digest == "e" * 64
    assert notes == ["model gbt cannot train here: lightgbm is not installed"]


@pytest.mark.parametrize(
    "result",
    [
        ChildResult(1, "", "ModuleNotFoundError: No module named 'training.trainer'"),
        ChildResult(None, problem="gave no answer within 60 s"),
        ChildResult(0, "[1, 2]"),
        ChildResult(0, '{"models": ["gbt"]}'),
    ],
)
def test_a_trainer_that_does_not_describe_itself_draws_no_jobs(result: ChildResult) -> None:
    """No list at all would mean "every model" to the receiver."""
    models, digest, notes = parse_describe(result, lambda library: True)
    assert models == []
    assert digest is None
    assert "no job can run here" in notes[0]


def test_warnings_around_the_answer_are_no_part_of_it() -> None:
    noisy = ChildResult(0, f"UserWarning: old\n{described(gbt={'implemented': True}).stdout}\nbye\n")
    assert parse_describe(noisy, lambda library: True)[0] == ["gbt"]


def test_a_survey_asks_children_and_never_imports_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def run(argv: Sequence[str], timeout_s: float) -> ChildResult:
        asked.append(tuple(argv[1:3]))
        if argv[0].endswith("nvidia-smi"):
            return said("two-gpus.csv")
        return described(gbt={"implemented": True}) if argv[-1] == "--describe" else probed()

    monkeypatch.setattr("training.fleet.capability.shutil.which", lambda name: f"/usr/bin/{name}")
    found = survey(hostname="lab-pc-3", trainer_module="my.trainer", run=run)
    assert asked[1:] == [("-m", "training.fleet.capability_probe"), ("-m", "my.trainer")]
    assert found.capability.hostname == "lab-pc-3"
    assert found.capability.vram_gib == 23.99  # of the largest card, not the sum
    assert found.capability.has_cuda is False
    assert found.notes == ("a GPU is present but torch is not installed, so has_cuda is false",)
    assert "torch" not in sys.modules


def test_this_machine_is_described_whole() -> None:
    found = survey(trainer_module="tests.factories.stub_trainer").capability
    assert found.models == ["gbt"]
    assert found.trainer_digest == "e" * 64
    assert found.cores == (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())
    assert found.ram_gib is not None
    assert found.ram_gib > 0.1
    assert found.os in ("linux", "windows", "macos")
    assert found.python_version == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("code", "said_first", "problem"),
    [("print('hi')", "hi\n", ""), ("import time; time.sleep(60)", "", "gave no answer within 0.3 s")],
)
def test_a_child_is_waited_for_only_so_long(code: str, said_first: str, problem: str) -> None:
    result = run_child([sys.executable, "-c", code], 0.3 if problem else 30.0)
    assert (result.stdout, result.problem) == (said_first, problem)


def test_a_program_that_is_not_there_is_an_answer_too() -> None:
    assert run_child(["/no/such/program"], 1.0).problem == "cannot be started: No such file or directory"


def test_the_operator_token_of_a_shell_does_not_reach_what_the_survey_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Among it is the trainer, which is whatever code the checkout has."""
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN", "secret")
    monkeypatch.setenv("CIS490_OTHER", "told")
    code = "import os; print(sorted(name for name in os.environ if name.startswith('CIS490_O')))"
    assert run_child([sys.executable, "-c", code], 30.0).stdout.strip() == "['CIS490_OTHER']"


FAKE_TORCH = """
__version__ = "9.9"
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    @staticmethod
    def get_device_properties(index):
        class Properties:
            name, total_memory = "Fake GPU", 8 * 2**30
        return Properties
"""
FAKE_NVML = """
def nvmlInit(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return b"Fake GPU"
def nvmlDeviceGetMemoryInfo(handle):
    class Memory:
        total = 8 * 2**30
    return Memory
"""


def probe_with(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> Probe:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return parse_probe(run_child([sys.executable, "-m", "training.fleet.capability_probe"], 30.0))


def test_the_probe_asks_torch_and_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probe_with(tmp_path, monkeypatch, torch=FAKE_TORCH, pynvml=FAKE_NVML)
    assert (probe.torch_version, probe.torch_cuda) == ("9.9", True)
    assert probe.torch_gpus == probe.nvml_gpus == (Gpu("Fake GPU", 8.0),)


def test_a_broken_torch_does_not_hide_what_nvml_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probe_with(
        tmp_path, monkeypatch, torch="raise OSError('libcudart.so.12: not found')", pynvml=FAKE_NVML
    )
    assert has_cuda(probe) is None
    assert probe.nvml_gpus == (Gpu("Fake GPU", 8.0),)
    assert probe.notes == ("torch is installed but does not work: OSError: libcudart.so.12: not found",)


def test_the_probe_imports_nothing_heavy_by_itself() -> None:
    assert not hasattr(capability_probe, "torch")
    assert "pynvml" not in sys.modules


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({".git/HEAD": COMMIT}, COMMIT),
        ({".git/HEAD": "ref: refs/heads/main", ".git/refs/heads/main": COMMIT}, COMMIT),
        (
            {
                ".git/HEAD": "ref: refs/heads/main",
                ".git/packed-refs": f"# pack-refs with: peeled\n{COMMIT} refs/heads/main\n^{'1' * 40}\n",
            },
            COMMIT,
        ),
        ({".git/HEAD": "ref: refs/heads/unborn"}, None),
        ({".git/HEAD": "garbage"}, None),
        ({}, None),
    ],
)
def test_the_commit_is_read_without_git(files: dict[str, str], expected: str | None, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert host_facts.git_commit(tmp_path) == expected


def test_the_commit_of_a_worktree_is_found_where_it_points(tmp_path: Path) -> None:
    own, shared = tmp_path / "main/.git/worktrees/w", tmp_path / "main/.git"
    (shared / "refs/heads").mkdir(parents=True)
    own.mkdir(parents=True)
    (shared / "refs/heads/topic").write_text(COMMIT)
    (own / "HEAD").write_text("ref: refs/heads/topic\n")
    (own / "commondir").write_text("../..\n")
    (tmp_path / "w").mkdir()
    (tmp_path / "w/.git").write_text(f"gitdir: {own}\n")
    assert host_facts.git_commit(tmp_path / "w") == COMMIT


def test_the_command_line_prints_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capability, "survey", lambda: survey(trainer_module="no.such.trainer"))
    assert capability.main() == 1  # no job could run here, and an installer should notice
    out, err = capsys.readouterr()
    assert json.loads(out)["models"] == []
    assert "note: the trainer does not describe itself" in err
