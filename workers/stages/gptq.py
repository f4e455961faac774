"""Tiles rounded by GPTQ: by the second moments of the layer's inputs, after AWQ's factors if asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

import kernels
from service.domain.treatment import TensorPlan, Treatment
from workers.artifact.schema import StoredTile
from workers.stages import awq, methods
from workers.stages.methods import Fitted, Weights

Single = npt.NDArray[np.float32]


@dataclass(slots=True)
class Moments:
    """H of a layer's inputs as kernels take it, (n, n) or (blocks, B, B), and its factor.

    Of inputs that are divided, the last factor is kept: tiles choose among few strengths, mostly the same.
    """

    matrix: Single
    factor: kernels.Factor
    _divided: tuple[bytes, kernels.Factor] | None = field(default=None, repr=False)

    def divided(self, scale: Single, threads: int) -> kernels.Factor:
        """The factor for inputs divided by scale (n,)."""
        key = scale.tobytes()
        if self._divided is None or self._divided[0] != key:
            self._divided = None  # before the next one takes as much
            made = kernels.gptq_factor(
                kernels.divided_moments(self.matrix, scale),
                cols=self.factor.cols,
                damp=self.factor.damp,
                act_order=self.factor.act_order,
                threads=threads,
            )
            self._divided = key, made
        return self._divided[1]


def fit(weights: Weights, tensor: TensorPlan, moments: Moments) -> Fitted:
    """What is stored of a tile, its errors, and those of the layer's output under the moments.

    `unbias` gives back the gain of the layer's output, see kernels.unbiased_factors: codes stay.
    """
    how, threads = tensor.treatment, weights.threads
    w = kernels.widen(weights.x, weights.dtype)
    if how.col_scale:
        scale = awq.scale_of(w, how, moments.factor.importance, threads)
        product = kernels.scale_columns(w, scale, threads=threads)
        scaled = replace(weights, x=product, dtype="F32")
        stored = _rounded(scaled, how, moments.divided(scale, threads))
        stored = replace(stored, col_scale=scale)
    else:
        stored = _rounded(weights, how, moments.factor)
    v = np.empty(w.shape, np.float32)
    methods.values(stored, tensor, threads, v)
    products = kernels.row_products(w, v, moments.matrix, threads)
    if how.unbias:
        factors = kernels.unbiased_factors(products, how.unbias)
        stored = _stretched(stored, factors)
        methods.values(stored, tensor, threads, v)
        products = kernels.row_products(w, v, moments.matrix, threads)
    errors = kernels.measure(weights.x, v, dtype=weights.dtype, threads=threads)
    total = kernels.summed(products)
    output = kernels.ErrorSums(sum_w2=total.energy, sum_e2=total.error)
    return replace(stored, relmse=errors.rel_mse), errors, output


def _rounded(weights: Weights, how: Treatment, factor: kernels.Factor) -> StoredTile:
    if how.method == "superblock":
        blocks = kernels.quantize_gptq_superblock(
            weights.x,
            dtype=weights.dtype,
            bits=how.bits,
            group_size=how.group_size,
            scale_bits=how.scale_bits,
            factor=factor,
            threads=weights.threads,
        )
        return methods.stored_super(blocks)
    groups = kernels.quantize_gptq(
        weights.x,
        dtype=weights.dtype,
        bits=how.bits,
        group_size=how.group_size,
        symmetric=how.symmetric,
        factor=factor,
        threads=weights.threads,
    )
    return methods.stored_groups(groups)


def _stretched(stored: StoredTile, factors: npt.NDArray[np.float64]) -> StoredTile:
    assert stored.scales is not None
    mins = None if stored.mins is None else kernels.stretch(stored.mins, factors)
    return replace(stored, scales=kernels.stretch(stored.scales, factors), mins=mins)
