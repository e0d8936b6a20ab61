"""HTTP endpoints: the fleet's events as a stream and as a list."""

from __future__ import annotations

from training.fleet.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ()
