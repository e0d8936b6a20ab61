"""What goes wrong inside torch, in words for a person: too little memory, or a GPU that does not do its work."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training.trainer.errors import OutOfMemory, Unavailable
from training.trainer.models import Device
from training.trainer.process import GIB, peak_rss_bytes

_GPU_MEMORY = ("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
_CPU_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "not enough memory")
_GPU_TROUBLE = ("CUDA error", "CUDA driver", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "NVIDIA")


@contextmanager
def readable_faults(model: str, device: Device, batch_size: int) -> Iterator[None]:
    """Turns torch's own errors into OutOfMemory and Unavailable; every other error passes unchanged."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(_cpu_sentence(model, batch_size, str(error))) from error
    except RuntimeError as error:
        text = _first_line(error)
        if isinstance(error, torch.OutOfMemoryError) or any(mark in text for mark in _GPU_MEMORY):
            raise OutOfMemory(_gpu_sentence(model, batch_size, text)) from error
        if any(mark in text for mark in _CPU_MEMORY):
            raise OutOfMemory(_cpu_sentence(model, batch_size, text)) from error
        if any(mark in text for mark in _GPU_TROUBLE):
            raise Unavailable(_trouble_sentence(model, device, text)) from error
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _gpu_sentence(model: str, batch_size: int, text: str) -> str:
    name, size_bytes = _card()
    peak_bytes = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    return (
        f"{model}: out of memory on {name}: peak {peak_bytes / GIB:.2f} GiB allocated of its "
        f"{size_bytes / GIB:.1f} GiB ({text}); try a hyper.batch_size below {batch_size} or a smaller network, or "
        "keep the job to hosts with a larger GPU (min_vram_gib in the manifest)"
    )


def _cpu_sentence(model: str, batch_size: int, text: str) -> str:
    peak = peak_rss_bytes()
    shown = "" if peak is None else f": this process's peak is {peak / GIB:.2f} GiB"
    return (
        f"{model}: out of memory{shown} ({text or 'an allocation failed'}); try a hyper.batch_size below "
        f"{batch_size} or a smaller network, or keep the job to hosts with more RAM (min_ram_gib in the manifest)"
    )


def _trouble_sentence(model: str, device: Device, text: str) -> str:
    name = _card()[0] if device == "cuda" else "the CPU"
    return (
        f"{model}: {name} failed: {text}; look at nvidia-smi and the kernel's log on this host, "
        "or train with --device cpu"
    )


def _card() -> tuple[str, int]:
    """Name and bytes of memory of the GPU in use; a GPU in trouble may not even say that."""
    try:
        card = torch.cuda.get_device_properties(torch.cuda.current_device())
    except (RuntimeError, AssertionError):
        return "a GPU that no longer answers", 0
    return str(card.name), int(card.total_memory)
