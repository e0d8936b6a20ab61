"""The lease protocol, every interleaving: receiver, two hosts with guards, a network, an operator, a power cut.

A breadth-first search over all states of a small model. What may happen to the job is asked of
`lifecycle.decide` itself; the rest is the protocol around it: tokens, deadlines, messages that are delayed,
doubled or lost, a reaper that comes late, memory and disk. Each safeguard can be left out, and the search must then
find a promise that breaks. Time is in ticks; clocks are exact (the guard's margin is for those that are not).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest

from training.fleet.lifecycle import AttemptOutcome, Event, Move, Phase, Refusal, Standing, decide

LEASE = 2
"""Ticks."""
MAX_EPOCHS, MAX_LOSSES = 2, 2
LIVE = ("claimed", "running")


@dataclass(frozen=True)
class Safeguards:
    """What the design relies on; leaving one out must break a promise."""

    token: bool = True
    """A request names its attempt, not only its host."""
    upload_checked: bool = True
    """A completion needs an artifact that this attempt has stored."""
    store_synced: bool = True
    row_synced: bool = True
    freeze_in_time: bool = True
    """The guard freezes the trainer when its lease ends; else a tick later."""
    measured_from_sending: bool = True
    """The guard counts the lease from when the request was sent; else from when the answer came."""
    repeat_renews: bool = True
    """A claim asked again is granted a whole lease again, as the host will count it from the repeat."""


class Try(NamedTuple):
    host: int
    outcome: AttemptOutcome | None = None


class Row(NamedTuple):
    phase: Phase = "pending"
    losses: int = 0
    tries: tuple[Try, ...] = ()
    """By epoch, from 1."""

    @property
    def epoch(self) -> int:
        return len(self.tries)


class Host(NamedTuple):
    """`claiming`: waits for an answer; `spooled`: has a result and no trainer."""

    mode: str = "idle"
    epoch: int = 0
    left: int = 0
    """Ticks that the guard lets the trainer run."""


class Message(NamedTuple):
    kind: str
    host: int
    epoch: int
    age: int = 0
    """Ticks since the request was sent; an answer goes on counting."""


class State(NamedTuple):
    row: Row = Row()
    disk: Row = Row()
    left: int = 0
    """Ticks until the receiver's deadline of the live lease."""
    blobs: frozenset[int] = frozenset()
    synced: frozenset[int] = frozenset()
    hosts: tuple[Host, Host] = (Host(), Host())
    net: frozenset[Message] = frozenset()
    cancels: int = 1
    cuts: int = 1
    crashes: int = 1
    recalled: frozenset[int] = frozenset()
    """Epochs that the operator ended while they lived (their hosts learn it from their next heartbeat)."""
    answered: frozenset[int] = frozenset()
    """Epochs that were granted. Not part of the system, as the next."""
    accepted: int = 0
    broken: str = ""


