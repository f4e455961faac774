"""Quantization of weight matrices: arrays in, arrays out.

Vocabulary: a *row* is one output of a linear layer; a *group* is a run of consecutive weights of a
row that share a scale; a *code* is the small integer stored for a weight. Functions ending in 1
work on one number or one group's numbers, functions ending in _rows on a block of rows. Nothing
here reads files, logs, or looks at the clock, and arguments are checked by the callers.

With calibration (H = E[x x^T] of a layer's inputs, h its diagonal, mu = E[x]):

    quantize, quantize_superblock, quantize_codebook   weights=h
    factor = gptq_factor(H, cols=n)                    once for each input; H full or in blocks; memory: gptq_bytes
    quantize_gptq(x, ..., factor=factor)               Encoded as of quantize, decoded by dequantize
    alpha, s = awq_scales(tiles, h, loss)              then quantize scale_columns(w, s) with weights
                                                       scaled_importance(h, s), store s as col_scale
    quantize_gptq_superblock(x, ..., factor=factor)    EncodedSuper, the same with scales of two levels
    output_sums(w, v, H | blocks | h).rho              error of the output; tiles add up
    group_errors(column_energies(w, v), [h_g, ...])    rho for each time group
    bias_correction(w, v, mu)                          what to add to the bias
    p = row_products(w, v, H); f = least_error_factors(p) or unbiased_factors(p, strength);
    rescale(encoded, f, w, ...)                        scales of every row times its factor
"""

from kernels.awq import (
    awq_losses,
    awq_scale,
    awq_scales,
    divided_moments,
    scale_columns,
    scaled_importance,
)
from kernels.codebook import EncodedCodebook, dequantize_codebook, quantize_codebook
from kernels.codebooks import lloyd_max_levels, nf4_levels
from kernels.corrections import (
    bias_correction,
    least_error_factors,
    rescale,
    stretch,
    unbiased_factors,
)
from kernels.engine import Encoded, dequantize, quantize, quantize_fixed, value_range
from kernels.errors import NonFiniteWeights
from kernels.factor import Factor, gptq_bytes, gptq_factor
from kernels.fidelity import ErrorSums
from kernels.gptq import quantize_gptq, quantize_gptq_superblock
from kernels.hadamard import rotate, rotation_block, unrotate
from kernels.hqq import quantize_hqq
from kernels.measure import measure
from kernels.output import (
    OutputSums,
    column_energies,
    group_errors,
    group_sums,
    output_sums,
    row_products,
    summed,
)
from kernels.smooth import column_largest, multiplied, squared_ranges
from kernels.superblock import EncodedSuper, dequantize_superblock, quantize_superblock
from kernels.trellis import (
    EncodedTrellis,
    dequantize_trellis,
    quantize_trellis,
    trellis_bytes,
)
from kernels.widen import widen

__all__ = [
    "Encoded",
    "EncodedCodebook",
    "EncodedSuper",
    "EncodedTrellis",
    "ErrorSums",
    "Factor",
    "NonFiniteWeights",
    "OutputSums",
    "awq_losses",
    "awq_scale",
    "awq_scales",
    "bias_correction",
    "column_energies",
    "column_largest",
    "dequantize",
    "dequantize_codebook",
    "dequantize_superblock",
    "dequantize_trellis",
    "divided_moments",
    "gptq_bytes",
    "gptq_factor",
    "group_errors",
    "group_sums",
    "least_error_factors",
    "lloyd_max_levels",
    "measure",
    "multiplied",
    "nf4_levels",
    "output_sums",
    "quantize",
    "quantize_codebook",
    "quantize_fixed",
    "quantize_gptq",
    "quantize_gptq_superblock",
    "quantize_hqq",
    "quantize_superblock",
    "quantize_trellis",
    "rescale",
    "rotate",
    "rotation_block",
    "row_products",
    "scale_columns",
    "scaled_importance",
    "squared_ranges",
    "stretch",
    "summed",
    "trellis_bytes",
    "unbiased_factors",
    "unrotate",
    "value_range",
    "widen",
]
