"""A file being written beside its final name."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.adapters.objects import keys
from service.adapters.objects.writeback import begin_writeback
from service.domain.catalog import ObjectInfo
from service.domain.errors import ArrowQuantError

# Bytes that go to the disk together, while more are being made.
WRITEBACK_BYTES = 8 * 2**20

_HIDDEN = re.compile(r"\.(.+)\.[0-9a-f]{16}\.upload", re.DOTALL)


def key_of_upload(name: str) -> str | None:
    """The final name of a file that is being uploaded under this hidden one."""
    match = _HIDDEN.fullmatch(name)
    return match[1] if match else None


class FolderUpload:
    """Writes `.{name}.{random}.upload` and renames it: the object appears whole or not at all."""

    def __init__(self, key: str, path: Path, info: Callable[[str, Path], ObjectInfo]) -> None:
        self._key, self._path, self._info = key, path, info
        self._hidden = path.with_name(f".{path.name}.{secrets.token_hex(8)}.upload")
        self._fd = -1
        self._written = self._begun = 0
        _make_folder(key, path.parent)
        with _writing(key):
            self._fd = os.open(
                self._hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
            )

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        done = 0
        with _writing(self._key):
            while done < len(view):
                done += os.write(self._fd, view[done : done + 2**30])
        self._written += done
        if self._written - self._begun >= WRITEBACK_BYTES:
            begin_writeback(self._fd, self._begun, self._written - self._begun)
            self._begun = self._written
        return done

    def complete(self, *, if_absent: bool = False) -> ObjectInfo:
        with _writing(self._key):
            os.fsync(self._fd)
            self._close()
            try:
                if if_absent:
                    _claim(self._hidden, self._path)
                else:
                    self._hidden.replace(self._path)
            except FileNotFoundError:
                raise ArrowQuantError(
                    "multipart_failed",
                    "the file that was being written is gone",
                    "It is begun again; look for what tidies up in the folder.",
                    {"object": self._key},
                ) from None
            _sync_folder(self._path.parent)
            return self._info(self._key, self._path)

    def abort(self) -> None:
        self._close()
        try:
            self._hidden.unlink(missing_ok=True)
        except OSError:
            pass  # it stays listed by `uploads`, for whoever cleans up next

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.abort()


def _make_folder(key: str, folder: Path) -> None:
    with _writing(key):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError) as error:
            # A file of that name, a link that leads nowhere, or a place like /proc.
            raise keys.refused(key, f"its folder cannot be made: {error.strerror}") from None


def _claim(hidden: Path, path: Path) -> None:
    """Give the file its name if nothing has it: atomic, unlike asking first."""
    try:
        os.link(hidden, path)
        hidden.unlink()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # No hard links here: take the name with an empty file, then put ours over it.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        hidden.replace(path)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


@contextmanager
def _writing(key: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise ArrowQuantError(
            "output_exists",
            "there is an object under this key already",
            "Write to another prefix, or replace what is there.",
            {"object": key},
        ) from None
    except OSError as error:
        where = {"object": key}
        text = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free space in the folder, or write elsewhere."
            raise ArrowQuantError("no_space", text, hint, where) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "Give this user the right to write to the folder, or write elsewhere."
            raise ArrowQuantError("storage_access_denied", text, hint, where) from None
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
            raise keys.refused(key, text) from None
        raise ArrowQuantError("storage_unavailable", text, where=where) from error
