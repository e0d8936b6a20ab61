"""Where a job trains: on the processor, or with CUDA."""

from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from training.trainer.errors import BadConfig, Unavailable
from training.trainer.models import Device
from training.trainer.options import Json, ModelOptions

Asked = Literal["auto", "cpu", "cuda"]


def choose_device(
    model: ModelOptions, asked: Asked, *, job_requires_cuda: bool, why_no_cuda: Callable[[], str | None]
) -> Device:
    """The device for a model. `why_no_cuda` says what keeps this host from using CUDA, None when nothing does; it
    is asked only for a model that can use CUDA, since asking imports torch.

    `auto` takes CUDA where model and host have it. A job that requires CUDA, or a person who asks for it, gets it
    or Unavailable. BadConfig for a wish that no host could fulfil.
    """
    can_use = model.needs.cuda == "preferred"
    if asked == "cuda" and not can_use:
        raise BadConfig(f"--device cuda: {model.name} has no code for CUDA; leave --device out, or take cpu")
    if asked == "cpu" and can_use and job_requires_cuda:
        raise BadConfig("--device cpu contradicts require_cuda = true of the job; change one of the two")
    if asked == "cpu" or not can_use:
        return "cpu"
    reason = why_no_cuda()
    if reason is None:
        return "cuda"
    if asked == "cuda" or job_requires_cuda:
        wish = "--device cuda" if asked == "cuda" else "the job's require_cuda"
        raise Unavailable(
            f"{wish} asks for CUDA, and this host has none: {reason}. Run the job on a host with CUDA "
            "(cis490-jobs workers lists them), or drop the wish"
        )
    return "cpu"


def why_no_cuda() -> str | None:
    """What keeps torch from using CUDA here; None when nothing does."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    except OSError as error:
        return f"a shared library of torch does not load ({error})"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA; install a build for this host's driver"
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no usable GPU; nvidia-smi tells more"
        )
    return None


def device_identity(device: Device) -> str:
    """The device as far as it decides the last bits of a result: `cpu`, or the name of the GPU."""
    if device == "cpu":
        return "cpu"
    import torch

    return f"cuda {torch.version.cuda} {torch.cuda.get_device_name()}"


def library_versions(libraries: Iterable[str]) -> dict[str, Json]:
    """The versions of the libraries that do the arithmetic, by name; None for one that tells none."""
    found: dict[str, Json] = {}
    for name in sorted(libraries):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
