"""What torch keeps for a whole process: threads, algorithms, random numbers. Set in this one place, and put back.

One thing stays set: CUBLAS_WORKSPACE_CONFIG, which cuBLAS reads once, when it is first used. `:16:8` is the value that
satisfies both torch's check and cuDNN's recurrent networks (torch's manual, "CuDNN RNN determinism").
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from training.trainer.models import Device

_WORKSPACE = ":16:8"


@contextmanager
def settled(device: Device, threads: int) -> Iterator[None]:
    """Within it, the same work gives the same bits on the same machine: `threads` processor threads whatever the
    host has, no algorithm that depends on timing, and no rounding to TF32. An operation that has no deterministic
    form raises RuntimeError. Random numbers drawn inside change nothing outside.

    Not for several threads of a program at once: the settings are the process's.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = _WORKSPACE
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,
        (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32),
    )
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.set_num_threads(threads)
        # The same as use_deterministic_algorithms(True), which also imports torch's compiler: many seconds.
        torch.set_deterministic_debug_mode("error")
        # Filling memory before it is written costs a tenth of the time and helps only to find reads that are defects.
        torch.utils.deterministic.fill_uninitialized_memory = False
        cudnn.deterministic, cudnn.benchmark = True, False
        cudnn.allow_tf32, matmul.allow_tf32 = False, False
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_deterministic_debug_mode(before[1])
            torch.utils.deterministic.fill_uninitialized_memory = before[2]
            cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before[3]


def seed_torch(device: Device, *key: int) -> None:
    """Seed the generator of the CPU, and that of the device in use, from a key such as (seed, purpose, step).

    Each step is seeded anew, so no generator's state belongs into a checkpoint. `torch.manual_seed` would do it
    for every kind of device there is, at a cost that shows when it is called for each batch.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.default_generator.manual_seed(seed)
    if device == "cuda":
        torch.cuda.manual_seed(seed)
