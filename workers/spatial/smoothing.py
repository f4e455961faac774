"""The factors of a tensor's columns in a job, from one look at all of its rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import kernels
from arrowquant.calibration.statistics import Stats
from service.domain.treatment import TensorPlan
from workers.spatial import scales
from workers.spatial.estimate import Sample, Target
from workers.spatial.scales import Vector
from workers.stages.methods import Dtype

SAMPLED_ROWS = 64  #: on which strengths are compared


class Look:
    """The largest of every column of a matrix, and some of its rows, evenly spaced, whatever its tiles."""

    def __init__(self, rows: int, cols: int) -> None:
        self.most: Vector = np.zeros(cols)
        self._wanted = np.unique(np.linspace(0, rows - 1, SAMPLED_ROWS).astype(np.int64))
        self._rows: list[NDArray[np.float32]] = []

    def feed(self, row_start: int, x: NDArray[np.generic], dtype: Dtype) -> None:
        """The next tile, (rows, cols) as kernels take it."""
        self.most = np.maximum(self.most, kernels.column_largest(x, dtype=dtype))
        inside = (self._wanted >= row_start) & (self._wanted < row_start + len(x))
        self._rows.append(kernels.widen(x[self._wanted[inside] - row_start], dtype))

    def rows(self) -> NDArray[np.float32]:
        return np.concatenate(self._rows)


def factors(
    look: Look, tensor: TensorPlan, stats: Stats, omega: tuple[float, ...]
) -> NDArray[np.float32]:
    """float32 (cols,), by the tensor's way of smoothing; the estimate is made for min-max codes of its width
    and groups, whatever its method."""
    how = tensor.treatment.smoothing
    assert how is not None
    inputs = scales.largest(stats, how.aggregate, omega, look.most)
    asked = scales.ALPHAS if how.alpha is None else (how.alpha,)
    found = [(a, scales.smooth(inputs, look.most, a, exact=False)) for a in asked]
    if how.alpha is not None or not np.isfinite(look.most).all():
        # What is not finite is told of where it is quantized.
        return found[0][1].astype(np.float32)
    sample = Sample(look.rows(), stats.mean_square(omega=omega), inputs)
    target = Target(tensor.treatment.bits, tensor.treatment.group_size, how.activation_bits or 0)
    candidates: list[tuple[float | None, Vector]] = [(None, np.ones(tensor.cols)), *found]
    _, s, _ = scales.choose(candidates, lambda s: sample.error(s, target))
    return s.astype(np.float32)
