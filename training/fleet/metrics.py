"""The receiver's figures for Prometheus: read when somebody asks, from the database and from what memory counts.

Counters count since this process started: what happened to jobs is read from the audit trail, from where the last
look ended, so that nothing is counted that was rolled back and nothing has to be counted on a claim's way.
docs/operator-guide.md explains each figure.
"""

from __future__ import annotations

import platform
import threading
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cis490.files import free_bytes
from training.fleet import audit_trail
from training.fleet.coordinator import Coordinator
from training.fleet.overview import host_state
from training.fleet.request_times import Histogram
from training.fleet.types import STATUSES

HOST_STATES = ("running", "idle", "LOST", "PAUSED", "draining", "drained", "unseen")
OUTCOMES = ("completed", "failed", "released", "lapsed", "cancelled")
_OUTCOME_OF = {"complete": "completed", "fail": "failed", "release": "released", "expire": "lapsed"}
_ENDED = {"complete": "completed", "fail": "failed", "release": "released"}
ATTEMPT_BOUNDS_S = (1.0, 10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0)

Families = Iterator[Metric]


class Figures(Collector):
    """Everything but the figures of the process itself. `collect` reads the database: not for the event loop."""

    def __init__(self, app: Coordinator) -> None:
        self._app = app
        self._guard = threading.Lock()
        self._upto = app.started_seq
        self._claims = self._expired = 0
        self._outcomes: Counter[str] = Counter()
        self._durations = {outcome: Histogram(ATTEMPT_BOUNDS_S) for outcome in _ENDED.values()}
        self._artifact_bytes, self._uploads_seen = 0, self._uploaded()

    def collect(self) -> Families:
        """All families; two who ask at a time do so one after the other."""
        with self._guard:
            self._count()
            parts = self._of_jobs(), self._of_attempts(), self._of_the_receiver(), self._of_requests()
            return iter([family for part in parts for family in part])

    def _count(self) -> None:
        queue, after = self._app.queue, self._upto
        upto = max(audit_trail.span(queue)[1], after)
        moves = queue.read("metrics_moves", after=after, upto=upto)
        durations = queue.read("metrics_durations", after=after, upto=upto)
        uploaded = self._uploaded()
        for row in moves:  # from here on nothing can fail: a look counts whole or not at all
            event, n = row["event"], int(row["n"])
            outcome = _OUTCOME_OF.get(event)
            if event == "cancel" and row["from_phase"] in ("claimed", "running"):
                outcome = "cancelled"
            if outcome is not None:
                self._outcomes[outcome] += n
            self._claims += n if event == "claim" else 0
            self._expired += n if event == "expire" else 0
        for row in durations:
            self._durations[_ENDED[row["event"]]].note(max(0.0, float(row["took_s"])))
        self._upto = upto
        self._artifact_bytes += max(0, uploaded - self._uploads_seen)  # less: old ones were removed
        self._uploads_seen = uploaded

    def _uploaded(self) -> int:
        return int(self._app.queue.read("metrics_uploads")[0]["bytes"])

    def _of_jobs(self) -> Families:
        jobs = GaugeMetricFamily("cis490_jobs", "Jobs of the queue by status.", labels=["status"])
        counts = self._app.queue.counts()
        for status in STATUSES:
            jobs.add_metric([status], counts.get(status, 0))
        yield jobs
        workers = self._app.queue.workers()
        states = Counter(host_state(worker) for worker in workers)
        called = {worker["host"] for worker in workers}
        states["unseen"] = sum(name not in called for name in self._app.queue.matcher.hosts)
        hosts = GaugeMetricFamily(
            "cis490_hosts", "Hosts by state, as cis490-jobs workers shows them.", labels=["state"]
        )
        for state in HOST_STATES:
            hosts.add_metric([state.lower()], states[state])
        yield hosts

    def _of_attempts(self) -> Families:
        yield _counter("cis490_claims", "Jobs handed out.", self._claims)
        attempts = CounterMetricFamily(
            "cis490_attempts", "Attempts that ended, by outcome.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            attempts.add_metric([outcome], self._outcomes[outcome])
        yield attempts
        durations = HistogramMetricFamily(
            "cis490_attempt_duration_seconds",
            "From claim to end, of attempts that their worker ended.",
            labels=["outcome"],
        )
        for outcome, found in self._durations.items():
            buckets, total = found.cumulative()
            durations.add_metric([outcome], buckets, total)
        yield durations
        yield _counter(
            "cis490_lease_expired", "Leases that ended because their host was silent.", self._expired
        )

    def _of_the_receiver(self) -> Families:
        app = self._app
        yield _counter("cis490_artifact_bytes", "Bytes of artifacts that were stored.", self._artifact_bytes)
        yield _gauge("cis490_db_size_bytes", "The database with its log.", app.queue.size_bytes())
        disk = GaugeMetricFamily(
            "cis490_disk_free_bytes", "Space that is free where these are kept.", labels=["volume"]
        )
        for volume, folder in (("database", app.queue.folder), ("artifacts", app.store.root)):
            if folder is not None and folder.is_dir():
                disk.add_metric([volume], free_bytes(folder))
        yield disk
        held = app.ballast is None or app.ballast.is_held
        yield _gauge("cis490_disk_full", "1 while no job is handed out for want of space.", 0 if held else 1)
        yield _gauge("cis490_events_streams", "Open streams of GET /v1/events.", app.event_streams)
        yield _gauge(
            "cis490_last_sweep_age_seconds",
            "Since leases were looked through.",
            max(0.0, app.queue.clock.now_s() - app.swept_at_s),
        )
        build = InfoMetricFamily("cis490_build", "What is running.")
        build.add_metric([], {"version": _version(), "python": platform.python_version()})
        yield build

    def _of_requests(self) -> Families:
        family = HistogramMetricFamily(
            "cis490_request_duration_seconds",
            "From a request's headers to the beginning of its answer; of a claim with the time it waited.",
            labels=["route", "method", "status"],
        )
        for (route, method, status), found in self._app.request_times.all():
            buckets, total = found.cumulative()
            family.add_metric([route, method, str(status)], buckets, total)
        yield family


class Exposition:
    """One receiver's registry: nothing is registered with the library's global one."""

    def __init__(self, app: Coordinator) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Figures(app))
        ProcessCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the format that `accept`, the request's header, asks for. Reads the database."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _version() -> str:
    try:
        return version("cis490")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
