"""Ranged reads of S3 over signed addresses, on a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.adapters.objects import S3Store
from service.adapters.objects.s3 import CONNECTIONS, RANGES, READS_AT_ONCE
from tests.contracts.objects import code_of, noise

MIB = 2**20


class Seen:
    """The requests of a store's session, counted where they go out."""

    def __init__(self, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
        client: Any = store._clients.get()
        self.signed = self.ordinary = self.now = self.most = 0
        self.before: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._send = client._endpoint.http_session.send
        monkeypatch.setattr(client._endpoint.http_session, "send", self.send)

    def send(self, request: Any) -> Any:
        with self._lock:
            by_address = "X-Amz-Signature=" in request.url
            self.signed += by_address
            self.ordinary += not by_address
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.before()
            return self._send(request)
        finally:
            with self._lock:
                self.now -= 1


def test_a_storm_of_reads_is_bounded(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many reads at once as a job makes, cut as finely as they are ever cut."""
    data = noise(8 * MIB)
    info = s3.put("x", data)
    monkeypatch.setattr(s3._pace, "ranges", lambda nbytes: RANGES)
    seen = Seen(s3, monkeypatch)
    together = threading.Barrier(READS_AT_ONCE * RANGES, timeout=60)
    seen.before = lambda: together.wait() and None

    def read() -> None:
        for _ in range(3):
            buffer = bytearray(len(data))
            s3.readinto("x", 0, memoryview(buffer), info.etag)
            assert buffer == data

    threads = [threading.Thread(target=read) for _ in range(READS_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen.most == CONNECTIONS == READS_AT_ONCE * RANGES
    assert (seen.signed, seen.ordinary) == (3 * CONNECTIONS, 0)


def test_a_change_between_two_ranges_is_noticed(s3: S3Store) -> None:
    """The address still holds; the ETag does not."""
    info = s3.put("x", noise(2 * MIB))
    buffer = memoryview(bytearray(MIB))
    s3.readinto("x", 0, buffer, info.etag)
    s3.put("x", noise(2 * MIB, seed=1))
    assert code_of(lambda: s3.readinto("x", MIB, buffer, info.etag)) == "source_changed"
    shorter = s3.put("x", b"short")
    assert code_of(lambda: s3.readinto("x", MIB, buffer, info.etag)) == "source_changed"
    assert code_of(lambda: s3.readinto("x", MIB, buffer, shorter.etag)) == "source_changed"


def test_an_address_that_no_longer_holds_is_asked_for_in_the_ordinary_way(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(MIB)
    info = s3.put("x", data)
    addresses = s3._signed.get()._addresses
    buffer = bytearray(len(data))
    s3.readinto("x", 0, memoryview(buffer), info.etag)
    [(key, (address, until))] = addresses.items()
    head, name, _ = address.partition("X-Amz-Signature=")
    addresses[key] = f"{head}{name}{'0' * 64}", until
    seen = Seen(s3, monkeypatch)
    buffer = bytearray(len(data))
    s3.readinto("x", 0, memoryview(buffer), info.etag)
    assert buffer == data
    assert (seen.signed, seen.ordinary) == (1, 1)


def test_addresses_are_signed_anew_in_time(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.adapters.objects import s3_signed

    info = s3.put("x", b"hello")
    now = [1000.0]
    monkeypatch.setattr(s3_signed.time, "monotonic", lambda: now[0])
    signed = s3._signed.get()
    made: list[str] = []
    sign = signed._client.generate_presigned_url
    monkeypatch.setattr(
        signed._client,
        "generate_presigned_url",
        lambda *args, **kwargs: made.append(args[0]) or sign(*args, **kwargs),
    )
    for seconds in (0, 299, 2, 299):
        now[0] += seconds
        assert s3.read("x", 0, 5, info.etag) == b"hello"
    assert len(made) == 2
