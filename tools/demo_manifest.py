"""The manifest of a demo: the example's jobs, for this machine alone, on the data set of the checkout."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

GPU_KEYS = ("require_cuda", "min_vram_gib")
"""What keeps a job of the example from a machine without a GPU."""


@dataclass(frozen=True, slots=True)
class Host:
    """The only host of the demo. `models` it may run, all if empty; `slots` jobs at once."""

    name: str
    models: Sequence[str]
    slots: int = 1


def manifest(example: str, pin_id: str, pin_file: str, host: Host, *, without_gpu: bool) -> str:
    """The jobs of the text `example` in a manifest of their own, on the data set `pin_id`, packed at `pin_file`.

    `without_gpu` leaves out what only a GPU can fulfil; a job's id does not depend on that. Raises ValueError
    when the example holds no job.
    """
    start = example.find("\n[[jobs]]\n")
    if start < 0:
        raise ValueError("holds no [[jobs]]")
    jobs = example[start:]
    made_from = "# Made by the demo: the jobs of etc/training_manifest.toml.example on this machine alone"
    if without_gpu:
        jobs = re.sub(rf"(?m)^(?:{'|'.join(GPU_KEYS)}) *=.*\n", "", jobs)
        made_from += f",\n# without {' and '.join(GPU_KEYS)}, for there is no GPU here"
    allowed = f"allow_jobs = [{', '.join(map(quoted, host.models))}]\n" if host.models else ""
    return (
        f"{made_from}.\n"
        'name = "cis490-demo"\n\n'
        f"[dataset]\nid = {quoted(pin_id)}\nfile = {quoted(pin_file)}\n\n"
        f"[[hosts]]\nname = {quoted(host.name)}\n{allowed}slots = {host.slots}\n"
        f"{jobs}"
    )


def quoted(word: str) -> str:
    """`word` as a TOML string; JSON's escapes are among TOML's."""
    return json.dumps(word, ensure_ascii=False)
