"""AES-256-GCM under keys from the environment.

A sealed secret is `1` (the format), eight bytes that name the key, twelve of nonce, and what AES-GCM
makes of it. The first key encrypts, all of them decrypt: a new key is put in front, everything is
sealed again, and only then the old one goes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass

from service.domain.errors import ArrowQuantError
from service.domain.spec import canonical_json
from service.domain.vault import decode_key

_FORMAT = b"\x01"
_NAME, _NONCE, _TAG = 8, 12, 16


@dataclass(frozen=True, slots=True, repr=False)
class _Key:
    """What is derived from one configured key: each use has bytes of its own."""

    name: bytes
    sealing: bytes
    digesting: bytes


class AesGcmVault:
    """`Vault`. Without keys it opens and seals nothing, and says so."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [_derived(decode_key(text)) for text in keys]

    def __repr__(self) -> str:
        return f"AesGcmVault({len(self._keys)} keys)"

    def seal(self, context: Sequence[str], secret: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if not self._keys:
            raise ArrowQuantError(
                "secrets_not_configured",
                "this service has no key to encrypt secrets with",
                "The operator has to set ARROWQUANT_SECRET_KEYS for the API and the workers.",
            )
        key, nonce = self._keys[0], os.urandom(_NONCE)
        head = _FORMAT + key.name
        return head + nonce + AESGCM(key.sealing).encrypt(nonce, secret, _bound(head, context))

    def open(self, context: Sequence[str], sealed: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        head, rest = sealed[: 1 + _NAME], sealed[1 + _NAME :]
        key = next((key for key in self._keys if head == _FORMAT + key.name), None)
        if key is None or len(rest) < _NONCE + _TAG:
            raise _unreadable("the key that it was encrypted with is not among those set here")
        try:
            return AESGCM(key.sealing).decrypt(rest[:_NONCE], rest[_NONCE:], _bound(head, context))
        except InvalidTag:
            raise _unreadable("what is stored is not what was encrypted") from None

    def stale(self, sealed: bytes) -> bool:
        return not self._keys or sealed[: 1 + _NAME] != _FORMAT + self._keys[0].name

    def fingerprint(self, data: bytes) -> str:
        if not self._keys:
            return hashlib.sha256(data).hexdigest()
        return hmac.new(self._keys[0].digesting, data, hashlib.sha256).hexdigest()


def _derived(key: bytes) -> _Key:
    def part(purpose: bytes) -> bytes:
        return hmac.new(key, b"arrowquant " + purpose, hashlib.sha256).digest()

    return _Key(part(b"name")[:_NAME], part(b"sealing"), part(b"digesting"))


def _bound(head: bytes, context: Sequence[str]) -> bytes:
    return head + canonical_json(list(context))


def _unreadable(why: str) -> ArrowQuantError:
    return ArrowQuantError(
        "secret_unreadable",
        f"a stored secret cannot be decrypted: {why}",
        "The operator has to set the same ARROWQUANT_SECRET_KEYS for the API and all workers; "
        "or give the secret again.",
    )
