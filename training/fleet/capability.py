"""What this host can do: cores, RAM, GPUs, torch, trainer. `python -m training.fleet.capability` prints it as JSON.

Everything that may hang, crash or fill memory (nvidia-smi, torch, NVML, the trainer) is asked in a child
process with a time limit; what a child says is turned into values by pure functions of its output.

Decisions:

- `has_cuda` is what torch says in the trainer's own interpreter, because only a torch that reaches the GPU
  can train on it. Without torch it is False, GPU or not. When torch cannot be asked (it hung or crashed)
  it stays None, *unknown*, which satisfies no job that requires CUDA.
- `gpus` are torch's devices where CUDA works, since those are what a job gets (MIG slices, a restricted
  CUDA_VISIBLE_DEVICES); otherwise what nvidia-smi, then NVML, list. [] means "no GPU", None "not known".
- `models` are those the trainer implements *and* whose libraries are installed. A trainer that cannot
  describe itself gives [], not None: None would mean "every model" and draw jobs that must fail here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.fleet import host_facts
from training.fleet.guard_wire import SECRETS
from training.fleet.types import Capability, Gpu

CODE_ROOT = Path(__file__).resolve().parents[2]
"""Folder that holds the packages. Children started with `-m` get it as their working folder."""
TRAINER_MODULE = "training.trainer.run"
SMI_QUERY = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
SMI_PLACES = (
    "/usr/bin/nvidia-smi",
    "/usr/lib/wsl/lib/nvidia-smi",
    r"C:\Windows\System32\nvidia-smi.exe",
    r"C:\Program Files\NVIDIA Corporation\NVSMI\nvidia-smi.exe",
)
"""Where drivers put it; services often run with a short PATH."""
SMI_TIMEOUT_S = 20.0
PROBE_TIMEOUT_S = 120.0
"""A cold import of torch from a slow disk took tens of seconds."""
DESCRIBE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ChildResult:
    """What a child process did; `code` is None when it could not be started or was ended at its time limit."""

    code: int | None
    stdout: str = ""
    stderr: str = ""
    problem: str = ""


RunChild = Callable[[Sequence[str], float], ChildResult]


@dataclass(frozen=True, slots=True)
class Survey:
    """A capability and, for the operator, what could not be found out and why."""

    capability: Capability
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer of `training.fleet.capability_probe`; a None says that the library told nothing."""

    torch_known: bool = False
    torch_version: str | None = None
    torch_cuda: bool = False
    torch_gpus: tuple[Gpu, ...] = ()
    nvml_gpus: tuple[Gpu, ...] | None = None
    notes: tuple[str, ...] = ()


def run_child(argv: Sequence[str], timeout_s: float) -> ChildResult:
    """Run `argv` in the code's folder and wait at most `timeout_s`; never raises.

    A process that hangs in the driver may survive SIGKILL, so it is given a second to die and then left.
    """
    try:
        child = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8", errors="replace", cwd=CODE_ROOT, start_new_session=True,
            env={key: value for key, value in os.environ.items() if key not in SECRETS},
        )  # fmt: skip
    except OSError as error:
        return ChildResult(None, problem=f"cannot be started: {error.strerror or error}")
    try:
        stdout, stderr = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill_session(child)
        return ChildResult(None, problem=f"gave no answer within {timeout_s:g} s")
    return ChildResult(child.returncode, stdout, stderr)


