"""What only S3 can get wrong, on a real server."""

from __future__ import annotations

import threading
import time
import tracemalloc
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from service.adapters.objects import ConfiguredStores, S3Store, store_for_url
from service.adapters.objects.connections import s3_clients
from service.adapters.objects.s3_upload import PART_BYTES, part_bytes
from service.domain.errors import ArrowQuantError
from service.settings import FolderConnection, S3Connection
from tests.contracts.objects import code_of, finish, noise
from tests.servers import S3Server

MIB = 2**20


def test_prefixes_keep_tenants_apart(s3: S3Store, s3_server: S3Server, s3_bucket: str) -> None:
    s3.put("x", b"mine")
    client = s3_server.client()
    client.put_object(Bucket=s3_bucket, Key="tenant-b/x", Body=b"theirs")
    client.put_object(Bucket=s3_bucket, Key="tenant-a-too", Body=b"theirs")
    client.create_multipart_upload(Bucket=s3_bucket, Key="tenant-b/u")
    assert client.get_object(Bucket=s3_bucket, Key="tenant-a/x")["Body"].read() == b"mine"
    assert [info.key for info in s3.list("")] == ["x"]
    assert list(s3.uploads("")) == []
    assert s3.abort_uploads("") == 0
    client.close()


def test_listing_goes_past_one_page(s3: S3Store) -> None:
    def run(first: int) -> None:
        for number in range(first, 1030, 4):
            s3.put(f"n/{number:05}", b"")

    threads = [threading.Thread(target=run, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [info.key for info in s3.list("n/")] == [f"n/{n:05}" for n in range(1030)]


def test_presigned_urls_read_without_credentials(s3: S3Store) -> None:
    s3.put("dir/ä b.bin", b"hello")
    url = s3.presign("dir/ä b.bin", 60)
    assert url is not None
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"hello"


def _store(server: S3Server, bucket: str, **changes: Any) -> S3Store:
    fields: dict[str, Any] = {
        "kind": "s3",
        "bucket": bucket,
        "endpoint_url": server.endpoint_url,
        "access_key_id_env": "TEST_S3_ID",
        "secret_access_key_env": "TEST_S3_SECRET",
    }
    connection = S3Connection(**fields | changes)
    make = s3_clients(connection, connect_timeout_s=0.5, read_timeout_s=0.5, attempts=2)
    return S3Store(make, connection.bucket, connection.prefix, "bucket")


def test_wrong_credentials(s3: S3Store, s3_server: S3Server, s3_bucket: str) -> None:
    s3.put("x", b"x")
    store = _store(s3_server, s3_bucket, secret_access_key_env="TEST_S3_WRONG")
    assert code_of(lambda: store.stat("x")) == "source_access_denied"
    assert code_of(lambda: list(store.list(""))) == "source_access_denied"
    assert code_of(lambda: store.read("x", 0, 1)) == "source_access_denied"
    assert code_of(lambda: store.put("x", b"")) == "storage_access_denied"
    upload = store.create("x")
    assert code_of(lambda: upload.write(noise(9 * MIB))) == "storage_access_denied"
    upload.abort()
    unset = _store(s3_server, s3_bucket, secret_access_key_env="TEST_S3_NOT_SET")
    assert code_of(lambda: unset.stat("x")) == "storage_access_denied"
    store.close()


@pytest.mark.usefixtures("s3_credentials")
def test_a_bucket_that_is_not_there(s3_server: S3Server) -> None:
    store = _store(s3_server, "no-such-bucket")
    assert code_of(lambda: list(store.list(""))) == "source_not_found"
    assert code_of(lambda: store.read("x", 0, 1)) == "source_not_found"
    store.close()


def test_a_part_overwritten_meanwhile_is_noticed(s3: S3Store) -> None:
    """Each of the parallel ranges names the ETag."""
    info = s3.put("x", noise(8 * MIB))
    s3.put("x", noise(8 * MIB, seed=1))
    buffer = memoryview(bytearray(8 * MIB))
    assert code_of(lambda: s3.readinto("x", 0, buffer, info.etag)) == "source_changed"


def test_the_memory_of_an_upload_is_bounded(s3: S3Store) -> None:
    chunk = noise(MIB)
    s3.put("warm", b"")  # boto3 itself takes memory, once
    tracemalloc.start()
    upload = s3.create("x")
    for _ in range(64):
        upload.write(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    upload.complete()
    assert peak < 4.5 * PART_BYTES


def test_parts_grow_so_that_ten_thousand_are_enough() -> None:
    assert sum(map(part_bytes, range(10_000))) > 300 * 10**9
    assert {part_bytes(number) for number in range(2500)} == {PART_BYTES}


def test_what_breaks_off_goes_on(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body cut short is continued from there; one that never ends whole is given up."""
    from service.adapters.objects import s3 as module

    data = noise(3 * MIB)
    info = s3.put("x", data)
    real = module._receive
    cuts = [1000, 0, MIB]

    def cut(body: Any, buffer: memoryview) -> int:
        return real(body, buffer[: cuts.pop()] if cuts else buffer)

    monkeypatch.setattr(module, "_receive", cut)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    buffer = bytearray(len(data))
    s3.readinto("x", 0, memoryview(buffer), info.etag)
    assert buffer == data
    monkeypatch.setattr(module, "_receive", lambda body, buffer: 0)
    view = memoryview(buffer)
    assert code_of(lambda: s3.readinto("x", 0, view, info.etag)) == "storage_unavailable"


@pytest.mark.usefixtures("s3_credentials")
def test_a_server_that_freezes_and_one_that_dies(
    own_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_S3_ID", own_s3.access_key)
    monkeypatch.setenv("TEST_S3_SECRET", own_s3.secret_key)
    store = _store(own_s3, own_s3.make_bucket())
    data = noise(4 * MIB)
    info = store.put("x", data)
    buffer = memoryview(bytearray(len(data)))
    upload = store.create("y")
    upload.write(noise(17 * MIB))

    def every_call_fails(code: str) -> None:
        assert code_of(lambda: store.stat("x")) == code
        assert code_of(lambda: store.readinto("x", 0, buffer, info.etag)) == code
        assert code_of(lambda: store.put("z", b"")) == code
        with pytest.raises(ArrowQuantError) as caught:
            finish(upload)
        assert caught.value.retryable
        assert own_s3.secret_key not in repr(caught.value)

    own_s3.pause()
    every_call_fails("storage_timeout")
    upload.abort()  # cannot be done now, and does not fail
    own_s3.resume()
    store.readinto("x", 0, buffer, info.etag)
    assert buffer == data
    store.abort_uploads("")  # unless the server has met the abort in its queue
    assert list(store.uploads("")) == []

    upload = store.create("y")
    upload.write(noise(17 * MIB))
    own_s3.kill()
    every_call_fails("storage_unavailable")
    upload.abort()
    store.close()


def test_connections_by_name(tmp_path: Path) -> None:
    stores = ConfiguredStores({"a": FolderConnection(kind="folder", path=tmp_path)})
    assert stores.names("acme") == ["a"]
    assert stores.open("acme", "a") is stores.open("acme", "a")
    assert code_of(lambda: stores.open("acme", "b")) == "connection_not_found"


def test_addresses_of_the_command_line(
    tmp_path: Path,
    s3: S3Store,
    s3_bucket: str,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"abc")
    for address in (str(tmp_path), f"file://{tmp_path}"):
        store, prefix = store_for_url(address)
        assert (prefix, [info.key for info in store.list(prefix)]) == ("", ["m.safetensors"])
    store, prefix = store_for_url(str(tmp_path / "m.safetensors"))
    assert store.read(prefix, 0, 3) == b"abc"
    store, prefix = store_for_url(str(tmp_path / "new"))
    store.put("x", b"")

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    s3.put("models/x", b"abc")
    found, prefix = store_for_url(f"s3://{s3_bucket}/tenant-a/models")
    assert isinstance(found, S3Store)
    assert [info.key for info in found.list(prefix)] == ["tenant-a/models/x"]
    found.close()

    for bad in ("gs://x/y", "s3://", "s3://x/../y", "https://host/x?X-Amz-Signature=hunter2"):
        with pytest.raises(ArrowQuantError) as caught:
            store_for_url(bad)
        assert caught.value.code == "location_not_allowed"
        assert "hunter2" not in repr(caught.value)
