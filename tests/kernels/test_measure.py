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
