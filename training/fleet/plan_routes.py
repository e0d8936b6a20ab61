"""HTTP endpoints: what a reload would do, before it does it."""

from __future__ import annotations

from training.fleet.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ()
