"""Holding the bytes of calibrated weights against the digests of the calibration file, as they pass.

A unit checks the pieces of 4 MiB that begin in its rows: the rows of all units together are the whole
tensor. What is missing of the last piece is read from the source.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from arrowquant.calibration.digests import Checker
from service.domain.calibration import mismatch
from service.domain.catalog import Catalog
from service.domain.ports import ObjectStore
from service.domain.treatment import TensorPlan
from service.domain.units import Tile
from workers.calibration.measured import Measured


class Binding:
    """Checks a unit's tiles, which come in the order of their bytes."""

    def __init__(self, measured: Measured, store: ObjectStore, catalog: Catalog) -> None:
        self._measured, self._store, self._catalog = measured, store, catalog
        self._at: tuple[TensorPlan, Checker] | None = None

    def passed(self, tensor: TensorPlan, tile: Tile, data: npt.NDArray[np.uint8]) -> None:
        """The bytes of the next tile of a calibrated tensor. Raises calibration_mismatch."""
        if self._at is None or self._at[0].index != tensor.index:
            self.finish()
            digests = self._measured.digests(tensor.name)
            start = tile.row_start * tensor.row_bytes
            checker = Checker(digests, tensor.source.nbytes, start)
            if not checker.fits():
                raise mismatch("the weight that was measured had another size", tensor=tensor.name)
            self._at = tensor, checker
        _check(tensor, self._at[1], data.data)

    def finish(self) -> None:
        """The last tile of the tensor at hand has passed."""
        if self._at is None:
            return
        tensor, checker = self._at
        start, stop = checker.rest()
        if stop > start:
            source = self._catalog.objects[tensor.source.object]
            first = tensor.source.start
            data = self._store.read(source.key, first + start, first + stop, source.etag)
            _check(tensor, checker, memoryview(data))
        self._at = None


def _check(tensor: TensorPlan, checker: Checker, data: memoryview) -> None:
    if not checker.feed(data):
        raise mismatch("the weight that was measured had other bytes", tensor=tensor.name)
