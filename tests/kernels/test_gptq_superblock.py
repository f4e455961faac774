"""GPTQ with scales of two levels, after AWQ's factors, and with the gain of its output given back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from tests.kernels.moments import blocks_of, correlated, hostile
from tests.kernels.strategies import dtypes, llm_like, matrices
from tests.kernels.test_superblock import configs, expect_consistent, options_of, same_bytes, stored
from tests.naive import affine, gptq


def decoded(encoded, config, cols):
    return kernels.dequantize_superblock(*stored(encoded), cols=cols, **options_of(config))


@pytest.mark.parametrize("config", [(2, 16, 4), (3, 32, 6), (4, 32, 4)])
@pytest.mark.parametrize(("block", "act_order"), [(0, False), (0, True), (160, False)])
def test_rounding_agrees_with_its_twin(config, block, act_order):
    cols = 300
    x, h = llm_like(6, cols, 11), correlated(cols, 5)
    w = affine.widen(x, "BF16")
    moments = blocks_of(h, block) if block else h
    factor = kernels.gptq_factor(moments, cols=cols, act_order=act_order)
    options = options_of(config)
    encoded = kernels.quantize_gptq_superblock(x, dtype="BF16", factor=factor, **options)
    *_, v = expect_consistent(encoded, w, config)
    known = gptq.dense(moments, cols)
    expected = gptq.quantize_super(w, known, *config, block=block, act_order=act_order)
    found, bar = (gptq.output_error(w, a.astype(float), known) for a in (v, expected))
    np.testing.assert_allclose(found, bar, rtol=0.12)  # near ties end elsewhere
    # A near tie may move d by its last bit, and sends a row or two of six another way.
    same = np.isclose(v[:, :64], expected[:, :64], rtol=2e-3).mean(1)
    assert np.median(same) > 0.6
    e = (np.diag(h).astype(float) * np.square(w.astype(float) - v)).sum()
    np.testing.assert_allclose(encoded.weighted.sum_e2, e, rtol=1e-9)


@given(st.data(), dtypes, configs, st.booleans())
@settings(max_examples=40)
def test_without_correlations_it_is_the_weighted_fit(data, dtype, config, act_order):
    x = data.draw(matrices(dtype, max_rows=2, max_cols=300))
    cols = x.shape[1]
    h = np.exp2(np.random.default_rng(data.draw(st.integers(0, 99))).integers(-9, 60, cols))
    h = (h * (h > 2.0**-7)).astype(np.float32)
    factor = kernels.gptq_factor(np.diag(h), cols=cols, act_order=act_order)
    options = {"dtype": dtype, **options_of(config)}
    found = kernels.quantize_gptq_superblock(x, factor=factor, **options)
    plain = kernels.quantize_superblock(x, weights=h, **options)
    assert same_bytes(found, plain)
    np.testing.assert_allclose(found.weighted.sum_e2, plain.weighted.sum_e2, rtol=1e-9)


@given(st.data(), dtypes, configs, st.booleans(), st.booleans())
@settings(max_examples=40)
def test_any_moments_give_finite_weights_measured_right(data, dtype, config, act_order, in_blocks):
    x = data.draw(matrices(dtype, max_rows=2, max_cols=300))
    w, cols = affine.widen(x, dtype), x.shape[1]
    h = data.draw(hostile(cols))
    factor = kernels.gptq_factor(
        blocks_of(h, 24) if in_blocks else h, cols=cols, act_order=act_order
    )
    options = {"dtype": dtype, "factor": factor, **options_of(config)}
    first, again = (kernels.quantize_gptq_superblock(x, threads=n, **options) for n in (1, 2))
    assert same_bytes(first, again)
    expect_consistent(first, w, config)


def test_it_pays_and_full_moments_in_order_pay_most():
    cols, config = 700, (2, 16, 4)
    w = np.random.default_rng(3).standard_normal((64, cols)).astype(np.float32)
    h = correlated(cols, 9)
    options = {"dtype": "F32", **options_of(config)}
    errors = [
        gptq.output_error(w, decoded(encoded, config, cols).astype(float), h.astype(float))
        for encoded in (
            kernels.quantize_superblock(w, **options),
            kernels.quantize_superblock(w, weights=np.diag(h).copy(), **options),
            *(
                kernels.quantize_gptq_superblock(
                    w, factor=kernels.gptq_factor(m, cols=cols, act_order=order), **options
                )
                for m, order in ((blocks_of(h, 128), False), (h, False), (h, True))
            ),
        )
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.6 * errors[1]


def test_bytes_and_sums_do_not_depend_on_threads_or_tiles():
    x, h = llm_like(200, 520, 1), correlated(520, 4)
    options = {
        "dtype": "BF16",
        "factor": kernels.gptq_factor(h, cols=520),
        **options_of((3, 32, 6)),
    }
    first, *others = (kernels.quantize_gptq_superblock(x, threads=n, **options) for n in (1, 2, 8))
    for other in others:
        assert same_bytes(first, other)
        assert (other.errors, other.weighted) == (first.errors, first.weighted)
    tiles = [
        kernels.quantize_gptq_superblock(x[part], **options)
        for part in (slice(0, 90), slice(90, 200))
    ]
    for name in ("codes", "scale_codes", "min_codes", "d", "dm"):
        joined = np.vstack([getattr(tile, name) for tile in tiles])
        assert joined.tobytes() == getattr(first, name).tobytes(), name


def test_what_does_not_fit_or_is_not_finite_is_named():
    factor = kernels.gptq_factor(np.eye(32, dtype=np.float32), cols=32)
    options = {"dtype": "F32", "factor": factor, **options_of((4, 32, 6))}
    w = np.ones((200, 32), np.float32)
    w[150, 3] = w[199, 1] = np.nan
    with pytest.raises(kernels.NonFiniteWeights, match=r"\[150, 3\]"):
        kernels.quantize_gptq_superblock(w, threads=3, **options)
    with pytest.raises(ValueError, match="does not fit"):
        kernels.quantize_gptq_superblock(np.ones((1, 33), np.float32), **options)


@pytest.mark.parametrize("block", [0, 24])
def test_moments_of_inputs_that_are_divided(block):
    cols = 60
    h = correlated(cols, 3)
    s = np.exp2(np.random.default_rng(1).integers(-3, 4, cols)).astype(np.float32)
    moments = blocks_of(h, block) if block else h
    before = moments.copy()
    found = gptq.dense(kernels.divided_moments(moments, s), cols)
    np.testing.assert_array_equal(found, gptq.dense(moments, cols) / np.outer(s, s))
    np.testing.assert_array_equal(moments, before)
