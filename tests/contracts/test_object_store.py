"""One contract for every object store: a folder, and S3 as a real server speaks it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from typing import Any

import pytest

from service.adapters.objects import FolderStore
from service.adapters.objects.s3_upload import PART_BYTES
from service.domain.errors import ArrowQuantError
from service.domain.ports import ObjectStore
from tests.contracts.objects import code_of, finish, noise

MIB = 2**20
KEYS = ["a/plain.bin", "a/with space+plus%.bin", "a/ünïcödé-模型.safetensors", "a/b/deep~!$'().x"]


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
        assert code_of(lambda upload=upload: finish(upload)) == "multipart_failed"  # type: ignore[misc]
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
