"""What must be true before a standalone server starts: its address is free, its data its own."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from service.settings import InvalidSettings, Settings

LOCK_NAME = "serve.lock"
# The children of a server that was killed take a moment to notice and to end.
PATIENCE_S = 3.0
T = TypeVar("T")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to reach, not to listen


def address(settings: Settings) -> str:
    """The URL at which this machine reaches the server."""
    host = _EVERYWHERE.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def port_to_use(settings: Settings) -> int:
    """The port, or a free one for 0. Raises InvalidSettings if nobody could listen there.

    A server that cannot have its port would be started again and again, and whoever has the port
    would be taken for it.
    """
    try:
        return _patiently(lambda: _bind(settings.host, settings.port))
    except OSError as error:
        raise InvalidSettings(
            f"cannot listen on {settings.host}, port {settings.port}: "
            f"{error.strerror or error}. Choose another with --host and --port; port 0 is any "
            "free one."
        ) from None


def _bind(host: str, port: int) -> int:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    with socket.socket(family, kind, protocol) as probe:
        # As the server itself will: connections that have just ended do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def only_server(data_dir: Path) -> Iterator[int]:
    """Hold the data directory; the file descriptor of the lock, for the broker to inherit.

    Two brokers on one append-only file would tear it. So the lock lasts as long as this process
    or its broker, however they end.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidSettings(
            f"cannot write to the data directory {data_dir}: {error.strerror}. "
            "Choose another with --data."
        ) from None
    try:
        _lock(file, data_dir)
        yield file
    finally:
        os.close(file)


def _lock(file: int, data_dir: Path) -> None:
    try:
        _patiently(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        raise InvalidSettings(
            f"another `arrowquant serve` works in {data_dir}. "
            "Stop it first, or choose another directory with --data."
        ) from None


def _patiently(attempt: Callable[[], T]) -> T:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EWOULDBLOCK) or time.monotonic() > end:
                raise
        time.sleep(0.1)
