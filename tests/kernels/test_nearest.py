"""Rounding to nearest in spans: the same bytes as the plain way, and sums near the exact ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from kernels.nearest import SHORT, SPAN, whole
from kernels.widen import KINDS
from tests.kernels.strategies import BITS, LANDMARKS, bits, llm_like, narrow
from tests.naive import affine, bitstream, minmax

SIXTEEN = ("BF16", "F16")


@st.composite
def spans(draw, dtype):
    """Rows of whole groups, ordinary and not, side by side; and the group size."""
    group, groups = draw(st.sampled_from((32, 64, 96))), draw(st.integers(1, 20))
    rows, random = draw(st.integers(1, 3)), np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from((1e-7, 1e-5, 1e-3, 0.02, 1.0, 100.0, 1e4)))
    w = random.standard_normal((rows, groups, group)) * scale
    w *= random.lognormal(0.0, draw(st.sampled_from((0.0, 1.0, 4.0))), (rows, groups, 1))
    for _ in range(draw(st.integers(0, 3))):
        row, one = draw(st.integers(0, rows - 1)), draw(st.integers(0, groups - 1))
        landmark = draw(st.sampled_from(LANDMARKS))
        kind = draw(st.sampled_from(("constant", "one", "above", "below", "offset", "few")))
        part = w[row, one]
        if kind == "constant":
            part[:] = landmark
        elif kind == "one":
            part[draw(st.integers(0, group - 1))] = -landmark
        elif kind == "few":
            part[:] = random.choice((-landmark, 0.0, landmark), group)
        else:
            part[:] = {"above": np.abs(part), "below": -np.abs(part), "offset": part + landmark}[
                kind
            ]
    flat = np.clip(w.reshape(rows, groups * group), -3.4e38, 3.4e38)
    return narrow(flat.astype(np.float32), dtype), group


def expect_sums(errors, w, v):
    """Within what nearest says: e is known to 2^-22 of w, sums are float32 over SHORT weights."""
    w2, e2, wv, v2, largest, count = affine.error_sums(w, v)
    tiny = 1e-43 * count
    np.testing.assert_allclose(errors.sum_w2, w2, rtol=4e-6, atol=tiny)
    cross = 2.0**-21 * np.sqrt(w2 * e2)
    np.testing.assert_allclose(errors.sum_e2, e2, rtol=4e-6, atol=tiny + cross)
    scale = max(w2, v2)
    np.testing.assert_allclose((errors.sum_wq, errors.sum_q2), (wv, v2), atol=8e-6 * scale)
    np.testing.assert_allclose(errors.max_abs_error, largest, rtol=1e-7)
    assert errors.count == count
    assert errors.cosine <= 1


@given(st.data(), st.sampled_from(SIXTEEN), bits, st.booleans())
def test_groups_of_every_kind_are_encoded_like_the_twin(data, dtype, n_bits, symmetric):
    x, group = data.draw(spans(dtype))
    assert whole(KINDS[dtype], x.shape[1], group)
    encoded = kernels.quantize(
        x, dtype=dtype, bits=n_bits, group_size=group, symmetric=symmetric, method="minmax"
    )
    w = affine.widen(x, dtype)
    codes, scales, mins = minmax.quantize(w, n_bits, group, symmetric)
    np.testing.assert_array_equal(encoded.scales.view(np.uint16), scales.view(np.uint16))
    if not symmetric:
        np.testing.assert_array_equal(encoded.mins.view(np.uint16), mins.view(np.uint16))
    np.testing.assert_array_equal(bitstream.unpack(encoded.codes, n_bits, w.shape[1]), codes)
    v = affine.decode_rows(codes, scales, None if symmetric else mins, n_bits, group)
    expect_sums(encoded.errors, w, v)


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("n_bits", BITS)
@pytest.mark.parametrize("group", [32, 64, SHORT + 32, 0])
def test_rows_of_several_spans(dtype, n_bits, group):
    cols = 3 * SPAN + 256 if group in (32, 64) else 8 * (SHORT + 32)
    x = llm_like(5, cols, 4, dtype)
    w = affine.widen(x, dtype)
    for symmetric in (False, True):
        encoded = kernels.quantize(
            x, dtype=dtype, bits=n_bits, group_size=group, symmetric=symmetric, method="minmax"
        )
        codes, scales, mins = minmax.quantize(w, n_bits, group, symmetric)
        np.testing.assert_array_equal(encoded.codes, bitstream.pack(codes, n_bits))
        v = affine.decode_rows(codes, scales, None if symmetric else mins, n_bits, group)
        expect_sums(encoded.errors, w, v)


@pytest.mark.parametrize("spans", [1, 2, 3, 4])
@pytest.mark.parametrize("pattern", [0x3F80, 0x0000, 0x7F7F])
def test_a_row_that_is_left_to_others_does_not_disturb_those_around_it(spans, pattern):
    """Ranges are found a row ahead: rows are as each is alone, whichever group is not ordinary."""
    cols = spans * SPAN - 96
    for span in range(spans):
        for group in (0, 5):
            x = llm_like(6, cols, spans)
            start = span * SPAN + group * 32
            x[1, start : start + 32] = x[4, start : start + 32] = pattern
            options = {"dtype": "BF16", "bits": 4, "group_size": 32, "method": "minmax"}
            made = kernels.quantize(x, symmetric=False, **options)
            for row in range(len(x)):
                alone = kernels.quantize(x[row : row + 1], symmetric=False, **options)
                np.testing.assert_array_equal(made.codes[row], alone.codes[0])
                np.testing.assert_array_equal(made.scales[row], alone.scales[0])
                np.testing.assert_array_equal(made.mins[row], alone.mins[0])


def test_errors_at_8_bits_are_known_to_a_millionth():
    x = llm_like(64, 11008, 7)
    encoded = kernels.quantize(
        x, dtype="BF16", bits=8, group_size=64, symmetric=False, method="minmax"
    )
    w = affine.widen(x, "BF16")
    v = kernels.dequantize(
        encoded.codes, encoded.scales, encoded.mins, bits=8, cols=11008, group_size=64
    )
    w2, e2, wv, v2, largest, _ = affine.error_sums(w, v)
    found = encoded.errors
    np.testing.assert_allclose(
        (found.sum_w2, found.sum_e2, found.sum_wq, found.sum_q2), (w2, e2, wv, v2), rtol=1e-6
    )
    np.testing.assert_allclose(found.max_abs_error, largest, rtol=1e-7)


@pytest.mark.parametrize("pattern", [0x7F80, 0xFF80, 0x7FC1, 0xFFC1])
def test_the_first_weight_that_is_not_finite_is_named(pattern):
    x = llm_like(40, 8192, 9)
    x[17, 5000] = x[17, 7000] = x[30, 1] = pattern
    for threads in (1, 2):
        with pytest.raises(kernels.NonFiniteWeights) as refused:
            kernels.quantize(
                x, dtype="BF16", bits=4, group_size=64, symmetric=False, method="minmax",
                threads=threads,
            )  # fmt: skip
        assert (refused.value.row, refused.value.col) == (17, 5000)


@pytest.mark.parametrize("method", ["minmax", "lsq"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_an_earlier_result_is_written_over(method, symmetric):
    options = {
        "dtype": "BF16",
        "bits": 4,
        "group_size": 64,
        "symmetric": symmetric,
        "method": method,
    }
    first = kernels.quantize(llm_like(9, 512, 1), **options)
    x = llm_like(7, 512, 2)
    fresh, again = kernels.quantize(x, **options), kernels.quantize(x, **options, out=first)
    assert np.shares_memory(again.codes, first.codes)
    assert np.shares_memory(again.scales, first.scales)
    np.testing.assert_array_equal(again.codes, fresh.codes)
    np.testing.assert_array_equal(again.scales, fresh.scales)
    if not symmetric:
        assert np.shares_memory(again.mins, first.mins)
        np.testing.assert_array_equal(again.mins, fresh.mins)
    assert again.errors == fresh.errors
    with pytest.raises(ValueError, match="room"):
        kernels.quantize(llm_like(10, 512, 1), **options, out=first)
    with pytest.raises(ValueError, match="room"):
        kernels.quantize(x, **(options | {"bits": 8}), out=first)
