"""The OpenAPI document: what FastAPI derives, plus the problem document every error has."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.domain.errors import CODES, Fault
from service.web import links
from service.web.errors import TABLE

DESCRIPTION: Final = """\
ArrowQuant quantizes models that are too large for one machine's memory. You name a prefix in an
object store that holds safetensors, and how small the model must become; you get a packed Arrow
artifact with a proof of its quality.

Typical use: `POST /v1/plans` to see what would happen, `POST /v1/jobs` with the same body and an
`output`, `GET /v1/jobs/{id}/events` to follow, `GET /v1/jobs/{id}/artifacts` to fetch.

Every request carries `Authorization: Bearer aq_...`. Times are RFC 3339 in UTC, sizes are bytes.
Every error is a problem document (RFC 9457) with a stable `code`.
"""
TAGS: Final = [
    {"name": "plans", "description": "What a job would do, before it is one."},
    {"name": "batches", "description": "Thousands of jobs at once, all of them or none."},
    {"name": "jobs", "description": "Create, follow, cancel and retry jobs."},
    {"name": "artifacts", "description": "The files and the report of a job that succeeded."},
    {"name": "connections", "description": "The object stores that jobs may name."},
    {"name": "api_keys", "description": "The keys of your tenant."},
    {"name": "webhooks", "description": "Be told what happens, by signed messages."},
    {"name": "audit", "description": "Who changed what."},
    {"name": "recipes", "description": "Recipes with a name and a version."},
    {"name": "replays", "description": "Make an artifact again and compare."},
    {"name": "quotas", "description": "What tenants may have, and what they had."},
    {"name": "system", "description": "What the service is and whether it is well."},
]

_TEXT: Final = {"type": "string"}
_PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "An error (RFC 9457). `code` is stable; the other texts may change.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": _TEXT | {"description": "`urn:arrowquant:error:` and the code."},
        "title": _TEXT
        | {"description": "What kind of error it is; the same for every occurrence."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": _TEXT | {"description": "What happened this time."},
        "instance": _TEXT | {"description": "The path of the request."},
        "code": {"type": "string", "enum": list(CODES)},
        "hint": _TEXT | {"description": "What to do about it."},
        "fault": {"type": "string", "enum": [fault.value for fault in Fault]},
        "retryable": {"type": "boolean", "description": "Whether the same request may work later."},
        "request_id": _TEXT | {"description": "Also in `X-Request-ID` and in the log."},
        "trace_id": {"type": ["string", "null"], "description": "The trace it belongs to."},
        "where": {"type": "object", "description": "Facts that locate it: object, tensor..."},
        "errors": {
            "type": "array",
            "description": "Every wrong field or parameter of the request.",
            "items": {
                "type": "object",
                "required": ["detail"],
                "properties": {
                    "pointer": _TEXT | {"description": "RFC 6901 pointer into the body."},
                    "parameter": _TEXT | {"description": "Name of a query parameter or header."},
                    "line": {"type": "integer", "description": "Of a batch: which line, from 1."},
                    "code": _TEXT | {"description": "Of a line: as if it had been sent alone."},
                    "detail": _TEXT,
                },
            },
        },
    },
}

_DETAILS: Final = {
    "invalid_spec": "/recipe/bits: Input should be 2, 3, 4 or 8",
    "connection_not_found": "there is no connection named 'modles'",
    "output_exists": "an artifact is there already: dream-7b-int4/manifest.json",
    "output_in_use": "another job that has not ended writes to the same output",
    "rule_matched_nothing": "rule 0 ('norm') matches no tensor",
    "source_not_found": "no .safetensors object lies in the prefix; it holds nothing at all",
}
_ERRORS: Final = {
    "invalid_spec": [{"pointer": "/recipe/bits", "detail": "Input should be 2, 3, 4 or 8"}],
    "connection_not_found": [
        {"pointer": "/source/connection", "detail": "there is no connection named 'modles'"}
    ],
    "rule_matched_nothing": [
        {"pointer": "/recipe/rules/0/match", "detail": "rule 0 ('norm') matches no tensor"}
    ],
}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=DESCRIPTION,
            routes=app.routes,
            tags=TAGS,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            servers=[{"url": "/", "description": "This service"}],
        )
        schemas = made["components"]["schemas"]
        # FastAPI's own shape of validation errors is never sent.
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas["Problem"] = _PROBLEM
        made["components"]["schemas"] = dict(sorted(schemas.items()))
        made["components"]["examples"] = {code: {"value": _example(code)} for code in TABLE}
        _drop_foreign_errors(made)
        _drop_null_parameters(made)
        _say_it_exactly(schemas)
        links.add(made)
        app.openapi_schema = made
    return app.openapi_schema


def _drop_foreign_errors(made: dict[str, Any]) -> None:
    """FastAPI adds a 422 of its own shape wherever there is a parameter; ours are declared."""
    for path in made["paths"].values():
        for operation in path.values():
            declared = operation["responses"].get("422", {}).get("content", {})
            if "application/json" in declared:
                del operation["responses"]["422"]


def _drop_null_parameters(made: dict[str, Any]) -> None:
    """A parameter that is not given is left out; there is no way to send a null."""
    for path in made["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                options = parameter["schema"].get("anyOf", ())
                if {"type": "null"} in options:
                    rest = [option for option in options if option != {"type": "null"}]
                    del parameter["schema"]["anyOf"]
                    parameter["schema"] |= rest[0] if len(rest) == 1 else {"anyOf": rest}


def _say_it_exactly(part: Any) -> None:
    """Sets are sent as lists in which naming something twice is no error; and a map whose keys have
    a pattern takes no other keys."""
    if isinstance(part, dict):
        part.pop("uniqueItems", None)
        if "patternProperties" in part:
            part.setdefault("additionalProperties", False)
    for inner in (
        part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    ):
        _say_it_exactly(inner)


def _example(code: str) -> dict[str, Any]:
    shown = TABLE[code]
    return {
        "type": f"urn:arrowquant:error:{code}",
        "title": shown.title,
        "status": shown.status,
        "detail": _DETAILS.get(code, "One sentence: what happened, with the numbers."),
        "instance": "/v1/jobs",
        "code": code,
        "hint": "One sentence: what to do about it.",
        "fault": CODES[code].fault.value,
        "retryable": CODES[code].retryable,
        "request_id": "req_0f1e2d3c4b5a69788796a5b4",
        "where": {},
        "errors": _ERRORS.get(code, []),
    }


def as_yaml(app: FastAPI) -> str:
    """The text of `openapi.yaml`."""
    import yaml  # of the development environment: servers answer JSON

    text: str = yaml.safe_dump(document(app), sort_keys=False, allow_unicode=True, width=100)
    return text
