"""A source that counts what is read from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from service.domain.catalog import ObjectInfo
from service.domain.ports import ObjectStore, Upload


class Metered(ObjectStore):
    """An object store whose reads are counted, from whichever threads they come."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._nbytes = 0

    @property
    def bytes_read(self) -> int:
        """Bytes that reads have brought so far."""
        with self._lock:
            return self._nbytes

    def read(self, key: str, start: int, stop: int, etag: str | None = None) -> bytes:
        data = self._store.read(key, start, stop, etag)
        self._count(len(data))
        return data

    def readinto(self, key: str, start: int, buffer: memoryview, etag: str) -> None:
        self._store.readinto(key, start, buffer, etag)
        self._count(buffer.nbytes)

    def stream(self, key: str, etag: str | None = None) -> Iterator[bytes]:
        for chunk in self._store.stream(key, etag):
            self._count(len(chunk))
            yield chunk

    def stat(self, key: str) -> ObjectInfo:
        return self._store.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        return self._store.put(key, data, if_absent=if_absent)

    def create(self, key: str) -> Upload:
        return self._store.create(key)

    def uploads(self, prefix: str) -> Sequence[str]:
        return self._store.uploads(prefix)

    def abort_uploads(self, prefix: str) -> int:
        return self._store.abort_uploads(prefix)

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def presign(self, key: str, seconds: int) -> str | None:
        return self._store.presign(key, seconds)

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._nbytes += nbytes
