"""Asks torch and NVML what they see, in a process of its own: `python -m training.fleet.capability_probe`.

Importing torch costs hundreds of MiB, a CUDA context costs GPU memory, and a broken driver can hang for
good. None of that may happen to the worker daemon, so it asks this child and bounds the time it waits.

Prints one JSON object: `{"torch": {"version", "cuda", "gpus"} | null, "nvml": [gpus] | null, "notes": [text]}`,
a GPU being `{"name", "vram_gib"}`. null: the package is not installed, or told nothing (then a note says why).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")
GIB = 2**30


def ask_torch() -> dict[str, Any] | None:
    """Version, whether CUDA works, and the devices as the trainer would get them (MIG slices, CUDA_VISIBLE_DEVICES)."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch: Any = importlib.import_module("torch")
    cuda = bool(torch.cuda.is_available())
    devices = range(torch.cuda.device_count()) if cuda else ()
    properties = [torch.cuda.get_device_properties(index) for index in devices]
    gpus = [{"name": str(one.name), "vram_gib": round(one.total_memory / GIB, 2)} for one in properties]
    return {"version": str(torch.__version__), "cuda": cuda, "gpus": gpus}


def ask_nvml() -> list[dict[str, Any]] | None:
    """The cards as NVML lists them; None where nvidia-ml-py is not installed."""
    if importlib.util.find_spec("pynvml") is None:
        return None
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    gpus: list[dict[str, Any]] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        gpus.append({"name": text, "vram_gib": round(nvml.nvmlDeviceGetMemoryInfo(handle).total / GIB, 2)})
    return gpus


def main() -> int:
    """Print what was found. A library that fails costs its own part of the answer only."""
    notes: list[str] = []
    answer = {"torch": _guarded("torch", ask_torch, notes), "nvml": _guarded("NVML", ask_nvml, notes)}
    print(json.dumps({**answer, "notes": notes}))
    return 0


def _guarded(name: str, ask: Callable[[], Answer | None], notes: list[str]) -> Answer | None:
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever a half-installed library raises is an answer too
        notes.append(f"{name} is installed but does not work: {type(error).__name__}: {error}")
        return None


if __name__ == "__main__":
    sys.exit(main())
