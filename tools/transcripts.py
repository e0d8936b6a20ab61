"""What `cis490-jobs` really prints, for docs/cli.md: the real command line against a real receiver.

The fleet is made up, the clock stands still unless it is moved, and the artifacts are tiny, so that each run prints
the same on every machine. What a machine may do its own way (the digest of a compressed archive, of the checkout, of
a folder) is replaced by a fixed word of the same length.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from cis490.clock import ManualClock
from tests.factories import artifacts, seeded_fleet
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from training.fleet import cli, coordinator, exits
from training.fleet.reports import GpuUsage, Usage
from training.fleet.verb import Terminal

START_S = 1_763_733_720.0
"""2025-11-21 14:02 UTC."""
TRAINER = "5" * 64
INDENT = "    "

MANIFEST = """\
name = "lab-fleet"

[retention]
artifact_days = 90
log_days = 30

[notify]
webhook_url_env = "LAB_WEBHOOK_URL"

[[hosts]]
name = "gpu-1"

[[hosts]]
name = "gpu-2"
deny_jobs = ["gru"]

[[hosts]]
name = "cpu-1"
allow_jobs = ["gbt", "mlp", "rocket"]

[[jobs]]
model = "gbt"
mode = "oracle"
priority = 50
hyper = { learning_rate = 0.05 }

[[jobs]]
model = "gbt"
mode = "realistic"
priority = 50

[[jobs]]
model = "mlp"
mode = "realistic"
priority = 40

[[jobs]]
model = "transformer"
mode = "realistic"
priority = 30
require_cuda = true
min_vram_gib = 10

[[jobs]]
model = "cnn"
mode = "oracle"
priority = 20
require_cuda = true

[[jobs]]
model = "gru"
mode = "realistic"
priority = 10
require_cuda = true
min_vram_gib = 32
"""


class Screen(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return self.terminal

    terminal = True


@dataclass
class Fleet:
    """The receiver, its clock, and what has to be replaced in what is printed."""

    receiver: LiveReceiver
    clock: ManualClock
    words: dict[str, str] = field(default_factory=dict)
    data: dict[str, bytes] = field(default_factory=dict)
    """Job's name -> its artifact."""

    def typed(self, line: str, *, terminal: bool = True, most: int | None = None) -> str:
        """One command line and what it prints, as it stands on the page; `most` lines of it."""
        words = shlex.split(line)
        argv = words[1:]
        out, err = Screen(), io.StringIO()
        out.terminal = terminal
        env = {
            exits.URL_VARIABLE: self.receiver.url,
            exits.TOKEN_VARIABLE: TOKEN,
            "NO_COLOR": "1",
            "TERM": "xterm",
        }
        here = Terminal(env, out, err, self.clock.wall_s, self.clock.now_s, 80, lambda seconds: None)
        cli.run(argv, here)
        lines = (out.getvalue() + err.getvalue()).rstrip("\n").split("\n")
        if most is not None and len(lines) > most:
            lines = [*lines[:most], "..."]
        return "\n".join([f"$ {line}", *map(self._fixed, lines)])

    def _fixed(self, line: str) -> str:
        for found, word in self.words.items():
            line = line.replace(found, word).replace(found[:12], word[:12])
        return line


