"""An object of a store, read as a file is."""

from __future__ import annotations

import io

from service.domain.catalog import ObjectInfo
from service.domain.ports import ObjectStore


class Ranged(io.RawIOBase):
    """An object of a store as a file that is only read, and is the same object throughout."""

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, (0, self._at, self._info.size)[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._info.size if size < 0 else min(self._info.size, self._at + size)
        if stop <= self._at:
            return b""
        data = self._store.read(self._info.key, self._at, stop, self._info.etag)
        self._at += len(data)
        return data
