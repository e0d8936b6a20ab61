"""Where the pages get what they show: the receiver's own HTTP interface, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from training.fleet.in_process import Refusal, Viewer, name_of, viewer_of

__all__ = ["Api", "Refusal", "Viewer", "name_of", "viewer_of"]


class Api(Protocol):
    """`training.fleet.in_process.InProcess`, or what a test puts in its place. Both raise Refusal."""

    def seen_by(self, scope: Mapping[str, Any]) -> Api:
        """The interface as the sender of the request with this scope sees it."""

    async def get(self, path: str, /, **query: str | int | float) -> dict[str, Any]: ...
    async def post(self, path: str, body: Mapping[str, Any] | None = None, /) -> dict[str, Any]: ...