def _seed(fleet: Fleet) -> None:
    """Something of everything: two trained models, one that failed, two that run, one that nobody can run."""
    receiver, clock = fleet.receiver, fleet.clock
    machines = {name: found for name, found in seeded_fleet.MACHINES.items() if name != "win-2"}
    with receiver.queue.atomic():
        for host, found in machines.items():
            receiver.queue.saw(host, found)
    scores = {"gbt-oracle": (0.961, 0.944, 0.975), "gbt-realistic": (0.912, 0.886, 0.934)}
    for name, (value, low, high) in scores.items():
        metrics = {"roc_auc": value, "roc_auc_ci95": [low, high], "pr_auc": value - 0.02, "base_rate": 0.4}
        rate = 0.05 if name == "gbt-oracle" else 0.1
        config = {"hyper": {"learning_rate": rate, "num_rounds": 200}, "seed": 0}
        data = artifacts.packed(
            artifacts.files(
                config_dot_json=json.dumps(config), metrics_dot_json=json.dumps({"test": metrics})
            )
        )
        claimed = _claim(fleet, "cpu-1")
        assert claimed["name"] == name, claimed
        clock.advance(41.0)
        fleet.data[name] = data
        _complete(
            fleet,
            "cpu-1",
            claimed["job_id"],
            data,
            metrics,
            "9b2e41d07c53" if rate == 0.05 else "1f2e77c0a9d1",
        )
    first = _claim(fleet, "gpu-1")["job_id"]
    clock.advance(660.0)
    _beat(fleet, "gpu-1", first, 12, 40, 0.211, 61.0)
    third = _claim(fleet, "gpu-2")
    _fail(fleet, "gpu-2", third["job_id"])
    second = _claim(fleet, "gpu-2")["job_id"]
    clock.advance(120.0)
    _beat(fleet, "gpu-2", second, 3, 60, 0.402, 88.0)
    _beat(fleet, "gpu-1", first, 14, 40, 0.198, 87.0)
    _log(fleet, "gpu-1", first)
    with receiver.queue.atomic():
        receiver.queue.saw("cpu-1", machines["cpu-1"])
    receiver.coordinator.swept_at_s = (
        clock.now_s()
    )  # the clock was moved faster than the leases are looked through


def _claim(fleet: Fleet, host: str) -> dict[str, Any]:
    body = {"capability": seeded_fleet.MACHINES[host]}
    found: dict[str, Any] = fleet.receiver.worker("POST", "/v1/job/claim", body, host=host).body
    return found


def _complete(fleet: Fleet, host: str, job_id: str, data: bytes, metrics: dict[str, Any], word: str) -> None:
    digest = hashlib.sha256(data).hexdigest()
    fleet.words[digest] = (word * 6)[:64]
    worker = fleet.receiver.worker
    worker("PUT", f"/v1/model/{job_id}", data, host=host, **{"X-Content-SHA256": digest})
    body = {
        "artifact_id": digest,
        "metrics": metrics,
        "duration_s": 41.0,
        "peak_rss_mib": 212.0,
        "cpu_s": 160.0,
    }
    assert worker("POST", f"/v1/job/{job_id}/complete", body, host=host).status == 200


def _fail(fleet: Fleet, host: str, job_id: str) -> None:
    error = "hyper.d_model = 250 is no multiple of n_heads = 8\nsee the trainer's log"
    body = {
        "error": error,
        "fail_class": "bad_config",
        "exit_code": 78,
        "duration_s": 3.0,
        "peak_rss_mib": 212.0,
    }
    assert fleet.receiver.worker("POST", f"/v1/job/{job_id}/fail", body, host=host).status == 200


def _beat(fleet: Fleet, host: str, job_id: str, step: int, total: int, loss: float, load: float) -> None:
    progress = {"step": step, "total": total, "unit": "epoch", "loss": loss}
    found = fleet.receiver.worker("POST", f"/v1/job/{job_id}/heartbeat", {"progress": progress}, host=host)
    assert found.status == 200, found.body
    gpu = GpuUsage(util_percent=load, vram_used_gib=14.1 if host == "gpu-1" else 6.2, temperature_c=64.0)
    fleet.receiver.coordinator.telemetry.host_usage(
        host, Usage(cpu_percent=22.0, ram_used_gib=9.2, gpus=[gpu])
    )


def _log(fleet: Fleet, host: str, job_id: str) -> None:
    text = "".join(f"epoch {at} of 40: loss {1.09 / at**0.6:.3f}\n" for at in range(10, 15))
    fleet.receiver.worker("POST", f"/v1/job/{job_id}/log", {"offset": 0, "text": text}, host=host)


@contextlib.contextmanager
def a_fleet() -> Iterator[Fleet]:
    """A receiver on a free port with the fleet that the page shows."""
    clock = ManualClock(wall_s=START_S)
    logging.getLogger("training").addHandler(
        logging.NullHandler()
    )  # what the receiver logs is no part of a page
    with (
        tempfile.TemporaryDirectory() as scratch,
        mock.patch.object(coordinator, "trainer_digest", return_value=TRAINER),
        live_receiver(Path(scratch), MANIFEST, clock=clock) as receiver,
    ):
        fleet = Fleet(receiver, clock, {str(scratch): "/etc/cis490"})
        _seed(fleet)
        yield fleet


