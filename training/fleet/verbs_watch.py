"""`watch` and `events`: what happens, as it happens.

On a terminal `watch` is one screen, redrawn in place; in a pipe it is one line an event. Both hear the receiver's
stream of events, connect again by themselves, and say so meanwhile.
"""

from __future__ import annotations

import json
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from training.fleet import render_status, render_watch
from training.fleet.client import FleetError, Refused
from training.fleet.exits import JOB_CANCELLED, JOB_FAILED, OK
from training.fleet.live_region import Keys, can_redraw, keys, region, size_of
from training.fleet.render import View
from training.fleet.tables import Row, rows_of, safe, text_of
from training.fleet.verb import Call, host_named, named, view_of

if TYPE_CHECKING:
    from training.fleet.sse import StreamedEvent

KEPT = ("job", "host", "manifest", "fleet")
"""The kinds of events that the audit trail has: these are lines; `progress` only redraws the screen."""
ENDED = {"completed": OK, "failed": JOB_FAILED, "cancelled": JOB_CANCELLED}
REDRAW_S = 1.0
"""Ages count up even when nothing happens."""
REFRESH_S = 5.0
"""The screen is asked for anew at least so often, and at most each `AT_MOST_S`."""
AT_MOST_S = 0.3
KEY_S = 0.1


def watch(call: Call) -> int:
    """`watch [JOB]`: until the job has ended, or q or Ctrl-C."""
    job = None if call.args.job is None else named(call)
    is_screen = can_redraw(call.terminal.out, call.terminal.env) and not getattr(call.args, "json", False)
    try:
        code = _screen(call, job) if is_screen else _lines(call, job)
    except KeyboardInterrupt:
        if job is not None and call.args.exit_status:
            raise  # it has not ended: no code of its own fits
        return OK
    return code if call.args.exit_status else OK


# -- in a pipe


def _lines(call: Call, job: Row | None) -> int:
    """One line an event. With a job: until it has ended."""
    job_id = None if job is None else text_of(job, "job_id")
    if job_id is not None and (code := _code_of(call, job_id)) is not None:
        return code
    for event in call.client.follow(kinds=KEPT, job=job_id, sleep=call.terminal.sleep):
        if _note(call, event):
            if job_id is not None and event.kind == "hello" and (code := _code_of(call, job_id)) is not None:
                return code  # it ended while nobody listened
            continue
        _print_event(call, event.data)
        is_over = job_id is not None and text_of(event.data, "to").split("_")[0] in ENDED
        if is_over and job_id is not None and (code := _code_of(call, job_id)) is not None:
            return code
    return OK


def _code_of(call: Call, job_id: str) -> int | None:
    """The exit code of a job that has ended; None while it has not, or where nobody can tell now."""
    try:
        return ENDED.get(text_of(call.client.job(job_id), "status"))
    except Refused:
        raise
    except FleetError:
        return None


def _note(call: Call, event: StreamedEvent) -> bool:
    """Say on standard error what is no event but concerns the stream; False for an event."""
    if event.kind == "down":
        again = event.data.get("again_in_s")
        wait = f"; trying again in {max(again, 1):.0f} s" if isinstance(again, (int, float)) else ""
        print(f"cis490-jobs: {safe(text_of(event.data, 'reason'))}{wait}", file=call.terminal.err, flush=True)
    elif event.kind == "reset":
        print(f"cis490-jobs: {text_of(event.data, 'reason')}", file=call.terminal.err, flush=True)
    elif event.kind != "hello":
        return False
    return True


def _print_event(call: Call, event: Row) -> None:
    if getattr(call.args, "json", False):
        line = json.dumps(event)
    elif call.view.width is None:
        line = render_watch.event_line(event)
    else:
        line = render_watch.live_event(call.view, event)
    print(line, file=call.terminal.out, flush=True)


# -- on a terminal


