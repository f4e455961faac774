"""AWQ's factors of the columns of a tile."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import kernels
from service.domain.treatment import Treatment
from workers.stages import methods
from workers.stages.methods import Weights

Single = npt.NDArray[np.float32]


def scale_of(w: Single, how: Treatment, importance: Single, threads: int) -> Single:
    """Factors (cols,) for the tile w (rows, cols), whose strength is chosen by rounding to nearest."""

    def loss(x: Single, h: Single) -> float:
        weighted = methods.fit(Weights(x, "F32", h, None, threads), how)[2]
        assert weighted is not None
        return weighted.sum_e2

    return kernels.awq_scales([w], importance, loss, threads=threads)[1]
