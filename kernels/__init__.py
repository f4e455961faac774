"""Quantization of weight matrices: arrays in, arrays out.

Vocabulary: a *row* is one output of a linear layer; a *group* is a run of consecutive weights of a
row that share a scale; a *code* is the small integer stored for a weight. Functions ending in 1
work on one number or one group's numbers, functions ending in _rows on a block of rows. Nothing
here reads files, logs, or looks at the clock, and arguments are checked by the callers.
"""

from kernels.codebook import EncodedCodebook, dequantize_codebook, quantize_codebook
from kernels.codebooks import lloyd_max_levels, nf4_levels
from kernels.engine import Encoded, dequantize, quantize, quantize_fixed, value_range
from kernels.errors import NonFiniteWeights
from kernels.fidelity import ErrorSums
from kernels.hadamard import rotate, rotation_block, unrotate
from kernels.hqq import quantize_hqq
from kernels.measure import measure
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
    "NonFiniteWeights",
    "dequantize",
    "dequantize_codebook",
    "dequantize_superblock",
    "dequantize_trellis",
    "lloyd_max_levels",
    "measure",
    "nf4_levels",
    "quantize",
    "quantize_codebook",
    "quantize_fixed",
    "quantize_hqq",
    "quantize_superblock",
    "quantize_trellis",
    "rotate",
    "rotation_block",
    "trellis_bytes",
    "unrotate",
    "value_range",
    "widen",
]
