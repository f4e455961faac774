"""Secrets at rest."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.vault import AesGcmVault
from service.domain.errors import ArrowQuantError
from service.settings import InvalidSettings, Settings

ONE, TWO = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 251))
PLACE = ("connection", "acme", "con_1")


def _code(call: object) -> str:
    with pytest.raises(ArrowQuantError) as caught:
        call()  # type: ignore[operator]
    return caught.value.code


@given(st.binary(max_size=300))
def test_what_was_sealed_is_opened(secret: bytes) -> None:
    vault = AesGcmVault([ONE])
    sealed = vault.seal(PLACE, secret)
    assert vault.open(PLACE, sealed) == secret
    assert len(secret) < 8 or secret not in sealed
    assert vault.seal(PLACE, secret) != sealed


@pytest.mark.parametrize(
    "place",
    [
        ("connection", "other", "con_1"),
        ("connection", "acme", "con_2"),
        ("webhook", "acme", "con_1"),
        ("connection", "acmecon_1"),
        ("connection", "acme", "con_1", ""),
        ("connection,acme", "con_1"),
        (),
    ],
)
def test_a_row_cannot_be_moved(place: tuple[str, ...]) -> None:
    vault = AesGcmVault([ONE])
    sealed = vault.seal(PLACE, b"hunter2")
    assert _code(lambda: vault.open(place, sealed)) == "secret_unreadable"


def test_no_byte_can_be_changed() -> None:
    vault = AesGcmVault([ONE])
    sealed = vault.seal(PLACE, b"hunter2")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        assert _code(lambda c=changed: vault.open(PLACE, bytes(c))) == "secret_unreadable"
    for length in range(len(sealed)):
        assert _code(lambda n=length: vault.open(PLACE, sealed[:n])) == "secret_unreadable"


def test_keys_are_changed_without_losing_anything() -> None:
    old = AesGcmVault([ONE])
    sealed = old.seal(PLACE, b"hunter2")
    both = AesGcmVault([TWO, ONE])
    assert both.open(PLACE, sealed) == b"hunter2"
    assert both.stale(sealed)
    again = both.seal(PLACE, both.open(PLACE, sealed))
    assert not both.stale(again)
    new = AesGcmVault([TWO])
    assert new.open(PLACE, again) == b"hunter2"
    assert _code(lambda: new.open(PLACE, sealed)) == "secret_unreadable"


def test_without_a_key_nothing_is_taken() -> None:
    empty = AesGcmVault([])
    assert _code(lambda: empty.seal(PLACE, b"x")) == "secrets_not_configured"
    sealed = AesGcmVault([ONE]).seal(PLACE, b"x")
    assert _code(lambda: empty.open(PLACE, sealed)) == "secret_unreadable"
    assert empty.stale(sealed)


def test_fingerprints_of_weak_secrets_cannot_be_searched() -> None:
    one, two = AesGcmVault([ONE]), AesGcmVault([TWO])
    assert one.fingerprint(b"minio123") == AesGcmVault([ONE, TWO]).fingerprint(b"minio123")
    assert len({v.fingerprint(b"minio123") for v in (one, two, AesGcmVault([]))}) == 3


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    url_safe = base64.urlsafe_b64encode(bytes([251]) * 32).decode()
    assert "-" in url_safe
    monkeypatch.setenv("ARROWQUANT_SECRET_KEYS", f" {url_safe} , {ONE},")
    settings = Settings.load()
    assert settings.secret_keys == (url_safe, ONE)
    assert ONE not in repr(settings)
    sealed = AesGcmVault([TWO]).seal(PLACE, b"x")
    assert AesGcmVault(settings.secret_keys).open(PLACE, sealed) == b"x"


@pytest.mark.parametrize("text", ["hunter2", ONE[:-4], base64.b64encode(bytes(33)).decode()])
def test_a_key_of_another_size_is_refused_and_not_shown(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARROWQUANT_SECRET_KEYS", text)
    with pytest.raises(InvalidSettings, match="ARROWQUANT_SECRET_KEYS: a key is 32") as caught:
        Settings.load()
    assert text not in str(caught.value)
