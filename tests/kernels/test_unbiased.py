"""The correction of lengths, and importances of columns, in the least-squares search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from tests.kernels.strategies import BITS, bits, dtypes, group_sizes, llm_like, matrices
from tests.naive import affine, lsq, unbiased

SHORT = 2e-6  # sums that are float32 over 256 weights
OPTIONS = {"dtype": "BF16", "group_size": 64, "symmetric": False, "method": "lsq"}
strengths = st.one_of(st.sampled_from((0.5, 1.0)), st.floats(0.001, 1.0))


def same_bytes(a, b):
    stored = [(e.codes, e.scales, e.codes if e.mins is None else e.mins) for e in (a, b)]
    return all(x.tobytes() == y.tobytes() for x, y in zip(*stored, strict=True))


def decoded(encoded, n_bits, cols, group_size):
    return kernels.dequantize(
        encoded.codes, encoded.scales, encoded.mins, bits=n_bits, cols=cols, group_size=group_size
    )


@given(st.data(), dtypes, bits, group_sizes, st.booleans(), strengths)
def test_rows_are_stretched_by_the_written_rule(
    data, dtype, n_bits, group_size, symmetric, strength
):
    x = data.draw(matrices(dtype))
    w = affine.widen(x, dtype)
    options = {"bits": n_bits, "group_size": group_size, "symmetric": symmetric, "method": "lsq"}
    encoded = kernels.quantize(x, dtype=dtype, unbias=strength, **options)
    for r in range(w.shape[0]):
        plain = kernels.quantize(x[r : r + 1], dtype=dtype, **options)
        np.testing.assert_array_equal(encoded.codes[r], plain.codes[0])
        factor = unbiased.factor(plain.errors.sum_w2, plain.errors.sum_wq, strength)
        if factor == 1.0:
            assert plain.scales[0].tobytes() == encoded.scales[r].tobytes()
            continue
        scales = unbiased.stretch(plain.scales[0], factor)
        np.testing.assert_array_equal(encoded.scales[r].view(np.uint16), scales.view(np.uint16))
        if not symmetric:
            mins = unbiased.stretch(plain.mins[0], factor)
            np.testing.assert_array_equal(encoded.mins[r].view(np.uint16), mins.view(np.uint16))
    v = decoded(encoded, n_bits, w.shape[1], group_size)
    assert np.isfinite(v).all()
    np.testing.assert_allclose(
        encoded.errors.sum_e2, affine.error_sums(w, v)[1], rtol=SHORT, atol=1e-43 * w.size
    )


@pytest.mark.parametrize("n_bits", BITS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_correction_gives_the_bytes_of_the_plain_fit(n_bits, symmetric):
    x = llm_like(20, 1000, 3)
    options = {**OPTIONS, "bits": n_bits, "symmetric": symmetric}
    plain = kernels.quantize(x, **options)
    nothing = kernels.quantize(x, unbias=0.0, **options)
    assert same_bytes(plain, nothing)
    assert plain.errors == nothing.errors
    assert plain.weighted is nothing.weighted is None


def test_the_gain_returns_to_one_for_a_little_error():
    x = llm_like(64, 4096, 5)
    for n_bits, gain, loss in ((2, 0.88, 0.6), (3, 0.965, 0.2), (4, 0.99, 0.05)):
        plain, half, full = (
            kernels.quantize(x, bits=n_bits, unbias=strength, **OPTIONS).errors
            for strength in (0.0, 0.5, 1.0)
        )
        gains = [errors.sum_wq / errors.sum_w2 for errors in (plain, half, full)]
        assert gain - 0.02 < gains[0] < gains[1] < gains[2]
        assert abs(gains[2] - 1.0) < 0.02 * (1.0 - gains[0])
        assert 0.0 < plain.sqnr_db - full.sqnr_db < loss


def test_rows_that_are_exact_or_zero_stay_as_they_are():
    exact = np.random.default_rng(1).integers(0, 4, (1, 256)) * 0.5 - 0.75
    w = np.vstack([exact, np.zeros((1, 256))]).astype(np.float32)
    options = {"dtype": "F32", "bits": 2, "group_size": 64, "symmetric": False, "method": "lsq"}
    plain, corrected = (kernels.quantize(w, unbias=k, **options) for k in (0.0, 1.0))
    assert plain.errors.rel_mse == 0.0
    assert same_bytes(plain, corrected)
    assert unbiased.factor(1.0, 0.0, 1.0) == unbiased.factor(1.0, 0.4, 1.0) == 1.0


def test_rows_far_from_a_fit_stay_as_they_are():
    w = np.linspace(-3e38, 3e38, 64, dtype=np.float32)[None]  # saturates: gain next to nothing
    plain, corrected = (
        kernels.quantize(w, bits=2, unbias=k, **{**OPTIONS, "dtype": "F32"}) for k in (0.0, 1.0)
    )
    assert same_bytes(plain, corrected)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n_bits", BITS)
@pytest.mark.parametrize("group_size", [32, 64, 0])
def test_the_search_by_importance_agrees_with_its_twin(n_bits, group_size, symmetric):
    x = llm_like(12, 1000, 11)
    w = affine.widen(x, "BF16")
    h = np.random.default_rng(4).lognormal(0.0, 1.5, 1000).astype(np.float32)
    encoded = kernels.quantize(
        x, dtype="BF16", bits=n_bits, group_size=group_size, symmetric=symmetric, method="lsq",
        weights=h,
    )  # fmt: skip
    codes, scales, mins = lsq.quantize(w, n_bits, group_size, symmetric, h)
    expected = affine.decode_rows(codes, scales, None if symmetric else mins, n_bits, group_size)
    v = decoded(encoded, n_bits, 1000, group_size)
    error, bar = ((h * np.square(w.astype(float) - d)).sum() for d in (v, expected))
    np.testing.assert_allclose(error, bar, rtol=2e-2 if n_bits == 8 else 2e-3)
    np.testing.assert_allclose(encoded.weighted.sum_e2, error, rtol=1e-9)
    np.testing.assert_allclose(encoded.weighted.sum_wq, (h * w.astype(float) * v).sum(), rtol=1e-9)
    np.testing.assert_allclose(
        encoded.errors.sum_e2, affine.error_sums(w, v)[1], rtol=SHORT, atol=1e-43 * w.size
    )
    np.testing.assert_allclose(
        encoded.weighted.max_abs_error, encoded.errors.max_abs_error, rtol=1e-7
    )
    assert encoded.weighted.count == encoded.errors.count


@given(st.data(), dtypes, bits, group_sizes, st.booleans())
def test_by_importance_never_worse_than_minmax(data, dtype, n_bits, group_size, symmetric):
    x = data.draw(matrices(dtype))
    w = affine.widen(x, dtype)
    cols = w.shape[1]
    element = st.one_of(
        st.just(0.0), st.floats(0.0, 2.0**100, width=32), st.floats(0.5, 2, width=32)
    )
    h = np.array(data.draw(st.lists(element, min_size=cols, max_size=cols)), np.float32)
    options = {"dtype": dtype, "bits": n_bits, "group_size": group_size, "symmetric": symmetric}
    found = kernels.quantize(x, method="lsq", weights=h, **options)
    plain = kernels.quantize(x, method="minmax", **options)
    e, bar = (
        h * np.square(w.astype(float) - decoded(encoded, n_bits, cols, group_size))
        for encoded in (found, plain)
    )
    assert np.isfinite(found.scales).all()
    for part in affine.groups(cols, group_size):
        assert (e[:, part].sum(1) <= bar[:, part].sum(1) * (1 + 1e-9)).all()
    np.testing.assert_allclose(found.weighted.sum_e2, e.sum(), rtol=1e-9)


def test_equal_importances_change_next_to_nothing_and_unequal_ones_pay():
    x = llm_like(40, 2048, 6)
    h = np.random.default_rng(7).lognormal(0.0, 1.5, 2048).astype(np.float32)
    for n_bits in (2, 4):
        plain, equal, unequal, corrected = (
            kernels.quantize(x, bits=n_bits, weights=weights, unbias=k, **OPTIONS)
            for weights, k in ((None, 0), (np.full(2048, 3, np.float32), 0), (h, 0), (h, 1))
        )
        np.testing.assert_allclose(equal.errors.sum_e2, plain.errors.sum_e2, rtol=1e-3)
        np.testing.assert_allclose(equal.weighted.sum_e2, 3 * equal.errors.sum_e2, rtol=SHORT)
        v = decoded(plain, n_bits, 2048, 64)
        before = (h * np.square(affine.widen(x, "BF16").astype(float) - v)).sum()
        assert unequal.weighted.sum_e2 < before
        assert unequal.errors.sum_e2 > plain.errors.sum_e2
        gain, corrected_gain = (e.weighted.sum_wq / e.weighted.sum_w2 for e in (unequal, corrected))
        assert abs(corrected_gain - 1) < 0.02 * (1 - gain)


def test_corrected_bytes_do_not_depend_on_threads():
    x = llm_like(220, 3003, 1)
    h = np.random.default_rng(8).random(3003, np.float32)
    for weights in (None, h):
        first, *others = (
            kernels.quantize(x, bits=2, unbias=0.7, weights=weights, threads=threads, **OPTIONS)
            for threads in (1, 2, 3, 8)
        )
        for other in others:
            assert same_bytes(first, other)
            assert (other.errors, other.weighted) == (first.errors, first.weighted)


def test_minmax_takes_neither():
    options = {**OPTIONS, "bits": 4, "method": "minmax"}
    for more in ({"unbias": 1.0}, {"weights": np.ones(64, np.float32)}):
        with pytest.raises(ValueError, match="for lsq"):
            kernels.quantize(llm_like(2, 64, 1), **more, **options)
