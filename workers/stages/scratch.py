"""Where a replay writes: nowhere. What is read comes from the store of the artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.domain.catalog import ObjectInfo
from service.domain.ports import ObjectStore, Upload


class Discarded(Upload):
    """Takes bytes and forgets them."""

    def __init__(self, key: str) -> None:
        self._key, self._nbytes = key, 0

    def write(self, data: bytes | memoryview) -> int:
        nbytes = memoryview(data).nbytes
        self._nbytes += nbytes
        return nbytes

    def complete(self) -> ObjectInfo:
        return ObjectInfo(self._key, self._nbytes, "discarded")

    def abort(self) -> None:
        return


class Scratch(ObjectStore):
    """A store that can be read and in which nothing is ever written or removed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def reads_at_once(self) -> int:
        return self._store.reads_at_once

    def create(self, key: str) -> Upload:
        return Discarded(key)

    def stat(self, key: str) -> ObjectInfo:
        return self._store.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def read(self, key: str, start: int, stop: int, etag: str | None = None) -> bytes:
        return self._store.read(key, start, stop, etag)

    def readinto(self, key: str, start: int, buffer: memoryview, etag: str) -> None:
        self._store.readinto(key, start, buffer, etag)

    def stream(self, key: str, etag: str | None = None) -> Iterator[bytes]:
        return self._store.stream(key, etag)

    def presign(self, key: str, seconds: int) -> str | None:
        return None

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        raise AssertionError(f"a replay writes nothing, also not {key}")

    def uploads(self, prefix: str) -> Sequence[str]:
        return ()

    def abort_uploads(self, prefix: str) -> int:
        return 0

    def delete(self, key: str) -> None:
        raise AssertionError(f"a replay removes nothing, also not {key}")
