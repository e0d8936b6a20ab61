"""HTTP endpoints: pausing, resuming and cleaning up."""

from __future__ import annotations

from training.fleet.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ()
