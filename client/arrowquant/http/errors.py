"""From HTTP responses and broken connections to `ApiError`."""

from __future__ import annotations

import email.utils
import json
import time
from typing import Any, Final

import httpx

from arrowquant.errors import (
    ApiError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    ServerFailed,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)

MAX_ERROR_BYTES = 2**20

_HINTS = {
    401: "Give a valid key: --key, or the variable ARROWQUANT_API_KEY.",
    403: "The key may not do this; ask the operator for one that may.",
    404: "",
    413: "The request is larger than the server accepts.",
    429: "Too many requests; try again later.",
}

_KINDS: Final[dict[int, type[ApiError]]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: TooManyRequests,
}


def from_response(response: httpx.Response) -> ApiError:
    """The error a response stands for; its body has been read. Understands RFC 9457."""
    problem = _problem(response)
    status = response.status_code
    errors = problem.get("errors")
    where = problem.get("where")
    return kind_of(status)(
        str(problem.get("code") or f"http_{status}"),
        str(problem.get("detail") or problem.get("title") or response.reason_phrase or status),
        str(problem.get("hint") or _HINTS.get(status, "")),
        where
        if isinstance(where, dict)
        else {"url": str(response.request.url.copy_with(query=None))},
        status=status,
        errors=tuple(e for e in errors if isinstance(e, dict)) if isinstance(errors, list) else (),
        request_id=str(problem.get("request_id") or response.headers.get("x-request-id", "")),
        retry_after=retry_after(response),
    )


def kind_of(status: int) -> type[ApiError]:
    """The class of a status."""
    return _KINDS.get(status, ServerFailed if status >= 500 else ApiError)


def from_transport(error: httpx.RequestError | httpx.InvalidURL, url: str) -> ApiError:
    """The error of a request that got no answer, or half of one."""
    if isinstance(error, httpx.TimeoutException):
        return Unreachable(
            "server_timeout", "the server did not answer in time", "Try again.", {"url": url}
        )
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        hint = "It must begin with http:// or https://."
        return ApiError("invalid_url", "the address cannot be used", hint, {"url": url})
    if isinstance(error, httpx.TooManyRedirects | httpx.DecodingError):
        return ApiError("invalid_response", f"the answer cannot be used: {error}", "", {"url": url})
    return Unreachable(
        "server_unreachable",
        f"no connection to the server: {error}",
        "Is it running? Set ARROWQUANT_URL or --url; `arrowquant serve` starts one here.",
        {"url": url},
    )


def retry_after(response: httpx.Response) -> float | None:
    """Seconds the server asks to wait: given as a number or as a date."""
    text = response.headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:6])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        value = json.loads(response.content[:MAX_ERROR_BYTES])
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
