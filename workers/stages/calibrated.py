"""Tiles of calibrated tensors: factors of columns, the error of the output, the bias."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

import kernels
from service.domain.treatment import TensorPlan
from workers.artifact.schema import StoredTile
from workers.stages import awq, gptq, methods
from workers.stages.gptq import Moments
from workers.stages.methods import Fitted, Weights


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known of a tensor's inputs, as far as its treatment asks for it.

    importance  float32 (cols,), E[x^2]
    mean        float32 (cols,), E[x], to correct the bias
    moments     for GPTQ
    factors     float32 (cols,), what columns are multiplied by where they are smoothed
    groups      float32 (bins, cols), E[x^2] in each time bin, where there are several
    """

    importance: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32] | None = None
    moments: Moments | None = None
    factors: npt.NDArray[np.float32] | None = None
    groups: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """Of the layer's output: its errors, and error and energy in each time bin, float64 (bins, 2), where
    there are several."""

    errors: kernels.ErrorSums
    groups: npt.NDArray[np.float64] | None = None


def fit(
    weights: Weights, tensor: TensorPlan, inputs: Inputs
) -> tuple[StoredTile, kernels.ErrorSums, Outputs]:
    """What is stored of a tile, its errors, and those of the layer's output."""
    if inputs.moments is not None:
        stored, errors, output = gptq.fit(weights, tensor, inputs.moments)
    elif inputs.factors is not None:
        stored, errors, output = _scaled(weights, tensor, inputs.importance, inputs.factors)
    elif tensor.treatment.col_scale:
        w, h = kernels.widen(weights.x, weights.dtype), inputs.importance
        factors = awq.scale_of(w, tensor.treatment, h, weights.threads)
        stored, errors, output = _scaled(weights, tensor, h, factors)
    else:
        stored, errors, output = methods.fit(weights, tensor.treatment)
    if output is not None and inputs.mean is None and inputs.groups is None:
        return stored, errors, Outputs(output)
    values = np.empty(weights.x.shape, np.float32)
    methods.values(stored, tensor, weights.threads, values)
    if inputs.mean is not None:
        bias = kernels.bias_correction(
            kernels.widen(weights.x, weights.dtype), values, inputs.mean, weights.threads
        )
        stored = replace(stored, bias_correction=bias)
    return (
        stored,
        errors,
        outputs(weights.x, weights.dtype, values, inputs, weights.threads, output),
    )


def outputs(
    matrix: npt.NDArray[np.generic],
    dtype: methods.Dtype,
    values: npt.NDArray[np.float32],
    inputs: Inputs,
    threads: int,
    errors: kernels.ErrorSums | None = None,
) -> Outputs:
    """What decoded values (rows, cols) make of the layer's output; `errors` where they are known already."""
    if errors is None:
        errors = kernels.measure(
            matrix, values, dtype=dtype, weights=inputs.importance, threads=threads
        )
    if inputs.groups is None:
        return Outputs(errors)
    w = kernels.widen(matrix, dtype)
    energies = kernels.column_energies(w, values, threads)
    return Outputs(errors, kernels.group_sums(energies, inputs.groups))


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
