"""Random fleets: capabilities, jobs and manifests, small enough that their parts meet often."""

from __future__ import annotations

from random import Random

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


# -- the same, drawn from a random generator: thirty times as quick, for tests that want very many


def seeded_capability(random: Random) -> Capability:
    """Mostly a sound host, so that it is the details that keep a job from it."""
    cuda = random.random() < 0.6
    vram = random.choice([7.6, 8.0, 15.5, 24.0]) if cuda else None
    return Capability(
        ram_gib=random.choice([None, 7.6, 8.0, 15.5, 16.0, 24.0]),
        has_cuda=cuda if random.random() < 0.9 else None,
        vram_gib=vram,
        gpus=[Gpu("g", vram)] * random.randint(1, 2) if vram and random.random() < 0.5 else None,
        models=None if random.random() < 0.7 else random.sample(MODELS, random.randint(0, 3)),
        trainer_digest=random.choice([None, "t" * 64, "t" * 64, "u" * 64]),
    )


def seeded_job(random: Random, index: int) -> JobSpec:
    return job(
        f"j{index}",
        model=random.choice(MODELS),
        priority=random.randint(0, 2),
        require_cuda=random.random() < 0.3,
        prefer_cuda=random.random() < 0.3,
        min_vram_gib=random.choice([0.0, 0.0, 0.0, 8.0, 24.0]),
        min_ram_gib=random.choice([0.0, 0.0, 0.0, 8.0, 16.0]),
        allowed_hosts=tuple(random.sample(HOSTS, random.choice([0, 0, 0, 1, 2]))),
    )


def seeded_fleet(random: Random) -> Manifest:
    hosts = {
        name: HostSpec(
            name,
            allow_jobs=tuple(random.sample(MODELS, random.choice([0, 0, 0, 1, 2]))),
            deny_jobs=tuple(random.sample(MODELS, random.choice([0, 0, 0, 1]))),
            slots=random.choice([None, None, 1, 2]),
            capability=seeded_capability(random) if random.random() < 0.3 else Capability(),
            force=random.random() < 0.3,
        )
        for name in random.sample(HOSTS, random.choice([0, 2, 3, 4, 4]))
    }
    policy = Policy(
        unknown_hosts=random.choice(["deny", "allow"]),
        trainer=random.choice(["same", "any"]),
        prefer_cuda_grace_s=random.choice([30.0, 60.0]),
        same_host_s=60.0,
        pause_after_failures=random.choice([0, 1, 3]),
    )
    wanted = tuple(seeded_job(random, index) for index in range(random.randint(1, 5)))
    return Manifest(name="f", hosts=hosts, jobs=wanted, policy=policy)


def healthy_fleet(random: Random) -> tuple[Manifest, tuple[Capability, ...]]:
    """A fleet in which nothing is in the way of any job, and what its hosts report: whatever befalls it afterwards is
    all that keeps a job waiting."""
    n_cuda = random.choice([1, 1, 1, 4])
    reported = tuple(
        Capability(
            ram_gib=random.choice([15.5, 24.0]),
            has_cuda=at < n_cuda,
            vram_gib=24.0 if at < n_cuda else None,
            trainer_digest="t" * 64,
        )
        for at in range(len(HOSTS))
    )
    policy = Policy(
        unknown_hosts=random.choice(["deny", "allow"]),
        prefer_cuda_grace_s=60.0,
        same_host_s=60.0,
        pause_after_failures=random.choice([0, 1]),
    )
    wanted = tuple(
        job(f"j{index}", model=random.choice(MODELS), prefer_cuda=random.random() < 0.7)
        for index in range(random.randint(1, 4))
    )
    hosts = {name: HostSpec(name, slots=random.choice([None, 1])) for name in HOSTS}
    return Manifest(name="f", hosts=hosts, jobs=wanted, policy=policy), reported
