"""What was measured of one input, as arrays. Adding two of them is associative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration import layout
from arrowquant.calibration.index import invalid

Weighting = Literal["captured", "uniform"]
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Stats:
    """Sums over activations, a row for each pair of time bin and branch that was seen.

    bins      int32 (rows,), the bin's number; branches, the branch's name for each row
    count     int64 (rows,): activation vectors that were summed
    sum_sq    float64 (rows, n): x^2 of every channel
    sum       float64 (rows, n): x; None where only squares are known
    abs_max   float32 (rows, n): largest |x| of every channel, or None
    low, high float32 (rows,): smallest and largest x of all channels, or None
    hist      int64 (rows, histogram.BINS): see histogram, or None
    """

    bins: NDArray[np.int32]
    branches: tuple[str, ...]
    count: NDArray[np.int64]
    sum_sq: NDArray[np.float64]
    sum: NDArray[np.float64] | None = None
    abs_max: NDArray[np.float32] | None = None
    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None
    hist: NDArray[np.int64] | None = None

    @property
    def n(self) -> int:
        return int(self.sum_sq.shape[1])

    def total(self) -> int:
        """Activation vectors in all rows."""
        return int(self.count.sum())

    def shares(
        self, weighting: Weighting = "captured", omega: Sequence[float] = ()
    ) -> NDArray[np.float64]:
        """How much a single activation vector of each row counts, float64 (rows,).

        captured  pi is the share of the vectors that were captured in the bin: all count the same
        uniform   every time bin counts the same, however often it was captured
        omega     a factor for each bin, see Index

        Formula: H = sum_g pi_g omega_g H_g, with H_g the mean over group g.
        """
        factors = np.ones(len(self.count))
        if omega:
            factors = np.asarray(omega, np.float64)[self.bins]
        if weighting == "uniform":
            seen = np.bincount(self.bins, self.count.astype(np.float64))[self.bins]
            factors = factors * np.divide(1.0, seen, out=np.zeros_like(seen), where=seen > 0)
        return factors

    def mean_square(
        self, weighting: Weighting = "captured", omega: Sequence[float] = ()
    ) -> NDArray[np.float64]:
        """E[x^2] of every channel, float64 (n,); see shares."""
        shares = self.shares(weighting, omega)
        total = float(shares @ self.count)
        return shares @ self.sum_sq / total if total > 0 else np.zeros(self.n)

    def bin_squares(self, bins: int) -> NDArray[np.float64]:
        """E[x^2] of every channel in each time bin, all branches together, float64 (bins, n); zeros in
        a bin that was not seen."""
        found, seen = np.zeros((bins, self.n)), np.zeros(bins)
        np.add.at(found, self.bins, self.sum_sq)
        np.add.at(seen, self.bins, self.count)
        return np.divide(found, seen[:, None], out=found, where=seen[:, None] > 0)

    def mean(
        self, weighting: Weighting = "captured", omega: Sequence[float] = ()
    ) -> NDArray[np.float64] | None:
        """E[x] of every channel, float64 (n,), or None where it was not measured."""
        if self.sum is None:
            return None
        shares = self.shares(weighting, omega)
        total = float(shares @ self.count)
        return shares @ self.sum / total if total > 0 else np.zeros(self.n)

    def check(self, where: str) -> None:
        """Raise invalid_calibration unless the numbers can have been measured."""
        count = self.count.astype(np.float64)[:, None]
        if (
            np.any(self.count < 0)
            or self.total() > layout.MAX_COUNT
            or np.any(self.count > layout.MAX_COUNT)
        ):
            raise invalid("a count is negative or too large", input=where)
        if not np.all(np.isfinite(self.sum_sq)) or np.any(self.sum_sq < 0):
            raise invalid("a sum of squares is negative or not finite", input=where)
        if np.any(self.sum_sq[self.count == 0]):
            raise invalid("squares were summed over nothing", input=where)
        # Cauchy and Schwarz: (sum x)^2 <= count * sum x^2.
        most = count * self.sum_sq * (1 + 1e-6)
        if self.sum is not None and (
            not np.all(np.isfinite(self.sum)) or np.any(self.sum**2 > most)
        ):
            raise invalid("a sum is not finite, or larger than its squares allow", input=where)
        self._check_ranges(where)

    def _check_ranges(self, where: str) -> None:
        if self.abs_max is not None:
            largest = self.abs_max.astype(np.float64)
            if not np.all(np.isfinite(largest)) or np.any(largest < 0):
                raise invalid("a largest magnitude is negative or not finite", input=where)
            if np.any(largest**2 > self.sum_sq * (1 + 1e-6)):
                raise invalid("a largest magnitude is above its sum of squares", input=where)
        if (self.low is None) != (self.high is None):
            raise invalid("a range lacks an end", input=where)
        if self.low is not None and self.high is not None:
            seen = self.count > 0
            ends = np.concatenate([self.low[seen], self.high[seen]])
            if not np.all(np.isfinite(ends)) or np.any(self.low[seen] > self.high[seen]):
                raise invalid("a range is not finite or upside down", input=where)
        if self.hist is not None and (
            np.any(self.hist < 0) or np.any(self.hist.sum(axis=1) != self.count * self.n)
        ):
            raise invalid("a histogram does not add up to its count", input=where)


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows of activations drawn at random: those with the smallest keys of all that were seen.

    data  float16 (kept, n); bins int32 (kept,); keys uint64 (kept,), ascending

    A key is a random number given to a row when it is seen. Whatever way shards are merged, the
    rows with the smallest keys stay: a uniform sample without replacement.
    """

    data: NDArray[np.float16]
    bins: NDArray[np.int32]
    keys: NDArray[np.uint64]

    def smallest(self, most: int) -> Samples:
        """The first `most` by key; of rows with one key, the order of their values decides."""
        order = np.argsort(self.keys, kind="stable")[:most]
        return Samples(self.data[order], self.bins[order], self.keys[order])

    def check(self, bins: int, where: str) -> None:
        """Raise invalid_calibration unless the numbers can have been measured."""
        if not np.all(np.isfinite(self.data)):
            raise invalid("a sample is not finite", input=where)
        if np.any(self.bins < 0) or np.any(self.bins >= bins):
            raise invalid("a sample is of no time bin", input=where)
        if np.any(np.diff(self.keys.astype(object)) < 0):
            raise invalid("the keys of the samples do not ascend", input=where)


