"""A receiver of webhooks: a real HTTP server that answers as it is told and keeps what it got."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.processes import HOST


@dataclass
class Got:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """Answers 204 unless `answer` says otherwise: it gets the handler and the number of the request
    from 0, and writes the response itself."""

    answer: Callable[[BaseHTTPRequestHandler, int], None] | None = None
    got: list[Got] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._came = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                number = receiver._note(Got(self.path, headers, body))
                if receiver.answer is None:
                    plain(204)(self, number)
                else:
                    receiver.answer(self, number)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # clients hang up on us on purpose

        self._server = Server((HOST, 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_port}/hook"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, number: int, seconds: float = 60) -> list[Got]:
        """Until so many requests came."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.got) >= number, seconds), len(self.got)
            return list(self.got)

    def _note(self, got: Got) -> int:
        with self._came:
            self.got.append(got)
            self._came.notify_all()
            return len(self.got) - 1


Answer = Callable[[BaseHTTPRequestHandler, int], None]


def plain(status: int, **headers: str) -> Answer:
    """A status without a body."""

    def write(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return write


def in_turn(*answers: Answer) -> Answer:
    """Another one for each request; the last one from then on."""

    def write(handler: BaseHTTPRequestHandler, number: int) -> None:
        answers[min(number, len(answers) - 1)](handler, number)

    return write


def drip(handler: BaseHTTPRequestHandler, _: int) -> None:
    """A header that never ends, a byte now and then."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        handler.wfile.write(b"a")
        handler.wfile.flush()
        time.sleep(0.05)


def flood(handler: BaseHTTPRequestHandler, _: int) -> None:
    """Headers without end, as fast as they are taken."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Large: ")
    while True:
        handler.wfile.write(b"a" * 65536)


def endless_body(handler: BaseHTTPRequestHandler, _: int) -> None:
    """200, and then a body without end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    while True:
        handler.wfile.write(b"a" * 65536)
