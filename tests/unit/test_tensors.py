"""Arrays are written as safetensors writes them, to the byte."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from safetensors.numpy import load, save

from training.trainer.models.tensors import save_tensors

DTYPES = ("?", "u1", "i1", "i2", "u2", "f2", "i4", "u4", "f4", "f8", "i8", "u8")
TENSORS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=3))
    ),
    max_size=6,
)


@given(TENSORS.filter(lambda tensors: all(name.isprintable() for name in tensors)))
def test_the_bytes_are_those_of_the_library(tensors: dict[str, NDArray[np.generic]]) -> None:
    assert save_tensors(tensors) == save(tensors)


def test_what_is_written_is_read_by_the_library_whatever_its_order_in_memory() -> None:
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    written = {
        "turned": grid.T,
        "big-endian": grid.astype(">f4"),
        "every other": grid[:, ::2],
        "one": grid[0, 1],
    }
    read = load(save_tensors({name: np.asarray(array) for name, array in written.items()}))
    for name, array in written.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)


def test_a_type_that_safetensors_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'odd': complex128"):
        save_tensors({"odd": np.zeros(1, dtype=np.complex128)})


TOO_LITTLE = """
import resource
import numpy as np
from training.trainer.models.tensors import save_tensors
tensors = {"a": np.zeros(200_000_000, dtype=np.float32)}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, used + 100_000_000))
try:
    save_tensors(tensors)
except MemoryError:
    print("no room")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit, and what is used of it, are read as on Linux")
def test_too_little_memory_is_an_error_and_not_the_end_of_the_process() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", TOO_LITTLE], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "no room\n"), done.stderr
