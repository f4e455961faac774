"""The memory that tiles are read into, kept between the units of a process.

Memory that is new costs: the kernel clears every page of it, and looks for whole huge pages first.
Given back after each unit and asked for again, that was a twentieth of a job's processor time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.domain.units import TILE_BYTES

Buffer = npt.NDArray[np.uint8]


class SpareBuffers:
    """Buffers of TILE_BYTES that nobody uses right now; larger ones are never kept."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._most = most
        self._spare: list[Buffer] = []

    @property
    def nbytes(self) -> int:
        """What is held for later."""
        with self._lock:
            return sum(buffer.nbytes for buffer in self._spare)

    def take(self, count: int, nbytes: int) -> list[Buffer]:
        """So many buffers of at least so many bytes. For larger ones all that is spare is freed."""
        with self._lock:
            if nbytes > TILE_BYTES:
                self._spare.clear()
                return [np.empty(nbytes, np.uint8) for _ in range(count)]
            kept, self._spare = self._spare[:count], self._spare[count:]
        return kept + [np.empty(TILE_BYTES, np.uint8) for _ in range(count - len(kept))]

    def give(self, buffers: Sequence[Buffer]) -> None:
        """Nobody reads or writes these any more."""
        with self._lock:
            fitting = [buffer for buffer in buffers if buffer.nbytes == TILE_BYTES]
            self._spare = (self._spare + fitting)[: self._most]


# As many as a unit uses. One for the process, as its other memory: units of a process follow one
# another.
SPARE = SpareBuffers(4)
