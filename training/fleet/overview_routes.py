"""HTTP endpoints: the fleet on one screen, and names instead of ids."""

from __future__ import annotations

from training.fleet.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ()
