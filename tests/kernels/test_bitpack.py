import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.bitpack import pack, row_bytes, unpack
from tests.kernels.strategies import BITS
from tests.naive import bitstream


@given(st.data(), st.sampled_from(BITS), st.integers(1, 3), st.integers(1, 70))
def test_packed_rows_are_little_endian_bit_streams(data, bits, rows, cols):
    seed = data.draw(st.integers(0, 2**32))
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, cols)).astype(np.uint8)
    packed = pack(codes, bits)
    np.testing.assert_array_equal(packed, bitstream.pack(codes, bits))
    np.testing.assert_array_equal(unpack(packed, bits, cols), codes)
    np.testing.assert_array_equal(bitstream.unpack(packed, bits, cols), codes)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(2, [0b11100100, 0b00000001]), (3, [0b10001000, 0b00010110]), (4, [0x10, 0x32, 0x01])],
)
def test_layout_drawn_in_the_documentation(bits, expected):
    codes = np.array([[0, 1, 2, 3, 1]], np.uint8)
    assert pack(codes, bits)[0].tolist() == expected


def test_row_bytes_rounds_up():
    assert [row_bytes(5, bits) for bits in BITS] == [2, 2, 3, 5]
