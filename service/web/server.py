"""Uvicorn, told what this service needs: to say goodbye, and not to wait for clients for ever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.settings import Settings

# Streams and long polls end at once; downloads get so long.
GRACE_S: Final = 10
# A connection that carries no request is closed after that.
KEEP_ALIVE_S: Final = 15
# A head of a request is at most that large, and has so long to arrive.
MAX_HEAD_BYTES: Final = 64 * 1024


class HeadProtocol(H11Protocol):
    """Closes a connection on which the head of a request does not arrive, or nobody reads the answer.

    Uvicorn's own timer runs only between requests: a client that sends a header a minute, or that
    asks for much and reads nothing, would hold its connection for ever (a "slow loris").
    """

    patience_s: float = 20.0
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._reading_a_head():
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._read_on()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._read_on()
        self._unread = self.loop.call_later(self.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._read_on()
        super().resume_writing()

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _reading_a_head(self) -> bool:
        cycle: Any = self.cycle  # none before the first request
        return cycle is None or bool(cycle.response_complete)

    def _wait(self) -> None:
        # From the first byte on: more bytes do not buy more time.
        if self._timer is None:
            self._timer = self.loop.call_later(self.patience_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._reading_a_head() and not self.transport.is_closing():
            self.transport.abort()


class Server(uvicorn.Server):
    """Tells the application before it closes connections, so that open streams can say goodbye."""

    def __init__(self, config: uvicorn.Config, closing: Callable[[], None]) -> None:
        super().__init__(config)
        self._closing = closing

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new connections, finish what is under way, in a bounded time."""
        self._closing()
        await super().shutdown(sockets)


def make_server(app: FastAPI, settings: Settings, **options: Any) -> Server:
    """The server of an application made by `service.web.app.create_app`."""
    protocol = type("Protocol", (HeadProtocol,), {"patience_s": settings.client_timeout_s})
    defaults: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "http": protocol,
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
        "log_config": None,  # ours is in place
        "access_log": False,  # the middleware writes a better line
        "server_header": False,
        # What a client behind a proxy says about itself is only believed of a proxy on this
        # machine, which is uvicorn's default too.
        "forwarded_allow_ips": "127.0.0.1",
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": GRACE_S,
    }
    return Server(uvicorn.Config(app, **(defaults | options)), app.state.begin_closing)