class Model:
    """The steps. The network holds `messages` at once; what is sent beyond that is lost."""

    def __init__(self, guards: Safeguards, messages: int = 1) -> None:
        self.guards, self.messages = guards, messages

    def after(self, state: State) -> Iterator[State]:
        """Every state that one step leads to."""
        yield self.tick(state)
        if state.row.phase in LIVE and state.left == 0:
            yield self.expire(state)
        for number in (0, 1):
            yield from self.host_steps(state, number)
        for message in state.net:
            gone = state._replace(net=state.net - {message})
            yield gone  # lost
            yield self.deliver(gone, message)
            yield self.deliver(state, message)  # and will come once more
        yield from self.operator(state)
        if state.cuts:
            yield self.power_cut(state)
        if state.disk != state.row:
            yield state._replace(disk=state.row)

    # -- time

    def tick(self, state: State) -> State:
        hosts = (self.pass_time(state.hosts[0]), self.pass_time(state.hosts[1]))
        net = frozenset(one._replace(age=min(one.age + 1, LEASE)) for one in state.net)
        return state._replace(hosts=hosts, net=net, left=max(0, state.left - 1))

    def pass_time(self, host: Host) -> Host:
        if host.mode != "training":
            return host
        if host.left > 1 or (not self.guards.freeze_in_time and host.left == 1):
            return host._replace(left=host.left - 1)
        return Host("frozen", host.epoch)

    def power_cut(self, state: State) -> State:
        """The receiver comes back with what was on disk; every live lease gets a whole period."""
        return state._replace(
            row=state.disk,
            blobs=state.synced,
            left=LEASE if state.disk.phase in LIVE else 0,
            cuts=state.cuts - 1,
        )

    # -- the receiver

    def save(self, state: State, row: Row) -> State:
        return state._replace(row=row, disk=row if self.guards.row_synced else state.disk)

    def expire(self, state: State) -> State:
        losses = state.row.losses + 1
        move = decide(state.row.phase, "expire", budget_left=losses < MAX_LOSSES)
        assert isinstance(move, Move)
        row = self.ended(state.row, "lapsed")._replace(phase=move.target, losses=losses)
        return self.save(state, row)

    def ended(self, row: Row, outcome: AttemptOutcome | None) -> Row:
        return row._replace(tries=(*row.tries[:-1], row.tries[-1]._replace(outcome=outcome)))

    def standing(self, row: Row, message: Message) -> tuple[Standing, AttemptOutcome | None]:
        if not self.guards.token:
            mine = any(one.host == message.host for one in row.tries)
            return ("holder", None) if mine else ("stranger", None)
        if message.epoch > row.epoch or row.tries[message.epoch - 1].host != message.host:
            return "stranger", None
        outcome = row.tries[message.epoch - 1].outcome
        current = message.epoch == row.epoch and outcome in (None, "lapsed")
        return "holder" if current else "ended", outcome

    def deliver(self, state: State, message: Message) -> State:
        if message.kind == "claim":
            return self.on_claim(state, message)
        if message.kind in ("granted", "alive", "refused"):
            return self.on_answer(state, message)
        event: Event = "heartbeat" if message.kind == "heartbeat" else "complete"
        row = state.row
        standing, outcome = self.standing(row, message)
        found = decide(row.phase, event, standing=standing, outcome=outcome)
        if event == "complete" and self.guards.upload_checked and message.epoch not in state.blobs:
            found = Refusal(409, "not uploaded")
        if isinstance(found, Refusal):
            return self.send(state, message._replace(kind="refused"))
        if isinstance(found, Move):
            if message.epoch != row.epoch:
                return state._replace(broken="a request of an older attempt moved the job")
            state = self.accept(state, event, found)
        kind = "alive" if event == "heartbeat" else "refused"  # a closed attempt and a refused one end alike
        return self.send(state, message._replace(kind=kind))

    def accept(self, state: State, event: Event, move: Move) -> State:
        row = state.row
        if event == "heartbeat":
            back = row.tries[-1].outcome == "lapsed"
            row = self.ended(row, None)._replace(phase=move.target, losses=row.losses - back)
            return self.save(state, row)._replace(left=LEASE)
        state = self.save(state, self.ended(row, "completed")._replace(phase=move.target))
        return state._replace(accepted=state.accepted + 1)

    def on_claim(self, state: State, message: Message) -> State:
        row = state.row
        holds = row.phase in LIVE and row.tries[-1].host == message.host
        if holds and row.epoch == message.epoch:
            again = state._replace(left=LEASE) if self.guards.repeat_renews else state
            return self.send(again, message._replace(kind="granted"))
        move = decide(row.phase, "claim")
        if holds or not isinstance(move, Move) or row.epoch + 1 != message.epoch:
            return state  # nothing for it; it asks again
        tries = (
            *(self.ended(row, row.tries[-1].outcome or "superseded").tries if row.tries else ()),
            Try(message.host),
        )
        if row.tries and row.tries[-1].outcome == "lapsed":
            tries = (*tries[:-2], Try(row.tries[-1].host, "superseded"), tries[-1])
        if message.epoch in state.answered:
            return state._replace(broken="an epoch was granted twice")
        state = self.save(state, Row(move.target, row.losses, tries))
        state = state._replace(left=LEASE, answered=state.answered | {message.epoch})
        return self.send(state, message._replace(kind="granted"))

    def send(self, state: State, message: Message) -> State:
        if len(state.net | {message}) > self.messages:
            return state  # lost: the network holds no more
        return state._replace(net=state.net | {message})

    def operator(self, state: State) -> Iterator[State]:
        row = state.row
        move = decide(row.phase, "cancel")
        if state.cancels and isinstance(move, Move) and move.changes:
            lived = {row.epoch} if row.phase in LIVE else set()
            ended = (
                self.ended(row, "cancelled")
                if row.tries and row.tries[-1].outcome in (None, "lapsed")
                else row
            )
            cancelled = self.save(state, ended._replace(phase=move.target))
            yield cancelled._replace(cancels=state.cancels - 1, recalled=state.recalled | lived)
        move = decide(row.phase, "requeue")
        if isinstance(move, Move) and move.changes:
            ended = (
                self.ended(row, "superseded")
                if row.tries and row.tries[-1].outcome in (None, "lapsed")
                else row
            )
            yield self.save(state, ended._replace(phase=move.target, losses=0))

    # -- the hosts

    def host_steps(self, state: State, number: int) -> Iterator[State]:
        host = state.hosts[number]
        if host.mode == "idle" and state.row.epoch < MAX_EPOCHS:
            yield self.put(state, number, Host("claiming", state.row.epoch + 1))
        if host.mode == "claiming":
            yield self.send(state, Message("claim", number, host.epoch))
            yield self.put(state, number, Host())
        if host.mode in ("training", "frozen"):
            yield self.send(state, Message("heartbeat", number, host.epoch))
            if state.crashes:
                yield self.put(state, number, Host())._replace(crashes=state.crashes - 1)
        if host.mode == "training":
            yield self.put(state, number, Host("spooled", host.epoch))
        if host.mode == "spooled":
            standing, _ = self.standing(state.row, Message("complete", number, host.epoch))
            if standing == "holder":
                synced = state.synced | {host.epoch} if self.guards.store_synced else state.synced
                yield state._replace(blobs=state.blobs | {host.epoch}, synced=synced)
            yield self.send(state, Message("complete", number, host.epoch))

    def on_answer(self, state: State, message: Message) -> State:
        host = state.hosts[message.host]
        if message.epoch != host.epoch:
            return state
        if message.kind == "refused":
            return self.put(state, message.host, Host())
        left = LEASE - message.age if self.guards.measured_from_sending else LEASE
        if message.kind == "granted" and host.mode == "claiming" and left > 0:
            return self.put(state, message.host, Host("training", host.epoch, left))
        if message.kind == "alive" and host.mode in ("training", "frozen") and left > host.left:
            return self.put(state, message.host, Host("training", host.epoch, left))
        return state

    def put(self, state: State, number: int, host: Host) -> State:
        hosts = (host, state.hosts[1]) if number == 0 else (state.hosts[0], host)
        return state._replace(hosts=hosts)


