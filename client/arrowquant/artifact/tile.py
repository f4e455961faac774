"""A tile: some rows of a tensor as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from arrowquant.artifact import schema
from arrowquant.artifact.rotation import Rotation


class Layout(Protocol):
    """What the number of items in a tile depends on."""

    @property
    def rows(self) -> int: ...

    @property
    def cols(self) -> int: ...

    @property
    def bits(self) -> int: ...

    @property
    def group_size(self) -> int: ...

    @property
    def scale_bits(self) -> int: ...

    @property
    def stride(self) -> int: ...


def groups_in_row(layout: Layout) -> int:
    """Groups of a row; 1 also when the tensor has one scale in all."""
    return -(-layout.cols // layout.group_size) if layout.group_size > 0 else 1


@dataclass(frozen=True, slots=True)
class Tile:
    """Some rows of a tensor as they are stored. The arrays are views of the mapped file.

    codes        uint8 (rows, row stride)
    scale_bits   width of the codes of scales and minima; 0 where they are numbers
    scales, mins, scale_codes, min_codes, codebook   as the codec has them, flat, else None
    rotation     what the rows were turned by, or None
    col_scale    float32 (cols,): what columns were multiplied by before, or None
    bias_correction  float32 (rows,): to be added to the layer's bias, or None
    rho          squared error of the layer's output over its square, where it is known
    """

    tensor: str
    tile_index: int
    row_start: int
    rows: int
    cols: int
    shape: tuple[int, ...]
    dtype: str
    role: str
    codec: str
    bits: int
    group_size: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16] | None
    mins: NDArray[np.float16] | None
    relmse: float | None
    crc32c: int
    where: dict[str, Any]
    scale_bits: int = 0
    scale_codes: NDArray[np.uint8] | None = None
    min_codes: NDArray[np.uint8] | None = None
    codebook: NDArray[np.float32] | None = None
    rotation: Rotation | None = None
    col_scale: NDArray[np.float32] | None = None
    bias_correction: NDArray[np.float32] | None = None
    rho: float | None = None

    @property
    def groups(self) -> int:
        """Groups of a row (1 when the tensor has one scale in all)."""
        return groups_in_row(self)

    @property
    def stride(self) -> int:
        """Bytes of a row of codes."""
        return int(self.codes.shape[1])

    @property
    def stored_bytes(self) -> int:
        """Bytes of everything that carries weights."""
        arrays = (getattr(self, name) for name in schema.LARGE)
        return sum(part.nbytes for part in arrays if part is not None)