def add_stats(one: Stats, other: Stats, order: Sequence[str]) -> Stats:
    """Sums and counts add, ranges widen; what one of them lacks is lacking in the result.

    order  the branches, by which rows of one bin are sorted
    """
    rows = sorted(
        {*zip(one.bins.tolist(), one.branches, strict=True)}
        | {*zip(other.bins.tolist(), other.branches, strict=True)},
        key=lambda row: (row[0], order.index(row[1])),
    )
    place = {row: number for number, row in enumerate(rows)}
    at = [
        np.array([place[row] for row in zip(s.bins.tolist(), s.branches, strict=True)], np.intp)
        for s in (one, other)
    ]

    def added(a: NDArray[_Number], b: NDArray[_Number]) -> NDArray[_Number]:
        result = np.zeros((len(rows), *a.shape[1:]), a.dtype)
        result[at[0]] = a
        result[at[1]] += b
        return result

    def extreme(
        a: NDArray[np.float32] | None, b: NDArray[np.float32] | None, sign: float
    ) -> NDArray[np.float32] | None:
        if a is None or b is None:
            return None
        result = np.full((len(rows), *a.shape[1:]), -np.inf, np.float32)
        result[at[0]] = sign * a
        result[at[1]] = np.maximum(result[at[1]], sign * b)
        return (sign * result).astype(np.float32)

    both = (one.hist, other.hist)
    return Stats(
        bins=np.array([row[0] for row in rows], np.int32),
        branches=tuple(row[1] for row in rows),
        count=added(one.count, other.count),
        sum_sq=added(one.sum_sq, other.sum_sq),
        sum=None if one.sum is None or other.sum is None else added(one.sum, other.sum),
        abs_max=extreme(one.abs_max, other.abs_max, 1.0),
        low=extreme(one.low, other.low, -1.0),
        high=extreme(one.high, other.high, 1.0),
        hist=None if both[0] is None or both[1] is None else added(both[0], both[1]),
    )


def add_samples(one: Samples, other: Samples, most: int) -> Samples:
    """The `most` rows with the smallest keys of both."""
    data = np.concatenate([one.data, other.data])
    bins = np.concatenate([one.bins, other.bins])
    keys = np.concatenate([one.keys, other.keys])
    # Equal keys are ordered by what they stand for, so that the order of merging leaves no trace.
    ranked = sorted(range(len(keys)), key=lambda i: (int(keys[i]), int(bins[i]), data[i].tobytes()))
    order = np.array(ranked[:most], np.intp)
    return Samples(data[order], bins[order], keys[order])
