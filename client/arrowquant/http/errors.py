"""From HTTP responses and broken connections to `ApiError`."""

from __future__ import annotations

import email.utils
import json
import time
from typing import Any

import httpx

from arrowquant.errors import ApiError

MAX_ERROR_BYTES = 2**20

_HINTS = {
    401: "Give a valid key: --key, or the variable ARROWQUANT_API_KEY.",
    403: "The key may not do this; ask the operator for one that may.",
    404: "",
    413: "The request is larger than the server accepts.",
    429: "Too many requests; try again later.",
}


def from_response(response: httpx.Response) -> ApiError:
    """The error a response stands for. Understands RFC 9457 problem details."""
    problem = _problem(response)
    status = response.status_code
    errors = problem.get("errors")
    where = problem.get("where")
    return ApiError(
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


def from_transport(error: httpx.TransportError | httpx.InvalidURL, url: str) -> ApiError:
    """The error of a request that got no answer."""
    if isinstance(error, httpx.TimeoutException):
        return ApiError(
            "server_timeout", "the server did not answer in time", "Try again.", {"url": url}
        )
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        hint = "It must begin with http:// or https://."
        return ApiError("invalid_url", "the address cannot be used", hint, {"url": url})
    return ApiError(
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
        if not response.is_closed:
            response.read()
        value = json.loads(response.content[:MAX_ERROR_BYTES])
    except (ValueError, RecursionError, httpx.HTTPError, httpx.StreamError):
        return {}
    return value if isinstance(value, dict) else {}
