"""Style sheet and scripts: read once at the start, served with their digest in the address so that they may be kept."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).resolve().parent / "static"
KINDS = {
    ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}  # fmt: skip
FOR_EVER = "public, max-age=31536000, immutable"
ALWAYS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    packed: bytes
    kind: str
    digest: str


class Assets:
    """The files below `static/` of the known kinds."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files: Mapping[str, Asset] = {
            path.name: _asset(path) for path in sorted(folder.iterdir()) if path.suffix in KINDS
        }

    def url(self, name: str) -> str:
        """`/static/NAME?v=DIGEST`. Raises KeyError for a file that is not there."""
        return f"/static/{name}?v={self._files[name].digest}"

    async def serve(self, request: Request) -> Response:
        """A file; without its digest in the query it must be asked for again each time."""
        found = self._files.get(request.path_params["file"])
        if found is None:
            return Response("no such file\n", 404, ALWAYS, "text/plain")
        headers = {
            "Cache-Control": FOR_EVER if request.query_params.get("v") == found.digest else "no-cache",
            "Vary": "Accept-Encoding",
            **ALWAYS,
        }
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(found.packed, 200, {**headers, "Content-Encoding": "gzip"}, found.kind)
        return Response(found.body, 200, headers, found.kind)


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    return Asset(
        body, gzip.compress(body, 9, mtime=0), KINDS[path.suffix], hashlib.sha256(body).hexdigest()[:12]
    )
