"""The scripts of a client, played on an event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from arrowquant.errors import ApiError
from arrowquant.http import errors
from arrowquant.http.calls import (
    Call,
    Effect,
    Emit,
    Open,
    Play,
    Read,
    Request,
    Script,
    Send,
    Sleep,
    Work,
)
from arrowquant.http.core import Core

T = TypeVar("T")
_PIECE = 2**16


class AsyncShell:
    """Sends calls and plays scripts. Its methods may be used from several tasks of one loop."""

    def __init__(
        self,
        core: Core,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._core = core
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=core.url, headers=core.headers, timeout=core.timeout, transport=transport
        )

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._core.url

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call[T]) -> T:
        return await self._run(self._core.send(call))

    def _pages(self, call: Call[Any], rows: str, limit: int | None = None) -> AsyncIterator[Any]:
        return self._each(Play(self._core.pages(call, rows, limit)))

    async def _run(self, script: Script[T], on_emit: Callable[[Any], object] | None = None) -> T:
        """Play a script to its end; what it returns. `on_emit` may be a coroutine function."""
        play = Play(script)
        async with aclosing(self._each(play)) as values:
            async for value in values:
                given = None if on_emit is None else on_emit(value)
                if inspect.isawaitable(given):
                    await given
        return play.result

    async def _run_all(self, scripts: list[Script[None]], parallel: int) -> None:
        """Play scripts side by side; the first failure ends it."""
        gate = asyncio.Semaphore(parallel)

        async def run(script: Script[None]) -> None:
            async with gate:
                await self._run(script)

        tasks = [asyncio.create_task(run(script)) for script in scripts]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _each(self, play: Play[Any]) -> AsyncGenerator[Any, None]:
        """Play a script, giving what it emits."""
        line = _Line(self._http, self._sleep)
        try:
            for effect in play:
                if isinstance(effect, Emit):
                    yield effect.value
                    continue
                try:
                    play.outcome = await line.perform(effect)
                except (ApiError, OSError) as error:
                    play.outcome = error
        finally:
            play.close()
            await line.close()


class _Line:
    """What one script uses: the client, and a stream of its own."""

    def __init__(self, http: httpx.AsyncClient, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._http, self._sleep = http, sleep
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def perform(self, effect: Effect) -> Any:
        """Do what the script asks for; what came of it."""
        if isinstance(effect, Send | Open | Sleep):
            await self.close()
        match effect:
            case Send(request):
                return await self._request(request, stream=False)
            case Open(request):
                return await self._open(request)
            case Read():
                return await self._read()
            case Sleep(seconds):
                return await self._sleep(seconds)
            case Work(run):
                return await asyncio.to_thread(run)
        raise AssertionError(effect)

    async def close(self) -> None:
        if self._response is not None:
            response, self._response = self._response, None
            await response.aclose()

    async def _open(self, request: Request) -> httpx.Response:
        self._response = await self._request(request, stream=True)
        if not self._response.is_success:
            try:
                await self._response.aread()
            except httpx.RequestError as error:
                raise errors.from_transport(error, str(self._response.url)) from None
        self._pieces = self._response.aiter_bytes()
        return self._response

    async def _read(self) -> bytes:
        assert self._response is not None
        assert self._pieces is not None
        try:
            return await anext(self._pieces, b"")
        except httpx.RequestError as error:
            raise errors.from_transport(error, str(self._response.url)) from None

    async def _request(self, request: Request, *, stream: bool) -> httpx.Response:
        content = request.content
        try:
            made = self._http.build_request(
                request.method,
                request.path,
                params=request.params,
                content=_pieces(content) if isinstance(content, Path) else content,
                headers=request.headers,
                timeout=request.timeout,
            )
            return await self._http.send(
                made, stream=stream, follow_redirects=request.follow_redirects
            )
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise errors.from_transport(error, f"{self._http.base_url}{request.path[1:]}") from None


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as stream:
        while piece := await asyncio.to_thread(stream.read, _PIECE):
            yield piece
