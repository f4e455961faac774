"""Trellis codes against their naive twin."""

from functools import lru_cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.blocks import blocks
from kernels.trelliscode import levels_for
from tests.kernels.strategies import DTYPES, dtypes, llm_like, matrices
from tests.naive import affine, bitstream, halves, trellis, unbiased

BITS = (2, 3, 4)
WHOLE = 65504.0

bits = st.sampled_from(BITS)
trellis_of = lru_cache(trellis.Trellis)


def gaussian(rows, cols, seed=7):
    return np.random.default_rng(seed).standard_normal((rows, cols), dtype=np.float32)


def decoded(encoded, n_bits, cols):
    return kernels.dequantize_trellis(encoded.codes, encoded.scales, bits=n_bits, cols=cols)


def same_bytes(a, b):
    return a.codes.tobytes() == b.codes.tobytes() and a.scales.tobytes() == b.scales.tobytes()


def best_scale(w, level, h=None):
    """The scale of least squares, as stored."""
    level, w = level.astype(np.float64), w.astype(np.float64)
    h = np.ones(w.size) if h is None or not h.sum() > 0 else h.astype(np.float64)
    vv = np.cumsum(h * level * level)[-1]
    fit = np.cumsum(h * level * w)[-1] / vv if vv > 0 else 0.0
    return halves.nearest(np.float32(np.clip(fit, -WHOLE, WHOLE)))


