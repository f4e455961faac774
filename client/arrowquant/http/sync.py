"""The scripts of a client, played with blocking calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
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


class SyncShell:
    """Sends calls and plays scripts. Its methods may be used from several threads."""

    def __init__(
        self,
        core: Core,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._core = core
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=core.url, headers=core.headers, timeout=core.timeout, transport=transport
        )

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._core.url

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        return self._run(self._core.send(call))

    def _pages(self, call: Call[Any], rows: str, limit: int | None = None) -> Iterator[Any]:
        return self._each(Play(self._core.pages(call, rows, limit)))

    def _run(self, script: Script[T], on_emit: Callable[[Any], object] | None = None) -> T:
        """Play a script to its end; what it returns."""
        play = Play(script)
        for value in self._each(play):
            if on_emit is not None:
                on_emit(value)
        return play.result

    def _run_all(self, scripts: list[Script[None]], parallel: int) -> None:
        """Play scripts side by side; the first failure ends it."""
        with ThreadPoolExecutor(parallel) as pool:
            tasks = [pool.submit(self._run, script) for script in scripts]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _each(self, play: Play[Any]) -> Generator[Any, None, None]:
        """Play a script, giving what it emits."""
        line = _Line(self._http, self._sleep)
        try:
            for effect in play:
                if isinstance(effect, Emit):
                    yield effect.value
                    continue
                try:
                    play.outcome = line.perform(effect)
                except (ApiError, OSError) as error:
                    play.outcome = error
        finally:
            line.close()
            play.close()


class _Line:
    """What one script uses: the client, and a stream of its own."""

    def __init__(self, http: httpx.Client, sleep: Callable[[float], None]) -> None:
        self._http, self._sleep = http, sleep
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def perform(self, effect: Effect) -> Any:
        """Do what the script asks for; what came of it."""
        if isinstance(effect, Send | Open | Sleep):
            self.close()
        match effect:
            case Send(request):
                return self._request(request, stream=False)
            case Open(request):
                return self._open(request)
            case Read():
                return self._read()
            case Sleep(seconds):
                return self._sleep(seconds)
            case Work(run):
                return run()
        raise AssertionError(effect)

    def close(self) -> None:
        """End the open stream, if there is one."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _open(self, request: Request) -> httpx.Response:
        self._response = self._request(request, stream=True)
        if not self._response.is_success:
            try:
                self._response.read()
            except httpx.RequestError as error:
                raise errors.from_transport(error, str(self._response.url)) from None
        self._pieces = self._response.iter_bytes()
        return self._response

    def _read(self) -> bytes:
        assert self._response is not None
        try:
            return next(self._pieces, b"")
        except httpx.RequestError as error:
            raise errors.from_transport(error, str(self._response.url)) from None

    def _request(self, request: Request, *, stream: bool) -> httpx.Response:
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
            return self._http.send(made, stream=stream, follow_redirects=request.follow_redirects)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise errors.from_transport(error, f"{self._http.base_url}{request.path[1:]}") from None


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece
