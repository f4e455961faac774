"""Asking the kernel to begin with what must be on the disk in the end."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

SYNC_FILE_RANGE_WRITE: Final = 2


def _find() -> Callable[[int, int, int, int], int] | None:
    """Linux has it; elsewhere fsync does all of it at the end."""
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    found: Callable[[int, int, int, int], int] = function
    return found


_sync_file_range = _find()


def begin_writeback(fd: int, start: int, nbytes: int) -> None:
    """Begin to write these bytes of a file to its disk, and do not wait for them.

    A hint that says nothing of how it went: what could not be written is told by fsync.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, start, nbytes, SYNC_FILE_RANGE_WRITE)
