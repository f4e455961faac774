"""Requests that survive a restart of the server: retried with growing pauses, safely."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from arrowquant.errors import ApiError
from arrowquant.http import errors

RETRIED = frozenset({429, 502, 503, 504})
MAX_PAUSE_S = 15.0
MAX_RETRY_AFTER_S = 120.0

Params = Mapping[str, str | int | list[str] | None]


class Transport:
    """An HTTP client for one server. Every request may be repeated without harm: GETs by nature,
    POSTs because they carry an Idempotency-Key."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        timeout: float,
        retries: int,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        from arrowquant import __version__

        headers = {"User-Agent": f"arrowquant/{__version__}", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self.url = url.rstrip("/")
        self.retries = retries
        self.sleep = sleep
        try:
            parsed = httpx.URL(self.url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise httpx.InvalidURL("it must begin with http:// or https://")
            self._client = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=timeout,
                transport=transport,
                follow_redirects=False,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ApiError(
                "invalid_url", f"the address or the key cannot be used: {error}", "", {"url": url}
            ) from None

    def close(self) -> None:
        self._client.close()

    def json(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send, retry what can be retried, and return the JSON of a 2xx answer."""
        for attempt in range(self.retries + 1):
            try:
                return self._once(method, path, params, body, headers)
            except ApiError as error:
                if attempt == self.retries or not worth_retrying(error):
                    raise
                self.pause(attempt, error)
        raise AssertionError("unreachable")

    def _once(
        self,
        method: str,
        path: str,
        params: Params | None,
        body: Any,
        headers: Mapping[str, str] | None,
    ) -> Any:
        try:
            response = self._client.request(
                method,
                path,
                params=_present(params),
                json=body,
                headers=dict(headers or {}),
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise errors.from_transport(error, self.url + path) from None
        if not response.is_success:
            raise errors.from_response(response)
        try:
            return json.loads(response.content) if response.content else {}
        except ValueError:
            raise ApiError(
                "invalid_response",
                "the answer is not JSON",
                "Is this address an ArrowQuant server?",
                {"url": self.url + path},
                status=response.status_code,
            ) from None

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        headers: Mapping[str, str],
        params: Params | None = None,
        timeout: httpx.Timeout | None = None,
        follow: bool = False,
    ) -> Iterator[httpx.Response]:
        """A 2xx answer whose body is read piece by piece. Not retried: the caller resumes.

        A redirect to another host is followed without our Authorization header.
        """
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        try:
            with self._client.stream(
                "GET",
                path,
                params=_present(params),
                headers=dict(headers),
                follow_redirects=follow,
                **options,
            ) as response:
                if not response.is_success:
                    raise errors.from_response(response)
                yield response
        except (httpx.TransportError, httpx.InvalidURL, httpx.TooManyRedirects) as error:
            if isinstance(error, httpx.TooManyRedirects):
                raise ApiError("invalid_response", "too many redirects") from None
            raise errors.from_transport(error, self.url + path) from None

    def pause(self, attempt: int, error: ApiError) -> None:
        """Wait before attempt + 1: as long as the server asked, or longer each time."""
        if error.retry_after is not None:
            self.sleep(min(error.retry_after, MAX_RETRY_AFTER_S))
        else:
            self.sleep(min(MAX_PAUSE_S, 0.5 * 2**attempt) * random.uniform(0.5, 1.0))


def worth_retrying(error: ApiError) -> bool:
    """Whether the same request may succeed later."""
    return error.status in RETRIED or error.code in (
        "server_unreachable",
        "server_timeout",
        "idempotency_in_flight",
    )


def _present(params: Params | None) -> dict[str, str | int | list[str]]:
    return {k: v for k, v in (params or {}).items() if v is not None}
