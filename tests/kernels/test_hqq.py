"""The half-quadratic fit against its naive twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from tests.kernels.strategies import BITS, bits, dtypes, group_sizes, llm_like, matrices
from tests.naive import affine, bitstream, hqq, minmax


def decoded(encoded, n_bits, cols, group_size):
    return kernels.dequantize(
        encoded.codes, encoded.scales, encoded.mins, bits=n_bits, cols=cols, group_size=group_size
    )


@pytest.mark.parametrize("size", [1.0, 100.0])  # at 100 errors are large enough to be shrunk
@pytest.mark.parametrize("n_bits", BITS)
@pytest.mark.parametrize("group_size", [32, 64, 0])
def test_the_fit_agrees_with_its_twin(n_bits, group_size, size):
    x = (affine.widen(llm_like(12, 1000, 11), "BF16") * size).astype(np.float32)
    encoded = kernels.quantize_hqq(x, dtype="F32", bits=n_bits, group_size=group_size)
    codes, scales, mins = hqq.quantize(x, n_bits, group_size)
    expected = affine.decode_rows(codes, scales, mins, n_bits, group_size)
    found = decoded(encoded, n_bits, 1000, group_size)
    np.testing.assert_allclose(
        encoded.errors.sum_e2, affine.error_sums(x, expected)[1], rtol=2e-3 if n_bits < 8 else 1e-2
    )
    np.testing.assert_allclose(encoded.scales, scales, rtol=2.0**-10)  # the last bit of a half
    assert (encoded.scales == scales).mean() > 0.9
    u = bitstream.unpack(encoded.codes, n_bits, 1000)
    assert (u == codes).mean() > 0.99  # ties of a code, and of an iteration, may end elsewhere
    np.testing.assert_allclose(encoded.errors.sum_e2, affine.error_sums(x, found)[1], rtol=2e-6)


@given(st.data(), dtypes, bits, group_sizes)
def test_codes_follow_the_stored_scale_and_minimum(data, dtype, n_bits, group_size):
    x = data.draw(matrices(dtype))
    w = affine.widen(x, dtype)
    encoded = kernels.quantize_hqq(x, dtype=dtype, bits=n_bits, group_size=group_size)
    assert np.isfinite(encoded.scales).all()
    assert np.isfinite(encoded.mins).all()
    _, plain_scales, plain_mins = minmax.quantize(w, n_bits, group_size, False)
    u = bitstream.unpack(encoded.codes, n_bits, w.shape[1])
    np.testing.assert_array_equal(encoded.codes, bitstream.pack(u, n_bits))
    for r in range(w.shape[0]):
        for g, part in enumerate(affine.groups(w.shape[1], group_size)):
            scale, low = encoded.scales[r, g], encoded.mins[r, g]
            expected = affine.encode(w[r, part], scale, low, n_bits, False)
            np.testing.assert_array_equal(u[r, part], expected)
            if float(w[r, part].max()) - float(w[r, part].min()) < 2.0**-25:
                assert (scale, low) == (plain_scales[r, g], plain_mins[r, g])
    v = affine.decode_rows(u, encoded.scales, encoded.mins, n_bits, group_size)
    np.testing.assert_array_equal(decoded(encoded, n_bits, w.shape[1], group_size), v)


@given(st.floats(-65504, 65504, width=16), bits)
def test_constant_groups_are_exact(value, n_bits):
    w = np.full((2, 96), value, np.float32)
    encoded = kernels.quantize_hqq(w, dtype="F32", bits=n_bits, group_size=32)
    np.testing.assert_array_equal(decoded(encoded, n_bits, 96, 32), w)
    assert encoded.errors.sqnr_db == np.inf


def test_the_search_that_is_the_default_is_better():
    x = llm_like(64, 4096, 5)
    options = {"dtype": "BF16", "group_size": 64}
    for n_bits, plain, least in ((2, 6.3, 2.0), (3, 13.9, 0.4), (4, 20.3, 0.1)):
        found = kernels.quantize_hqq(x, bits=n_bits, **options).errors.sqnr_db
        best = kernels.quantize(x, bits=n_bits, symmetric=False, method="lsq", **options)
        assert plain < found < best.errors.sqnr_db - least


def test_bytes_and_sums_do_not_depend_on_threads():
    x = llm_like(220, 3003, 1)
    first, *others = (
        kernels.quantize_hqq(x, dtype="BF16", bits=2, group_size=64, threads=threads)
        for threads in (1, 2, 3, 8)
    )
    for other in others:
        for name in ("codes", "scales", "mins"):
            assert getattr(other, name).tobytes() == getattr(first, name).tobytes()
        assert other.errors == first.errors


def test_what_is_not_finite_is_named():
    x = np.ones((300, 700), np.float32)
    x[211, 3] = np.inf
    with pytest.raises(kernels.NonFiniteWeights, match=r"\[211, 3\]"):
        kernels.quantize_hqq(x, dtype="F32", bits=4, group_size=64, threads=3)
