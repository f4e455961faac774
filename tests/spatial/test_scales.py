"""Scales: SmoothQuant's form, ranges over time, dead channels, and the choice of a strength."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from arrowquant.calibration.statistics import Stats
from service.domain.smoothing import Aggregate
from workers.spatial import scales
from workers.spatial.estimate import Sample, Target

magnitudes = st.one_of(st.just(0.0), st.floats(1e-30, 1e30), st.just(5e-324), st.just(1e308))


def test_the_form_is_that_of_smoothquant() -> None:
    """Equation 4 of the paper, to a common factor."""
    a, w = np.array([1.0, 8.0, 0.5, 3.0]), np.array([0.2, 0.1, 0.4, 0.05])
    for alpha in (0.0, 0.3, 0.5, 1.0):
        s = scales.smooth(a, w, alpha, exact=False)
        expected = a**alpha / w ** (1 - alpha)
        np.testing.assert_allclose(s / s[0], expected / expected[0], rtol=1e-12)
        assert np.log(s).mean() == pytest.approx(0)
    even = scales.smooth(a, w, 0.5, exact=False)
    np.testing.assert_allclose((a / even) / (w * even), (a / even)[0] / (w * even)[0])


@given(
    arrays.arrays(np.float64, 7, elements=magnitudes),
    arrays.arrays(np.float64, 7, elements=magnitudes),
    st.floats(0, 1),
    st.booleans(),
)
def test_scales_are_usable_whatever_was_seen(
    a: np.ndarray, w: np.ndarray, alpha: float, exact: bool
) -> None:
    s = scales.smooth(a, w, alpha, exact=exact)
    assert np.isfinite(s).all()
    assert (s >= 1 / scales.WIDEST).all()
    assert (s <= scales.WIDEST).all()
    assert (s[(a == 0) | (w == 0)] == 1).all()
    if exact:
        assert (np.frexp(s)[0] == 0.5).all()


def test_what_would_leave_its_dtype_stays() -> None:
    s = np.array([4.0, 4.0, 0.25, 0.25])
    read, made = np.array([60000.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 60000.0, 1.0])
    assert scales.representable(s, read, made, 65504.0).tolist() == [1, 4, 1, 0.25]


def stats(abs_max: list[list[float]], counts: list[int], bins: list[int]) -> Stats:
    most = np.array(abs_max, np.float32)
    return Stats(
        bins=np.array(bins, np.int32),
        branches=("",) * len(bins),
        count=np.array(counts, np.int64),
        sum_sq=most.astype(np.float64) ** 2,
        abs_max=most,
    )


def test_one_range_for_all_times() -> None:
    seen = stats([[1, 8], [3, 2], [5, 0]], [10, 30, 0], [0, 1, 2])
    w = np.array([1.0, 1.0])
    assert scales.largest(seen, Aggregate.MAX, (), w).tolist() == [3, 8]
    assert scales.largest(seen, Aggregate.MEAN, (), w).tolist() == [2.5, 3.5]
    assert scales.largest(seen, Aggregate.MEAN, (3.0, 1.0, 1.0), w).tolist() == [2.0, 5.0]
    nothing = stats([[0, 0]], [0], [0])
    assert scales.largest(nothing, Aggregate.MAX, (), w).tolist() == [0, 0]


def test_branches_of_one_time_count_by_the_largest() -> None:
    seen = stats([[1, 8], [3, 2]], [10, 30], [0, 0])
    assert scales.largest(seen, Aggregate.MEAN, (), np.ones(2)).tolist() == [3, 8]


def test_salience_prefers_bins_whose_large_channels_are_not_those_of_the_weight() -> None:
    w = np.array([1.0, 2.0, 3.0])
    seen = stats([[1, 2, 3], [3, 2, 1]], [5, 5], [0, 1])
    # Correlations 1 and -1: softmax of their negatives.
    share = np.exp(1) / (np.exp(1) + np.exp(-1))
    expected = share * np.array([3, 2, 1]) + (1 - share) * np.array([1, 2, 3])
    np.testing.assert_allclose(scales.largest(seen, Aggregate.SALIENCE, (), w), expected)


def test_rank_correlation() -> None:
    a = np.array([0.1, 5.0, 2.0, 2.0, 9.0])
    assert scales.spearman(a, a**3) == pytest.approx(1)
    assert scales.spearman(a, -a) == pytest.approx(-1)
    assert scales.spearman(a, np.ones(5)) == 0
    # Ranks 1 4 2.5 2.5 5 and 2 1 3 4 5: products about their means over their squares.
    assert scales.spearman(a, np.array([2.0, 1.0, 3.0, 4.0, 5.0])) == pytest.approx(
        3.5 / np.sqrt(9.5 * 10)
    )


def outliers(seed: int) -> Sample:
    """Inputs in which a few channels are far larger than the others."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(500, 128))
    x[:, ::16] *= 40
    w = rng.normal(size=(64, 128)).astype(np.float32)
    return Sample(w, (x**2).mean(0), np.abs(x).max(0))


def test_the_strength_of_least_error_is_chosen() -> None:
    sample, target = outliers(1), Target(4, 64, 8)
    most = np.abs(sample.w).max(0).astype(np.float64)
    grid: list[tuple[float | None, np.ndarray]] = [(None, np.ones(128))]
    grid += [(a, scales.smooth(sample.most, most, a, exact=True)) for a in scales.ALPHAS]
    alpha, _, error = scales.choose(grid, lambda s: sample.error(s, target))
    assert alpha is not None
    assert error == min(sample.error(each, target) for _, each in grid)
    assert error < 0.8 * sample.error(np.ones(128), target)
    kept, _, _ = scales.choose(grid, lambda _: 1.0)
    assert kept is None


def test_the_estimate_is_what_rounding_does() -> None:
    """Both parts against the real output, on inputs without correlation."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4000, 64)) * np.geomspace(0.2, 4, 64)
    w = rng.normal(size=(32, 64)).astype(np.float32)
    sample = Sample(w, (x**2).mean(0), np.abs(x).max(0))
    s = scales.smooth(sample.most, np.abs(w).max(0).astype(np.float64), 0.5, exact=False)
    signal = ((x @ w.T) ** 2).sum()
    step = 2 * np.abs(x / s).max() / 255
    rounded = np.rint(x / s / step) * step
    real = (((rounded - x / s) @ (w * s).T) ** 2).sum() / signal
    assert sample.error(s, Target(0, 64, 8)) == pytest.approx(real, rel=0.1)
    assert sample.error(s, Target(0, 64, 0)) == 0
    both = sample.error(s, Target(4, 64, 8))
    assert both == pytest.approx(
        sample.error(s, Target(4, 64, 0)) + sample.error(s, Target(0, 64, 8))
    )