def expect_consistent(encoded, w, n_bits):
    """Packed as promised, decoded like the twin, measured right."""
    rows, cols = w.shape
    assert encoded.codes.shape == (rows, trellis.count(cols, n_bits) * n_bits // 8)
    assert np.isfinite(encoded.scales).all()
    v = trellis.decode(encoded.codes, encoded.scales, n_bits, cols)
    found = decoded(encoded, n_bits, cols)
    np.testing.assert_array_equal(found.view(np.uint32), v.view(np.uint32))
    sums, errors = affine.error_sums(w, v), encoded.errors
    np.testing.assert_allclose(
        (errors.sum_w2, errors.sum_e2, errors.sum_q2), (sums[0], sums[1], sums[3]), rtol=1e-9
    )
    assert errors.max_abs_error == sums[4]
    assert errors.count == w.size
    return v


@pytest.mark.parametrize("n_bits", BITS)
def test_levels_are_those_of_the_formula_and_not_near_ties(n_bits):
    np.testing.assert_array_equal(levels_for(n_bits), trellis.levels(n_bits))
    p = (2 * np.arange(4096) + 1) / 8192
    exact = 5517 * (p**0.125 - (1 - p) ** 0.125)
    assert (np.abs(exact - np.floor(exact) - 0.5) > 1e-5).all()
    assert len(np.unique(levels_for(n_bits))) > 3000


@given(st.data(), dtypes, bits)
@settings(max_examples=40)
def test_codes_and_scales_follow_the_written_rule(data, dtype, n_bits):
    x = data.draw(matrices(dtype))
    w = affine.widen(x, dtype)
    encoded = kernels.quantize_trellis(x, dtype=dtype, bits=n_bits)
    expect_consistent(encoded, w, n_bits)
    codes = bitstream.unpack(encoded.codes, n_bits, trellis.count(w.shape[1], n_bits))
    level = trellis.decode(encoded.codes, np.ones(w.shape[0], np.float16), n_bits, w.shape[1])
    for r in range(w.shape[0]):
        np.testing.assert_array_equal(codes[r], trellis_of(n_bits).codes(w[r]))
        assert encoded.scales[r] == best_scale(w[r], level[r])


@pytest.mark.parametrize("n_bits", BITS)
@pytest.mark.parametrize("cols", [255, 256, 257, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_long_rows_are_coded_in_spans(n_bits, cols, weighted):
    w = gaussian(2, cols)
    h = np.random.default_rng(1).lognormal(0, 1.5, cols).astype(np.float32) if weighted else None
    encoded = kernels.quantize_trellis(w, dtype="F32", bits=n_bits, weights=h)
    expect_consistent(encoded, w, n_bits)
    codes = bitstream.unpack(encoded.codes, n_bits, trellis.count(cols, n_bits))
    for r in range(2):
        np.testing.assert_array_equal(codes[r], trellis_of(n_bits).codes(w[r], h))


@given(st.data(), dtypes, bits)
@settings(max_examples=40)
def test_importances_of_any_size(data, dtype, n_bits):
    x = data.draw(matrices(dtype, max_rows=2))
    w = affine.widen(x, dtype)
    cols = w.shape[1]
    element = st.sampled_from((0.0, 1e-45, 1.0, 3.0, 2.0**100))
    h = np.array(data.draw(st.lists(element, min_size=cols, max_size=cols)), np.float32)
    encoded = kernels.quantize_trellis(x, dtype=dtype, bits=n_bits, weights=h)
    v = expect_consistent(encoded, w, n_bits)
    codes = bitstream.unpack(encoded.codes, n_bits, trellis.count(cols, n_bits))
    np.testing.assert_array_equal(codes[0], trellis_of(n_bits).codes(w[0], h))
    expected = (h.astype(float) * np.square(w.astype(float) - v)).sum()
    np.testing.assert_allclose(encoded.weighted.sum_e2, expected, rtol=1e-9)


@pytest.mark.parametrize(("n_bits", "least"), [(2, 11.5), (3, 17.3), (4, 23.2)])
@pytest.mark.parametrize("source", ["gaussian", "rotated"])
def test_half_a_decibel_from_the_bound(n_bits, least, source):
    x = gaussian(16, 4096)
    if source == "rotated":
        x = affine.widen(llm_like(16, 4096, 1), "BF16")
        kernels.rotate(x, seed=3, block=4096)
    encoded = kernels.quantize_trellis(x, dtype="F32", bits=n_bits)
    assert least < encoded.errors.sqnr_db < 6.0206 * n_bits
    stored = encoded.codes.nbytes + encoded.scales.nbytes
    assert 8 * stored / x.size <= n_bits + 0.004


@pytest.mark.parametrize("n_bits", BITS)
def test_importances_lower_the_error_they_weigh(n_bits):
    x = gaussian(8, 1024)
    h = np.random.default_rng(2).lognormal(0, 1, 1024).astype(np.float32)
    plain = kernels.quantize_trellis(x, dtype="F32", bits=n_bits)
    v = decoded(plain, n_bits, 1024).astype(float)
    before = (h * np.square(x - v)).sum()
    after = kernels.quantize_trellis(x, dtype="F32", bits=n_bits, weights=h).weighted.sum_e2
    assert after < 0.8 * before
    nothing = kernels.quantize_trellis(x, dtype="F32", bits=n_bits, weights=0 * h)
    assert same_bytes(plain, nothing)


@given(st.data(), dtypes, bits, st.floats(0.01, 1.0))
@settings(max_examples=40)
def test_rows_are_stretched_by_the_written_rule(data, dtype, n_bits, strength):
    x = data.draw(matrices(dtype))
    encoded = kernels.quantize_trellis(x, dtype=dtype, bits=n_bits, unbias=strength)
    for r in range(x.shape[0]):
        plain = kernels.quantize_trellis(x[r : r + 1], dtype=dtype, bits=n_bits)
        np.testing.assert_array_equal(encoded.codes[r], plain.codes[0])
        factor = unbiased.factor(plain.errors.sum_w2, plain.errors.sum_wq, strength)
        expected = plain.scales if factor == 1.0 else unbiased.stretch(plain.scales, factor)
        assert encoded.scales[r] == expected[0]
    expect_consistent(encoded, affine.widen(x, dtype), n_bits)


@pytest.mark.parametrize("n_bits", BITS)
def test_unbiased_rows_keep_their_length(n_bits):
    errors = kernels.quantize_trellis(
        gaussian(8, 2048), dtype="F32", bits=n_bits, unbias=1.0
    ).errors
    assert abs(errors.sum_wq / errors.sum_w2 - 1) < 1e-3


@pytest.mark.parametrize("n_bits", BITS)
def test_results_do_not_depend_on_threads_or_tiles(n_bits):
    x = llm_like(131, 3000, 5)
    assert len(blocks(131, 3000)) > 2
    quantize = partial(kernels.quantize_trellis, dtype="BF16", bits=n_bits)
    one = quantize(x)
    for threads in (2, 5):
        several = quantize(x, threads=threads)
        assert same_bytes(one, several)
        assert several.errors == one.errors
    tiles = [quantize(x[start : start + 40]) for start in range(0, 131, 40)]
    assert one.codes.tobytes() == b"".join(tile.codes.tobytes() for tile in tiles)
    v = decoded(one, n_bits, 3000)
    out = np.empty_like(v)
    again = kernels.dequantize_trellis(
        one.codes, one.scales, bits=n_bits, cols=3000, threads=3, out=out
    )
    assert again is out
    np.testing.assert_array_equal(out, v)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_input_form_gives_the_same_bytes(dtype):
    w = affine.widen(llm_like(3, 300, 2), "BF16")
    w = np.round(w * 256).astype(np.float32)  # integers that every format holds
    pattern = {"F32": w, "F16": w.astype(np.float16).view(np.uint16)}.get(dtype)
    x = (w.view(np.uint32) >> 16).astype(np.uint16) if pattern is None else pattern
    frozen = np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)
    quantize = partial(kernels.quantize_trellis, bits=4)
    assert same_bytes(quantize(frozen, dtype=dtype), quantize(w, dtype="F32"))


@pytest.mark.parametrize("n_bits", BITS)
def test_zeros_constants_and_extremes(n_bits):
    w = np.stack([np.full(600, value, np.float32) for value in (0.0, 1.0, -0.375, 3e38, 1e-40)])
    encoded = kernels.quantize_trellis(w, dtype="F32", bits=n_bits)
    v = expect_consistent(encoded, w, n_bits)
    assert not v[0].any()
    assert not v[4].any()
    assert np.square(v[1:3] - w[1:3]).sum() < 0.15 * np.square(w[1:3]).sum()
    assert abs(encoded.scales[3]) == WHOLE
    alone = kernels.quantize_trellis(w[1:3, :1], dtype="F32", bits=n_bits)
    np.testing.assert_allclose(decoded(alone, n_bits, 1), w[1:3, :1], rtol=1e-3)


@pytest.mark.parametrize("threads", [1, 3])
def test_refusals_and_empty_tensors(threads):
    x = llm_like(300, 1000, 6, "F32")
    x[1, 77] = x[288, 1] = np.nan
    quantize = partial(kernels.quantize_trellis, dtype="F32", bits=2)
    with pytest.raises(kernels.NonFiniteWeights) as caught:
        quantize(x, threads=threads)
    assert (caught.value.row, caught.value.col) == (1, 77)
    nothing = quantize(x[:0], threads=threads)
    assert nothing.codes.shape == (0, 250)
    assert nothing.errors == kernels.ErrorSums()
