"""Second moments as GPTQ takes them: read panel by panel, weighted in time, shrunk, factored."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

import kernels
from arrowquant.calibration.checking import check_diagonal
from arrowquant.calibration.index import invalid
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.calibration.statistics import Stats
from service.domain.calibration import Calibration
from workers.stages.gptq import Moments

ENOUGH: Final = 4  #: vectors for each channel, from which on moments are taken as they are
SHRINKAGE: Final = 0.2


def read_moments(
    file: CalibrationFile, name: str, block: int, stats: Stats, how: Calibration, threads: int
) -> Moments:
    """Read and factor the second moments of an input. Raises invalid_calibration where they are not
    symmetric, or not positive semidefinite."""
    n = file.index.by_id[name].n
    size = block or n
    matrix = np.zeros((-(-n // size), size, size), np.float32)
    squares = stats.sum_sq.sum(axis=0)
    for panel in file.panels(name):
        rows = panel.data.shape[0]
        diagonal = np.diagonal(panel.data, panel.row_start - panel.col_start)
        check_diagonal(diagonal, squares[panel.row_start : panel.row_start + rows], name)
        _take(matrix, panel.data, panel.row_start, panel.col_start, size)
    mean = stats.mean_square(how.weighting, file.index.omega)
    scale = np.sqrt(np.divide(mean, squares, out=np.zeros(n), where=squares > 0))
    few = stats.total() < ENOUGH * size
    shrinkage = how.shrinkage if how.shrinkage is not None else (SHRINKAGE if few else 0.0)
    for number, square in enumerate(matrix):
        _prepare(square, scale[number * size : (number + 1) * size], shrinkage, name)
    whole = matrix[0] if block == 0 else matrix
    try:
        factor = kernels.gptq_factor(
            whole, cols=n, damp=how.damp, act_order=how.act_order, threads=threads
        )
    except ValueError as error:
        raise invalid(str(error), input=name[:200]) from None
    return Moments(whole, factor)


def _take(
    matrix: NDArray[np.float32],
    data: NDArray[np.float32],
    row_start: int,
    col_start: int,
    size: int,
) -> None:
    """Copy what a panel has of each block on the diagonal."""
    rows, cols = data.shape
    for number in range(row_start // size, (row_start + rows - 1) // size + 1):
        first = number * size
        top, bottom = max(first, row_start), min(first + size, row_start + rows)
        left, right = max(first, col_start), min(first + size, col_start + cols)
        matrix[number, top - first : bottom - first, left - first : right - first] = data[
            top - row_start : bottom - row_start, left - col_start : right - col_start
        ]


def _prepare(
    square: NDArray[np.float32], scale: NDArray[np.float64], shrinkage: float, name: str
) -> None:
    """In place: the diagonal is that of the weighted mean, correlations stay, less the shrinkage."""
    n = scale.size
    used, factors = square[:n, :n], scale.astype(np.float32)
    if not np.array_equal(used, used.T):
        raise invalid("its second moments are not symmetric", input=name[:200])
    used *= factors
    used *= factors[:, None]
    if shrinkage:
        diagonal = np.diagonal(used).copy()
        used *= np.float32(1.0 - shrinkage)
        np.fill_diagonal(used, diagonal)
