"""Random fleets: capabilities, jobs and manifests, small enough that their parts meet often."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.factories.fleet import job
from training.fleet.types import Capability, Gpu, HostSpec, JobSpec, Manifest, Policy

MODELS = ("gbt", "mlp", "gru")
HOSTS = ("h0", "h1", "h2", "h3")
names = st.lists(st.sampled_from(HOSTS), max_size=2, unique=True).map(tuple)
models = st.lists(st.sampled_from(MODELS), max_size=2, unique=True).map(tuple)
sizes = st.sampled_from([None, 4.0, 7.6, 8.0, 15.5, 16.0, 24.0])


@st.composite
def capabilities(draw: st.DrawFn) -> Capability:
    vram = draw(sizes)
    cuda = draw(st.booleans()) if vram else False
    return Capability(
        ram_gib=draw(sizes),
        has_cuda=cuda,
        vram_gib=vram if cuda else None,
        gpus=[Gpu("g", vram)] * draw(st.integers(1, 2)) if cuda and vram else None,
        models=draw(st.none() | st.lists(st.sampled_from(MODELS), unique=True)),
        trainer_digest=draw(st.sampled_from([None, "t" * 64, "u" * 64])),
    )


@st.composite
def jobs(draw: st.DrawFn, index: int) -> JobSpec:
    return job(
        f"j{index}",
        model=draw(st.sampled_from(MODELS)),
        priority=draw(st.integers(0, 2)),
        require_cuda=draw(st.booleans()),
        prefer_cuda=draw(st.booleans()),
        min_vram_gib=draw(st.sampled_from([0.0, 0.0, 8.0, 24.0])),
        min_ram_gib=draw(st.sampled_from([0.0, 0.0, 8.0, 16.0])),
        allowed_hosts=draw(names),
    )


@st.composite
def fleets(draw: st.DrawFn) -> Manifest:
    hosts = {
        name: HostSpec(
            name,
            allow_jobs=draw(models),
            deny_jobs=draw(models),
            slots=draw(st.none() | st.integers(1, 2)),
            capability=draw(st.just(Capability()) | capabilities()),
            force=draw(st.booleans()),
        )
        for name in draw(st.lists(st.sampled_from(HOSTS), unique=True))
    }
    wanted = tuple(draw(jobs(index)) for index in range(draw(st.integers(1, 5))))
    policy = Policy(
        unknown_hosts=draw(st.sampled_from(["deny", "allow"])),
        trainer=draw(st.sampled_from(["same", "any"])),
        prefer_cuda_grace_s=draw(st.sampled_from([30.0, 60.0])),
        same_host_s=60.0,
    )
    return Manifest(name="f", hosts=hosts, jobs=wanted, policy=policy)
