"""What `why`, `why --host`, the overview's list of stuck jobs and `plan` cost in a large fleet.

    python -m benchmarks.explain [--hosts 100] [--jobs 1000] [--classes 50] [--rounds 30]

One receiver as in production, on a loopback port, with so many hosts that have called, jobs that wait and classes of
equal requirements; every tenth host runs a job, some are drained, denied or switched off. Each question is asked of
the functions alone and over HTTP (request, judgement, JSON, answer), for jobs of different classes in turn. Prints one
JSON line for each with the median and the worst of the rounds, in milliseconds. The target is 50 ms each.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.fleet import expectations, explain, plan
from training.fleet import manifest as manifests
from training.fleet.coordinator import Coordinator
from training.fleet.queue import JobQueue
from training.fleet.types import Capability, Gpu, HostSpec, JobSpec, Manifest, Policy

TARGET_MS = 50.0
TRAINER = "t" * 64
MODELS = ("gbt", "mlp", "rocket", "cnn", "gru", "tcn", "transformer")


def large_manifest(hosts: int, jobs: int, classes: int) -> Manifest:
    """Hosts with policies of their own, and jobs in exactly so many classes of requirements."""
    named = {
        f"host-{at:03}": HostSpec(
            f"host-{at:03}",
            deny_jobs=(MODELS[at % 7],) if at % 3 == 0 else (),
            allow_jobs=MODELS[:5] if at % 5 == 0 else (),
            lines={"": 10 * at, "deny_jobs": 10 * at + 1},
        )
        for at in range(hosts)
    }
    return Manifest(
        name="large",
        hosts=named,
        jobs=tuple(_job(number, number % classes, hosts) for number in range(jobs)),
        policy=Policy(),
    )


def _job(number: int, kind: int, hosts: int) -> JobSpec:
    allowed = [f"host-{at:03}" for at in range(kind % 10, hosts, 10)] if kind % 6 == 0 else []
    return JobSpec(
        job_id=f"{number:064x}", model=MODELS[kind % 7], mode=("realistic", "oracle")[kind % 2], hyper={},
        split_recipe="host_disjoint", train_hosts=(), seed=number, name=f"job-{number:04}", priority=kind % 5,
        require_cuda=kind % 4 == 0, prefer_cuda=kind % 4 == 1, min_vram_gib=float(kind % 3 * 20),
        min_ram_gib=64.0 + kind, allowed_hosts=tuple(allowed),
    )  # fmt: skip


def text_of(manifest: Manifest) -> str:
    """The manifest as a file has it, a table for each host and job."""
    lines = [f'name = "{manifest.name}"']
    for host in manifest.hosts.values():
        lines += ["[[hosts]]", f'name = "{host.name}"']
        lists = (("deny_jobs", host.deny_jobs), ("allow_jobs", host.allow_jobs))
        lines += [f"{key} = {json.dumps(value)}" for key, value in lists if value]
    for job in manifest.jobs:
        lines += ["[[jobs]]", f'name = "{job.name}"', f'model = "{job.model}"', f'mode = "{job.mode}"']
        lines += [
            f"{key} = {json.dumps(value)}"
            for key in (
                "seed",
                "priority",
                "require_cuda",
                "prefer_cuda",
                "min_vram_gib",
                "min_ram_gib",
                "allowed_hosts",
            )
            if (value := getattr(job, key))
        ]
    return "\n".join(lines) + "\n"


def edit(manifest: Manifest) -> Manifest:
    """The same with a change in every tenth job and host, one job fewer and one more."""
    jobs = [
        replace(job, priority=9, min_ram_gib=8.0) if at % 10 == 0 else job
        for at, job in enumerate(manifest.jobs)
    ]
    hosts = {
        name: replace(host, deny_jobs=("mlp",)) if at % 10 == 0 else host
        for at, (name, host) in enumerate(manifest.hosts.items())
    }
    new = replace(jobs[0], job_id="f" * 64, seed=len(jobs), name="new")
    return replace(manifest, jobs=(*jobs[1:], new), hosts=hosts, digest="e" * 64)


def capability(at: int) -> Capability:
    """Too little RAM for nearly every job, so that it waits and there is something to explain."""
    cuda = at % 2 == 0
    vram = (8.0, 12.0, 24.0)[at % 3] if cuda else None
    return Capability(
        ram_gib=96.0 if at % 10 == 0 else float(8 + at % 56), has_cuda=cuda, vram_gib=vram, cores=8,
        gpus=[Gpu("GPU", vram)] if vram else None, models=list(MODELS), trainer_digest=TRAINER,
    )  # fmt: skip


def populate(queue: JobQueue, manifest: Manifest) -> None:
    """The hosts call; a tenth of them gets a job, some are drained, the last ones were never heard of."""
    from training.fleet import hosts

    queue.apply_manifest(manifest, trainer_digest=TRAINER)
    names = list(manifest.hosts)
    for at, name in enumerate(names[: max(1, len(names) * 9 // 10)]):
        if at % 10 == 0:
            queue.claim(name, capability(at))
        else:
            with queue.atomic():
                queue.saw(name, capability(at))
        if at % 17 == 0:
            hosts.drain(queue, name, "to be mended")
    for row in queue.list_jobs()[:5]:
        done = queue.get(row.job_id)
        assert done is not None
        if done.claimed_by:
            queue.complete(done.job_id, done.claimed_by, artifact_id="c" * 64, usage={"duration_s": 600.0})


@contextmanager
def receiver(manifest: Manifest) -> Iterator[tuple[Coordinator, Callable[[str, str], bytes]]]:
    """A real one; the second value sends a request and returns the answer's body."""
    import http.client
    import threading

    import uvicorn

    from training.fleet.connections import server_config
    from training.fleet.receiver import bind, make_app
    from training.fleet.receiver_settings import ListenAddress
    from training.fleet.store import ModelStore

    with tempfile.TemporaryDirectory(prefix="bench-explain-") as name:
        folder = Path(name)
        queue = JobQueue(folder / "training_jobs.db")
        store = ModelStore(folder / "models", folder / "incoming", folder / "models" / "index.jsonl")
        app = make_app(
            queue=queue,
            store=store,
            manifest_path=folder / "large.toml",
            manifest=manifest,
            operator_token="x",
        )
        populate(queue, manifest)
        bound = bind(ListenAddress(port=0))
        server = uvicorn.Server(server_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        line = http.client.HTTPConnection("127.0.0.1", bound.getsockname()[1], timeout=60)

        asked_s = [time.monotonic()]

        def send(method: str, path: str) -> bytes:
            if time.monotonic() - asked_s.pop() > 2:
                line.close()  # the server has closed a line that was idle for so long, or will
            asked_s.append(time.monotonic())
            line.request(method, path, headers={"X-Operator-Token": "x"})
            answer = line.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise SystemExit(f"{method} {path} was answered {answer.status}: {body[:300]!r}")
            return body

        try:
            yield app.state.coordinator, send
        finally:
            line.close()
            server.should_exit = True
            thread.join()
            queue.close()


def questions(
    app: Coordinator, send: Callable[[str, str], bytes], manifest: Manifest
) -> dict[str, Callable[[int], Any]]:
    """What is measured: each takes the number of the round, which picks the job or the host."""
    queue, waiting = app.queue, [row.job_id for row in app.queue.list_jobs("pending")]
    names = list(manifest.hosts)
    text, file = text_of(edit(manifest)), app.manifest_path
    edited = manifests.loads(text)
    file.write_text(text)

    def plan_of_a_new_file(round_: int) -> bytes:
        file.write_text(f"{text}# {round_}\n")
        return send("POST", "/v1/manifest/plan")

    def job_of(round_: int) -> str:
        return waiting[round_ * 37 % len(waiting)]

    def why(round_: int) -> Any:
        found = queue.situation(job_of(round_))
        assert found is not None
        return explain.job(found)

    return {
        "why": why,
        "why over HTTP": lambda round_: send("GET", f"/v1/job/{job_of(round_)}/eligibility"),
        "why --host": lambda round_: explain.host(queue, names[round_ * 7 % len(names)]),
        "why --host over HTTP": lambda round_: send(
            "GET", f"/v1/host/{names[round_ * 7 % len(names)]}/eligibility"
        ),
        "stuck": lambda _: explain.stuck(queue, queue.clock.now_s()),
        "estimates": lambda _: expectations.of_fleet(queue),
        "plan": lambda _: plan.make(plan.look(queue, edited, manifest), edited, TRAINER),
        "plan over HTTP, file read before": lambda _: send("POST", "/v1/manifest/plan"),
        "plan over HTTP, file just saved": plan_of_a_new_file,
    }


def measured(ask: Callable[[int], Any], rounds: int) -> dict[str, float]:
    """Milliseconds, as a clock on the wall and as processor time of client and server together. The first round counts:
    nothing is warmed up."""
    took_ms, cpu_ms = [], []
    for round_ in range(rounds):
        start, busy = time.perf_counter(), time.process_time()
        ask(round_)
        took_ms.append((time.perf_counter() - start) * 1000)
        cpu_ms.append((time.process_time() - busy) * 1000)
    return {
        "median_ms": round(statistics.median(took_ms), 1),
        "worst_ms": round(max(took_ms), 1),
        "median_cpu_ms": round(statistics.median(cpu_ms), 1),
        "worst_cpu_ms": round(max(cpu_ms), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    manifest = manifests.loads(text_of(large_manifest(args.hosts, args.jobs, args.classes)))
    with receiver(manifest) as (app, send):
        gc.freeze()  # as the receiver does once it has started
        for name, ask in questions(app, send, manifest).items():
            found = measured(ask, args.rounds)
            print(
                json.dumps({"what": name, **found, "within_target": found["worst_ms"] <= TARGET_MS}),
                flush=True,
            )


if __name__ == "__main__":
    main()
