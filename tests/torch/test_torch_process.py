"""Two processes give the same bytes, and a training leaves the process as it found it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories.small_series import TORCH_MODELS, series_data, train

torch = pytest.importorskip("torch", reason="torch is not installed; scripts/setup.sh all brings it")

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[2]

DIGESTS = """
import hashlib, sys
from tests.factories.small_series import train
for model in sys.argv[1:]:
    files = train(model).files()
    print(model, hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest())
"""


def digests_of_a_fresh_process() -> str:
    command = [sys.executable, "-c", DIGESTS, *TORCH_MODELS]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_two_fresh_processes_and_this_one_give_the_same_bytes() -> None:
    here = ""
    for model in TORCH_MODELS:
        files = train(model).files()
        here += f"{model} {hashlib.sha256(b''.join(files[name] for name in sorted(files))).hexdigest()}\n"
    assert digests_of_a_fresh_process() == digests_of_a_fresh_process() == here


def settings() -> tuple[object, ...]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        cudnn.deterministic,
        cudnn.benchmark,
        cudnn.allow_tf32,
        matmul.allow_tf32,
    )


def test_a_training_leaves_torchs_settings_and_random_numbers_as_they_were() -> None:
    before, state = settings(), torch.get_rng_state()
    trained = train("gru")
    trained.predict(series_data().validation_x)
    assert settings() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_that_fails_leaves_them_too() -> None:
    from training.trainer.models.torch_process import settled

    before = settings()
    with pytest.raises(ValueError, match="stop"), settled("cpu", threads=1):
        raise ValueError("stop")
    assert settings() == before


def test_what_was_drawn_before_changes_no_byte() -> None:
    torch.manual_seed(1)
    first = train("transformer").files()
    torch.manual_seed(2)
    assert train("transformer").files() == first


def test_within_it_threads_are_fixed_and_algorithms_deterministic() -> None:
    from training.trainer.models.torch_process import settled

    with settled("cpu", threads=3):
        assert torch.get_num_threads() == 3
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32


def test_the_seed_of_a_step_depends_on_every_part_of_its_key() -> None:
    from training.trainer.models.torch_process import seed_torch, settled

    def drawn(*key: int) -> float:
        seed_torch("cpu", *key)
        return float(torch.rand(()))

    with settled("cpu", threads=1):
        assert drawn(1, 2, 3) == drawn(1, 2, 3)
        assert len({drawn(1, 2, 3), drawn(2, 2, 3), drawn(1, 1, 3), drawn(1, 2, 4)}) == 4


def test_training_imports_neither_torchs_optimisers_compiler_nor_anything_as_heavy() -> None:
    """The compiler takes longer to import than the default data set takes to train."""
    command = "import sys; from tests.factories.small_series import train; train('tcn', epochs=1); "
    command += "print('torch._dynamo' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"
