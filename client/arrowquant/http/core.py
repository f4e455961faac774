"""Requests that survive a restart of the server: made, retried with growing pauses, understood.

Every request may be repeated without harm: GETs by nature, the others because they carry an
Idempotency-Key, the same one on each attempt.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import httpx

from arrowquant.errors import ApiError
from arrowquant.http import errors
from arrowquant.http.calls import Call, Emit, Request, Script, Send, Sleep, Timeout, present

T = TypeVar("T")
RETRIED: Final = frozenset({429, 502, 503, 504})
#: Errors after which nobody knows whether the request was carried out.
UNANSWERED: Final = frozenset({"server_unreachable", "server_timeout"})
SAFE: Final = frozenset({"GET", "HEAD"})
JSON: Final = "application/json"


@dataclass(frozen=True)
class Policy:
    """When and how often a request is repeated.

    retries        repetitions after the first attempt
    first_s        about the first pause; each one is twice as long as the one before
    longest_s      no pause of our own is longer
    longest_ask_s  no pause that a server asks for is longer
    jitter         of each pause of ours at most this part is left out, at random, so that
                   clients which were cut off together do not come back together
    """

    retries: int = 5
    first_s: float = 0.5
    longest_s: float = 15.0
    longest_ask_s: float = 120.0
    jitter: float = 0.5
    random: Callable[[], float] = random.random

    def pause(self, failures: int, error: ApiError) -> float | None:
        """Seconds to wait after so many failures in a row (from 1); None to give up."""
        if failures > self.retries or not worth_retrying(error):
            return None
        return self.wait(failures, error)

    def wait(self, failures: int, error: ApiError) -> float:
        """As long as the server asked, or longer each time."""
        if error.retry_after is not None:
            return min(error.retry_after, self.longest_ask_s)
        grown = self.first_s * 2.0 ** min(failures - 1, 30)
        return min(self.longest_s, grown) * (1 - self.jitter * self.random())


class Core:
    """The conversation with one server, as scripts."""

    def __init__(self, url: str, key: str | None, timeout: float, policy: Policy) -> None:
        from arrowquant import __version__

        self.url = url.rstrip("/")
        self.timeout = timeout
        self.policy = policy
        self.headers = {"User-Agent": f"arrowquant/{__version__}"}
        if key:
            self.headers["Authorization"] = f"Bearer {key}"
        try:
            parsed = httpx.URL(self.url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise httpx.InvalidURL("it must begin with http:// or https://")
            httpx.Headers(self.headers)
        except (httpx.InvalidURL, ValueError) as error:
            raise ApiError(
                "invalid_url", f"the address or the key cannot be used: {error}", "", {"url": url}
            ) from None

    def request(
        self, call: Call[Any], timeout: Timeout = None, *, follow_redirects: bool = False
    ) -> Request:
        """A call with everything it needs to be sent, as often as it takes."""
        headers = {"Accept": JSON if call.answer != "text" else "*/*"}
        content = call.content
        if call.body is not None:
            content = json.dumps(call.body, allow_nan=False).encode()
        if content is not None:
            headers["Content-Type"] = call.content_type or JSON
        if call.method not in SAFE:
            headers["Idempotency-Key"] = call.key or str(uuid.uuid4())
        return Request(
            call.method,
            call.path,
            present(call.params),
            content,
            headers | dict(call.headers),
            self.timeout if timeout is None else timeout,
            follow_redirects,
        )

    def send(self, call: Call[T]) -> Script[T]:
        """Send, retry what can be retried, and return what a 2xx answer holds."""
        request = self.request(call)
        failures, unanswered = 0, False
        while True:
            try:
                response = yield Send(request)
                if not response.is_success:
                    raise errors.from_response(response)
                return cast(T, self._decode(call, response))
            except ApiError as error:
                if unanswered and call.method == "DELETE" and error.status == 404:
                    # The attempt whose answer was lost has deleted it.
                    return None  # type: ignore[return-value]  # such calls answer nothing
                failures += 1
                pause = self.policy.pause(failures, error)
                if pause is None:
                    raise
                unanswered = unanswered or error.code in UNANSWERED
            yield Sleep(pause)

    def pages(self, call: Call[Any], rows: str, limit: int | None = None) -> Script[None]:
        """Emit the rows of a page and of all that follow, at most `limit`."""
        given, token = 0, call.params.get("page_token")
        while limit is None or given < limit:
            params = {**call.params, "page_token": token}
            if limit is not None:
                params["page_size"] = min(limit - given, 1000)
            page = yield from self.send(
                Call[Any](call.method, call.path, params, headers=call.headers)
            )
            for row in rows_of(page, rows)[: None if limit is None else limit - given]:
                given += 1
                yield Emit(row)
            token = page.get("next_page_token") or None
            if token is None:
                return

    def _decode(self, call: Call[Any], response: httpx.Response) -> Any:
        if call.answer == "none":
            return None
        if call.answer == "text":
            return response.text
        try:
            value = json.loads(response.content)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ApiError(
                "invalid_response",
                "the answer is not a JSON object",
                "Is this address an ArrowQuant server?",
                {"url": self.url + call.path},
                status=response.status_code,
            )
        return value


def worth_retrying(error: ApiError) -> bool:
    """Whether the same request may succeed later."""
    return (
        error.status in RETRIED or error.code in UNANSWERED or error.code == "idempotency_in_flight"
    )


def rows_of(page: Any, name: str) -> list[Any]:
    """The rows of a page, checked for their shape alone."""
    rows = page.get(name) if isinstance(page, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ApiError("invalid_response", f"the answer has no list {name!r}")
    return rows
