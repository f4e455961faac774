"""Sums of values decoded elsewhere, against float64 by NumPy."""

import numpy as np
import pytest

import kernels
from tests.kernels.strategies import DTYPES, llm_like
from tests.naive import affine


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_the_formulae(dtype, weighted):
    rng = np.random.default_rng(1)
    x = llm_like(150, 1003, 1)
    x = affine.widen(x, "BF16") if dtype == "F32" else x
    w = affine.widen(x, dtype).astype(float)
    v = (w + rng.normal(0, 0.1, w.shape)).astype(np.float32)
    h = rng.uniform(0, 3, 1003).astype(np.float32) if weighted else None
    found = kernels.measure(x, v, dtype=dtype, weights=h)
    by = np.ones(1003) if h is None else h.astype(float)
    for name, terms in (
        ("sum_w2", w * w), ("sum_e2", (w - v) ** 2), ("sum_wq", w * v), ("sum_q2", v.astype(float) ** 2)
    ):  # fmt: skip
        assert getattr(found, name) == pytest.approx((terms * by).sum(), rel=1e-9)
    assert found.max_abs_error == np.abs(w - v).max()
    assert found.count == w.size
    for threads in (2, 7):
        assert kernels.measure(x, v, dtype=dtype, weights=h, threads=threads) == found


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_smoothing_asks_of_a_matrix(dtype):
    """Largest of columns, columns times factors, their errors divided again, ranges of groups: against NumPy."""
    rng = np.random.default_rng(2)
    x = llm_like(70, 203, 3)
    x = affine.widen(x, "BF16") if dtype == "F32" else x
    w = affine.widen(x, dtype)
    s = rng.uniform(0.1, 9, 203).astype(np.float32)
    np.testing.assert_array_equal(kernels.column_largest(x, dtype=dtype), np.abs(w).max(0))
    product = kernels.multiplied(x, s, dtype=dtype)
    np.testing.assert_array_equal(product, w * s)
    np.testing.assert_array_equal(kernels.multiplied(x, s, dtype=dtype, threads=3), product)
    v = (product + rng.normal(0, 0.1, w.shape)).astype(np.float32)
    back = kernels.measure(x, v / s, dtype=dtype)
    assert kernels.measure(x, v, dtype=dtype, divisors=s, threads=2) == back
    for group in (64, 0):
        size = group or 203
        parts = [product[:, k : k + size].astype(float) for k in range(0, 203, size)]
        expected = [np.square(part.max(1) - part.min(1)).sum() for part in parts]
        assert kernels.squared_ranges(w, s, group) == pytest.approx(expected, rel=1e-12)


def test_a_column_that_is_not_finite_has_no_finite_largest():
    w = np.ones((3, 5), np.float32)
    w[1, 2], w[2, 4] = np.nan, -np.inf
    assert np.isfinite(kernels.column_largest(w, dtype="F32")).tolist() == [1, 1, 0, 1, 0]
