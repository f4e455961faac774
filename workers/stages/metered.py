"""A store that counts what is read from it and written to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from service.domain.catalog import ObjectInfo
from service.domain.ports import ObjectStore, Upload


class Metered(ObjectStore):
    """An object store whose traffic is counted, from whichever threads they come."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._nbytes = 0
        self._written = 0

    @property
    def bytes_read(self) -> int:
        """Bytes that reads have brought so far."""
        with self._lock:
            return self._nbytes

    @property
    def bytes_written(self) -> int:
        """Bytes handed to writes so far."""
        with self._lock:
            return self._written

    @property
    def reads_at_once(self) -> int:
        return self._store.reads_at_once

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
        info = self._store.put(key, data, if_absent=if_absent)
        self.wrote(len(data))
        return info

    def create(self, key: str) -> Upload:
        return _MeteredUpload(self._store.create(key), self.wrote)

    def uploads(self, prefix: str) -> Sequence[str]:
        return self._store.uploads(prefix)

    def abort_uploads(self, prefix: str) -> int:
        return self._store.abort_uploads(prefix)

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def presign(self, key: str, seconds: int) -> str | None:
        return self._store.presign(key, seconds)

    def wrote(self, nbytes: int) -> None:
        """Count bytes that were written."""
        with self._lock:
            self._written += nbytes

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._nbytes += nbytes


class _MeteredUpload(Upload):
    """An upload whose bytes are counted."""

    def __init__(self, upload: Upload, wrote: Callable[[int], None]) -> None:
        self._upload, self._wrote = upload, wrote

    def write(self, data: bytes | memoryview) -> int:
        taken = self._upload.write(data)
        self._wrote(taken)
        return taken

    def complete(self) -> ObjectInfo:
        return self._upload.complete()

    def abort(self) -> None:
        self._upload.abort()
