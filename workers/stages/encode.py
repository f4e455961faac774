"""From a tile's source bytes to what is stored of it, through the kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

import kernels
from service.domain.errors import ArrowQuantError
from service.domain.treatment import ROTATION_SEED, TensorPlan
from service.domain.units import Tile
from workers.artifact.schema import StoredTile
from workers.stages import calibrated, methods
from workers.stages.calibrated import Inputs
from workers.stages.methods import Dtype, Range, Weights

_LARGEST = 3e38


class Encoding(NamedTuple):
    """What a tile became, the errors of its weights, and of the layer's output where it is known.

    groups  error and energy of the output in each time bin, float64 (bins, 2), where there are several
    """

    stored: StoredTile
    errors: kernels.ErrorSums
    output: kernels.ErrorSums | None
    groups: npt.NDArray[np.float64] | None = None


def encode_tile(
    tensor: TensorPlan,
    tile: Tile,
    matrix: npt.NDArray[np.generic],
    value_range: Range | None,
    threads: int,
    inputs: Inputs | None = None,
) -> Encoding:
    """Quantize one tile.

    matrix       (rows, cols), see FetchedTile.matrix
    value_range  the tensor's range, for one scale per tensor
    inputs       of a calibrated tensor: the error of the layer's output is then stored as `rho`
    Raises       non_finite_weights, naming the tensor and the index in its own shape
    """
    dtype = cast(Dtype, tensor.source.dtype)
    try:
        if tensor.rotated:
            return _encode_rotated(tensor, matrix, value_range, threads, inputs)
        importance = None if inputs is None else inputs.importance
        weights = Weights(matrix, dtype, importance, value_range, threads)
        if inputs is None:
            stored, errors, _ = methods.fit(weights, tensor.treatment)
            return Encoding(stored, errors, None)
        return _measured(*calibrated.fit(weights, tensor, inputs))
    except kernels.NonFiniteWeights as error:
        raise _non_finite(tensor, tile, error) from None


def _measured(
    stored: StoredTile, errors: kernels.ErrorSums, output: calibrated.Outputs
) -> Encoding:
    return Encoding(
        replace(stored, rho=output.errors.rel_mse), errors, output.errors, output.groups
    )


def _encode_rotated(
    tensor: TensorPlan,
    matrix: npt.NDArray[np.generic],
    value_range: Range | None,
    threads: int,
    inputs: Inputs | None,
) -> Encoding:
    """The errors on record are those of the weights turned back, as readers give them."""
    turned, block = _turned(tensor, matrix, threads)
    spread = None
    if inputs is not None:
        importance = inputs.importance
        # Of inputs without correlation, H D spreads the sum of each block over all of its channels.
        spread = np.repeat(importance.reshape(-1, block).mean(1, dtype=np.float32), block)
    weights = Weights(turned, "F32", spread, value_range, threads)
    stored, _, _ = methods.fit(weights, tensor.treatment)
    methods.decode(stored, tensor, threads, turned)
    kernels.unrotate(turned, ROTATION_SEED, block, threads)
    dtype = cast(Dtype, tensor.source.dtype)
    errors = kernels.measure(matrix, turned, dtype=dtype, threads=threads)
    stored = replace(stored, relmse=errors.rel_mse)
    if inputs is None:
        return Encoding(stored, errors, None)
    return _measured(stored, errors, calibrated.outputs(matrix, dtype, turned, inputs, threads))


def _turned(
    tensor: TensorPlan, matrix: npt.NDArray[np.generic], threads: int
) -> tuple[npt.NDArray[np.float32], int]:
    """The weights rotated, and the block; zeros, which miss every gate, where their sums could leave
    float32. Raises NonFiniteWeights with the place before it."""
    dtype = cast(Dtype, tensor.source.dtype)
    low, high = kernels.value_range(matrix, dtype=dtype, threads=threads)
    block = kernels.rotation_block(tensor.cols)
    if max(-low, high) >= _LARGEST / block**0.5:
        return np.zeros(matrix.shape, np.float32), block
    turned = kernels.widen(matrix, dtype)
    kernels.rotate(turned, ROTATION_SEED, block, threads)
    return turned, block


def keep_tile(data: npt.NDArray[np.uint8]) -> StoredTile:
    """A raw tile: the source's own bytes."""
    return StoredTile(data)


def tile_range(
    tensor: TensorPlan, tile: Tile, matrix: npt.NDArray[np.generic], threads: int
) -> Range:
    """Smallest and largest weight of a tile, as they are quantized."""
    dtype = cast(Dtype, tensor.source.dtype)
    try:
        if tensor.rotated:
            return kernels.value_range(_turned(tensor, matrix, threads)[0], dtype="F32")
        return kernels.value_range(matrix, dtype=dtype, threads=threads)
    except kernels.NonFiniteWeights as error:
        raise _non_finite(tensor, tile, error) from None


def _non_finite(tensor: TensorPlan, tile: Tile, error: kernels.NonFiniteWeights) -> ArrowQuantError:
    flat = (tile.row_start + error.row) * tensor.cols + error.col
    index = [int(i) for i in np.unravel_index(flat, tensor.source.shape)]
    return ArrowQuantError(
        "non_finite_weights",
        f"the weight at {index} is {error.value}",
        "Repair the checkpoint, or keep the tensor with a rule "
        f"{{'match': {tensor.name!r}, 'action': 'keep'}}.",
        {"tensor": tensor.name, "index": index},
    )
