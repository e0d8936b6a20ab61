"""HTTP endpoints: what workers tell beside their leases: logs, progress, the use of their machine."""

from __future__ import annotations

from training.fleet.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ()
