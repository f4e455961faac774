"""Which addresses the service may be sent to by its users: the public ones, and what is listed.

Everything here is a decision about values; `service.adapters.egress` resolves, dials and reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

from service.domain.errors import ArrowQuantError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Spelt out, not left to `is_global`: what that says has changed between releases of Python.
_REFUSED: Final = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # public by its number, and answers as the host of every Azure machine
        # Protocol assignments with Teredo, documentation, 6to4.
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
# The only IPv6 space that is given out. Loopback, link-local, ULA and multicast lie outside.
_UNICAST: Final = ip_network("2000::/3")
_MAPPED: Final = ip_network("::ffff:0:0/96")
_NAT64: Final = ip_network("64:ff9b::/96")
# No list of host names opens these: a name can be pointed at the metadata of a machine at any time.
_NEVER_BY_NAME: Final = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "169.254.0.0/16", "100.100.100.200/32", "192.0.0.192/32"),
        *(
            "168.63.129.16/32",
            "224.0.0.0/3",
            "::/128",
            "fe80::/10",
            "fd00:ec2::254/128",
            "ff00::/8",
        ),
    )
)
_HOST: Final = re.compile(
    r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_MAX_URL_CHARS: Final = 2048
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads: scheme, host in lower case (an IPv6 address without brackets), port."""

    scheme: str
    host: str
    port: int

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted and the host proves its name."""
        return self.scheme == "https"


def target_of(url: str) -> Target:
    """Read a URL as narrowly as possible, so that nothing after us can read it another way.

    Raises ValueError, saying what is wrong and nothing of the text: it may hold a password.
    """
    if len(url) > _MAX_URL_CHARS or not url.isascii() or not url.isprintable() or "\\" in url:
        raise ValueError("the address must be plain ASCII, without spaces or backslashes")
    if " " in url:
        raise ValueError("the address must not contain spaces")
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("the address must be https://host[:port]")
    if "@" in parts.netloc:
        raise ValueError("the address must not carry a user name or a password")
    host = parts.hostname.lower()
    port = parts.port  # raises ValueError where it is none
    if port == 0:
        raise ValueError("the port must be 1 to 65535")
    if "%" in host or (_literal(host) is None and not _is_name(host)):
        raise ValueError("the host is neither a name nor an IP address")
    return Target(parts.scheme, host, port or _PORTS[parts.scheme])


def _is_name(host: str) -> bool:
    # Resolvers of C libraries also take 127.1, 0x7f000001 and 2130706433 for addresses.
    last = host.rstrip(".").rpartition(".")[2]
    numeric = last.isdigit() or last.startswith("0x")
    return len(host) <= 253 and not numeric and _HOST.fullmatch(host) is not None


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One listed place: a network or a name, and a port if only that one is meant."""

    network: Network | None
    name: str
    port: int | None

    def covers(self, address: Address, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.network is not None:
            return address.version == self.network.version and address in self.network
        return self.name == host.rstrip(".") and not _within(address, _NEVER_BY_NAME)


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """What an operator has listed beyond the public Internet."""

    entries: tuple[_Entry, ...] = ()

    @classmethod
    def of(cls, listed: Iterable[str]) -> Self:
        """From `10.1.0.0/16`, `10.1.2.3:9000`, `minio.internal`, `[fd00::5]:9000`... Raises
        ValueError for anything else."""
        return cls(tuple(_entry(text.strip().lower()) for text in listed))

    def judge(self, target: Target, addresses: Sequence[Address]) -> None:
        """Raises endpoint_not_allowed unless every address that the host has may be dialled.

        One bad address among good ones is enough: which of them is dialled is up to chance, and
        whoever mixes them means no good. Without encryption only listed places are dialled. The
        answer never says which addresses a name has, nor whether it has any.
        """
        if not addresses:
            raise not_allowed(target)
        for address in addresses:
            listed = any(e.covers(address, target.host, target.port) for e in self.entries)
            if listed:
                continue
            if not public(address):
                raise not_allowed(target)
            if not target.secure:
                raise ArrowQuantError(
                    "endpoint_not_allowed",
                    "the address is not encrypted",
                    "Use https; the operator may list hosts in ARROWQUANT_EGRESS_ALLOW that are "
                    "reached without.",
                    {"host": target.host},
                )


def not_allowed(target: Target) -> ArrowQuantError:
    """The one answer for every address that is refused."""
    return ArrowQuantError(
        "endpoint_not_allowed",
        "the host has no address that this service may connect to",
        "Name a public host; the operator may list others in ARROWQUANT_EGRESS_ALLOW.",
        {"host": target.host},
    )


def public(address: Address) -> bool:
    """Whether an address belongs to the public Internet, seen through every form that hides
    another: what stands inside is judged, and forms that nothing public uses are refused."""
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return public(inner)
        if address not in _UNICAST or _isatap(address):
            return False
    return not _within(address, _REFUSED)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv4-mapped or a NAT64 address leads to."""
    if address in _MAPPED or address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _isatap(address: IPv6Address) -> bool:
    return (int(address) >> 32) & 0xFDFF_FFFF == 0x0000_5EFE


def _within(address: Address, networks: Iterable[Network]) -> bool:
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None and _within(inner, networks):
            return True
    return any(address.version == net.version and address in net for net in networks)


def _entry(text: str) -> _Entry:
    host, port = text, None
    if found := re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:\[\]/]+):(\d{1,5})", text):
        host = found[1] or found[3]
        port = int(found[2] or found[4]) if found[2] or found[4] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{text[:80]!r}: the port must be 1 to 65535")
    try:
        return _Entry(ip_network(host), "", port)
    except ValueError:
        pass
    if "/" in host or not _is_name(host):
        raise ValueError(f"{text[:80]!r} is neither a network such as 10.1.0.0/16 nor a host")
    return _Entry(None, host.rstrip("."), port)


class Egress(Protocol):
    """The way out, for addresses that users gave."""

    def check(self, url: str) -> None:
        """Resolve the host now and judge it. Raises endpoint_not_allowed."""
