"""Answers shared by the routes: JSON bodies, and the errors each operation documents."""

from __future__ import annotations

from typing import Any, Final

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from service.web.errors import PROBLEM_JSON, TABLE

JSON: Final = "application/json"
# What any operation that asks for a key can answer.
ALWAYS: Final = (
    "unauthorized",
    "forbidden",
    "rate_limited",
    "database_unavailable",
    "internal",
)


def json_answer(
    body: BaseModel | dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON response."""
    data = body.model_dump_json().encode() if isinstance(body, BaseModel) else orjson.dumps(body)
    return Response(data, status, headers, JSON)


class SecretAnswer(Response):
    """A JSON response with a secret in it, and the same without: what an `Idempotency-Key` keeps
    and a replay answers. No secret is ever stored, wherever the answer may be."""

    def __init__(
        self,
        body: BaseModel,
        kept: BaseModel,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(body.model_dump_json().encode(), status, headers, JSON)
        self.kept = kept.model_dump_json().encode()


def failures(*codes: str, always: tuple[str, ...] = ALWAYS) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation for its OpenAPI description, by status."""
    by_status: dict[int, list[str]] = {}
    for code in (*codes, *always):
        by_status.setdefault(TABLE[code].status, []).append(code)
    return {
        status: {
            "description": "; ".join(f"`{code}`: {TABLE[code].title}" for code in named),
            "content": {
                PROBLEM_JSON: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in named},
                }
            },
        }
        for status, named in sorted(by_status.items())
    }
