"""How every failure looks over HTTP: one table from code to status, one document (RFC 9457)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service import tracing
from service.domain.errors import CODES, ArrowQuantError, FieldError
from service.domain.fields import pointer, reason

PROBLEM_JSON: Final = "application/problem+json"
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """How a code is shown: HTTP status and a title that is the same every time."""

    status: int
    title: str


# The only place where a code meets HTTP. Codes of running jobs are here too: they appear in
# `job.error`, and over HTTP when the same thing goes wrong while a request is served.
TABLE: Final[dict[str, Shown]] = {
    "invalid_spec": Shown(422, "The request is not valid"),
    "invalid_page_token": Shown(400, "The page token is not valid"),
    "unauthorized": Shown(401, "An API key is needed"),
    "forbidden": Shown(403, "This key may not do that"),
    "not_found": Shown(404, "Not found"),
    "job_terminal": Shown(409, "The job has ended"),
    "job_active": Shown(409, "The job has not ended yet"),
    "not_ready": Shown(409, "Not ready yet"),
    "invalid_batch": Shown(422, "Lines of the batch are not valid"),
    "batch_terminal": Shown(409, "The batch has ended"),
    "batch_active": Shown(409, "The batch has not ended yet"),
    "batch_expired": Shown(422, "The batch's window has closed"),
    "job_cancelled": Shown(409, "The job was cancelled"),
    "upload_timeout": Shown(408, "The upload took too long"),
    "too_many_uploads": Shown(429, "Too many uploads at once"),
    "name_in_use": Shown(409, "The name is taken"),
    "idempotency_key_reused": Shown(422, "The Idempotency-Key was used for another request"),
    "idempotency_in_flight": Shown(409, "The first request with this key is still running"),
    "webhook_disabled": Shown(409, "The webhook endpoint is disabled"),
    "webhook_limit": Shown(409, "There are too many webhook endpoints"),
    "quota_exceeded": Shown(429, "The quota is used up"),
    "rate_limited": Shown(429, "Too many requests"),
    "payload_too_large": Shown(413, "The request body is too large"),
    "unsupported_media_type": Shown(415, "The request body must be JSON"),
    "request_timeout": Shown(408, "The request took too long to arrive"),
    "too_many_streams": Shown(429, "Too many streams are open"),
    "connection_not_found": Shown(404, "No such connection"),
    "location_not_allowed": Shown(403, "The location is not allowed"),
    "connection_in_use": Shown(409, "Jobs use the connection"),
    "secrets_not_configured": Shown(409, "The service keeps no secrets"),
    "secret_unreadable": Shown(503, "A stored secret cannot be read"),
    "endpoint_not_allowed": Shown(422, "The service may not connect there"),
    "source_not_found": Shown(404, "The source does not exist"),
    "source_access_denied": Shown(403, "The source may not be read"),
    "source_changed": Shown(409, "The source changed"),
    "unsupported_format": Shown(422, "The source is not safetensors"),
    "invalid_safetensors_header": Shown(422, "A safetensors header is broken"),
    "invalid_index": Shown(422, "The index of the shards is broken"),
    "tensor_missing_in_index": Shown(422, "A tensor is missing in the index"),
    "unsupported_dtype": Shown(422, "A tensor has an unknown dtype"),
    "invalid_calibration": Shown(422, "The calibration file is broken"),
    "calibration_mismatch": Shown(422, "The calibration file is of other weights"),
    "rule_matched_nothing": Shown(422, "A rule matches no tensor"),
    "budget_infeasible": Shown(422, "No artifact is small enough for the budget"),
    "non_finite_weights": Shown(422, "The weights hold NaN or infinity"),
    "quality_below_threshold": Shown(422, "The quality is below the threshold"),
    "output_exists": Shown(409, "The output holds an artifact already"),
    "output_mismatch": Shown(409, "What is there is not what the job would make"),
    "output_in_use": Shown(409, "Another job writes to the output"),
    "invalid_artifact": Shown(422, "The artifact is broken"),
    "digest_mismatch": Shown(502, "Stored bytes differ from what was written"),
    "storage_unavailable": Shown(503, "The object store does not answer"),
    "storage_throttled": Shown(503, "The object store asks to be asked less"),
    "storage_timeout": Shown(503, "The object store does not answer in time"),
    "multipart_failed": Shown(502, "An upload to the object store failed"),
    "storage_access_denied": Shown(403, "The object store denies access"),
    "no_space": Shown(507, "No space is left"),
    "max_pending_exceeded": Shown(422, "The job waited longer than allowed"),
    "max_runtime_exceeded": Shown(422, "The job ran longer than allowed"),
    "memory_limit_too_small": Shown(422, "The memory limit is too small"),
    "out_of_memory": Shown(500, "Out of memory"),
    "overloaded": Shown(503, "Too many requests at once"),
    "identity_unavailable": Shown(503, "The identity provider does not answer"),
    "database_unavailable": Shown(503, "The database does not answer"),
    "broker_unavailable": Shown(503, "The broker does not answer"),
    "engine_changed": Shown(409, "Another version is at work"),
    "attempts_exhausted": Shown(500, "The work failed too many times"),
    "internal": Shown(500, "An error of ours"),
}

_RETRY_AFTER_S: Final = {"idempotency_in_flight": 1, "too_many_uploads": 5, "not_ready": 5}
# Plain HTTP errors of the framework, and the code that says the same.
_BY_STATUS: Final = {
    400: "invalid_spec",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "not_found",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "invalid_spec",
}


def problem(
    error: ArrowQuantError,
    request_id: str,
    path: str,
    *,
    status: int | None = None,
    parameters: Sequence[dict[str, str]] = (),
) -> Response:
    """The response for an error.

    status      another than the table's, where HTTP itself demands it (405)
    parameters  wrong query parameters and headers, which no pointer into the body can name
    """
    shown = TABLE[error.code]
    fields = _fields(error)
    code = status or shown.status
    body = {
        "type": f"urn:arrowquant:error:{error.code}",
        "title": shown.title,
        "status": code,
        "detail": error.detail,
        "instance": path,
        "code": error.code,
        "hint": error.hint,
        "fault": error.fault.value,
        "retryable": error.retryable,
        "request_id": request_id,
        "trace_id": tracing.trace_id(),
        "where": {k: v for k, v in error.where.items() if k != "pointer"},
        "errors": [field.as_dict() for field in fields] + [*parameters],
    }
    # Tensor and object names come from files: what is not UTF-8 must not break the answer.
    data = orjson.dumps(body, default=str)
    return Response(data, code, _headers(error, request_id), PROBLEM_JSON)


def _fields(error: ArrowQuantError) -> Sequence[FieldError]:
    if error.errors or "pointer" not in error.where:
        return error.errors
    return (FieldError(str(error.where["pointer"]), error.detail),)


def _headers(error: ArrowQuantError, request_id: str) -> dict[str, str]:
    headers = {"X-Request-ID": request_id, "Cache-Control": "no-store"}
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="arrowquant"'
    given: int | None = error.where.get("retry_after_s")
    usual = 5 if TABLE[error.code].status in (429, 503) else None
    after = given or _RETRY_AFTER_S.get(error.code, usual)
    if after is not None:
        headers["Retry-After"] = str(after)
    return headers


def internal(request_id: str, path: str) -> Response:
    """What is said of an exception that nobody foresaw: nothing of its text."""
    error = ArrowQuantError(
        "internal",
        "an error that was not foreseen; it is in the log of the service",
        "Report it with the request_id.",
    )
    return problem(error, request_id, path)


def install(app: FastAPI) -> None:
    """Make every failure of the application a problem document."""
    app.add_exception_handler(ArrowQuantError, _on_named)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_named(request: Request, raised: Exception) -> Response:
    error = cast(ArrowQuantError, raised)
    request.scope.setdefault("state", {})["code"] = error.code
    if TABLE[error.code].status >= 500:
        # One line: while a database is away there are many of these.
        log.warning(
            "request failed", code=error.code, detail=error.detail, cause=repr(raised.__cause__)
        )
    return problem(error, request_id_of(request), request.url.path)


async def _on_invalid(request: Request, raised: Exception) -> Response:
    fields: list[FieldError] = []
    parameters: list[dict[str, str]] = []
    for item in cast(RequestValidationError, raised).errors():
        place, *loc = item["loc"]
        detail = reason(item)
        if place == "body":
            fields.append(
                FieldError("" if item["type"] == "json_invalid" else pointer(loc), detail)
            )
        else:
            parameters.append({"parameter": ".".join(map(str, loc)), "detail": detail})
    first = [f"{f.pointer or 'the body'}: {f.detail}" for f in fields]
    first += [f"{p['parameter']}: {p['detail']}" for p in parameters]
    more = f" (and {len(first) - 1} more)" if len(first) > 1 else ""
    request.scope.setdefault("state", {})["code"] = "invalid_spec"
    error = ArrowQuantError(
        "invalid_spec",
        first[0] + more,
        "Every wrong field is listed in errors; the schema is in /openapi.json.",
        errors=tuple(fields),
    )
    return problem(error, request_id_of(request), request.url.path, parameters=parameters)


async def _on_http(request: Request, raised: Exception) -> Response:
    plain = cast(HTTPException, raised)
    code = _BY_STATUS.get(plain.status_code, "internal")
    detail = "the body cannot be read" if plain.status_code == 400 else str(plain.detail)
    if plain.status_code in (404, 405):
        detail = f"there is no {request.method} {request.url.path[:200]}"
    same = TABLE[code].status == plain.status_code or plain.status_code == 400
    response = problem(
        ArrowQuantError(code, detail, "The paths are listed in /openapi.json."),
        request_id_of(request),
        request.url.path,
        status=None if same else plain.status_code,
    )
    response.headers.update(plain.headers or {})
    if plain.status_code == 405:
        response.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> set[str]:
    """What a path can be asked; the router itself names the first of its routes only."""
    return {
        method.upper()
        for template, item in request.app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), request.url.path)
        for method in item
    }


def request_id_of(request: Request) -> str:
    """The id that the middleware gave this request."""
    return str(request.scope.get("state", {}).get("request_id", ""))


assert TABLE.keys() == CODES.keys()
