"""Opaque, prefixed identifiers that sort by creation time (48 bits of milliseconds, 80 random)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str, now_ms: int | None = None) -> str:
    """`job_` + 26 Crockford base-32 characters, lower case (the ULID layout)."""
    moment = int(time.time() * 1000) if now_ms is None else now_ms
    return _text(prefix, (moment << 80) | secrets.randbits(80))


def increasing_ids(prefix: str) -> Iterator[str]:
    """Ids that sort as they were made, also within a millisecond; each as hard to guess as another."""
    last = 0
    while True:
        value = (int(time.time() * 1000) << 80) | secrets.randbits(80)
        if value <= last:
            value = last + 1 + secrets.randbits(64)
        last = value
        yield _text(prefix, value)


def _text(prefix: str, value: int) -> str:
    digits = [_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