class Feed:
    """Two threads: one hears the events, one asks for the screen's data, so that drawing and keys never wait."""

    def __init__(self, call: Call, fetch: Callable[[], Row], job_id: str | None) -> None:
        self._call, self._fetch, self._job_id = call, fetch, job_id
        self.found: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        """`("data", answer)`, `("event", row)`, `("up", None)`, `("down", reason)`, `("refused", error)`."""
        self.wanted = threading.Event()
        self.stopped = threading.Event()

    def start(self) -> None:
        for name, run in (("watch-events", self._hear), ("watch-data", self._ask)):
            threading.Thread(target=run, name=name, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()
        self.wanted.set()

    def _hear(self) -> None:
        kinds = (*KEPT, "progress")
        try:
            for event in self._call.client.follow(kinds=kinds, job=self._job_id, sleep=self.stopped.wait):
                if self.stopped.is_set():
                    return
                if event.kind in KEPT:
                    self.found.put(("event", event.data))
                if event.kind == "down":
                    self.found.put(("down", text_of(event.data, "reason")))
                else:
                    self.wanted.set()
        except FleetError as error:
            self.found.put(("refused", error))

    def _ask(self) -> None:
        while not self.stopped.is_set():
            self.wanted.wait(REFRESH_S)
            self.wanted.clear()
            if self.stopped.is_set():
                return
            try:
                self.found.put(("data", self._fetch()))
            except Refused as error:
                self.found.put(("refused", error))
                return
            except FleetError as error:
                self.found.put(("down", str(error)))
            self.stopped.wait(AT_MOST_S)


def _screen(call: Call, job: Row | None) -> int:
    job_id = None if job is None else text_of(job, "job_id")

    def fetch() -> Row:
        return call.client.overview() if job_id is None else call.client.job(job_id)

    first = fetch()  # a receiver that is not there at all is no reason to wait for it
    feed = Feed(call, fetch, job_id)
    feed.start()
    try:
        with region(call.terminal.out) as drawn, keys() as pressed:
            return _loop(call, feed, first, job_id, drawn.draw, pressed)
    finally:
        feed.stop()


def _loop(
    call: Call,
    feed: Feed,
    first: Row,
    job_id: str | None,
    draw: Callable[[Sequence[str], int], None],
    pressed: Keys,
) -> int:
    shown, shown_at = first, call.terminal.wall_s()
    down_since: float | None = None
    reason = ""
    latest: deque[Row] = deque(maxlen=render_watch.MOST_EVENTS)
    drawn_at: float | None = None
    while True:
        changed = False
        while not feed.found.empty():
            what, value = feed.found.get()
            changed = True
            if what == "refused":
                raise value
            if what == "event":
                latest.append(value)
            elif what == "down":
                down_since, reason = down_since or call.terminal.wall_s(), safe(value)
            elif what == "data":
                shown, shown_at, down_since = value, call.terminal.wall_s(), None
        code = None if job_id is None else ENDED.get(text_of(shown, "status"))
        now = call.terminal.now_s()
        if changed or drawn_at is None or code is not None or now - drawn_at >= REDRAW_S:
            width, height = size_of(call.terminal.out, call.terminal.columns, call.terminal.height)
            view = view_of(call.terminal)._replace(width=width, height=height)
            last = "" if code is not None else render_watch.footer(view, down_since, shown_at, reason)
            draw(_lines_of(view, shown, job_id, list(latest), last), width)
            drawn_at = now
        if code is not None:
            return code
        if pressed.pressed(KEY_S) in ("q", "Q", "\x03", "\x04"):
            return OK


def _lines_of(view: View, shown: Row, job_id: str | None, latest: list[Row], last: str) -> list[str]:
    """The whole screen: the state, the latest events as far as they fit, and whether all that is true now."""
    room = max(view.height - 1, 6)
    if job_id is None:
        top = render_status.status(view._replace(height=room - min(len(latest), 3) - 2), shown)
    else:
        top = render_watch.watched_job(view, shown)
    spare = room - len(top) - 2 - (1 if last else 0)
    told = [render_watch.live_event(view, event) for event in latest][-spare:] if spare > 0 else []
    out = [*top, *(["", *told] if told else []), *(["", last] if last else [])]
    return out[:room]


# -- events


def events(call: Call) -> int:
    """`events [-f]`: the latest rows of the audit trail; with -f what follows, too."""
    args = call.args
    job = None if args.job is None else text_of(named(call), "job_id")
    host = None if args.host is None else host_named(call)
    page: Mapping[str, Any] = call.client.audit(limit=args.limit, job=job, host=host)
    if not args.follow:
        return call.say(page, lambda: render_watch.events(call.view, rows_of(page, "events")))
    for row in rows_of(page, "events"):
        _print_event(call, row)
    after = page.get("last_seq")
    start = after if isinstance(after, int) else None
    try:
        for event in call.client.follow(start, kinds=KEPT, job=job, host=host, sleep=call.terminal.sleep):
            if not _note(call, event):
                _print_event(call, event.data)
    except KeyboardInterrupt:
        return OK
    return OK
