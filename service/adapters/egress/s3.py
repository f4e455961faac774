"""A boto3 client on connections that the guard dials, for endpoints that users gave.

boto3 has no parameter for what it connects with. So the session that sends its requests is replaced
by one that judges every address when it dials, uses no proxy, sends to no other host than the
connection's, and reads no more of an answer, and no longer, than an honest store needs.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import urlsplit

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from service.adapters.egress.guard import Guard
from service.domain.egress import Target
from service.domain.errors import ArrowQuantError

# Of an answer that is read whole: a page of a list is below 2 MiB.
MAX_ANSWER_BYTES = 16 * 2**20
# From dialling to the end of the headers, or of an answer that is read whole. A store may think for
# minutes when it puts an object together.
READ_S = 60.0
WRITE_S = 300.0
_CHUNK = 65536


def guard_client(client: Any, guard: Guard, bucket: str) -> Any:
    """Make a client connect only where the guard allows it, and only to its own endpoint."""
    endpoint = client._endpoint
    endpoint.http_session = GuardedSession(
        guard, client.meta.endpoint_url, bucket, endpoint.http_session
    )
    return client


class _Watch:
    """The connection that a thread is sending on, to be cut off from another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wire: socket.socket | None = None
        self._late = False

    def on(self, wire: socket.socket) -> None:
        with self._lock:
            self._wire = wire
            if self._late:
                _cut(wire)

    def cut(self) -> None:
        with self._lock:
            self._late = True
            if self._wire is not None:
                _cut(self._wire)


def _cut(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)


_sending = threading.local()


class _Dialled:
    """What both kinds of connection do differently from botocore's."""

    guard: ClassVar[Guard]
    scheme: ClassVar[str]
    _wire: socket.socket | None = None

    def _new_conn(self: Any) -> socket.socket:
        target = Target(self.scheme, self._dns_host.strip("[]").lower(), self.port)
        try:
            made: socket.socket = self.guard.dial(target, self.timeout, self.socket_options or ())
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "the endpoint did not answer in time") from error
        except OSError as error:
            raise NewConnectionError(self, "the endpoint did not answer") from error
        # TLS takes the socket over; a second handle on it can still cut it off.
        self._wire = made.dup()
        self._watched()
        return made

    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._watched()
        return super().request(*args, **kwargs)  # type: ignore[misc]

    def close(self: Any) -> None:
        super().close()  # type: ignore[misc]
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _watched(self) -> None:
        watch: _Watch | None = getattr(_sending, "watch", None)
        if watch is not None and self._wire is not None:
            watch.on(self._wire)


def _pools(guard: Guard) -> dict[str, type]:
    plain = type("Plain", (_Dialled, AWSHTTPConnection), {"guard": guard, "scheme": "http"})
    secure = type("Secure", (_Dialled, AWSHTTPSConnection), {"guard": guard, "scheme": "https"})
    return {
        "http": type("PlainPool", (AWSHTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (AWSHTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


class GuardedSession(URLLib3Session):
    """botocore's session with the guard in it. Takes verification and times from the one it replaces."""

    def __init__(self, guard: Guard, endpoint_url: str, bucket: str, replaced: Any) -> None:
        times: Any = (replaced._timeout.connect_timeout, replaced._timeout.read_timeout)
        super().__init__(
            verify=replaced._verify,
            proxies={},
            timeout=times,
            max_pool_connections=replaced._max_pool_connections,
            socket_options=replaced._socket_options,
        )
        # The pool manager asks for the classes at each new host; there is none yet.
        self._manager: Any
        self._manager.pool_classes_by_scheme = _pools(guard)
        base = urlsplit(endpoint_url)
        self._scheme = base.scheme
        self._hosts = {base.netloc.lower(), f"{bucket}.{base.netloc}".lower()}

    def send(self, request: Any) -> Any:
        """One request and its answer. Raises endpoint_not_allowed, or what botocore raises."""
        self._check(request.url)
        streamed, request.stream_output = request.stream_output, True
        with _watched(READ_S if request.method in ("GET", "HEAD", "DELETE") else WRITE_S):
            try:
                response: Any = super().send(request)
                if not streamed or response.status_code >= 300:
                    response._content = _whole(response.raw)
            except HTTPClientError as error:
                refused = error.kwargs.get("error")
                if isinstance(refused, ArrowQuantError):
                    raise refused from None
                raise
        return response

    def _check(self, url: str) -> None:
        """A store may ask to be asked elsewhere: in another region, at another host. Not ours."""
        parts = urlsplit(url)
        if parts.scheme == self._scheme and parts.netloc.lower() in self._hosts:
            return
        raise ArrowQuantError(
            "endpoint_not_allowed",
            "the store redirects to another host",
            "Give the connection the endpoint and the region of its bucket.",
        )


@contextlib.contextmanager
def _watched(seconds: float) -> Iterator[None]:
    watch = _sending.watch = _Watch()
    timer = threading.Timer(seconds, watch.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _sending.watch = None


def _whole(raw: Any) -> bytes:
    """The body, if it is as small as those of all honest answers."""
    found = bytearray()
    while chunk := raw.read(_CHUNK):
        found += chunk
        if len(found) > MAX_ANSWER_BYTES:
            raw.close()
            raise ArrowQuantError(
                "storage_unavailable", f"the store's answer has more than {MAX_ANSWER_BYTES} bytes"
            )
    return bytes(found)
