"""`GET /openapi.json`: assembled from the route table and the message types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from training.fleet import wire_headers

if TYPE_CHECKING:
    from training.fleet.endpoint import Endpoint

_HEADERS = {
    "worker": ((wire_headers.HEADER_HOST, True), (wire_headers.HEADER_LEASE_TOKEN, False)),
    "operator": ((wire_headers.HEADER_OPERATOR_TOKEN, True),),
    "reader": (),
    "member": (),
    "joiner": (),
    "anyone": (),
}


def document(routes: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these endpoints."""
    bodies = [route.body for route in routes if route.body is not None]
    schemas, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(bodies, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        schema = by_type[route.body] if route.body is not None else None
        paths.setdefault(route.path.replace(":path}", "}"), {})[route.method.lower()] = _operation(
            route, schema
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "CIS490 trainer-receiver", "version": wire_headers.PROTOCOL},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Endpoint, schema: dict[str, Any] | None) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)(?::path)?}", route.path)
    ]
    parameters += [
        {"name": name, "in": "header", "required": required, "schema": {"type": "string"}}
        for name, required in _HEADERS[route.who]
    ]
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__name__}",
        "summary": (route.handler.__doc__ or "").strip().splitlines()[0],
        "tags": [route.who],
        "parameters": parameters,
        "responses": {"200": {"description": "done"}, "4XX": {"description": "refused: {error}"}},
    }
    if schema is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    elif route.method == "PUT":
        binary = {"type": "string", "format": "binary"}
        operation["requestBody"] = {"content": {"application/zstd": {"schema": binary}}}
        operation["parameters"].append(
            {
                "name": wire_headers.HEADER_SHA256,
                "in": "header",
                "required": True,
                "schema": {"type": "string"},
            }
        )
    return operation
