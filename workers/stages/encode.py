"""From a tile's source bytes to what is stored of it, through the kernels."""

from __future__ import annotations

from typing import Literal, cast

import google_crc32c
import numpy as np
import numpy.typing as npt

import kernels
from service.domain.errors import ArrowQuantError
from service.domain.treatment import TensorPlan
from service.domain.units import Tile
from workers.artifact.schema import StoredTile

Range = tuple[float, float]


def encode_tile(
    tensor: TensorPlan,
    tile: Tile,
    matrix: npt.NDArray[np.generic],
    value_range: Range | None,
    threads: int,
) -> tuple[StoredTile, kernels.ErrorSums]:
    """Quantize one tile.

    matrix       (rows, cols), see FetchedTile.matrix
    value_range  the tensor's range, for one scale per tensor
    Raises       non_finite_weights, naming the tensor and the index in its own shape
    """
    how = tensor.treatment
    dtype = cast(Literal["BF16", "F16", "F32"], tensor.source.dtype)
    try:
        if value_range is not None:
            encoded = kernels.quantize_fixed(
                matrix,
                dtype=dtype,
                bits=how.bits,
                lo=value_range[0],
                hi=value_range[1],
                symmetric=how.symmetric,
                threads=threads,
            )
        else:
            encoded = kernels.quantize(
                matrix,
                dtype=dtype,
                bits=how.bits,
                group_size=how.group_size,
                symmetric=how.symmetric,
                method=cast(Literal["lsq", "minmax"], how.method),
                unbias=how.unbias,
                threads=threads,
            )
    except kernels.NonFiniteWeights as error:
        raise _non_finite(tensor, tile, error) from None
    stored = StoredTile(
        encoded.codes,
        encoded.scales,
        encoded.mins,
        encoded.errors.rel_mse,
        google_crc32c.value(encoded.codes.reshape(-1)),
    )
    return stored, encoded.errors


def keep_tile(data: npt.NDArray[np.uint8]) -> StoredTile:
    """A raw tile: the source's own bytes."""
    return StoredTile(data, None, None, None, google_crc32c.value(data))


def tile_range(
    tensor: TensorPlan, tile: Tile, matrix: npt.NDArray[np.generic], threads: int
) -> Range:
    """Smallest and largest weight of a tile."""
    dtype = cast(Literal["BF16", "F16", "F32"], tensor.source.dtype)
    try:
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
