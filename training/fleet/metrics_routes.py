"""HTTP endpoints: figures for Prometheus."""

from __future__ import annotations

from training.fleet.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ()
