"""Where the pages get what they show: the receiver's own HTTP interface, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from training.fleet.in_process import Refusal

__all__ = ["Api", "Refusal"]


class Api(Protocol):
    """`training.fleet.in_process.InProcess`, or what a test puts in its place. Both raise Refusal."""

    async def get(self, path: str, /, **query: str | int | float) -> dict[str, Any]: ...
    async def post(self, path: str, body: Mapping[str, Any] | None = None, /) -> dict[str, Any]: ...
