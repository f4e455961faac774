"""Errors of outputs, and what is put right after rounding, against formulae in plain NumPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from tests.kernels.moments import blocks_of, correlated, hostile
from tests.kernels.strategies import llm_like, matrices
from tests.naive import affine, gptq, unbiased

FORMS = ("full", "blocks", "diagonal")


def in_form(h, form, size=24):
    return {"full": h, "blocks": blocks_of(h, size), "diagonal": np.diag(h).copy()}[form]


def coded(w, n_bits=2, group_size=64, **more):
    encoded = kernels.quantize(
        w, dtype="F32", bits=n_bits, group_size=group_size, symmetric=False, method="lsq", **more
    )
    v = kernels.dequantize(
        encoded.codes, encoded.scales, encoded.mins, bits=n_bits, cols=w.shape[1],
        group_size=group_size,
    )  # fmt: skip
    return encoded, v


def products(w, v, h):
    w, v = w.astype(float), v.astype(float)
    pairs = ((w, w), (w, v), (v, v), (w - v, w - v))
    return np.stack([np.einsum("ij,jk,ik->i", a, h, b) for a, b in pairs], 1)


@pytest.mark.parametrize("form", FORMS)
@given(st.data(), st.integers(1, 5), st.integers(1, 70))
@settings(max_examples=40)
def test_products_of_rows(form, data, rows, cols):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scale = data.draw(st.sampled_from((1e-18, 1.0, 1e18)))
    w = (random.standard_normal((rows, cols)) * scale).astype(np.float32)
    v = (w * random.choice([0.0, 0.9, 1.0], (rows, cols))).astype(np.float32)
    moments = in_form(data.draw(hostile(cols)), form)
    found = kernels.row_products(w, v, moments)
    expected = products(w, v, gptq.dense(moments, cols))
    bound = 1e-11 * np.sqrt(np.square(expected).sum(1, keepdims=True)) + 1e-280
    assert (np.abs(found - expected) <= bound).all()
    sums = kernels.output_sums(w, v, moments)
    assert sums.error == pytest.approx(math.fsum(found[:, 3]))
    assert sums.energy == pytest.approx(math.fsum(found[:, 0]))
    assert kernels.OutputSums(*(2 * n for n in (sums.error, sums.energy))) == sums + sums


@pytest.mark.parametrize("form", FORMS)
def test_products_do_not_depend_on_threads_and_rho_is_the_written_one(form):
    w, h = affine.widen(llm_like(150, 300, 2), "BF16"), correlated(300, 3)
    moments = in_form(h, form, 128)
    _, v = coded(w)
    first, *others = (kernels.row_products(w, v, moments, threads) for threads in (1, 2, 7))
    assert all(other.tobytes() == first.tobytes() for other in others)
    expected = gptq.output_error(w, v.astype(float), gptq.dense(moments, 300))
    assert kernels.output_sums(w, v, moments, 2).rho == pytest.approx(expected, rel=1e-9)


def test_rho_of_nothing():
    assert kernels.OutputSums(0.0, 0.0).rho == 0.0
    assert kernels.OutputSums(1.0, 0.0).rho == math.inf
    for moments in (np.ones(3), np.ones((3, 3)), np.ones((1, 5, 5))):
        with pytest.raises(ValueError, match="do not fit"):
            kernels.row_products(*np.ones((2, 4, 7), np.float32), moments.astype(np.float32))


def test_the_worst_of_several_diagonals():
    w = affine.widen(llm_like(130, 90, 4), "BF16")
    _, v = coded(w, group_size=32)
    diagonals = np.random.default_rng(5).lognormal(0, 2, (6, 90)).astype(np.float32)
    diagonals[4] = 0.0
    first, *others = (kernels.column_energies(w, v, threads) for threads in (1, 2, 5))
    assert all(other.tobytes() == first.tobytes() for other in others)
    halves = [kernels.column_energies(w[a], v[a]) for a in (slice(0, 40), slice(40, 130))]
    np.testing.assert_allclose(sum(halves), first, rtol=1e-12)
    found = kernels.group_errors(first, diagonals)
    for rho, h in zip(found[:4], diagonals, strict=False):
        expected = gptq.output_error(w, v.astype(float), np.diag(h.astype(float)))
        assert rho == pytest.approx(expected, rel=1e-9)
    assert found[4] == 0.0
    assert found.argmax() != 4


@given(st.data(), st.sampled_from(("F32", "BF16")))
def test_the_mean_error_goes_to_the_bias(data, dtype):
    w = affine.widen(data.draw(matrices(dtype)), dtype)
    _, v = coded(w, group_size=32)
    mean = np.random.default_rng(data.draw(st.integers(0, 99))).normal(0, 2, w.shape[1])
    mean = mean.astype(np.float32)
    found = kernels.bias_correction(w, v, mean, threads=2)
    d = (w.astype(float) - v) * mean.astype(float)
    bound = 1e-9 * np.abs(d).sum(1) + 1e-45
    largest = float(np.finfo(np.float32).max)
    expected = np.clip([math.fsum(row) for row in d], -largest, largest)
    assert (np.abs(found.astype(float) - expected) <= bound + 1e-7 * np.abs(expected)).all()


def test_after_bias_correction_the_mean_output_is_right():
    w = affine.widen(llm_like(40, 256, 1), "BF16")
    _, v = coded(w)
    mean = np.random.default_rng(2).standard_normal(256).astype(np.float32)
    before = (v.astype(float) - w) @ mean.astype(float)
    after = before + kernels.bias_correction(w, v, mean)
    assert np.abs(after).max() < 1e-6 * np.abs(before).max()


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_rescaled_under_the_moments(form):
    w, h = affine.widen(llm_like(70, 256, 8), "BF16"), correlated(256, 6)
    moments = in_form(h, form, 64)
    encoded, v = coded(w)
    found = kernels.row_products(w, v, moments)
    least = kernels.least_error_factors(found)
    np.testing.assert_allclose(least, found[:, 1] / found[:, 2])
    half = kernels.unbiased_factors(found, 0.5)
    np.testing.assert_allclose(half, 1 + 0.5 * (found[:, 0] / found[:, 1] - 1))
    for factors in (least, kernels.unbiased_factors(found, 1.0)):
        again = kernels.rescale(
            encoded, factors, w, bits=2, group_size=64, weights=np.diag(h).copy()
        )
        assert again.codes is encoded.codes
        for r in (0, 69):
            np.testing.assert_array_equal(
                again.scales[r], unbiased.stretch(encoded.scales[r], factors[r])
            )
            np.testing.assert_array_equal(
                again.mins[r], unbiased.stretch(encoded.mins[r], factors[r])
            )
        moved = kernels.dequantize(
            again.codes, again.scales, again.mins, bits=2, cols=256, group_size=64
        )
        np.testing.assert_allclose(again.errors.sum_e2, affine.error_sums(w, moved)[1], rtol=1e-9)
        e = (np.diag(h).astype(float) * np.square(w.astype(float) - moved)).sum()
        np.testing.assert_allclose(again.weighted.sum_e2, e, rtol=1e-9)
        now = kernels.row_products(w, moved, moments)
        if factors is least:
            assert (now[:, 3] <= found[:, 3] * 1.001).all()
        else:
            np.testing.assert_allclose(now[:, 1] / now[:, 0], 1.0, atol=1e-3)


def test_rows_that_are_no_fit_keep_their_scales():
    odd = np.array(
        [[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 5.0, 4.0], [1.0, 5.0, 1.0, 4.0], [1, -1, 1, 4]]
    )
    np.testing.assert_array_equal(kernels.least_error_factors(odd), 1.0)
    np.testing.assert_array_equal(kernels.unbiased_factors(odd[[0, 2, 3]], 1.0), 1.0)


def loss_of(n_bits):
    def loss(x, h):
        encoded, _ = coded(x, n_bits, 32, weights=h)
        return encoded.weighted.sum_e2

    return loss


def test_scales_of_columns_reduce_the_error_under_the_diagonal():
    w = affine.widen(llm_like(96, 320, 3), "BF16")
    h = np.random.default_rng(1).lognormal(0, 2.5, 320).astype(np.float32)
    h[5] = 0.0
    alpha, s = kernels.awq_scales([w[:50], w[50:]], h, loss_of(4))
    losses = kernels.awq_losses(w, h, loss_of(4))
    np.testing.assert_allclose(
        losses, sum(kernels.awq_losses(tile, h, loss_of(4)) for tile in (w[:50], w[50:]))
    )
    assert alpha > 0.0
    assert losses.min() < 0.85 * losses[0]
    np.testing.assert_array_equal(s, kernels.awq_scale(h, alpha))
    scaled = kernels.scale_columns(w, s, threads=2)
    np.testing.assert_array_equal(scaled, w * s)
    _, v = coded(scaled, 4, 32, weights=kernels.scaled_importance(h, s))
    back = kernels.scale_columns(v, s, divide=True)
    np.testing.assert_array_equal(back, v / s)
    error = (h.astype(float) * np.square(w.astype(float) - back)).sum()
    assert error == pytest.approx(losses.min(), rel=1e-5)


@given(st.lists(st.one_of(st.just(0.0), st.floats(2.0**-120, 2.0**120, width=32)), min_size=1, max_size=40),
       st.sampled_from((0.0, 0.15, 0.5, 0.65)))  # fmt: skip
def test_scales_of_any_moments_are_finite_and_balanced(values, alpha):
    h = np.array(values, np.float32)
    s = kernels.awq_scale(h, alpha).astype(float)
    assert np.isfinite(s).all()
    assert (s > 0).all()
    assert s.max() * s.min() == pytest.approx(1.0, rel=2e-3)
    alive = h[h > 0].astype(float)
    if alpha == 0.0 or not alive.size:
        assert (s == 1).all()
    else:
        expected = np.maximum(h, alive.min()).astype(float) ** (alpha / 2)
        expected /= math.sqrt(expected.max() * expected.min())
        np.testing.assert_allclose(s, expected, rtol=2.0**-11)
