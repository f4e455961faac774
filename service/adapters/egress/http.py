"""An httpx client for addresses that users gave: judged, pinned, without redirects or proxies."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from service.adapters.egress.guard import Guard
from service.domain.egress import Target

TOTAL_S = 30.0
CONNECT_S = 5.0
MAX_BYTES = 256 * 2**10


def guarded_client(
    guard: Guard,
    *,
    total_s: float = TOTAL_S,
    max_bytes: int = MAX_BYTES,
    verify: ssl.SSLContext | bool = True,
) -> httpx.Client:
    """A client whose every request makes one connection of its own, to a judged address.

    total_s     from dialling to the last byte read; past it, an httpx.TimeoutException
    max_bytes   that the other side may send, headers included; past it, httpx.ReadError
    verify      as in httpx
    Raises endpoint_not_allowed from the request, and httpx's own errors. A redirect is an answer
    like any other; a compressed body stays as it is.
    """
    context = httpx.create_ssl_context(verify=verify, trust_env=False)

    def over(scheme: str) -> GuardedTransport:
        return GuardedTransport(_Backend(guard, scheme, total_s, max_bytes), context)

    return httpx.Client(
        mounts={"http://": over("http"), "https://": over("https")},
        transport=over("https"),
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(total_s, connect=min(CONNECT_S, total_s)),
        headers={"Accept-Encoding": "identity"},
    )


class GuardedTransport(httpx.HTTPTransport):
    """httpx's transport, on connections that come from `backend` and are used once."""

    def __init__(self, backend: httpcore.NetworkBackend, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        # httpx has no parameter for it. Tests fail if one day this is not what it dials by.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, max_keepalive_connections=0, network_backend=backend
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx does, except that a body is never unpacked: it may be small only on the wire."""
        response = super().handle_request(request)
        response.headers.pop("content-encoding", None)
        return response


class _Backend(httpcore.NetworkBackend):
    def __init__(self, guard: Guard, scheme: str, total_s: float, max_bytes: int) -> None:
        self._guard, self._scheme = guard, scheme
        self._total_s, self._max_bytes = total_s, max_bytes

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        allowance = _Allowance(self._total_s, self._max_bytes)
        target = Target(self._scheme, host.strip("[]").lower(), port)
        try:
            dialled = self._guard.dial(target, allowance.seconds(timeout), socket_options or ())
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return _Stream(dialled, allowance)

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        raise httpcore.ConnectError("no way out leads through a file")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _Allowance:
    """What is left of a connection's time and bytes."""

    def __init__(self, total_s: float, max_bytes: int) -> None:
        self._end = time.monotonic() + total_s
        self._bytes = max_bytes

    def seconds(self, asked: float | None) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the exchange took too long")
        return left if asked is None else min(asked, left)

    def take(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise httpcore.ReadError("the answer is too large")


class _Stream(httpcore.NetworkStream):
    """A socket that fails when its allowance is used up, however slowly the other side drips."""

    def __init__(self, sock: socket.socket, allowance: _Allowance) -> None:
        self._socket, self._allowance = sock, allowance

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._socket.settimeout(self._allowance.seconds(timeout))
        try:
            data = self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error
        self._allowance.take(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        try:
            while view:
                self._socket.settimeout(self._allowance.seconds(timeout))
                view = view[self._socket.send(view) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Encrypted from here on; the certificate must be that of the name that was asked for."""
        try:
            self._socket.settimeout(self._allowance.seconds(timeout))
            wrapped = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            self.close()
            raise httpcore.ConnectError(str(error)) from error
        return _Stream(wrapped, self._allowance)

    def get_extra_info(self, info: str) -> Any:
        return self._socket if info == "socket" else None
