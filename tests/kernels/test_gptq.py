"""GPTQ against its naive twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.cholesky import BLOCK, invert_factor
from kernels.factor import STRIP, packed_size, strip_start
from kernels.tiles import WIDTH32
from tests.kernels.moments import blocks_of, correlated, hostile
from tests.kernels.strategies import bits, dtypes, group_sizes, llm_like, matrices
from tests.naive import affine, bitstream, gptq


def decoded(encoded, n_bits, cols, group_size):
    return kernels.dequantize(
        encoded.codes, encoded.scales, encoded.mins, bits=n_bits, cols=cols, group_size=group_size
    )


def same_bytes(a, b):
    stored = [(e.codes, e.scales, e.codes if e.mins is None else e.mins) for e in (a, b)]
    return all(x.tobytes() == y.tobytes() for x, y in zip(*stored, strict=True))


def unpacked(packed, size):
    """U (size, size) from the layout that the module promises."""
    out = np.zeros((-(-size // STRIP) * STRIP,) * 2)
    for strip in range(len(out) // STRIP):
        first, at = strip * STRIP, strip_start(size, strip)
        for start in range(first, len(out), WIDTH32):
            panel = packed[at : at + STRIP * WIDTH32].reshape(STRIP, WIDTH32)
            out[first : first + STRIP, start : start + WIDTH32] = panel
            at += STRIP * WIDTH32
    assert not out[size:].any()
    assert not out[:, size:].any()
    return out[:size, :size]


@pytest.mark.parametrize("size", [BLOCK, 4 * BLOCK])
def test_the_inverse_of_the_cholesky_factor(size):
    h = correlated(size, 1).astype(float) + np.eye(size)
    inverse = np.tril(np.linalg.inv(np.linalg.cholesky(h)))
    found = [h.copy() for _ in range(3)]
    for a, threads in zip(found, (1, 2, 5), strict=True):
        assert invert_factor(a, threads)
        np.testing.assert_allclose(np.tril(a), inverse, atol=1e-12 * np.abs(inverse).max())
        assert np.tril(a).tobytes() == np.tril(found[0]).tobytes()
    h[size - 1, size - 1] = -1.0
    assert not invert_factor(h, 2)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("block", [0, 96])
def test_the_factor_is_that_of_the_damped_inverse(act_order, block):
    cols = 200
    h = correlated(cols, 2)
    h[7] = h[:, 7] = 0.0
    moments = blocks_of(h, block) if block else h
    factor = kernels.gptq_factor(moments, cols=cols, damp=0.02, act_order=act_order)
    np.testing.assert_array_equal(factor.importance, np.diag(h))
    assert sorted(factor.order) == list(range(cols))
    for b, start in enumerate(range(0, cols, block or cols)):
        order = factor.order[start : start + (block or cols)]
        assert order.min() == start
        if act_order:
            assert (np.diff(h[order, order]) <= 0).all()
        expected = gptq.upper(h[np.ix_(order, order)].astype(float), 0.02)
        found = unpacked(factor.packed[b], order.size)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    peak = kernels.gptq_bytes(cols, block)
    assert factor.nbytes < peak
    assert factor.packed.shape[1] == packed_size(block or cols)
    again = kernels.gptq_factor(moments, cols=cols, damp=0.02, act_order=act_order, threads=3)
    assert again.packed.tobytes() == factor.packed.tobytes()


def test_damping_grows_until_the_factor_exists_and_what_is_no_moment_is_refused():
    h = np.array([[1.0, 1.05], [1.05, 1.0]], np.float32)  # as float32 sums may leave it
    assert kernels.gptq_factor(h, cols=2, damp=0.01).damp == pytest.approx(0.1)
    refused = (
        (np.array([[1, 5], [5, 1]]), "semidefinite"),
        (np.array([[-1, 0], [0, 1]]), "negative"),
        (np.array([[np.nan, 0], [0, 1]]), "finite"),
        (np.array([[1, np.inf], [np.inf, 1]]), "finite"),
        (np.eye(3), "do not fit"),
        (np.ones((2, 2, 2)), "do not fit"),
    )
    for moments, what in refused:
        with pytest.raises(ValueError, match=what):
            kernels.gptq_factor(moments.astype(np.float32), cols=2)
    with pytest.raises(ValueError, match="damp"):
        kernels.gptq_factor(h, cols=2, damp=0.0)
    with pytest.raises(ValueError, match="does not fit"):
        kernels.quantize_gptq(
            np.ones((1, 3), np.float32), dtype="F32", bits=4, group_size=0, symmetric=False,
            factor=kernels.gptq_factor(h, cols=2),
        )  # fmt: skip


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n_bits", [2, 4])
@pytest.mark.parametrize(
    ("block", "act_order", "group_size"),
    [(0, False, 64), (0, True, 64), (160, False, 64), (160, True, 0), (0, False, 0)],
)
def test_rounding_agrees_with_its_twin(n_bits, symmetric, block, act_order, group_size):
    cols = 300
    x, h = llm_like(6, cols, 11), correlated(cols, 5)
    w = affine.widen(x, "BF16")
    moments = blocks_of(h, block) if block else h
    factor = kernels.gptq_factor(moments, cols=cols, act_order=act_order)
    encoded = kernels.quantize_gptq(
        x, dtype="BF16", bits=n_bits, group_size=group_size, symmetric=symmetric, factor=factor
    )
    known = gptq.dense(moments, cols)
    codes, scales, mins = gptq.quantize(
        w, known, n_bits, group_size, symmetric, block=block, act_order=act_order
    )
    v = decoded(encoded, n_bits, cols, group_size)
    expected = affine.decode_rows(codes, scales, mins, n_bits, group_size)
    u = bitstream.unpack(encoded.codes, n_bits, cols)
    np.testing.assert_array_equal(encoded.codes, bitstream.pack(u, n_bits))
    assert (u[:, :64] == codes[:, :64]).mean() > 0.9  # one tie sends a row another way
    found, bar = (gptq.output_error(w, a.astype(float), known) for a in (v, expected))
    np.testing.assert_allclose(found, bar, rtol=0.12)
    np.testing.assert_allclose(encoded.errors.sum_e2, affine.error_sums(w, v)[1], rtol=1e-9)
    e = (np.diag(h).astype(float) * np.square(w.astype(float) - v)).sum()
    np.testing.assert_allclose(encoded.weighted.sum_e2, e, rtol=1e-9)


@given(st.data(), dtypes, bits, group_sizes, st.booleans(), st.booleans())
@settings(max_examples=60)
def test_without_correlations_it_is_the_weighted_search(
    data, dtype, n_bits, group_size, symmetric, act_order
):
    x = data.draw(matrices(dtype))
    cols = x.shape[1]
    element = st.one_of(st.just(0.0), st.floats(0.5, 2.0**60, width=32))
    h = np.array(data.draw(st.lists(element, min_size=cols, max_size=cols)), np.float32)
    options = {"dtype": dtype, "bits": n_bits, "group_size": group_size, "symmetric": symmetric}
    factor = kernels.gptq_factor(np.diag(h), cols=cols, act_order=act_order)
    found = kernels.quantize_gptq(x, factor=factor, **options)
    plain = kernels.quantize(x, method="lsq", weights=h, **options)
    assert same_bytes(found, plain)
    np.testing.assert_allclose(found.weighted.sum_e2, plain.weighted.sum_e2, rtol=1e-9)


@given(st.data(), dtypes, bits, group_sizes, st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_any_moments_give_finite_weights_measured_right(
    data, dtype, n_bits, group_size, symmetric, act_order, in_blocks
):
    x = data.draw(matrices(dtype))
    w, cols = affine.widen(x, dtype), x.shape[1]
    h = data.draw(hostile(cols))
    moments = blocks_of(h, 24) if in_blocks else h
    options = {"dtype": dtype, "bits": n_bits, "group_size": group_size, "symmetric": symmetric}
    first, again = (
        kernels.quantize_gptq(
            x, factor=kernels.gptq_factor(m, cols=cols, act_order=act_order), threads=threads,
            **options,
        )
        for m, threads in ((moments, 1), (moments * np.float32(2.0**-6), 2))
    )  # fmt: skip
    if h.max(initial=0) == 0 or np.diag(h)[np.diag(h) > 0].min() > 1e-30:  # else h / 64 is rounded
        assert same_bytes(first, again)
    assert np.isfinite(first.scales).all()
    assert symmetric or np.isfinite(first.mins).all()
    v = decoded(first, n_bits, cols, group_size)
    u = bitstream.unpack(first.codes, n_bits, cols)
    np.testing.assert_array_equal(first.codes, bitstream.pack(u, n_bits))
    np.testing.assert_allclose(
        first.errors.sum_e2, affine.error_sums(w, v)[1], rtol=1e-9, atol=1e-300
    )


def test_it_pays_and_full_moments_in_order_pay_most():
    cols = 700
    w = np.random.default_rng(3).standard_normal((64, cols)).astype(np.float32)
    h = correlated(cols, 9)
    options = {"dtype": "F32", "bits": 2, "group_size": 64, "symmetric": False}
    diagonal = np.diag(h).copy()
    errors = [
        gptq.output_error(w, decoded(encoded, 2, cols, 64).astype(float), h.astype(float))
        for encoded in (
            kernels.quantize(w, method="lsq", **options),
            kernels.quantize(w, method="lsq", weights=diagonal, **options),
            *(
                kernels.quantize_gptq(
                    w, factor=kernels.gptq_factor(m, cols=cols, act_order=order), **options
                )
                for m, order in ((blocks_of(h, 128), False), (h, False), (h, True))
            ),
        )
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.5 * errors[1]


def test_bytes_and_sums_do_not_depend_on_threads_or_tiles():
    x, h = llm_like(200, 520, 1), correlated(520, 4)
    factor = kernels.gptq_factor(h, cols=520)
    options = {"dtype": "BF16", "bits": 3, "group_size": 64, "symmetric": False, "factor": factor}
    first, *others = (kernels.quantize_gptq(x, threads=n, **options) for n in (1, 2, 8))
    for other in others:
        assert same_bytes(first, other)
        assert (other.errors, other.weighted) == (first.errors, first.weighted)
    tiles = [kernels.quantize_gptq(x[part], **options) for part in (slice(0, 90), slice(90, 200))]
    assert np.vstack([tile.codes for tile in tiles]).tobytes() == first.codes.tobytes()
    assert np.vstack([tile.scales for tile in tiles]).tobytes() == first.scales.tobytes()


def test_what_is_not_finite_is_named():
    w = np.ones((200, 32), np.float32)
    w[150, 3] = w[199, 1] = np.nan
    factor = kernels.gptq_factor(np.eye(32, dtype=np.float32), cols=32)
    with pytest.raises(kernels.NonFiniteWeights, match=r"\[150, 3\]"):
        kernels.quantize_gptq(
            w, dtype="F32", bits=4, group_size=0, symmetric=True, factor=factor, threads=3
        )


@pytest.mark.parametrize(
    ("cols", "block", "megabytes"), [(4096, 0, 247), (18944, 0, 5100), (18944, 1024, 140)]
)
def test_what_the_moments_need(cols, block, megabytes):
    assert kernels.gptq_bytes(cols, block) / 1e6 == pytest.approx(megabytes, rel=0.05)
