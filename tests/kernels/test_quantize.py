"""Quantize and dequantize against their naive twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import lsq as fast_lsq
from tests.kernels.strategies import BITS, DTYPES, bits, dtypes, group_sizes, llm_like, matrices
from tests.naive import affine, bitstream, lsq, minmax


def decoded(encoded, n_bits, cols, group_size):
    return kernels.dequantize(
        encoded.codes, encoded.scales, encoded.mins, bits=n_bits, cols=cols, group_size=group_size
    )


def expect_sums(errors, w, v):
    *expected, largest, count = affine.error_sums(w, v)
    found = (errors.sum_w2, errors.sum_e2, errors.sum_wq, errors.sum_q2)
    # Up to 256 weights are added up in 16 float32 lanes, so 16 roundings of a sum of squares.
    near = {"rtol": 2e-6, "atol": 1e-43 * count}
    np.testing.assert_allclose(found[:2] + found[3:], expected[:2] + expected[3:], **near)
    scale = max(expected[0], expected[3])
    np.testing.assert_allclose(found[2], expected[2], rtol=2e-6, atol=2e-6 * scale)
    np.testing.assert_allclose(errors.max_abs_error, largest, rtol=1e-7)
    assert errors.count == count
    assert errors.rel_mse >= 0
    assert -1 <= errors.cosine <= 1
    assert not np.isnan(errors.sqnr_db)


def expect_consistent(encoded, w, n_bits, group_size):
    """Codes, scales and minima fit each other, decode like the twin, and are measured right."""
    symmetric = encoded.mins is None
    u = bitstream.unpack(encoded.codes, n_bits, w.shape[1])
    np.testing.assert_array_equal(encoded.codes, bitstream.pack(u, n_bits))
    assert np.isfinite(encoded.scales).all()
    assert symmetric or np.isfinite(encoded.mins).all()
    v = affine.decode_rows(u, encoded.scales, encoded.mins, n_bits, group_size)
    found = decoded(encoded, n_bits, w.shape[1], group_size)
    np.testing.assert_array_equal(found.view(np.uint32), v.view(np.uint32))
    expect_sums(encoded.errors, w, v)
    return u, v


@given(st.data(), dtypes, bits, group_sizes, st.booleans())
def test_minmax_equals_its_twin(data, dtype, n_bits, group_size, symmetric):
    x = data.draw(matrices(dtype))
    w = affine.widen(x, dtype)
    encoded = kernels.quantize(
        x, dtype=dtype, bits=n_bits, group_size=group_size, symmetric=symmetric, method="minmax"
    )
    codes, scales, mins = minmax.quantize(w, n_bits, group_size, symmetric)
    np.testing.assert_array_equal(encoded.scales.view(np.uint16), scales.view(np.uint16))
    if not symmetric:
        np.testing.assert_array_equal(encoded.mins.view(np.uint16), mins.view(np.uint16))
    u, _ = expect_consistent(encoded, w, n_bits, group_size)
    np.testing.assert_array_equal(u, codes)


@given(st.data(), dtypes, bits, group_sizes, st.booleans())
def test_lsq_is_consistent_and_never_worse_than_minmax(data, dtype, n_bits, group_size, symmetric):
    x = data.draw(matrices(dtype))
    w = affine.widen(x, dtype)
    options = {"dtype": dtype, "bits": n_bits, "group_size": group_size, "symmetric": symmetric}
    searched = kernels.quantize(x, method="lsq", **options)
    plain = kernels.quantize(x, method="minmax", **options)
    _, new = expect_consistent(searched, w, n_bits, group_size)
    _, old = expect_consistent(plain, w, n_bits, group_size)
    for part in affine.groups(w.shape[1], group_size):
        for r in range(w.shape[0]):
            error = affine.error_sums(w[r, part], new[r, part])[1]
            assert error <= affine.error_sums(w[r, part], old[r, part])[1] * (1 + 4e-6)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n_bits", BITS)
@pytest.mark.parametrize("group_size", [32, 64, 0])
def test_lsq_agrees_with_its_twin(n_bits, group_size, symmetric):
    for name in ("FACTORS", "LONG", "LONG_FACTORS"):
        assert getattr(lsq, name) == getattr(fast_lsq, name)
    x = llm_like(12, 1000, 11)
    w = affine.widen(x, "BF16")
    encoded = kernels.quantize(
        x, dtype="BF16", bits=n_bits, group_size=group_size, symmetric=symmetric, method="lsq"
    )
    codes, scales, mins = lsq.quantize(w, n_bits, group_size, symmetric)
    _, v = expect_consistent(encoded, w, n_bits, group_size)
    expected = affine.decode_rows(codes, scales, None if symmetric else mins, n_bits, group_size)
    error = affine.error_sums(w, expected)[1]
    np.testing.assert_allclose(
        affine.error_sums(w, v)[1], error, rtol=1e-2 if n_bits == 8 else 1e-3
    )
    if group_size:  # of 12 long groups a few may tie differently
        assert (encoded.scales == scales).mean() > (0.5 if n_bits == 8 else 0.95)


@given(st.data(), dtypes, bits, st.booleans())
def test_fixed_range_equals_its_twin(data, dtype, n_bits, symmetric):
    x = data.draw(matrices(dtype))
    w = affine.widen(x, dtype)
    lo, hi = kernels.value_range(x, dtype=dtype)
    encoded = kernels.quantize_fixed(
        x, dtype=dtype, bits=n_bits, lo=lo, hi=hi, symmetric=symmetric, threads=2
    )
    scale, low = minmax.params(np.float32(lo), np.float32(hi), n_bits, symmetric)
    assert encoded.scales.shape == (1, 1)
    assert encoded.scales[0, 0] == scale
    u = affine.encode(w, scale, low, n_bits, symmetric)
    np.testing.assert_array_equal(bitstream.unpack(encoded.codes, n_bits, w.shape[1]), u)
    v = affine.decode(u, scale, low, n_bits, symmetric)
    found = decoded(encoded, n_bits, w.shape[1], 0)
    np.testing.assert_array_equal(found.view(np.uint32), v.view(np.uint32))
    expect_sums(encoded.errors, w, v)


@pytest.mark.parametrize("method", ["minmax", "lsq"])
@pytest.mark.parametrize("dtype", DTYPES)
@given(st.data(), bits, group_sizes, st.booleans())
@settings(max_examples=30)
def test_constant_groups_of_halves_are_exact(dtype, method, data, n_bits, group_size, symmetric):
    values = st.floats(width=16, allow_nan=False, allow_infinity=False, allow_subnormal=False)
    if dtype == "BF16":  # 8 significant bits, in the normal range of a half
        values = st.integers(-0x477F, 0x477F).map(lambda p: _bf16(abs(p), p < 0))
    value = data.draw(st.one_of(st.just(0.0), st.just(-0.0), values))
    w = np.full((2, data.draw(st.integers(1, 70))), value, np.float32)
    x = {"F32": w, "F16": w.astype(np.float16).view(np.uint16)}.get(dtype)
    x = (w.view(np.uint32) >> 16).astype(np.uint16) if x is None else x
    encoded = kernels.quantize(
        x, dtype=dtype, bits=n_bits, group_size=group_size, symmetric=symmetric, method=method
    )
    np.testing.assert_array_equal(decoded(encoded, n_bits, w.shape[1], group_size), w)
    errors = encoded.errors
    assert (errors.rel_mse, errors.sqnr_db, errors.cosine) == (0.0, np.inf, 1.0)


def _bf16(pattern, negative):
    value = float(np.uint32(pattern << 16).view(np.float32))
    value = value if value >= 2.0**-14 else 0.0
    return -value if negative else value


@given(st.floats(-65504, 65504, width=32), bits)
def test_constant_float32_groups_are_close(value, n_bits):
    w = np.full((1, 32), value, np.float32)
    encoded = kernels.quantize(
        w, dtype="F32", bits=n_bits, group_size=32, symmetric=False, method="lsq"
    )
    limit = max(2 * np.spacing(np.abs(w[0, 0])), 2.0**-25)
    assert np.abs(decoded(encoded, n_bits, 32, 32).astype(float) - w).max() <= limit


@pytest.mark.parametrize("n_bits", BITS)
def test_ternary_weights_survive_when_symmetric(n_bits):
    w = np.random.default_rng(2).choice([-0.75, 0.0, 0.75], (4, 200)).astype(np.float32)
    encoded = kernels.quantize(
        w, dtype="F32", bits=n_bits, group_size=64, symmetric=True, method="lsq"
    )
    rtol = 0.0 if n_bits == 2 else 2.0**-11  # the rounding of the scale
    np.testing.assert_allclose(decoded(encoded, n_bits, 200, 64), w, rtol=rtol)


@pytest.mark.parametrize("group_size", [32, 48, 64, 128, 256, 0])
def test_groups_of_every_size_on_wide_rows(group_size):
    x = llm_like(3, 1111, 3)
    w = affine.widen(x, "BF16")
    for n_bits in BITS:
        encoded = kernels.quantize(
            x, dtype="BF16", bits=n_bits, group_size=group_size, symmetric=False, method="lsq"
        )
        assert encoded.scales.shape == (3, -(-1111 // (group_size or 1111)))
        expect_consistent(encoded, w, n_bits, group_size)


def test_long_groups_do_not_overflow_the_integer_sums():
    x = np.where(np.arange(300_000) % 2, 1.0, -1.0).astype(np.float32)[None]
    x[0, 7] = 0.25
    encoded = kernels.quantize(x, dtype="F32", bits=8, group_size=0, symmetric=False, method="lsq")
    assert encoded.errors.sqnr_db > 60
