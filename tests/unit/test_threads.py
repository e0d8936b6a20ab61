"""A signal that asks a process to stop reaches its main thread, whatever else runs."""

from __future__ import annotations

import signal
import threading

import pytest

from cis490.threads import start_beside

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "pthread_sigmask"), reason="no such signals on this system"
)


def test_a_thread_beside_takes_no_stop_signal_and_its_starter_takes_them_as_before() -> None:
    masks: list[set[signal.Signals | int]] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    thread = threading.Thread(target=lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
    start_beside(thread)
    thread.join()
    assert masks[0] >= {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_every_thread_of_a_worker_is_started_so() -> None:
    """Else one of them may take the signal while the main thread waits at the receiver for half a minute."""
    import inspect

    from training.fleet import guarded_run, lease_keeper, log_feed, usage

    for module in (guarded_run, lease_keeper, log_feed, usage):
        source = inspect.getsource(module)
        assert source.count("start_beside(") == source.count("threading.Thread("), module.__name__
