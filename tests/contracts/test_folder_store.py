"""What only folders can get wrong."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from service.adapters.objects import FolderStore
from tests.contracts.objects import code_of, noise

MIB = 2**20


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
    assert code_of(lambda: folder.put("a/b/c", b"x")) == "location_not_allowed"
    assert code_of(lambda: folder.stat("a")) == "source_not_found"
    assert code_of(lambda: folder.stat("a/b/c")) == "source_not_found"
    assert folder.presign("a/b", 60) is None
