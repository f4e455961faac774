"""Opaque, prefixed identifiers that sort by creation time (48 bits of milliseconds, 80 random)."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str, now_ms: int | None = None) -> str:
    """`job_` + 26 Crockford base-32 characters, lower case (the ULID layout)."""
    moment = int(time.time() * 1000) if now_ms is None else now_ms
    value = (moment << 80) | secrets.randbits(80)
    digits = [_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