def _look(fleet: Fleet) -> dict[str, str]:
    typed = fleet.typed
    return {
        "status": typed("cis490-jobs status"),
        "list": typed("cis490-jobs list"),
        "show": typed("cis490-jobs show mlp-realistic"),
        "workers": typed("cis490-jobs workers"),
        "models": typed("cis490-jobs models"),
        "why": typed("cis490-jobs why gru-realistic") + "\n" + typed("cis490-jobs why --host cpu-1"),
        "events": typed("cis490-jobs events --limit 4"),
        "logs": typed("cis490-jobs logs mlp-realistic --tail 3"),
        "diff": typed("cis490-jobs diff gbt-oracle gbt-realistic"),
        "notify": typed("cis490-jobs notify --test"),
        "explain": typed("cis490-jobs explain W001"),
    }


def _pull(fleet: Fleet) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return {"pull": fleet.typed("cis490-jobs pull gbt-oracle --out best")}


def _watch(fleet: Fleet) -> dict[str, str]:
    """In a pipe, since a page cannot be redrawn: somebody cancels the job meanwhile."""
    app = fleet.receiver.coordinator
    job_id = fleet.receiver.send("GET", "/v1/resolve?job=cnn-oracle").body["job_id"]

    def act() -> None:
        while not app.event_streams:
            time.sleep(0.01)
        fleet.receiver.operator("/v1/host/cpu-1/drain", {"reason": "a new fan"})
        fleet.receiver.operator(f"/v1/job/{job_id}/cancel")

    person = threading.Thread(target=act)
    person.start()
    text = fleet.typed("cis490-jobs watch cnn-oracle --exit-status", terminal=False)
    person.join()
    return {"watch": text.replace("--exit-status", "--exit-status | cat", 1)}


def _verified(fleet: Fleet) -> str:
    """Started, then trained once more with the very same result."""
    started = fleet.typed("cis490-jobs verify gbt-realistic --no-wait")
    run = _claim(fleet, "cpu-1")
    fleet.clock.advance(41.0)
    _complete(fleet, "cpu-1", run["job_id"], fleet.data["gbt-realistic"], {"roc_auc": 0.912}, "1f2e77c0a9d1")
    return started + "\n" + fleet.typed("cis490-jobs verify gbt-realistic")


def _change(fleet: Fleet) -> dict[str, str]:
    typed = fleet.typed
    out = {
        "pause": typed('cis490-jobs pause --reason "the disk of the receiver is being replaced"'),
        "resume": typed("cis490-jobs resume"),
        "drain": typed('cis490-jobs drain gpu-2 --reason "new power supply on Friday"'),
        "undrain": typed("cis490-jobs undrain gpu-2"),
        "verify": _verified(fleet),
        "gc": typed("cis490-jobs gc --dry-run"),
        "requeue": typed("cis490-jobs requeue transformer"),
        "cancel": typed("cis490-jobs cancel mlp-realistic"),
    }
    path = fleet.receiver.manifest
    path.write_text(
        MANIFEST.replace("min_vram_gib = 32", "min_vram_gib = 8").replace('["gru"]', "[]"), encoding="utf-8"
    )
    out["plan"] = typed("cis490-jobs plan")
    out["reload"] = typed("cis490-jobs reload --yes")
    return out


@functools.cache
def all_of_them() -> dict[str, str]:
    """Verb -> its transcript, made once."""
    with a_fleet() as fleet:
        steps: tuple[Callable[[Fleet], dict[str, str]], ...] = (_look, _pull, _change, _watch)
        return {verb: text for step in steps for verb, text in step(fleet).items()}


VERBS = (
    "status", "list", "show", "workers", "models", "why", "watch", "logs", "events", "cancel", "requeue", "verify",
    "plan", "reload", "explain", "drain", "undrain", "pause", "resume", "notify", "gc", "pull", "diff",
)  # fmt: skip
"""Those with a transcript. `doctor` shows the machine it runs on, `completion` a script."""


def transcript(verb: str) -> str:
    """As it stands on the page: an indented block."""
    lines = all_of_them()[verb].split("\n")
    return "\n" + "\n".join(f"{INDENT}{line}".rstrip() for line in lines) + "\n\n"
