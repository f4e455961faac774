"""The reader's decoder of trellis codes against the kernel's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from arrowquant.artifact import trellis
from kernels.trelliscode import values_for


@pytest.mark.parametrize("bits", trellis.BITS)
def test_levels_are_the_kernels(bits):
    np.testing.assert_array_equal(trellis.levels(bits), values_for(bits))


@given(st.sampled_from(trellis.BITS), st.integers(1, 4), st.integers(1, 300), st.integers(0, 2**32))
def test_any_bytes_decode_alike(bits, rows, cols, seed):
    random = np.random.default_rng(seed)
    stride = kernels.trellis_bytes(cols, bits)
    assert trellis.row_bytes(cols, bits) == stride
    codes = random.integers(0, 256, (rows, stride), np.uint8)
    scales = random.integers(-0x7BFF, 0x7C00, rows).astype(np.int16)
    halves = (np.abs(scales) | (scales & -0x8000)).astype(np.uint16).view(np.float16)
    assert np.isfinite(halves).all()
    out = np.empty((rows, cols), np.float32)
    trellis.decode(codes, halves, bits, out)
    expected = kernels.dequantize_trellis(codes, halves, bits=bits, cols=cols)
    np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("bits", trellis.BITS)
def test_a_coded_tensor_decodes_alike(bits):
    x = np.random.default_rng(1).standard_normal((5, 1001), dtype=np.float32)
    encoded = kernels.quantize_trellis(x, dtype="F32", bits=bits)
    out = np.empty_like(x)
    trellis.decode(encoded.codes, encoded.scales, bits, out)
    expected = kernels.dequantize_trellis(encoded.codes, encoded.scales, bits=bits, cols=1001)
    np.testing.assert_array_equal(out, expected)
