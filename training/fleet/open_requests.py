"""Requests that last: claims that wait, streams of events, uploads. Each ends when its sender is revoked, or when the
certificate that it came with does: who may send a request is asked at its beginning, and these outlive the answer.

For the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from training.fleet.peers import Peer


class OpenRequests:
    """Those of senders with a certificate; others are not kept. `counts(peer)`: is it good now?"""

    def __init__(self, counts: Callable[[Peer], bool]) -> None:
        self._counts = counts
        self._open: dict[object, tuple[Peer, Callable[[], object]]] = {}

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def enter(self, peer: Peer, end: Callable[[], object]) -> Iterator[None]:
        """Until the end of the block, `end` is called once its sender's certificate no longer counts."""
        key = object()
        if peer.serial:
            self._open[key] = (peer, end)
            if not self._counts(peer):  # revoked since the request was let in
                end()
        try:
            yield
        finally:
            self._open.pop(key, None)

    def look(self) -> int:
        """End those whose time has come; how many. Called after each revocation, and from time to time."""
        found = [key for key, (peer, _) in self._open.items() if not self._counts(peer)]
        for key in found:
            _, end = self._open.pop(key)
            end()
        return len(found)
