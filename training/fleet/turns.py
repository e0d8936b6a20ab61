"""Whose turn it is: which of the claims that wait would be given a job now. Decided inside the writer.

The judge is the one that claims use (`Matcher.choose`). Waiting jobs are handed out in thought, in the order in
which the claims came, so that one job calls one claim, and a host with several claims no more than its slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.fleet.matching import Fleet, Head, Matcher
from training.fleet.types import Capability

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue

MARGIN_S = 0.01
"""A timer that wakes a moment too early finds nothing and has to wait again."""


MOST_JUDGED = 500
"""Hosts times classes judged anew in one call (some 10 ms): after a reload all are, and others need the writer too."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The answer: positions in the list of those who wait, and when time alone may change it (None: never)."""

    called: tuple[int, ...] = ()
    again_in_s: float | None = None
    looked_at: int = 0
    """So many of the list. Ask for the rest again, with those who were called before them."""


def whose_turn(
    queue: JobQueue, waiting: Sequence[tuple[str, Capability]], *, news_only: bool = False
) -> Turns:
    """Who of `waiting` (host and what it reports, oldest first) would get a job if they claimed in this order.

    Costs one look at each, and for each that is called one index row of its class; never a scan of the jobs. With
    `news_only` only the classes count that have changed since that was last asked: the look at many that wait for
    jobs which fit none of them is saved.
    """
    with queue.atomic():
        now_s, matcher = queue.clock.now_s(), queue.matcher
        matcher.ripen(now_s)
        supply = _Supply(matcher, len(waiting), matcher.news() if news_only else None)
        fleet = Fleet(matcher, queue.views(now_s))
        promised: dict[str, int] = {}
        judged_most = matcher.judged + MOST_JUDGED
        looked_at = len(waiting)
        called: list[int] = []
        for position, (host, detected) in enumerate(waiting):
            if not supply.heads:
                break
            if matcher.judged > judged_most:
                looked_at = position
                break
            if matcher.known_to_fit_none(host, detected, supply.classes):
                continue
            busy = queue.leases.busy(host) + promised.get(host, 0)
            view = matcher.view_as(host, matcher.hosts.get(host), now_s, busy, detected)
            class_id = matcher.choose(view, supply.heads, fleet.rivals)
            if class_id is not None:
                supply.take(class_id)
                promised[host] = promised.get(host, 0) + 1
                called.append(position)
        return Turns(tuple(called), _again_in_s(queue, fleet, now_s), looked_at)


def _again_in_s(queue: JobQueue, fleet: Fleet, now_s: float) -> float | None:
    """Until the next grace ends, or the next host dies for which some job may be held back.

    The end of a lease is no matter of time alone: the reaper ends it and says so.
    """
    ripe_at = queue.matcher.next_ripe_at()
    moments = [] if ripe_at is None else [ripe_at]
    moments += [queue.matcher.dies_at(host.name) for host in fleet.waited_for() if not host.busy]
    return max(0.0, min(moments) - now_s) + MARGIN_S if moments else None


class _Supply:
    """The waiting jobs, best first in each class, of which some are taken in thought."""

    def __init__(self, matcher: Matcher, most: int, only: set[int] | None) -> None:
        self._matcher, self._most = matcher, most
        self._rest: dict[int, Iterator[Head]] = {}
        heads = matcher.heads()
        self.heads = {key: heads[key] for key in heads if only is None or key in only}
        self.classes = set(self.heads)

    def take(self, class_id: int) -> None:
        if class_id not in self._rest:
            self._rest[class_id] = iter(self._matcher.following(class_id, self._most))
        following = next(self._rest[class_id], None)
        if following is None:
            del self.heads[class_id]
            self.classes.remove(class_id)
        else:
            self.heads[class_id] = following
