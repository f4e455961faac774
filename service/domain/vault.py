"""Secrets that users hand over: kept encrypted, opened only where they are used."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

KEY_BYTES: Final = 32


class Vault(Protocol):
    """Encrypts with a key that the database never sees.

    context   what the secret belongs to, e.g. ("connection", tenant, id): opening it as anything
              else fails, so that rows cannot be swapped by whoever can write to the database
    """

    def seal(self, context: Sequence[str], secret: bytes) -> bytes:
        """Encrypt under the first key. Raises secrets_not_configured without one."""

    def open(self, context: Sequence[str], sealed: bytes) -> bytes:
        """Raises secret_unreadable: another context, a key that is gone, changed bytes."""

    def stale(self, sealed: bytes) -> bool:
        """Whether another key than the first one sealed it."""

    def fingerprint(self, data: bytes) -> str:
        """A digest of data that may hold a weak secret: keyed, so that it cannot be searched."""


@dataclass(frozen=True, slots=True)
class Resealed:
    """How many secrets were encrypted again, and how many no key at hand opens."""

    done: int
    lost: int


class Sealed(Protocol):
    """Everything that is kept sealed."""

    def reseal(self) -> Resealed:
        """Encrypt again, under the first key, what another one has encrypted."""


def decode_key(text: str) -> bytes:
    """The bytes of a configured key, in either alphabet of base 64. Raises ValueError."""
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key is {KEY_BYTES} random bytes in base 64: openssl rand -base64 32")
    return key
