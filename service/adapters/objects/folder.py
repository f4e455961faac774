"""A folder as an object store.

An ETag here is `size-mtime-inode`: it changes when a file is replaced, grows, shrinks or is written
to. A write that keeps the size within one tick of the file system's clock would go unseen.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.adapters.objects import keys
from service.adapters.objects.folder_upload import FolderUpload, key_of_upload
from service.adapters.objects.process import PerProcess
from service.domain.catalog import ObjectInfo
from service.domain.errors import ArrowQuantError

OPEN_FILES = 64
CHUNK = 4 * 2**20


class _File:
    """An open file, closed when its last user lets go of it."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class _OpenFiles:
    """The files read last, so that the next tile need not open its file again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, tuple[str, _File]] = OrderedDict()

    def get(self, key: str, etag: str) -> _File | None:
        with self._lock:
            found = self._files.get(key)
            if found is None or found[0] != etag:
                return None
            self._files.move_to_end(key)
            return found[1]

    def put(self, key: str, etag: str, file: _File) -> None:
        with self._lock:
            self._files[key] = (etag, file)
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)


class FolderStore:
    """Objects are the files below `root`.

    confined  symbolic links that lead out of the root are refused; only the local command line,
              which runs with its user's own rights, turns that off
    """

    def __init__(self, root: Path, *, confined: bool = True) -> None:
        self._root = root.resolve()
        self._confined = confined
        self._files = PerProcess(_OpenFiles)

    @property
    def reads_at_once(self) -> int:
        return 1

    def __repr__(self) -> str:
        return f"FolderStore({str(self._root)!r})"

    def stat(self, key: str) -> ObjectInfo:
        with _reading(key):
            return self._info(key, self._path(keys.check_key(key)))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        keys.check_prefix(prefix)
        parent = prefix.rpartition("/")[0]
        yield from self._walk(parent + "/" if parent else "", prefix)

    def read(self, key: str, start: int, stop: int, etag: str | None = None) -> bytes:
        buffer = bytearray(stop - start)
        self.readinto(key, start, memoryview(buffer), etag or self.stat(key).etag)
        return bytes(buffer)

    def readinto(self, key: str, start: int, buffer: memoryview, etag: str) -> None:
        buffer = buffer.cast("B")
        with _reading(key):
            file = self._file(key, etag)
            filled = 0
            while filled < len(buffer):
                count = os.preadv(file.fd, [buffer[filled:]], start + filled)
                if count == 0:
                    raise _changed(key, f"it ends at byte {start + filled}")
                filled += count
            if _etag(os.fstat(file.fd)) != etag:
                raise _changed(key, "it was written to while being read")

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        upload = self.create(key)
        try:
            upload.write(data)
            return upload.complete(if_absent=if_absent)
        except BaseException:
            upload.abort()
            raise

    def create(self, key: str) -> FolderUpload:
        return FolderUpload(key, self._path(keys.check_key(key)), self._info)

    def uploads(self, prefix: str) -> Sequence[str]:
        return [key for key, _ in self._unfinished(prefix)]

    def abort_uploads(self, prefix: str) -> int:
        found = self._unfinished(prefix)
        for _, path in found:
            path.unlink(missing_ok=True)
        return len(found)

    def delete(self, key: str) -> None:
        with _reading(key):
            # The last segment may be a link: remove the link, wherever it leads.
            path = self._path(keys.check_key(key), follow=False)
            try:
                path.unlink(missing_ok=True)
            except NotADirectoryError:
                pass

    def presign(self, key: str, seconds: int) -> str | None:
        return None

    def stream(self, key: str, etag: str | None = None) -> Iterator[bytes]:
        info = self.stat(key)
        if etag is not None and info.etag != etag:
            raise _changed(key, "its ETag differs")
        for start in range(0, info.size, CHUNK):
            yield self.read(key, start, min(start + CHUNK, info.size), info.etag)

    def _path(self, key: str, *, follow: bool = True) -> Path:
        path = self._root / keys.check_prefix(key)
        if self._confined:
            resolved = path.resolve() if follow else path.parent.resolve() / path.name
            if not resolved.is_relative_to(self._root):
                raise keys.refused(key, "a symbolic link leads out of the folder")
        return path

    def _info(self, key: str, path: Path) -> ObjectInfo:
        stat = path.stat()
        if not _is_file(stat):
            raise FileNotFoundError(key)
        return ObjectInfo(key, stat.st_size, _etag(stat))

    def _file(self, key: str, etag: str) -> _File:
        """The open file of a key, which must have this ETag by its name and by its handle."""
        path = self._path(keys.check_key(key))
        if self._info(key, path).etag != etag:
            raise _changed(key, "its ETag differs")
        files = self._files.get()
        file = files.get(key, etag)
        if file is None:
            file = _File(path)
            if _etag(os.fstat(file.fd)) != etag:
                raise _changed(key, "it was replaced while being opened")
            files.put(key, etag, file)
        return file

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        for name, entry in self._entries(folder):
            key = folder + name
            if name.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix) and key_of_upload(name) is None:
                stat = self._visible_stat(key, entry)
                if stat is not None:
                    yield ObjectInfo(key, stat.st_size, _etag(stat))

    def _visible_stat(self, key: str, entry: os.DirEntry[str]) -> os.stat_result | None:
        try:
            if entry.is_symlink():
                self._path(key)
            stat = entry.stat()
            return stat if _is_file(stat) else None
        except FileNotFoundError:
            return None  # removed meanwhile, or a broken link
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None  # a link to itself leads nowhere too
            raise
        except ArrowQuantError:
            return entry.stat(follow_symlinks=False)  # listed, but reading it will be refused

    def _entries(self, folder: str) -> Sequence[tuple[str, os.DirEntry[str]]]:
        """A folder's entries by key: names of folders end in '/', links to folders are left out."""
        try:
            with _reading(folder), os.scandir(self._path(folder)) as entries:
                named = [
                    (e.name + "/" if _is_folder(e) else e.name, e)
                    for e in entries
                    if not (e.is_symlink() and _is_folder(e))
                ]
        except ArrowQuantError as error:
            if error.code == "source_not_found":
                return []
            raise
        return sorted(named, key=lambda pair: pair[0].encode(errors="surrogateescape"))

    def _unfinished(self, prefix: str) -> Sequence[tuple[str, Path]]:
        found = []
        pending = [keys.check_prefix(prefix).rpartition("/")[0]]
        while pending:
            folder = pending.pop()
            base = folder + "/" if folder and not folder.endswith("/") else folder
            for name, entry in self._entries(base):
                if name.endswith("/"):
                    if (base + name).startswith(prefix) or prefix.startswith(base + name):
                        pending.append(base + name)
                    continue
                target = key_of_upload(name)
                if target is not None and (base + target).startswith(prefix):
                    found.append((base + target, Path(entry.path)))
        return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _is_file(stat: os.stat_result) -> bool:
    return (stat.st_mode & 0o170000) == 0o100000


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ino:x}"


def _changed(key: str, detail: str) -> ArrowQuantError:
    hint = "Start again once the source no longer changes."
    return ArrowQuantError("source_changed", f"the object changed: {detail}", hint, {"object": key})


@contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = {"object": key}
        text = error.strerror or str(error)
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = "Give this user the right to read it."
            raise ArrowQuantError("source_access_denied", text, hint, where) from None
        if error.errno == errno.ENAMETOOLONG or error.errno == errno.ELOOP:
            raise keys.refused(key, text) from None
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise ArrowQuantError("source_not_found", "no such object", where=where) from None
        raise ArrowQuantError("storage_unavailable", text, where=where) from error