def fault_of(state: State, *, recalled_too: bool = False) -> str:
    """Which promise the state breaks."""
    training = [host for host in state.hosts if host.mode == "training"]
    if len(training) > 1 and (recalled_too or not any(host.epoch in state.recalled for host in training)):
        return "two trainers run at once"
    if state.accepted > 1:
        return "two results were accepted"
    if state.row.phase == "completed" and state.row.epoch not in state.blobs:
        return "completed without its artifact"
    if state.accepted and state.row.phase != "completed":
        return "an acknowledged completion is lost"
    return state.broken


@dataclass
class Search:
    """What a search saw: the first promise that broke, if any, and the shortest way there."""

    states: int
    steps: int
    """All ways of so many steps were gone."""
    fault: str = ""
    way: tuple[State, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.fault, *map(str, self.way)])


def explore(model: Model, first: State, *, recalled_too: bool = False, at_most: int = 10**9) -> Search:
    """Breadth first, until every state was seen, a promise breaks, or `at_most` states are known."""
    parents: dict[State, State | None] = {first: None}
    layer, steps = [first], 0
    while layer and len(parents) < at_most:
        following = []
        for state in layer:
            for step in model.after(state):
                found = plain(step)
                if found in parents:
                    continue
                parents[found] = state
                fault = fault_of(found, recalled_too=recalled_too)
                if fault:
                    return Search(len(parents), steps, fault, way_to(found, parents))
                following.append(found)
        layer, steps = following, steps + 1
    return Search(len(parents), steps)


