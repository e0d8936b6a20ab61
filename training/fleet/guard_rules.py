"""When a trainer may run, is frozen, thawed or killed. Pure: all times are seconds on one clock.

A lease of `lease_s` was confirmed by an answer to a heartbeat that was *sent* at `sent_s`. The receiver got it
later, so its own end of the lease is never before `deadline_s` = sent_s + lease_s, if both clocks run alike.
The trainer is frozen `margin_s` earlier, for what lies between deciding and being frozen (a tick of the guard,
a look through the processes, a busy machine) and for clocks that do not run alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EndReason = Literal["asked", "timeout", "stalled", "frozen"]
"""Why the worker ended a run: it was asked to stop or lost the lease, or one of the limits was reached."""

Action = Literal["nothing", "freeze", "thaw", "kill", "timeout", "stalled", "frozen"]
"""The last three are reasons to end the run."""

MARGIN_S = 1.0
"""Five ticks of the guard."""
MARGIN_SHARE = 0.02
"""Of the lease: forty times the rate by which time synchronisation may bend a clock (500 ppm, adjtimex(2))."""
MARGIN_MAX_SHARE = 0.25
"""A lease of seconds is for tests; it must not be all margin."""


def margin_s(lease_s: float) -> float:
    """How long before the lease's end the trainer is frozen: 12 s of 600, 1 s of 30, half a second of 2."""
    return min(max(MARGIN_S, MARGIN_SHARE * lease_s), MARGIN_MAX_SHARE * lease_s)


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. Time frozen counts for the last one only."""

    timeout_s: float | None = None
    stall_s: float | None = None
    max_frozen_s: float | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """What is true of a run when it is looked at."""

    now_s: float
    freeze_at_s: float
    """The lease's end less its margin."""
    started_s: float
    """Moved on by all the time that the trainer was frozen or asleep; `alive_s` too."""
    alive_s: float
    """When the trainer last showed progress."""
    frozen_since_s: float | None = None
    kill_at_s: float | None = None
    """Set once the run was asked to end: when its patience is over."""


def decide(at: Moment, limits: Limits) -> Action:
    """What to do with the tree now."""
    is_ending = at.kill_at_s is not None
    if at.now_s >= at.freeze_at_s:
        return _outside(at, limits, is_ending)
    if at.kill_at_s is not None and at.now_s >= at.kill_at_s:
        return "kill"
    if at.frozen_since_s is not None:
        return "thaw"
    if is_ending:
        return "nothing"
    if _is_over(at.now_s - at.started_s, limits.timeout_s):
        return "timeout"
    return "stalled" if _is_over(at.now_s - at.alive_s, limits.stall_s) else "nothing"


def _outside(at: Moment, limits: Limits, is_ending: bool) -> Action:
    """Without a lease nothing may run: what is to end cannot even be given time to end itself."""
    if is_ending:
        return "kill"
    if at.frozen_since_s is None:
        return "freeze"
    return "frozen" if _is_over(at.now_s - at.frozen_since_s, limits.max_frozen_s) else "nothing"


def _is_over(spent_s: float, limit_s: float | None) -> bool:
    return limit_s is not None and spent_s > limit_s
