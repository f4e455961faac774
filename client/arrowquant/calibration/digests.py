"""Digests that bind a calibration file to weights: SHA-256 of each 4 MiB of a tensor's own bytes.

In pieces, so that whoever reads some rows of a tensor can check them while they pass by.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping

from arrowquant.calibration.layout import CHUNK_BYTES


def digests(data: memoryview) -> tuple[str, ...]:
    """Of the bytes of a tensor, in C order and little-endian, as safetensors has them."""
    view = data.cast("B")
    return tuple(
        hashlib.sha256(view[start : start + CHUNK_BYTES]).hexdigest()
        for start in range(0, view.nbytes, CHUNK_BYTES)
    )


def of_source(path: str | os.PathLike[str], names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Of these tensors of a .safetensors file, or of a folder of them; names it lacks are left out."""
    from arrowquant.artifact.source import open_source

    tensors = open_source(os.fspath(path))
    return {name: digests(tensors[name].data.data) for name in names if name in tensors}


class Checker:
    """Checks the bytes of a tensor that pass by in order, from anywhere within it.

    Bytes before the first boundary of 4 MiB are left to whoever reads what comes before; what is
    missing of the last piece at the end is told by `rest`.
    """

    def __init__(self, expected: tuple[str, ...], nbytes: int, start: int) -> None:
        self._expected, self._nbytes = expected, nbytes
        self._at = start
        self._skip = -start % CHUNK_BYTES
        self._hash = hashlib.sha256()

    def fits(self) -> bool:
        """Whether there are as many digests as a tensor of this size has."""
        return len(self._expected) == -(-self._nbytes // CHUNK_BYTES)

    def feed(self, data: memoryview) -> bool:
        """Take the next bytes; False as soon as a piece is not what was expected."""
        view = data.cast("B")
        skipped = min(self._skip, view.nbytes)
        self._skip -= skipped
        self._at += skipped
        view = view[skipped:]
        while view.nbytes:
            end = min(self._nbytes, (self._at // CHUNK_BYTES + 1) * CHUNK_BYTES)
            taken = view[: end - self._at]
            self._hash.update(taken)
            self._at += taken.nbytes
            view = view[taken.nbytes :]
            if self._at == end:
                number = (end - 1) // CHUNK_BYTES
                if self._hash.hexdigest() != self._expected[number]:
                    return False
                self._hash = hashlib.sha256()
        return True

    def rest(self) -> tuple[int, int]:
        """First byte and the byte after the last that complete the piece begun; equal for none."""
        if self._skip or self._at % CHUNK_BYTES == 0 or self._at >= self._nbytes:
            return self._at, self._at
        return self._at, min(self._nbytes, (self._at // CHUNK_BYTES + 1) * CHUNK_BYTES)
