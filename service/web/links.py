"""Which answers hold the ids that other operations ask for, said as OpenAPI links.

Derived from the paths: what creates a thing at `/v1/things` answers with its `id`, and everything
below `/v1/things/{thing_id}` takes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_METHODS: Final = ("get", "put", "post", "delete", "patch")
_FIRST: Final = re.compile(r"^(?P<collection>[^{}]+)/{(?P<parameter>\w+)}(?P<below>[^{}]*)$")
# Files have no id of their own: a list tells their names.
_NESTED: Final = {"list_artifacts": ("download_artifact", "name", "/artifacts/0/name")}


def add(document: dict[str, Any]) -> None:
    """Add links to the answers of a document's operations."""
    operations = dict(_operations(document["paths"]))
    for path, operation in operations.values():
        match = _FIRST.match(path)
        if match is None:
            continue
        source = document["paths"].get(match["collection"], {}).get("post")
        if source is not None and operation is not source:
            _link(document, source, operation, match["parameter"])
    for name, (target, parameter, pointer) in _NESTED.items():
        if name in operations and target in operations:
            path = operations[name][0]
            given = {step: f"$request.path.{step}" for step in re.findall(r"{(\w+)}", path)}
            for response in _good(operations[name][1]):
                response.setdefault("links", {})[target] = {
                    "operationId": target,
                    "parameters": given | {parameter: f"$response.body#{pointer}"},
                }


def _link(
    document: dict[str, Any], source: dict[str, Any], target: dict[str, Any], parameter: str
) -> None:
    for response in _good(source):
        fields = _fields(document, response)
        field = parameter if parameter in fields else "id"
        if field in fields:
            response.setdefault("links", {})[target["operationId"]] = {
                "operationId": target["operationId"],
                "parameters": {parameter: f"$response.body#/{field}"},
            }


def _operations(paths: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    for path, item in paths.items():
        for method in _METHODS:
            if method in item:
                yield item[method]["operationId"], (path, item[method])


def _good(operation: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [r for status, r in operation["responses"].items() if status.startswith("2")]


def _fields(document: Mapping[str, Any], response: Mapping[str, Any]) -> Mapping[str, Any]:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    fields: Mapping[str, Any] = schema.get("properties", {})
    return fields
