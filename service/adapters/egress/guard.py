"""Resolve a host, judge all its addresses, and connect to one of exactly those.

Nothing is resolved a second time between the judgement and the connection, so a name that changes
its address (DNS rebinding) gains nothing: every new connection is judged by what it dials.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

from service.domain.egress import Address, EgressPolicy, Target, not_allowed, target_of
from service.domain.errors import ArrowQuantError

Resolve = Callable[[str, int], list[Any]]
MAX_ADDRESSES = 32


def system_resolver(host: str, port: int) -> list[Any]:
    """What `getaddrinfo` says for TCP."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)


class Guard:
    """`Egress`, and the dialler of the transports beside."""

    def __init__(self, policy: EgressPolicy, resolve: Resolve = system_resolver) -> None:
        self._policy, self._resolve = policy, resolve

    def check(self, url: str) -> None:
        """Raises endpoint_not_allowed unless the URL may be dialled now."""
        try:
            target = target_of(url)
        except ValueError as error:
            raise ArrowQuantError("endpoint_not_allowed", str(error)) from None
        self._judged(target)

    def dial(
        self, target: Target, timeout_s: float | None, options: Iterable[Any] = ()
    ) -> socket.socket:
        """A connected socket. Raises endpoint_not_allowed, or OSError where nobody answers.

        timeout_s   for all addresses together; it stays set on the socket
        options     arguments of `setsockopt`
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        last: OSError = TimeoutError("timed out")
        for family, kind, protocol, _, place in self._judged(target):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            try:
                return _connect((family, kind, protocol), place, left, timeout_s, options)
            except OSError as error:
                last = error
        raise last

    def _judged(self, target: Target) -> list[Any]:
        try:
            found = self._resolve(target.host, target.port)[:MAX_ADDRESSES]
        except (OSError, UnicodeError):
            # One answer for a name that is unknown and one that is refused: it helps only those
            # who map a network from outside to know which.
            raise not_allowed(target) from None
        self._policy.judge(target, [_address(entry) for entry in found])
        return found


def _address(entry: Any) -> Address:
    family, _, _, _, place = entry
    if family not in (socket.AF_INET, socket.AF_INET6):
        return ip_address("0.0.0.0")  # noqa: S104 - refused by every policy
    return ip_address(str(place[0]).partition("%")[0])


def _connect(
    kind: tuple[int, int, int],
    place: Any,
    left: float | None,
    timeout_s: float | None,
    options: Iterable[Any],
) -> socket.socket:
    made = socket.socket(*kind)
    try:
        for option in options:
            made.setsockopt(*option)
        made.settimeout(left)
        made.connect(place)
        made.settimeout(timeout_s)
    except BaseException:
        made.close()
        raise
    return made
