"""HTTP endpoints: why a job waits or a host is idle, and what would help."""

from __future__ import annotations

from training.fleet.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ()
