"""Notifications, decided: what is worth a message, when it is sent, and what it says. Pure; times are passed in.

Two steps. `judge` compares what the receiver saw at two looks and gives *signs*, each with its cause and the command to
type next. `Storm` turns signs into messages: the first at once, then a digest, and a subject that comes and goes is
left out until it has been steady.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from training.fleet.tables import duration, gist
from training.fleet.types import NotifyKind

FLAP_WINDOW_S = 3600.0
FLAP_MOST = 3
"""So often within the window a subject is told of; then it is damped until it was steady for as long."""
MOST_LINES = 20
"""Of one message; what is more is counted."""
MOST_WAITING = 500
"""Signs that wait for a digest; what is more is counted."""


SignKind = NotifyKind | Literal["test"]


@dataclass(frozen=True, slots=True)
class Sign:
    """Something that a person should know. `subject`: the job's or host's name, "" for the fleet."""

    kind: SignKind
    subject: str
    text: str
    next: str
    at: float
    """Wall time, for display."""
    is_relief: bool = False
    """It is better again."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A job that has failed for good."""

    job_id: str
    epoch: int
    name: str
    host: str
    error: str


@dataclass(frozen=True, slots=True)
class Picture:
    """What the receiver sees at one moment."""

    at: float
    failed: Sequence[Failed] = ()
    unfinished: int = 0
    """Jobs that wait or run; those that the manifest no longer names are not among them."""
    completed: int = 0
    silent_s: Mapping[str, float] = field(default_factory=dict)
    """Host -> how long nothing was heard of it."""
    holding: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Host -> names of the jobs whose lease it has."""
    disk: str = ""
    """Why the disk counts as full; "" when it does not."""
    lost_after_s: float = 90.0


@dataclass(frozen=True, slots=True)
class Known:
    """What has been told of already."""

    failed: frozenset[tuple[str, int]] = frozenset()
    lost: frozenset[str] = frozenset()
    disk: bool = False
    unfinished: bool = False
    """Work was seen: its end is worth a word, once."""
    ended: int = 0
    """Jobs completed or failed: work that began and ended between two looks shows in nothing else."""


def known_at_start(picture: Picture) -> Known:
    """What is so when the receiver starts is no news; a host that is silent and a full disk are, in their time."""
    return Known(_ids(picture), unfinished=picture.unfinished > 0, ended=_ended(picture))


def judge(known: Known, picture: Picture) -> tuple[Known, list[Sign]]:
    """What has happened since, and what is known from now on."""
    signs = [
        _failure(item, picture) for item in picture.failed if (item.job_id, item.epoch) not in known.failed
    ]
    lost = _lost(known, picture)
    signs += [_loss(host, picture) for host in sorted(lost - known.lost)]
    signs += [_return(host, picture) for host in sorted(known.lost - lost)]
    if bool(picture.disk) != known.disk:
        signs.append(_disk(picture))
    if not picture.unfinished and (known.unfinished or _ended(picture) > known.ended):
        signs.append(_all_done(picture))
    return Known(_ids(picture), lost, bool(picture.disk), picture.unfinished > 0, _ended(picture)), signs


def _ended(picture: Picture) -> int:
    return picture.completed + len(picture.failed)


def _ids(picture: Picture) -> frozenset[tuple[str, int]]:
    return frozenset((item.job_id, item.epoch) for item in picture.failed)


def _lost(known: Known, picture: Picture) -> frozenset[str]:
    """Silent hosts that hold a job, and those that did when they fell silent: their lease ends, the loss does not."""
    return frozenset(
        host
        for host, silent_s in picture.silent_s.items()
        if silent_s > picture.lost_after_s and (picture.holding.get(host) or host in known.lost)
    )


def _failure(item: Failed, picture: Picture) -> Sign:
    on = f" on {item.host}" if item.host else ""
    text = f"{item.name} has failed{on}: {gist(item.error) or 'no error message'}"
    return Sign("failed", item.name, text, f"cis490-jobs show {item.name}", picture.at)


def _loss(host: str, picture: Picture) -> Sign:
    jobs = ", ".join(picture.holding.get(host, ())) or "no job any more"
    text = f"{host} has not been heard for {duration(picture.silent_s[host])}; it holds {jobs}"
    return Sign("host_lost", host, text, "cis490-jobs workers", picture.at)


def _return(host: str, picture: Picture) -> Sign:
    return Sign("host_lost", host, f"{host} is back", "cis490-jobs workers", picture.at, is_relief=True)


def _disk(picture: Picture) -> Sign:
    if picture.disk:
        return Sign("disk_low", "", picture.disk, "df -h   (on the receiver's machine)", picture.at)
    text = "the receiver's disk has room again; jobs are handed out"
    return Sign("disk_low", "", text, "cis490-jobs status", picture.at, is_relief=True)


def _all_done(picture: Picture) -> Sign:
    failed = f", {len(picture.failed)} failed" if picture.failed else ""
    text = f"all work is done: {picture.completed} completed{failed}"
    following = "cis490-jobs list --status failed" if picture.failed else "cis490-jobs models"
    return Sign("all_done", "", text, following, picture.at)


# -- when and what


_LAST_WORD = (
    f"; this is the {FLAP_MOST + 1}th time within an hour: no more about it until it was steady for an hour"
)


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: a title of one line, and the signs in their order."""

    title: str
    signs: tuple[Sign, ...]
    n_more: int
    fleet: str

    @property
    def text(self) -> str:
        """Title and signs, each with its next command, for people."""
        return "\n".join([self.title, "", self.body])

    @property
    def body(self) -> str:
        lines = [f"- {sign.text}\n    next: {sign.next}" for sign in self.signs[:MOST_LINES]]
        more = self.n_more + max(0, len(self.signs) - MOST_LINES)
        if more:
            lines.append(f"- and {more} more\n    next: cis490-jobs events")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that a webhook gets; `text` is what chat systems show."""
        return {
            "text": self.text,
            "title": self.title,
            "fleet": self.fleet,
            "events": [
                {
                    "kind": sign.kind, "subject": sign.subject or None, "text": sign.text, "next": sign.next,
                    "at": sign.at, "relief": sign.is_relief,
                }
                for sign in self.signs[:MOST_LINES]
            ],
            "n_more": self.n_more + max(0, len(self.signs) - MOST_LINES),
        }  # fmt: skip


def made(fleet: str, signs: Sequence[Sign], n_more: int = 0) -> Message:
    """The message with these signs."""
    return Message(_title(fleet, signs, n_more), tuple(signs), n_more, fleet)


_WORDS: dict[SignKind, str] = {
    "failed": "failed", "host_lost": "host lost", "disk_low": "disk full", "all_done": "all done", "test": "test"
}  # fmt: skip


def _title(fleet: str, signs: Sequence[Sign], n_more: int) -> str:
    if len(signs) == 1 and not n_more:
        return f"[{fleet}] {signs[0].text.splitlines()[0][:150]}"
    counts = Counter(_WORDS[sign.kind] for sign in signs if not sign.is_relief)
    parts = [f"{n} {word}" for word, n in counts.items()]
    relief = sum(sign.is_relief for sign in signs)
    parts += [f"{relief} better again"] if relief else []
    return f"[{fleet}] {', '.join(parts)}" + (f" and {n_more} more" if n_more else "")


class Storm:
    """Which signs go out when, for one place to send to. Every `now_s` comes from one clock that never steps."""

    def __init__(self, fleet: str, digest_s: float) -> None:
        self._fleet, self._digest_s = fleet, digest_s
        self._waiting: list[Sign] = []
        self._n_more = 0
        self._sent_s: float | None = None
        self._seen: dict[tuple[str, str], deque[float]] = {}

    def add(self, sign: Sign, now_s: float) -> None:
        """A sign has come; it waits, unless its subject is damped."""
        kept = self._undamped(sign, now_s)
        if kept is None:
            return
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(kept)
        else:
            self._n_more += 1

    def count(self, n: int) -> None:
        """So many signs came that nobody had room for."""
        self._n_more += n

    def due_in_s(self, now_s: float) -> float | None:
        """After how long `take` has a message; None: when another sign has come."""
        if not self._waiting:
            return None
        return 0.0 if self._sent_s is None else max(0.0, self._sent_s + self._digest_s - now_s)

    def take(self, now_s: float) -> Message | None:
        """The message that is due, and with it all that waits."""
        if self.due_in_s(now_s) != 0.0:
            return None
        found = made(self._fleet, self._waiting, self._n_more)
        self._waiting, self._n_more, self._sent_s = [], 0, now_s
        return found

    def give_back(self, message: Message) -> None:
        """It could not be sent: its signs come with the next digest."""
        room = MOST_WAITING - len(self._waiting)
        self._n_more += message.n_more + max(0, len(message.signs) - room)
        self._waiting = [*message.signs[:room], *self._waiting]

    def _undamped(self, sign: Sign, now_s: float) -> Sign | None:
        """The sign, or a last word on a subject that comes and goes, or nothing."""
        if sign.kind == "all_done":
            return sign
        key = (sign.kind, sign.subject)
        times = self._seen.setdefault(key, deque(maxlen=2 * FLAP_MOST + 1))
        if times and now_s - times[-1] > FLAP_WINDOW_S:
            times.clear()
        was_damped = _n_within(times, now_s) > FLAP_MOST
        if sign.is_relief:
            return None if was_damped else sign
        times.append(now_s)
        self._forget(now_s)
        if was_damped:
            return None
        if _n_within(times, now_s) > FLAP_MOST:
            return replace(sign, text=sign.text + _LAST_WORD)
        return sign

    def _forget(self, now_s: float) -> None:
        """Subjects that have long been steady."""
        for key in [key for key, times in self._seen.items() if now_s - times[-1] > FLAP_WINDOW_S]:
            del self._seen[key]


def _n_within(times: Sequence[float], now_s: float) -> int:
    return sum(now_s - at <= FLAP_WINDOW_S for at in times)
