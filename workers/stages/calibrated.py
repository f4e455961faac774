"""Tiles of calibrated tensors: GPTQ, scales of columns, the error of the output, the bias."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

import kernels
from service.domain.treatment import TensorPlan
from workers.artifact.schema import StoredTile
from workers.stages import methods
from workers.stages.methods import Fitted, Weights


@dataclass(frozen=True, slots=True)
class Moments:
    """H of a layer's inputs as kernels take it, (n, n) or (blocks, B, B), and its factor."""

    matrix: npt.NDArray[np.float32]
    factor: kernels.Factor


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known of a tensor's inputs, as far as its treatment asks for it.

    importance  float32 (cols,), E[x^2]
    mean        float32 (cols,), E[x], to correct the bias
    moments     for GPTQ
    factors     float32 (cols,), what columns are multiplied by where they are smoothed
    """

    importance: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32] | None = None
    moments: Moments | None = None
    factors: npt.NDArray[np.float32] | None = None


def fit(weights: Weights, tensor: TensorPlan, inputs: Inputs) -> Fitted:
    """What is stored of a tile, its errors, and those of the layer's output."""
    if inputs.moments is not None:
        stored, errors, output = _gptq(weights, tensor, inputs.moments)
    elif inputs.factors is not None:
        stored, errors, output = _scaled(weights, tensor, inputs.importance, inputs.factors)
    elif tensor.treatment.col_scale:
        stored, errors, output = _awq(weights, tensor, inputs.importance)
    else:
        stored, errors, output = methods.fit(weights, tensor.treatment)
    if inputs.mean is not None:
        stored = replace(stored, bias_correction=_bias(weights, tensor, stored, inputs.mean))
    return stored, errors, output


def _gptq(weights: Weights, tensor: TensorPlan, moments: Moments) -> Fitted:
    how = tensor.treatment
    encoded = kernels.quantize_gptq(
        weights.x,
        dtype=weights.dtype,
        bits=how.bits,
        group_size=how.group_size,
        symmetric=how.symmetric,
        factor=moments.factor,
        threads=weights.threads,
    )
    errors = encoded.errors
    stored = StoredTile(encoded.codes, errors.rel_mse, encoded.scales, encoded.mins)
    w, v = _values(weights, tensor, stored)
    total = kernels.output_sums(w, v, moments.matrix, threads=weights.threads)
    return stored, errors, kernels.ErrorSums(sum_w2=total.energy, sum_e2=total.error)


def _awq(weights: Weights, tensor: TensorPlan, importance: npt.NDArray[np.float32]) -> Fitted:
    """The strength is chosen for the tile: its factors are stored with it."""
    how, threads = tensor.treatment, weights.threads
    w = kernels.widen(weights.x, weights.dtype)

    def scaled(x: npt.NDArray[np.float32], h: npt.NDArray[np.float32]) -> Fitted:
        return methods.fit(Weights(x, "F32", h, None, threads), how)

    def loss(x: npt.NDArray[np.float32], h: npt.NDArray[np.float32]) -> float:
        weighted = scaled(x, h)[2]
        assert weighted is not None
        return weighted.sum_e2

    _, scale = kernels.awq_scales([w], importance, loss, threads=threads)
    return _scaled(weights, tensor, importance, scale)


def _scaled(
    weights: Weights,
    tensor: TensorPlan,
    importance: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
) -> Fitted:
    """Columns times factors, quantized; errors are those of the weights that readers divide again."""
    threads = weights.threads
    product = kernels.multiplied(weights.x, scale, dtype=weights.dtype, threads=threads)
    h = kernels.scaled_importance(importance, scale)
    stored, _, output = methods.fit(Weights(product, "F32", h, None, threads), tensor.treatment)
    methods.decode(stored, tensor, threads, product)
    errors = kernels.measure(
        weights.x, product, dtype=weights.dtype, divisors=scale, threads=threads
    )
    return replace(stored, relmse=errors.rel_mse, col_scale=scale), errors, output


def _bias(
    weights: Weights, tensor: TensorPlan, stored: StoredTile, mean: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    w, v = _values(weights, tensor, stored)
    return kernels.bias_correction(w, v, mean, weights.threads)


def _values(
    weights: Weights, tensor: TensorPlan, stored: StoredTile
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The weights and what readers have of them, float32 (rows, cols)."""
    w = kernels.widen(weights.x, weights.dtype)
    v = np.empty(w.shape, np.float32)
    methods.decode(stored, tensor, weights.threads, v)
    if stored.col_scale is not None:
        v /= stored.col_scale
    return w, v
