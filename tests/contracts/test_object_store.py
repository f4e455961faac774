"""One contract for every object store: a folder, and S3 as a real server speaks it."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import random
import threading
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.adapters.objects import ConfiguredStores, FolderStore, S3Store, store_for_url
from service.adapters.objects.connections import s3_clients
from service.adapters.objects.s3_upload import PART_BYTES, part_bytes
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.ports import ObjectStore, Upload
from service.settings import FolderConnection, S3Connection
from tests.servers import S3Server

MIB = 2**20
KEYS = ["a/plain.bin", "a/with space+plus%.bin", "a/ünïcödé-模型.safetensors", "a/b/deep~!$'().x"]


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ArrowQuantError) as caught:
        call()
    assert caught.value.detail
    return caught.value.code


def finish(upload: Upload) -> None:
    upload.write(noise(30 * MIB))
    upload.complete()


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="session")
def s3_credentials(s3_server: S3Server) -> dict[str, str]:
    os.environ["TEST_S3_ID"] = s3_server.access_key
    os.environ["TEST_S3_SECRET"] = s3_server.secret_key
    os.environ["TEST_S3_WRONG"] = "0" * 40
    return {"access_key_id_env": "TEST_S3_ID", "secret_access_key_env": "TEST_S3_SECRET"}


@pytest.fixture
def s3(s3_bucket: str, s3_server: S3Server, s3_credentials: dict[str, str]) -> Iterator[S3Store]:
    connection = S3Connection(
        kind="s3",
        bucket=s3_bucket,
        prefix="tenant-a",
        endpoint_url=s3_server.endpoint_url,
        **s3_credentials,  # type: ignore[arg-type]
    )
    store = ConfiguredStores({"bucket": connection}).open("bucket")
    assert isinstance(store, S3Store)
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    found: ObjectStore = request.getfixturevalue(request.param)
    return found


# -- both ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_what_is_put_can_be_read(store: ObjectStore, key: str) -> None:
    data = noise(1000)
    info = store.put(key, data)

    assert info == store.stat(key)
    assert (info.key, info.size) == (key, 1000)
    assert store.read(key, 0, 1000) == data
    assert store.read(key, 10, 20, info.etag) == data[10:20]
    assert store.read(key, 5, 5, info.etag) == b""
    assert b"".join(store.stream(key, info.etag)) == data
    assert [found.key for found in store.list("a/")] == [key]


def test_an_empty_object(store: ObjectStore) -> None:
    info = store.put("empty", b"")
    assert info.size == 0
    assert store.stat("empty") == info
    assert list(store.stream("empty")) == []


def test_list_is_by_key_and_below_a_prefix(store: ObjectStore) -> None:
    names = ["p/b", "p/a/z", "p/a-b", "p/a.b", "p/a/b/c", "q", "p/Z", "p/é"]
    for name in names:
        store.put(name, b"x")

    def listed(prefix: str) -> list[str]:
        keys = [info.key for info in store.list(prefix)]
        # SeaweedFS sorts by folder, unlike S3.
        return keys if isinstance(store, FolderStore) else sorted(keys, key=str.encode)

    assert listed("") == sorted(names, key=str.encode)
    assert listed("p/a") == ["p/a-b", "p/a.b", "p/a/b/c", "p/a/z"]
    assert listed("p/a/") == ["p/a/b/c", "p/a/z"]
    assert list(store.list("none/")) == []
    assert all(info == store.stat(info.key) for info in store.list("p/"))


def test_put_if_absent_writes_once(store: ObjectStore) -> None:
    store.put("manifest.json", b"one", if_absent=True)
    assert code_of(lambda: store.put("manifest.json", b"two", if_absent=True)) == "output_exists"
    assert store.read("manifest.json", 0, 3) == b"one"
    store.put("manifest.json", b"three")
    assert store.read("manifest.json", 0, 5) == b"three"
    assert list(store.uploads("")) == []


def test_put_if_absent_has_one_winner(store: ObjectStore) -> None:
    outcomes: list[str] = []

    def run(number: int) -> None:
        try:
            store.put("lock", b"%d" % number, if_absent=True)
            outcomes.append("won")
        except ArrowQuantError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["output_exists"] * 7 + ["won"]


def test_readinto_fills_any_range(store: ObjectStore) -> None:
    data = noise(9 * MIB + 123)
    info = store.put("big", data)
    for start, size in ((0, len(data)), (1, 4 * MIB + 1), (7, 3), (len(data) - 1, 1), (9, 0)):
        buffer = bytearray(b"\xaa" * (size + 2))
        store.readinto("big", start, memoryview(buffer)[1 : size + 1], info.etag)
        assert buffer[1 : size + 1] == data[start : start + size]
        assert buffer[0] == buffer[-1] == 0xAA


def test_reads_from_many_threads(store: ObjectStore) -> None:
    data = noise(6 * MIB)
    info = store.put("big", data)
    wrong: list[int] = []

    def run(number: int) -> None:
        buffer = bytearray(5 * MIB)
        store.readinto("big", number, memoryview(buffer), info.etag)
        if buffer != data[number : number + 5 * MIB]:
            wrong.append(number)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("size", [1000, 999])
def test_an_object_that_changes_is_noticed(store: ObjectStore, size: int) -> None:
    old = store.put("w", noise(1000))
    buffer = memoryview(bytearray(100))
    store.readinto("w", 0, buffer, old.etag)
    time.sleep(0.02)
    new = store.put("w", noise(size, seed=1))

    assert new.etag != old.etag
    assert code_of(lambda: store.readinto("w", 0, buffer, old.etag)) == "source_changed"
    assert code_of(lambda: store.read("w", 0, 10, old.etag)) == "source_changed"
    assert code_of(lambda: list(store.stream("w", old.etag))) == "source_changed"
    store.readinto("w", 0, buffer, new.etag)


def test_reading_past_the_end_is_a_change(store: ObjectStore) -> None:
    info = store.put("w", noise(1000))
    for start, size in ((990, 11), (1000, 1), (5000, 10)):
        buffer = memoryview(bytearray(size))
        at, into = start, buffer
        assert code_of(lambda at=at, into=into: store.readinto("w", at, into, info.etag)) == (  # type: ignore[misc]
            "source_changed"
        )


def test_an_object_that_is_not_there(store: ObjectStore) -> None:
    store.put("other", b"x")
    buffer = memoryview(bytearray(4))
    assert code_of(lambda: store.stat("nope")) == "source_not_found"
    assert code_of(lambda: store.read("nope/x", 0, 4)) == "source_not_found"
    assert code_of(lambda: store.readinto("nope", 0, buffer, "etag")) == "source_not_found"
    assert code_of(lambda: list(store.stream("nope"))) == "source_not_found"
    info = store.stat("other")
    store.delete("other")
    store.delete("other")
    assert code_of(lambda: store.readinto("other", 0, buffer[:1], info.etag)) == "source_not_found"


@pytest.mark.parametrize(
    "key", ["../x", "a/../../x", "/etc/passwd", "a//b", "a\x00b", "", "a/", "."]
)
def test_keys_stay_inside(store: ObjectStore, key: str) -> None:
    assert code_of(lambda: store.stat(key)) == "location_not_allowed"
    assert code_of(lambda: store.put(key, b"")) == "location_not_allowed"
    assert code_of(lambda: store.create(key)) == "location_not_allowed"
    assert code_of(lambda: store.delete(key)) == "location_not_allowed"


def test_an_object_appears_only_when_complete(store: ObjectStore) -> None:
    data = noise(20 * MIB + 5)
    upload = store.create("out/part-00000.arrow")
    assert upload.write(data[: 19 * MIB]) == 19 * MIB
    upload.write(memoryview(data)[19 * MIB :])

    assert list(store.list("out/")) == []
    assert list(store.uploads("out/")) == ["out/part-00000.arrow"]
    assert list(store.uploads("out/part")) == ["out/part-00000.arrow"]
    assert list(store.uploads("other/")) == []
    assert code_of(lambda: store.stat("out/part-00000.arrow")) == "source_not_found"

    info = upload.complete()
    assert info == store.stat("out/part-00000.arrow")
    assert list(store.uploads("")) == []
    buffer = bytearray(len(data))
    store.readinto(info.key, 0, memoryview(buffer), info.etag)
    assert buffer == data
    upload.abort()  # too late to matter
    assert store.stat(info.key) == info


@pytest.mark.parametrize("size", [0, 1, 100_000, PART_BYTES, PART_BYTES + 1])
def test_uploads_of_any_size_in_odd_pieces(store: ObjectStore, size: int) -> None:
    data = noise(size)
    upload = store.create("x")
    step = max(1, size // 7 + 3)
    for start in range(0, size, step):
        upload.write(data[start : start + step])
    info = upload.complete()
    assert info.size == size
    assert b"".join(store.stream("x", info.etag)) == data
    assert list(store.uploads("")) == []


def test_the_writer_may_reuse_its_memory(store: ObjectStore) -> None:
    buffer = bytearray(3 * MIB)
    upload = store.create("x")
    for number in range(7):
        buffer[:] = bytes([number]) * len(buffer)
        upload.write(memoryview(buffer))
    upload.complete()
    for number in range(7):
        at = number * len(buffer)
        assert store.read("x", at, at + 10) == bytes([number]) * 10
        assert store.read("x", at + len(buffer) - 10, at + len(buffer)) == bytes([number]) * 10


@pytest.mark.parametrize("size", [10, 20 * MIB])
def test_abort_leaves_nothing(store: ObjectStore, size: int) -> None:
    store.put("out/old", b"old")
    upload = store.create("out/new")
    upload.write(noise(size))
    upload.abort()
    upload.abort()
    assert list(store.uploads("")) == []
    assert [info.key for info in store.list("")] == ["out/old"]


def test_uploads_left_behind_can_be_aborted(store: ObjectStore) -> None:
    kept = store.create("other/z")
    kept.write(noise(9 * MIB))
    lost = [store.create(f"out/{number}") for number in range(3)]
    for upload in lost:
        upload.write(noise(9 * MIB))

    assert list(store.uploads("out/")) == ["out/0", "out/1", "out/2"]
    assert store.abort_uploads("out/") == 3
    assert store.abort_uploads("out/") == 0
    assert list(store.uploads("")) == ["other/z"]
    for upload in lost:
        with pytest.raises(LeaseLost):
            finish(upload)
        upload.abort()
    assert list(store.list("")) == []
    kept.complete()
    assert [info.key for info in store.list("")] == ["other/z"]


def _read_in_child(store: ObjectStore, etag: str, queue: Any) -> None:
    buffer = bytearray(5 * MIB)
    store.readinto("x", 0, memoryview(buffer), etag)
    upload = store.create("from-child")
    upload.write(memoryview(buffer))
    upload.complete()
    queue.put(bytes(buffer[:8]))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_its_own_connections(store: ObjectStore) -> None:
    data = noise(5 * MIB)
    info = store.put("x", data)
    store.readinto("x", 0, memoryview(bytearray(5 * MIB)), info.etag)

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(store, info.etag, queue))
    child.start()
    assert queue.get(timeout=30) == data[:8]
    child.join(30)
    assert child.exitcode == 0
    store.readinto("x", 0, memoryview(bytearray(5 * MIB)), info.etag)
    assert store.stat("from-child").size == 5 * MIB


# -- folders ---------------------------------------------------------------------------------------


def test_links_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    (root / "real").write_bytes(b"r")
    (root / "inside").symlink_to(root / "real")
    (root / "broken").symlink_to(root / "nothing")
    store = FolderStore(root)

    assert code_of(lambda: store.stat("file")) == "location_not_allowed"
    assert code_of(lambda: store.read("up/secret", 0, 1)) == "location_not_allowed"
    assert code_of(lambda: store.put("up/new", b"")) == "location_not_allowed"
    assert code_of(lambda: list(store.list("up/"))) == "location_not_allowed"
    assert store.read("inside", 0, 1) == b"r"
    assert [info.key for info in store.list("")] == ["file", "inside", "real"]
    assert code_of(lambda: store.stat("broken")) == "source_not_found"
    store.delete("file")
    assert (tmp_path / "secret").exists()
    assert FolderStore(root, confined=False).read("up/secret", 0, 1) == b"s"


def test_a_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    FolderStore(tmp_path / "link").put("a", b"x")
    assert (tmp_path / "real" / "a").read_bytes() == b"x"


def test_a_file_written_to_during_a_read_is_noticed(
    folder: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = folder.put("x", noise(100))
    real = os.preadv

    def slow(fd: int, buffers: Any, offset: int) -> int:
        count = real(fd, buffers, offset)
        with (tmp_path / "objects" / "x").open("r+b") as file:
            file.write(b"!")
        os.utime(tmp_path / "objects" / "x", ns=(1, 1))
        return count

    monkeypatch.setattr(os, "preadv", slow)
    buffer = memoryview(bytearray(10))
    assert code_of(lambda: folder.readinto("x", 0, buffer, info.etag)) == "source_changed"


def test_a_full_disk(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    upload = folder.create("x")
    monkeypatch.setattr(os, "write", full)
    assert code_of(lambda: upload.write(b"data")) == "no_space"
    upload.abort()
    assert code_of(lambda: folder.put("y", b"data")) == "no_space"
    assert list(folder.uploads("")) == []


def test_a_file_system_without_links(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    folder.put("x", b"one", if_absent=True)
    assert code_of(lambda: folder.put("x", b"two", if_absent=True)) == "output_exists"
    assert folder.read("x", 0, 3) == b"one"
    assert list(folder.uploads("")) == []


def test_files_are_kept_open_within_a_bound(folder: FolderStore) -> None:
    infos = [folder.put(f"{n:03}", b"%03d" % n) for n in range(100)]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for info in infos * 2:
        assert folder.read(info.key, 0, 3, info.etag) == info.key.encode()
    assert len(os.listdir("/proc/self/fd")) - before <= 64  # noqa: PTH208
    del folder
    gc.collect()


def test_folders_and_files_do_not_mix(folder: FolderStore) -> None:
    folder.put("a/b", b"x")
    assert code_of(lambda: folder.put("a", b"x")) == "location_not_allowed"
    assert code_of(lambda: folder.put("a/b/c", b"x")) == "output_exists"
    assert code_of(lambda: folder.stat("a")) == "source_not_found"
    assert code_of(lambda: folder.stat("a/b/c")) == "source_not_found"
    assert folder.presign("a/b", 60) is None


# -- S3 --------------------------------------------------------------------------------------------


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

    def every_call_fails() -> None:
        assert code_of(lambda: store.stat("x")) == "storage_unavailable"
        assert code_of(lambda: store.readinto("x", 0, buffer, info.etag)) == "storage_unavailable"
        assert code_of(lambda: store.put("z", b"")) == "storage_unavailable"
        with pytest.raises(ArrowQuantError) as caught:
            finish(upload)
        assert caught.value.retryable
        assert own_s3.secret_key not in repr(caught.value)

    own_s3.pause()
    every_call_fails()
    upload.abort()  # cannot be done now, and does not fail
    own_s3.resume()
    store.readinto("x", 0, buffer, info.etag)
    assert buffer == data
    store.abort_uploads("")  # unless the server has met the abort in its queue
    assert list(store.uploads("")) == []

    upload = store.create("y")
    upload.write(noise(17 * MIB))
    own_s3.kill()
    every_call_fails()
    upload.abort()
    store.close()


# -- connections -----------------------------------------------------------------------------------


def test_connections_by_name(tmp_path: Path) -> None:
    stores = ConfiguredStores({"a": FolderConnection(kind="folder", path=tmp_path)})
    assert stores.names() == ["a"]
    assert stores.open("a") is stores.open("a")
    assert code_of(lambda: stores.open("b")) == "connection_not_found"


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
