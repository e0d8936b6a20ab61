"""Relations that hold for every requirement and host."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from tests.property.fleets import capabilities
from training.fleet.eligibility import (
    HostView,
    Requirement,
    Rules,
    checks,
    fits,
    preference_check,
    ripened,
    rivals_of,
    static_checks,
)
from training.fleet.types import Capability, HostSpec

requirements = st.builds(
    Requirement,
    model=st.sampled_from(["gbt", "mlp", "gru"]),
    require_cuda=st.booleans(),
    prefer_cuda=st.booleans(),
    min_vram_gib=st.sampled_from([0.0, 8.0, 24.0]),
    min_ram_gib=st.sampled_from([0.0, 8.0, 16.0]),
    failed_hosts=st.sampled_from([(), ("a",)]),
    more_ram_than_gib=st.sampled_from([0.0, 8.0]),
    wait_for_host=st.sampled_from(["", "b"]),
)
views = st.builds(HostView, name=st.just("a"), capability=capabilities(), seen_s_ago=st.just(1.0))


@given(requirements, views)
def test_a_lone_host_is_never_held_back_by_a_wish(requirement: Requirement, host: HostView) -> None:
    alone = checks(requirement, host, (host,), Rules())
    assert all(check.ok for check in alone) == fits(requirement, host, Rules())


@given(
    requirements,
    views,
    st.sampled_from(
        [None, HostSpec("a"), HostSpec("a", deny_jobs=("gbt",)), HostSpec("a", allow_jobs=("mlp",))]
    ),
    st.sampled_from(["deny", "allow"]),
    st.sampled_from(["same", "any"]),
    st.sampled_from([(), ("a",), ("b",)]),
    st.sampled_from([0.0, 8.0]),
)
def test_the_quick_judgement_is_that_of_the_checks(
    requirement: Requirement, host: HostView, spec: HostSpec | None, unknown: str, trainer: str,
    allowed: tuple[str, ...], floor_gib: float,
) -> None:  # fmt: skip
    wanted = replace(requirement, allowed_hosts=allowed, more_vram_than_gib=floor_gib)
    rules = Rules(True, unknown, trainer, "t" * 64)  # type: ignore[arg-type]
    view = replace(host, spec=spec)
    assert fits(wanted, view, rules) == all(check.ok for check in static_checks(wanted, view, rules))


@given(requirements, views, views)
def test_ripening_only_ever_admits_more(requirement: Requirement, host: HostView, other: HostView) -> None:
    rival = replace(other, name="b")
    before = all(check.ok for check in checks(requirement, host, (rival,), Rules()))
    after = all(check.ok for check in checks(ripened(requirement), host, (rival,), Rules()))
    assert after or not before


@given(requirements, views)
def test_every_refusal_says_what_was_wanted_found_and_what_helps(
    requirement: Requirement, host: HostView
) -> None:
    for check in checks(requirement, host, (), Rules()):
        assert check.ok or (check.message and check.hint and check.wanted and check.found)
        assert not check.ok or not check.message


def test_wishes_never_make_all_hosts_wait_for_each_other() -> None:
    """Each case of three hosts, with every wish that a job can have at once."""
    names, flags = ("a", "b", "c"), list(product([False, True], repeat=3))
    for live, cuda, failed, prefer_cuda, wish in product(flags, flags, flags, [False, True], ["", *names]):
        views = [
            HostView(name, capability=Capability(has_cuda=has), live=is_live)
            for name, has, is_live in zip(names, cuda, live, strict=True)
        ]
        failed_hosts = tuple(name for name, has in zip(names, failed, strict=True) if has)
        requirement = Requirement(
            "gbt", prefer_cuda=prefer_cuda, failed_hosts=failed_hosts, wait_for_host=wish
        )
        rivals = rivals_of(requirement, views, Rules())
        allowed = [view for view in views if view.live and preference_check(requirement, view, rivals).ok]
        assert allowed or not any(live), (requirement, views)