def _kill_session(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(1.0)
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


# -- pure: texts to values ------------------------------------------------------------------------------


def parse_nvidia_smi(result: ChildResult) -> tuple[tuple[Gpu, ...] | None, str]:
    """(GPUs, note) from the answer to `SMI_QUERY`. None: not known, and the note says what nvidia-smi said.

    A card whose memory the driver does not tell (`[N/A]`: unified memory, some MIG set-ups) counts with
    0 GiB, so it satisfies no `min_vram_gib`.
    """
    said = _first_line(result.stdout) or _first_line(result.stderr)
    if result.code is None:
        return None, f"nvidia-smi {result.problem}"
    if "no devices were found" in f"{result.stdout}\n{result.stderr}".lower():
        return (), ""
    if result.code != 0:
        return None, f"nvidia-smi ended with exit code {result.code}: {said or 'no message'}"
    gpus: list[Gpu] = []
    for line in filter(None, map(str.strip, result.stdout.splitlines())):
        name, comma, memory = line.rpartition(",")
        if not comma or not name.strip():
            return None, f"nvidia-smi printed {line[:120]!r}; expected 'NAME, MEMORY IN MiB'"
        gpus.append(Gpu(name.strip(), _mib_to_gib(memory)))
    silent = [gpu.name for gpu in gpus if gpu.vram_gib == 0.0]
    return tuple(gpus), f"nvidia-smi does not tell the memory of {', '.join(silent)}" if silent else ""


def parse_probe(result: ChildResult) -> Probe:
    """What torch and NVML said, or a note saying why they said nothing."""
    if result.code != 0:
        return Probe(notes=(f"torch could not be asked: the probe {_how_it_failed(result)}",))
    answer = _json_object(result.stdout)
    if answer is None:
        return Probe(notes=(f"torch could not be asked: the probe printed {_first_line(result.stdout)!r}",))
    notes = tuple(note for note in _list(answer.get("notes")) if isinstance(note, str))
    nvml = answer.get("nvml")
    nvml_gpus = tuple(_gpus(nvml)) if isinstance(nvml, list) else None
    torch = answer.get("torch")
    if not isinstance(torch, dict):
        broken = any(note.startswith("torch") for note in notes)
        return Probe(torch_known=not broken, nvml_gpus=nvml_gpus, notes=notes)
    version = torch.get("version")
    return Probe(
        torch_known=True,
        torch_version=version if isinstance(version, str) else None,
        torch_cuda=torch.get("cuda") is True,
        torch_gpus=tuple(_gpus(torch.get("gpus"))),
        nvml_gpus=nvml_gpus,
        notes=notes,
    )


def parse_describe(
    result: ChildResult, is_installed: Callable[[str], bool]
) -> tuple[list[str], str | None, list[str]]:
    """(models, trainer_digest, notes) from `run.py --describe`; `is_installed` judges an import name."""
    answer = _json_object(result.stdout) if result.code == 0 else None
    models = answer.get("models") if answer else None
    if answer is None or not isinstance(models, dict):
        how = _how_it_failed(result) if result.code != 0 else f"printed {_first_line(result.stdout)!r}"
        return [], None, [f"the trainer does not describe itself, so no job can run here: --describe {how}"]
    found: list[str] = []
    notes: list[str] = []
    for name, about in sorted(models.items()):
        if not isinstance(about, dict) or about.get("implemented") is not True:
            continue
        needs = about.get("needs")
        libraries = _list(needs.get("libraries")) if isinstance(needs, dict) else []
        missing = [one for one in libraries if isinstance(one, str) and not is_installed(one)]
        if missing:
            notes.append(f"model {name} cannot train here: {', '.join(missing)} is not installed")
        else:
            found.append(name)
    digest = answer.get("trainer_digest")
    return found, digest if isinstance(digest, str) else None, notes


def choose_gpus(smi: tuple[Gpu, ...] | None, probe: Probe) -> tuple[Gpu, ...] | None:
    """The GPUs a job gets: torch's where CUDA works, else what nvidia-smi, then NVML, list."""
    if probe.torch_cuda and probe.torch_gpus:
        return probe.torch_gpus
    if smi or probe.nvml_gpus is None:
        return smi
    return probe.nvml_gpus


def has_cuda(probe: Probe) -> bool | None:
    """True only when torch reaches a GPU; None when torch is there but could not be asked."""
    return probe.torch_cuda if probe.torch_known else None


def _mib_to_gib(text: str) -> float:
    number = text.strip().removesuffix("MiB").strip()
    return round(int(number) / 1024, 2) if number.isdecimal() else 0.0


def _gpus(values: object) -> list[Gpu]:
    found: list[Gpu] = []
    for value in _list(values):
        if not isinstance(value, dict):
            continue
        name, vram = value.get("name"), value.get("vram_gib")
        if isinstance(name, str) and isinstance(vram, int | float) and math.isfinite(vram):
            found.append(Gpu(name, float(vram)))
    return found


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _json_object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`, which starts a line; libraries print warnings before and after it."""
    lines = text.splitlines()
    starts = (index for index, line in enumerate(lines) if line.startswith("{"))
    try:
        value, _ = json.JSONDecoder().raw_decode("\n".join(lines[next(starts) :]))
    except (StopIteration, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _first_line(text: str) -> str:
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), "")


def _how_it_failed(result: ChildResult) -> str:
    if result.code is None:
        return result.problem
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    return f"ended with exit code {result.code}: {lines[-1][:200] if lines else 'no message'}"


# -- this machine ---------------------------------------------------------------------------------------


def survey(
    *,
    hostname: str | None = None,
    trainer_module: str = TRAINER_MODULE,
    run: RunChild = run_child,
    is_installed: Callable[[str], bool] | None = None,
    code_root: Path = CODE_ROOT,
) -> Survey:
    """Look at this machine; takes as long as its children do (torch: seconds). Never raises for what it finds."""
    notes: list[str] = []
    smi, note = _ask_nvidia_smi(run)
    notes += [note] if note else []
    probe = parse_probe(run([sys.executable, "-m", "training.fleet.capability_probe"], PROBE_TIMEOUT_S))
    # Without a driver NVML cannot work; only where nvidia-smi failed too is its complaint news.
    notes += [text for text in probe.notes if not text.startswith("NVML") or smi is None]
    described = run([sys.executable, "-m", trainer_module, "--describe"], DESCRIBE_TIMEOUT_S)
    models, trainer_digest, more = parse_describe(described, is_installed or _is_installed)
    gpus = choose_gpus(smi, probe)
    if gpus and not probe.torch_version and probe.torch_known:
        notes.append("a GPU is present but torch is not installed, so has_cuda is false")
    capability = Capability(
        hostname=hostname or socket.gethostname(),
        os=host_facts.os_name(),
        arch=host_facts.architecture(),
        cores=host_facts.cores(),
        ram_gib=host_facts.ram_gib(),
        has_cuda=has_cuda(probe),
        gpus=None if gpus is None else list(gpus),
        vram_gib=None if gpus is None else max((gpu.vram_gib for gpu in gpus), default=0.0),
        torch_version=probe.torch_version,
        python_version=".".join(map(str, sys.version_info[:3])),
        git_commit=host_facts.git_commit(code_root),
        models=models,
        trainer_digest=trainer_digest,
    )
    return Survey(capability, tuple(notes + more))


def detect(
    *, hostname: str | None = None, trainer_module: str = TRAINER_MODULE, run: RunChild = run_child
) -> Capability:
    """`survey()` without its notes."""
    return survey(hostname=hostname, trainer_module=trainer_module, run=run).capability


def _ask_nvidia_smi(run: RunChild) -> tuple[tuple[Gpu, ...] | None, str]:
    program = shutil.which("nvidia-smi") or next(
        (place for place in SMI_PLACES if Path(place).is_file()), None
    )
    if program is None:
        return (), ""  # the tool comes with the driver: no tool, no usable NVIDIA GPU
    return parse_nvidia_smi(run([program, *SMI_QUERY], SMI_TIMEOUT_S))


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except (ImportError, ValueError):
        return False


def main() -> int:
    """Print the capability as JSON and the notes on stderr; exit code 1 when no job could run here."""
    found = survey()
    print(json.dumps(found.capability.to_dict(), indent=2, sort_keys=True))
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0 if found.capability.models else 1


if __name__ == "__main__":
    sys.exit(main())
