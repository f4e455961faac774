"""Two levels of scales against their naive twin."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.bitpack import row_bytes
from kernels.blocks import blocks
from kernels.levels import curve_for, levels_for
from tests.kernels.strategies import DTYPES, dtypes, llm_like, matrices
from tests.naive import affine, bitstream, superblock, unbiased

CONFIGS = [(bits, group, scale) for bits in (2, 3, 4) for group in (16, 32) for scale in (4, 6)]
ARRAYS = ("codes", "scale_codes", "min_codes", "d", "dm")

configs = st.sampled_from(CONFIGS)


def options_of(config):
    return dict(zip(("bits", "group_size", "scale_bits"), config, strict=True))


def stored(encoded):
    return [getattr(encoded, name) for name in ARRAYS]


def same_bytes(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(stored(a), stored(b), strict=True))


def expect_consistent(encoded, w, config):
    """All codes are packed as promised, are the nearest, decode like the twin, measured right."""
    bits, group_size, scale_bits = config
    cols = w.shape[1]
    groups = -(-cols // group_size)
    u = bitstream.unpack(encoded.codes, bits, cols)
    np.testing.assert_array_equal(encoded.codes, bitstream.pack(u, bits))
    scale_codes, mids = (
        bitstream.unpack(a, scale_bits, groups) for a in (encoded.scale_codes, encoded.min_codes)
    )
    for codes, packed in ((scale_codes, encoded.scale_codes), (mids, encoded.min_codes)):
        np.testing.assert_array_equal(packed, bitstream.pack(codes, scale_bits))
    assert encoded.d.shape == encoded.dm.shape == (w.shape[0], -(-cols // 256))
    assert np.isfinite(encoded.d).all()
    assert np.isfinite(encoded.dm).all()
    assert not np.signbit(encoded.d).any()
    v = superblock.decode_rows(u, scale_codes, mids, encoded.d, encoded.dm, *config)
    found = kernels.dequantize_superblock(*stored(encoded), cols=cols, **options_of(config))
    np.testing.assert_array_equal(found.view(np.uint32), v.view(np.uint32))
    sums = affine.error_sums(w, v)
    errors = encoded.errors
    scale = 1e-12 * max(sums[0], sums[3])
    np.testing.assert_allclose(
        (errors.sum_w2, errors.sum_e2, errors.sum_q2), (sums[0], sums[1], sums[3]), rtol=1e-9
    )
    np.testing.assert_allclose(errors.sum_wq, sums[2], rtol=1e-9, atol=scale)
    assert (errors.max_abs_error, errors.count) == sums[4:]
    return u, scale_codes, mids, v


@given(st.data(), dtypes, configs)
def test_codes_follow_the_written_rule(data, dtype, config):
    x = data.draw(matrices(dtype, max_rows=2, max_cols=300))
    w = affine.widen(x, dtype)
    encoded = kernels.quantize_superblock(x, dtype=dtype, **options_of(config))
    u, scale_codes, mids, _ = expect_consistent(encoded, w, config)
    bits, group_size, scale_bits = config
    for r in range(w.shape[0]):
        for g, k, part in superblock.over_groups(w.shape[1], group_size):
            s, c = superblock.steps_of(
                scale_codes[r, g], mids[r, g], encoded.d[r, k], encoded.dm[r, k], bits, scale_bits
            )
            expected = superblock.encode(w[r, part], s, c, bits)
            np.testing.assert_array_equal(u[r, part], expected)


@given(st.data(), dtypes, configs)
def test_a_super_block_never_grows(data, dtype, config):
    """Where halves reach, the error is at most the energy: zeros could have been stored."""
    x = data.draw(matrices(dtype, max_rows=2, max_cols=300))
    w = affine.widen(x, dtype)
    size = np.abs(w).max()
    if size == 0 or 1e-5 < size < 65504:
        encoded = kernels.quantize_superblock(x, dtype=dtype, **options_of(config))
        assert encoded.errors.sum_e2 <= encoded.errors.sum_w2


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_fit_agrees_with_its_twin(config, weighted):
    x = llm_like(4, 1000, 11)
    w = affine.widen(x, "BF16")
    h = np.random.default_rng(4).lognormal(0.0, 1.5, 1000).astype(np.float32)
    encoded = kernels.quantize_superblock(
        x, dtype="BF16", weights=h if weighted else None, **options_of(config)
    )
    *_, v = expect_consistent(encoded, w, config)
    expected = superblock.quantize(w, *config, h if weighted else None)
    weights = h.astype(float) if weighted else np.ones(1000)
    error, bar = ((weights * np.square(w - a.astype(float))).sum() for a in (v, expected))
    np.testing.assert_allclose(error, bar, rtol=0.02)  # near ties end elsewhere
    assert (encoded.weighted is None) is not weighted
    if weighted:
        np.testing.assert_allclose(encoded.weighted.sum_e2, error, rtol=1e-9)


QUALITY = {(4, 32, 6): (4.5, 22.9), (3, 32, 6): (3.5, 16.55), (2, 16, 4): (2.625, 11.5),
           (2, 32, 4): (2.375, 10.15)}  # fmt: skip


@pytest.mark.parametrize("config", QUALITY)
def test_quality_and_bits_on_weights_like_those_of_language_models(config):
    x = llm_like(32, 11008, 0)
    encoded = kernels.quantize_superblock(x, dtype="BF16", threads=2, **options_of(config))
    bits, bar = QUALITY[config]
    assert 8 * sum(a.nbytes for a in stored(encoded)) == bits * x.size
    assert encoded.errors.sqnr_db >= bar


def test_levels_and_the_polynomials_that_make_them():
    for bits, expected in superblock.LEVELS.items():
        levels = levels_for(bits)
        assert tuple(levels) == expected
        a0, a1, b0, b1, b2, largest, half, top = (float(c) for c in curve_for(bits))
        assert (largest, half, top) == (levels[-1], 2 ** (bits - 1), 2**bits - 1)
        f = 2.0 * np.arange(2**bits) - top
        assert np.abs(f * (a0 + a1 * f * f) - levels).max() < 0.45
        t = np.linspace(-largest, largest, 20_001)
        u = t * (b0 + b1 * t**2 + b2 * t**4) + half
        assert (u > 0).all()
        assert (u < 2**bits).all()
        wrong = np.floor(u) != superblock.nearest_codes(t, bits)
        assert wrong.mean() < 0.01


def test_bytes_and_sums_do_not_depend_on_threads():
    x = llm_like(220, 3003, 1)
    assert len(blocks(*x.shape)) > 4
    h = np.random.default_rng(8).random(3003, np.float32)
    for config, weights, unbias in (((4, 32, 6), None, 0.0), ((2, 16, 4), h, 1.0)):
        first, *others = (
            kernels.quantize_superblock(
                x, dtype="BF16", weights=weights, unbias=unbias, threads=n, **options_of(config)
            )
            for n in (1, 2, 3, 8)
        )
        for other in others:
            assert same_bytes(first, other)
            assert (other.errors, other.weighted) == (first.errors, first.weighted)
        decoded = [
            kernels.dequantize_superblock(
                *stored(first), cols=3003, threads=n, **options_of(config)
            ).tobytes()
            for n in (1, 3)
        ]
        assert decoded[0] == decoded[1]


@pytest.mark.parametrize("config", CONFIGS)
def test_rows_are_stretched_by_the_written_rule(config):
    x = llm_like(5, 700, 9)
    w = affine.widen(x, "BF16")
    quantize = partial(kernels.quantize_superblock, dtype="BF16", **options_of(config))
    encoded = quantize(x, unbias=0.7)
    expect_consistent(encoded, w, config)
    for r in range(5):
        plain = quantize(x[r : r + 1])
        factor = unbiased.factor(plain.errors.sum_w2, plain.errors.sum_wq, 0.7)
        assert factor > 1.0
        for before, after in zip(stored(plain)[:3], stored(encoded)[:3], strict=True):
            np.testing.assert_array_equal(before[0], after[r])
        for before, after in ((plain.d, encoded.d), (plain.dm, encoded.dm)):
            np.testing.assert_array_equal(unbiased.stretch(before[0], factor), after[r])
    full = quantize(x, unbias=1.0)
    gain = quantize(x).errors.sum_wq / full.errors.sum_w2
    assert abs(full.errors.sum_wq / full.errors.sum_w2 - 1) < 0.05 * (1 - gain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_input_form_gives_the_same_bytes(dtype):
    w = affine.widen(llm_like(3, 600, 2), "BF16")
    w = np.round(w * 256).astype(np.float32)  # integers that every format holds
    pattern = {"F32": w, "F16": w.astype(np.float16).view(np.uint16)}.get(dtype)
    x = (w.view(np.uint32) >> 16).astype(np.uint16) if pattern is None else pattern
    quantize = partial(kernels.quantize_superblock, bits=4, group_size=32, scale_bits=6)
    frozen = np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)
    assert same_bytes(quantize(frozen, dtype=dtype), quantize(w, dtype="F32"))


@given(st.data(), dtypes, configs)
@settings(max_examples=30)
def test_importances_of_any_size(data, dtype, config):
    x = data.draw(matrices(dtype, max_rows=2, max_cols=300))
    w = affine.widen(x, dtype)
    element = st.sampled_from((0.0, 1e-45, 1.0, 3.0, 2.0**100))
    h = data.draw(st.lists(element, min_size=w.shape[1], max_size=w.shape[1]))
    encoded = kernels.quantize_superblock(
        x, dtype=dtype, weights=np.array(h, np.float32), **options_of(config)
    )
    *_, v = expect_consistent(encoded, w, config)
    expected = (np.array(h, np.float32).astype(float) * np.square(w.astype(float) - v)).sum()
    np.testing.assert_allclose(encoded.weighted.sum_e2, expected, rtol=1e-9)


@pytest.mark.parametrize("config", CONFIGS)
def test_zeros_and_constants_of_halves_are_exact(config):
    w = np.stack([np.full(600, value, np.float32) for value in (0.0, 1.0, -0.375, 60000.0)])
    encoded = kernels.quantize_superblock(w, dtype="F32", **options_of(config))
    v = kernels.dequantize_superblock(*stored(encoded), cols=600, **options_of(config))
    np.testing.assert_array_equal(v, w)


@pytest.mark.parametrize("threads", [1, 3])
def test_refusals_and_empty_tensors(threads):
    x = llm_like(300, 1000, 6, "F32")
    x[61, 77] = x[88, 1] = np.nan
    quantize = partial(
        kernels.quantize_superblock, dtype="F32", bits=2, group_size=16, scale_bits=4
    )
    with pytest.raises(kernels.NonFiniteWeights) as caught:
        quantize(x, threads=threads)
    assert (caught.value.row, caught.value.col) == (61, 77)
    nothing = quantize(x[:0], threads=threads)
    assert nothing.codes.shape == (0, row_bytes(1000, 2))
    assert nothing.errors == kernels.ErrorSums()
