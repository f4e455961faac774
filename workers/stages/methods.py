"""Each method's way from weights to what is stored, and each codec's way back, through the kernels.

A method that is added has one function here; what it can do is in `service.domain.methods`, what its
codec takes in `service.domain.sizes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
import numpy.typing as npt

import kernels
from service.domain.profiles import Method
from service.domain.treatment import TensorPlan, Treatment
from workers.artifact.schema import StoredTile

Dtype = Literal["BF16", "F16", "F32"]
Range = tuple[float, float]
Fitted = tuple[StoredTile, kernels.ErrorSums, kernels.ErrorSums | None]


@dataclass(frozen=True, slots=True)
class Weights:
    """What a method is given.

    x            (rows, cols): float32, or uint16 bit patterns for BF16 and F16
    importance   float32 (cols,), of every input channel; None: all the same
    value_range  of the whole tensor, for one scale per tensor
    """

    x: npt.NDArray[np.generic]
    dtype: Dtype
    importance: npt.NDArray[np.float32] | None
    value_range: Range | None
    threads: int


def fit(weights: Weights, how: Treatment) -> Fitted:
    """What is stored, its errors, and the same by importance where it was given and the method weighs."""
    assert how.method is not None
    return _FITS[how.method](weights, how)


def decode(
    stored: StoredTile, plan: TensorPlan, threads: int, out: npt.NDArray[np.float32]
) -> None:
    """The values of a tile, written to float32 (rows, cols), as readers have them before they turn
    anything back."""
    _DECODERS[plan.treatment.codec](stored, plan, threads, out)


def values(
    stored: StoredTile, plan: TensorPlan, threads: int, out: npt.NDArray[np.float32]
) -> None:
    """The same, with columns divided by their factors again."""
    decode(stored, plan, threads, out)
    if stored.col_scale is not None:
        out /= stored.col_scale


def stored_groups(encoded: kernels.Encoded) -> StoredTile:
    """Codes with a scale, and a minimum, of each group."""
    return StoredTile(encoded.codes, encoded.errors.rel_mse, encoded.scales, encoded.mins)


def stored_super(encoded: kernels.EncodedSuper) -> StoredTile:
    """Codes with scales of two levels."""
    return StoredTile(
        encoded.codes,
        encoded.errors.rel_mse,
        scales=encoded.d,
        mins=encoded.dm,
        scale_codes=encoded.scale_codes,
        min_codes=encoded.min_codes,
    )


def _groups(weights: Weights, how: Treatment) -> Fitted:
    encoded = kernels.quantize(
        weights.x,
        dtype=weights.dtype,
        bits=how.bits,
        group_size=how.group_size,
        symmetric=how.symmetric,
        method=cast(Literal["lsq", "minmax"], how.method),
        unbias=how.unbias,
        weights=None if how.method == "minmax" else weights.importance,
        threads=weights.threads,
    )
    return _affine(encoded)


def _minmax(weights: Weights, how: Treatment) -> Fitted:
    if weights.value_range is None:
        return _groups(weights, how)
    encoded = kernels.quantize_fixed(
        weights.x,
        dtype=weights.dtype,
        bits=how.bits,
        lo=weights.value_range[0],
        hi=weights.value_range[1],
        symmetric=how.symmetric,
        threads=weights.threads,
    )
    return _affine(encoded)


def _affine(encoded: kernels.Encoded) -> Fitted:
    return stored_groups(encoded), encoded.errors, encoded.weighted


def _superblock(weights: Weights, how: Treatment) -> Fitted:
    encoded = kernels.quantize_superblock(
        weights.x,
        dtype=weights.dtype,
        bits=how.bits,
        group_size=how.group_size,
        scale_bits=how.scale_bits,
        unbias=how.unbias,
        weights=weights.importance,
        threads=weights.threads,
    )
    return stored_super(encoded), encoded.errors, encoded.weighted


def _trellis(weights: Weights, how: Treatment) -> Fitted:
    encoded = kernels.quantize_trellis(
        weights.x,
        dtype=weights.dtype,
        bits=how.bits,
        unbias=how.unbias,
        weights=weights.importance,
        threads=weights.threads,
    )
    stored = StoredTile(encoded.codes, encoded.errors.rel_mse, encoded.scales)
    return stored, encoded.errors, encoded.weighted


def _hqq(weights: Weights, how: Treatment) -> Fitted:
    return _affine(
        kernels.quantize_hqq(
            weights.x,
            dtype=weights.dtype,
            bits=how.bits,
            group_size=how.group_size,
            threads=weights.threads,
        )
    )


def _codebook(weights: Weights, how: Treatment) -> Fitted:
    nf4 = how.codebook == "nf4"
    encoded = kernels.quantize_codebook(
        weights.x,
        dtype=weights.dtype,
        levels=kernels.nf4_levels() if nf4 else kernels.lloyd_max_levels(how.bits),
        group_size=how.group_size,
        search=not nf4,
        weights=weights.importance,
        threads=weights.threads,
    )
    errors = encoded.errors
    stored = StoredTile(encoded.codes, errors.rel_mse, encoded.scales, codebook=encoded.levels)
    return stored, errors, encoded.weighted


_FITS: Final[dict[Method, Callable[[Weights, Treatment], Fitted]]] = {
    "lsq": _groups,
    "minmax": _minmax,
    "superblock": _superblock,
    "trellis": _trellis,
    "hqq": _hqq,
    "codebook": _codebook,
}


def _decode_affine(
    stored: StoredTile, plan: TensorPlan, threads: int, out: npt.NDArray[np.float32]
) -> None:
    how = plan.treatment
    assert stored.scales is not None
    kernels.dequantize(
        stored.codes,
        stored.scales,
        stored.mins,
        bits=how.bits,
        cols=plan.cols,
        group_size=how.group_size,
        threads=threads,
        out=out,
    )


def _decode_superblock(
    stored: StoredTile, plan: TensorPlan, threads: int, out: npt.NDArray[np.float32]
) -> None:
    how = plan.treatment
    assert stored.scale_codes is not None
    assert stored.min_codes is not None
    assert stored.scales is not None
    assert stored.mins is not None
    kernels.dequantize_superblock(
        stored.codes,
        stored.scale_codes,
        stored.min_codes,
        stored.scales,
        stored.mins,
        bits=how.bits,
        cols=plan.cols,
        group_size=how.group_size,
        scale_bits=how.scale_bits,
        threads=threads,
        out=out,
    )


def _decode_trellis(
    stored: StoredTile, plan: TensorPlan, threads: int, out: npt.NDArray[np.float32]
) -> None:
    assert stored.scales is not None
    kernels.dequantize_trellis(
        stored.codes,
        stored.scales,
        bits=plan.treatment.bits,
        cols=plan.cols,
        threads=threads,
        out=out,
    )


def _decode_codebook(
    stored: StoredTile, plan: TensorPlan, threads: int, out: npt.NDArray[np.float32]
) -> None:
    assert stored.scales is not None
    assert stored.codebook is not None
    kernels.dequantize_codebook(
        stored.codes,
        stored.scales,
        stored.codebook,
        cols=plan.cols,
        group_size=plan.treatment.group_size,
        threads=threads,
        out=out,
    )


_DECODERS: Final[
    dict[str, Callable[[StoredTile, TensorPlan, int, npt.NDArray[np.float32]], None]]
] = {
    "affine_u": _decode_affine,
    "sym_s": _decode_affine,
    "superblock": _decode_superblock,
    "codebook": _decode_codebook,
    "trellis": _decode_trellis,
}
