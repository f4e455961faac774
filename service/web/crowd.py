"""What slow clients and many clients may take: nobody holds a place without using it.

Heads that never end and answers that nobody reads are the server's business (service.web.server);
here it is bodies that do not arrive, and how much is open at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.domain.errors import ArrowQuantError
from service.web.errors import problem


class Patience:
    """Gives up on a body that does not go on for a while, and takes so many requests at once."""

    def __init__(self, app: ASGIApp, seconds: float, max_requests: int) -> None:
        self._app, self._seconds, self._max = app, seconds, max_requests
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._open >= self._max and scope["path"] != "/healthz":
            await problem(_overloaded(), scope["state"]["request_id"], scope["path"])(
                scope, receive, send
            )
            return
        self._open += 1
        try:
            await self._served(scope, receive, send)
        finally:
            self._open -= 1

    async def _served(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = False

        async def receiving() -> Message:
            nonlocal arrived
            if arrived:
                return (
                    await receive()
                )  # waiting for the end of the connection, for as long as it takes
            try:
                async with asyncio.timeout(self._seconds):
                    message = await receive()
            except TimeoutError:
                raise _too_slow(self._seconds) from None
            arrived = not message.get("more_body", False)
            return message

        try:
            await self._app(scope, receiving, send)
        except ArrowQuantError as error:  # from `receiving`, under what reads bodies
            response = problem(error, scope["state"]["request_id"], scope["path"])
            response.headers["Connection"] = "close"
            await response(scope, receive, send)


class Streams:
    """The event streams that are open: so many for a tenant, so many in all."""

    def __init__(self, per_tenant: int, in_all: int) -> None:
        self._per_tenant, self._in_all = per_tenant, in_all
        self._open: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many there are."""
        return self._open.total()

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Room for a stream while it lasts. Raises too_many_streams."""
        self._check(tenant)
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]

    def _check(self, tenant: str) -> None:
        if self._open[tenant] >= self._per_tenant:
            raise _too_many(f"your tenant has {self._per_tenant} event streams open")
        if self.open >= self._in_all:
            raise _too_many("the service has as many event streams open as it may")


def _too_many(detail: str) -> ArrowQuantError:
    return ArrowQuantError(
        "too_many_streams", detail, "Close some, or poll the job with ?wait=30 instead."
    )


def _too_slow(seconds: float) -> ArrowQuantError:
    return ArrowQuantError(
        "request_timeout",
        f"no byte of the body arrived for {seconds:g} s",
        "Send the request again.",
    )


def _overloaded() -> ArrowQuantError:
    return ArrowQuantError(
        "overloaded", "too many requests are open", "Try again after Retry-After seconds."
    )
