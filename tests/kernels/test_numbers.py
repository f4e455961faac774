"""Half precision, widening and ranges against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from kernels.half import half_down1, half_nearest1, half_outward1, single1
from kernels.widen import KINDS
from tests.kernels.strategies import DTYPES, dtypes, llm_like, matrices
from tests.naive import affine, halves

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
near_halves = st.integers(0, 0x7BFF).map(lambda h: float(np.uint16(h).view(np.float16)))
numbers = st.one_of(finite, near_halves, near_halves.map(lambda v: float(np.float32(-1.0002 * v))))


def test_every_half_widens_exactly():
    patterns = np.arange(0x10000, dtype=np.uint16)[None]
    with np.errstate(invalid="ignore"):
        expected = patterns.view(np.float16).astype(np.float32)
    found = kernels.widen(patterns, "F16")
    np.testing.assert_array_equal(found, expected)
    same = ~np.isnan(expected)
    np.testing.assert_array_equal(found[same].view(np.uint32), expected[same].view(np.uint32))
    half = patterns[np.isfinite(expected)]
    assert [float(single1(int(h))) for h in half[::37]] == half.view(np.float16)[::37].tolist()


@given(numbers)
def test_halves_round_like_numpy_and_saturate(x):
    x = np.float32(x)
    assert half_nearest1(x) == halves.nearest(x).view(np.uint16)
    assert half_down1(x) == halves.down(x).view(np.uint16)
    assert half_outward1(x) == halves.outward(x).view(np.uint16)


@given(st.data(), dtypes)
def test_widen_is_exact(data, dtype):
    x = data.draw(matrices(dtype))
    expected = affine.widen(x, dtype)
    np.testing.assert_array_equal(kernels.widen(x, dtype).view(np.uint32), expected.view(np.uint32))


@given(st.data(), dtypes)
def test_value_range_is_min_and_max(data, dtype):
    x = data.draw(matrices(dtype))
    w = affine.widen(x, dtype)
    found = kernels.value_range(x, dtype=dtype, threads=2)
    assert found == (w.min(), w.max())
    assert not np.signbit(np.array(found))[np.array(found) == 0].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_value_range_spans_all_blocks(dtype):
    x = llm_like(100, 6000, 5, dtype)
    w = affine.widen(x, dtype)
    for threads in (1, 2, 3):
        assert kernels.value_range(x, dtype=dtype, threads=threads) == (w.min(), w.max())


def test_an_element_size_that_does_not_fit_is_refused():
    assert set(KINDS) == set(DTYPES)
    with pytest.raises(TypeError, match="BF16 weights cannot be read from float32"):
        kernels.widen(np.zeros((1, 1), np.float32), "BF16")
