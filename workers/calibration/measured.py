"""What was measured of the inputs of a unit's weights, read from the store when it is needed.

Of a file of any size only the statistics of these inputs are read, one at a time: a ranged read each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration.reader import CalibrationFile
from arrowquant.calibration.statistics import Stats
from arrowquant.errors import CalibrationError
from service.domain.activations import Activations
from service.domain.calibration import Calibration, invalid
from service.domain.catalog import ObjectInfo
from service.domain.ports import ObjectStore
from service.domain.treatment import TensorPlan
from workers.activations import table
from workers.activations.table import Table
from workers.calibration.moments import read_moments
from workers.memory import KEPT_INPUTS
from workers.spatial.smoothing import Look, factors
from workers.stages.gptq import Moments
from workers.stages.ranged import Ranged


class _Kept(NamedTuple):
    importance: NDArray[np.float32]
    mean: NDArray[np.float32] | None
    groups: NDArray[np.float32] | None


class Measured:
    """An open calibration file of a job.

    Raises invalid_calibration; source_changed if it is no longer the object that was planned with.
    """

    def __init__(self, store: ObjectStore, info: ObjectInfo, how: Calibration) -> None:
        self._key, self._how = info.key, how
        try:
            self._file = CalibrationFile(Ranged(store, info), info.size)
        except CalibrationError as error:
            raise self._told(error) from None
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._source: table.Source | None = None
        self._read: tuple[str, Stats] | None = None
        self._moments: tuple[tuple[str, int], Moments] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def activations(
        self,
        layers: Sequence[str],
        how: Activations,
        most: int,
        pause: Callable[[], None],
        *,
        divided: bool,
    ) -> Table | None:
        """How the inputs of layers are to be quantized, see workers.activations.table; None if the file has no
        histograms of theirs."""
        known = [name for name in layers if name in self._file.index.weights]
        try:
            if self._source is None:
                self._source = table.Source(self._file, self._how.weighting)
            return table.make(self._source, known, how, most, pause, divided=divided)
        except CalibrationError as error:
            raise self._told(error) from None

    def digests(self, weight: str) -> tuple[str, ...]:
        """Of each 4 MiB of a weight's bytes."""
        return self._file.index.weights[weight].sha256

    def importance(self, weight: str) -> NDArray[np.float32]:
        """E[x^2] of every channel of a weight's input, float32 (cols,), time-weighted as the recipe
        says; the same for every weight that the input feeds."""
        name = self._file.index.weights[weight].input
        if name not in self._kept:
            stats = self._stats(name)
            square = stats.mean_square(self._how.weighting, self._file.index.omega)
            mean = stats.mean(self._how.weighting, self._file.index.omega)
            self._kept[name] = _Kept(
                _single(square), None if mean is None else _single(mean), self._groups(stats)
            )
            while len(self._kept) > KEPT_INPUTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name].importance

    def groups(self, weight: str) -> NDArray[np.float32] | None:
        """E[x^2] of every channel in each time bin, float32 (bins, cols), zeros in one that was not seen;
        None where the file tells fewer than two apart. All branches of guidance together."""
        self.importance(weight)
        return self._kept[self._file.index.weights[weight].input].groups

    def mean(self, weight: str) -> NDArray[np.float32]:
        """E[x] of every channel, float32 (cols,), finite."""
        self.importance(weight)
        mean = self._kept[self._file.index.weights[weight].input].mean
        assert mean is not None  # planning asked the index
        return mean

    def smoothing(self, tensor: TensorPlan, look: Look) -> NDArray[np.float32]:
        """Factors of a smoothed tensor's columns, float32 (cols,). Raises invalid_calibration where the file
        has no largest magnitudes."""
        stats = self._stats(self._file.index.weights[tensor.name].input)
        if stats.abs_max is None:
            found = invalid("it has no largest magnitudes to smooth by", self._key)
            found.where["tensor"] = tensor.name
            raise found
        return factors(look, tensor, stats, self._file.index.omega)

    def moments(self, weight: str, block: int, threads: int) -> Moments:
        """Second moments of a weight's input and their factor; kept for the next weight that it feeds.

        block  channels of a block; 0: all at once
        """
        name = self._file.index.weights[weight].input
        if self._moments is None or self._moments[0] != (name, block):
            self._moments = None  # before the next ones take as much
            try:
                made = read_moments(self._file, name, block, self._stats(name), self._how, threads)
            except CalibrationError as error:
                raise self._told(error) from None
            self._moments = (name, block), made
        return self._moments[1]

    def _groups(self, stats: Stats) -> NDArray[np.float32] | None:
        bins = self._file.index.bins
        return None if bins < 2 else _single(stats.bin_squares(bins))

    def _stats(self, name: str) -> Stats:
        """The sums over an input; kept for whoever asks for the same next."""
        if self._read is None or self._read[0] != name:
            self._read = None  # before the next ones take as much
            try:
                self._read = name, self._file.stats(name)
            except CalibrationError as error:
                raise self._told(error) from None
        return self._read[1]

    def _told(self, error: CalibrationError) -> Exception:
        found = invalid(error.detail, self._key)
        found.where.update(error.where)
        return found


def _single(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """As float32, finite."""
    largest = float(np.finfo(np.float32).max)
    return np.clip(values, -largest, largest).astype(np.float32)
