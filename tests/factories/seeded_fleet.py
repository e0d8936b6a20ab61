"""Fleets in a known state behind a real receiver: what the pages and screens of tests and of the documentation show."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from tests.factories.live_receiver import LiveReceiver
from training.fleet import hosts
from training.fleet.queue import JobQueue
from training.fleet.wire import Progress

MODELS = ("gbt", "mlp", "rocket", "cnn", "gru", "tcn", "transformer")
MODES = ("realistic", "oracle")

SMALL_MANIFEST = """
name = "lab-fleet"

[[hosts]]
name = "gpu-1"
deny_jobs = ["gru"]

[[hosts]]
name = "gpu-2"
deny_jobs = ["gru"]

[[hosts]]
name = "cpu-1"
allow_jobs = ["gbt", "mlp", "rocket"]

[[hosts]]
name = "win-2"

""" + "\n".join(
    f"""[[jobs]]
model = "{model}"
mode = "{mode}"
priority = {50 - 5 * MODELS.index(model)}
"""
    + ("require_cuda = true\nmin_vram_gib = 10\n" if model in ("gru", "tcn", "transformer") else "")
    for model in MODELS
    for mode in MODES
)
"""Fourteen jobs and four hosts; nobody may run `gru` but a host that is switched off and has too small a card."""


def machine(
    name: str, *, cores: int = 8, ram_gib: float = 31.2, vram_gib: float | None = None, gpu: str = ""
) -> dict[str, Any]:
    """A capability as a worker sends it."""
    found: dict[str, Any] = {
        "hostname": name, "os": "Linux", "arch": "x86_64", "cores": cores, "ram_gib": ram_gib,
        "has_cuda": vram_gib is not None, "python_version": "3.11.9", "models": list(MODELS),
    }  # fmt: skip
    if vram_gib is not None:
        found |= {
            "vram_gib": vram_gib,
            "gpus": [{"name": gpu, "vram_gib": vram_gib}],
            "torch_version": "2.13.0",
        }
    return found


MACHINES = {
    "gpu-1": machine("gpu-1", ram_gib=62.7, vram_gib=23.99, gpu="NVIDIA GeForce RTX 4090"),
    "gpu-2": machine("gpu-2", vram_gib=23.68, gpu="NVIDIA GeForce RTX 3090"),
    "cpu-1": machine("cpu-1", cores=4, ram_gib=15.5),
    "win-2": machine("win-2", ram_gib=15.9, vram_gib=8.0, gpu="NVIDIA GeForce RTX 3060"),
}


def artifact_of(word: str) -> str:
    """A digest that stands for an artifact nobody downloads."""
    return hashlib.sha256(word.encode()).hexdigest()


def claim(queue: JobQueue, host: str) -> str | None:
    """The name of the job that this host was given."""
    row = queue.claim_next(worker_hostname=host, capability=MACHINES.get(host) or machine(host))
    return None if row is None else row.job_id


def seed_small(queue: JobQueue) -> None:
    """Something of everything: running with progress, completed, failed for good, waiting, stuck; a host drained."""
    with queue.atomic():
        for host, found in MACHINES.items():
            queue.saw(host, found)
    done = claim(queue, "cpu-1")
    assert done is not None
    queue.heartbeat(done, "cpu-1", progress=Progress(step=200, total=200, unit="round", loss=0.18))
    metrics: dict[str, Any] = {
        "roc_auc": 0.961,
        "roc_auc_ci": [0.93, 0.98],
        "roc_auc_active": 0.982,
        "accuracy": 0.91,
    }
    queue.complete(done, "cpu-1", artifact_id=artifact_of("gbt"), metrics=metrics, usage={"duration_s": 41.0})
    failing = claim(queue, "gpu-2")
    assert failing is not None
    error = "LightGBMError: feature_17 holds NaN <script>alert(1)</script>"
    queue.fail(failing, "gpu-2", fail_class="bad_config", exit_code=78, error=error)
    for host, step in (("gpu-1", 12), ("cpu-1", 3)):
        running = claim(queue, host)
        assert running is not None
        queue.heartbeat(running, host, progress=Progress(step=step, total=40, unit="epoch", loss=1.1 / step))
    hosts.drain(queue, "win-2", "its fan is being replaced")


def seed_reports(receiver: LiveReceiver) -> None:
    """What the workers of `seed_small` tell beside their leases: curves, logs, and how busy their machines are."""
    history, now_s = receiver.coordinator.telemetry.history, receiver.queue.clock.wall_s()
    for host, found in MACHINES.items():
        for step in range(280):
            at_s, wave = now_s - (280 - step) * 300.0, math.sin(step / 23.0)
            busy = step % 90 > 25 and host != "win-2"
            history.look(host, "r" if busy else "d" if host == "win-2" and step > 200 else "i", at_s)
            usage: dict[str, Any] = {"cpu_percent": 40 + 30 * wave, "ram_used_gib": 7 + 3 * wave}
            if "gpus" in found:
                usage["gpus"] = [
                    {"util_percent": 60 + 30 * wave if busy else 0.0, "vram_used_gib": 9.0 if busy else 0.4}
                ]
            history.use(host, usage, at_s)
    for row in receiver.queue.list_jobs("running"):
        assert row.claimed_by is not None
        points = [
            {"step": step, "total": 40, "unit": "epoch", "loss": round(1.1 * 0.93**step + 0.02 * math.sin(step * 5), 4),
             "metric": {"val_loss": round(1.15 * 0.94**step + 0.06, 4)}, "event": "progress", "at_s": 30.0 * step}
            for step in range(1, 28)
        ]  # fmt: skip
        usage = {"cpu_percent": 64.0, "ram_used_gib": 9.1, "job_rss_gib": 3.4, "disk_free_gib": 210.0}
        if row.claimed_by == "gpu-1":
            usage |= {
                "job_vram_gib": 9.6,
                "gpus": [{"util_percent": 87.0, "vram_used_gib": 14.1, "temperature_c": 66.0}],
            }
        body = {"progress": points[-1], "points": points, "sent_s": 30.0 * 28, "usage": usage}
        sent = receiver.worker("POST", f"/v1/job/{row.job_id}/heartbeat", body, host=row.claimed_by)
        assert sent.status == 200, sent.body
        lines = [f"epoch {point['step']}/40 loss {point['loss']}" for point in points]
        lines[3] += "  \x1b[33mwarning: 2 windows hold no packets\x1b[0m <b>&"
        text = "\n".join(["[worker] data set fetched, 64 episodes", *lines, ""])
        sent = receiver.worker(
            "POST", f"/v1/job/{row.job_id}/log", {"offset": 0, "text": text}, host=row.claimed_by
        )
        assert sent.status == 200, sent.body


def big_manifest(n_hosts: int = 100, n_jobs: int = 1000) -> str:
    """`n_jobs` jobs in 50 requirement classes, `n_hosts` hosts."""
    out = ['name = "big-fleet"\n[policy]\nunknown_hosts = "allow"\n']
    out += [f'[[hosts]]\nname = "host-{at:03}"\n' for at in range(n_hosts)]
    for at in range(n_jobs):
        model, kind = MODELS[at % 7], at % 50
        out.append(
            f'[[jobs]]\nname = "{model}-{at:04}"\nmodel = "{model}"\nmode = "{MODES[at % 2]}"\nseed = {at}\n'
            f"priority = {at % 9}\nmin_ram_gib = {1 + kind // 7}\n"
        )
    return "\n".join(out)


def seed_big(queue: JobQueue, *, n_hosts: int = 100, n_done: int = 100, n_running: int = 40) -> None:
    """Every host has called; some jobs are done, some failed, some run."""
    names = [f"host-{at:03}" for at in range(n_hosts)]
    for at in range(n_done):
        host = names[at % n_hosts]
        got = claim(queue, host)
        assert got is not None
        if at % 10 == 9:
            queue.fail(
                got, host, error="ValueError: the trainer met a nan in window 17", fail_class="bad_config"
            )
        else:
            metrics: dict[str, Any] = {"roc_auc": 0.80 + (at % 19) / 100}
            usage = {"duration_s": 60.0 + at}
            queue.complete(got, host, artifact_id=artifact_of(str(at)), metrics=metrics, usage=usage)
    for host in names[:n_running]:
        got = claim(queue, host)
        if got is not None:
            queue.heartbeat(got, host, progress=Progress(step=7, total=40, unit="epoch", loss=0.4))