def plain(state: State) -> State:
    """One state for all that behave alike: messages that nobody heeds are gone, which host is which is no matter."""
    heeded = {one for one in state.net if heeds(state, one)}
    net = frozenset(one._replace(age=0) if one.kind in ("complete", "refused") else one for one in heeded)
    if state.row.phase in ("completed", "cancelled") and not state.cuts:
        state = state._replace(left=0)
    if state.hosts[0] >= state.hosts[1]:
        return state._replace(net=net)
    swapped = frozenset(one._replace(host=1 - one.host) for one in net)
    state = state._replace(net=swapped, hosts=(state.hosts[1], state.hosts[0]))
    return state._replace(row=mirrored(state.row), disk=mirrored(state.disk))


def mirrored(row: Row) -> Row:
    return row._replace(tries=tuple(one._replace(host=1 - one.host) for one in row.tries))


def heeds(state: State, message: Message) -> bool:
    """May this message still change anything? Answers of an older attempt, or too old to count, do not."""
    host = state.hosts[message.host]
    if message.kind == "refused":
        return message.epoch == host.epoch
    if message.kind in ("granted", "alive"):
        return message.epoch == host.epoch and (message.age < LEASE)
    return True


def way_to(state: State, parents: dict[State, State | None]) -> tuple[State, ...]:
    way: list[State] = []
    at: State | None = state
    while at is not None:
        way.append(at)
        at = parents[at]
    return tuple(way[::-1])


def test_the_promises_hold_in_every_state() -> None:
    found = explore(Model(Safeguards()), State(crashes=0))
    print(f"{found.states} states, all there are, up to {found.steps} steps away")
    assert not found.fault, str(found)
    assert found.states > 10_000, "a model in which little can happen would prove little"


@pytest.mark.slow
@pytest.mark.parametrize(("messages", "at_most"), [(1, 10**9), (2, 400_000)])
def test_the_promises_hold_with_crashes_and_more_messages_at_once(messages: int, at_most: int) -> None:
    found = explore(Model(Safeguards(), messages), State(), at_most=at_most)
    print(f"{found.states} states, every way of {found.steps} steps")
    assert not found.fault, str(found)


@pytest.mark.parametrize(
    ("left_out", "breaks"),
    [
        ("token", "a request of an older attempt moved the job"),
        ("upload_checked", "completed without its artifact"),
        ("store_synced", "completed without its artifact"),
        ("row_synced", "an epoch was granted twice"),
        ("freeze_in_time", "two trainers run at once"),
        ("measured_from_sending", "two trainers run at once"),
        ("repeat_renews", "two trainers run at once"),
    ],
)
def test_without_one_safeguard_a_promise_breaks(left_out: str, breaks: str) -> None:
    found = explore(Model(replace(Safeguards(), **{left_out: False})), State(crashes=0))
    print(f"without {left_out}: {found.fault} after {len(found.way) - 1} steps, {found.states} states seen")
    assert found.fault == breaks


def test_a_cancelled_training_may_meet_its_successor_until_its_next_heartbeat() -> None:
    """The known exception: an operator who cancels a running job and requeues it at once. The first host learns
    of it from its next heartbeat, at the latest its guard freezes it when its lease would have ended."""
    found = explore(Model(Safeguards()), State(cuts=0, crashes=0), recalled_too=True)
    assert found.fault == "two trainers run at once"
    assert found.way[-1].cancels == 0
