"""Summing activations: NumPy arrays in, the statistics of a calibration file out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration import histogram, layout
from arrowquant.calibration.index import Input, invalid
from arrowquant.calibration.statistics import Samples, Stats

_ROWS = 4096  # activation vectors summed at a time


@dataclass(slots=True)
class _Sums:
    count: int
    sum: NDArray[np.float64]
    sum_sq: NDArray[np.float64]
    abs_max: NDArray[np.float32]
    low: float
    high: float
    hist: NDArray[np.int64]


class Accumulator:
    """The sums over one input.

    n        channels
    moment   second moments beside the diagonal: none, block or full
    block    channels of a block
    keep     activation vectors to keep as samples
    seed     of the keys that decide which

    Memory: 20 bytes a channel for each bin and branch seen; 8 * n * block for blocks, 8 * n * n for
    full moments; 2 * n * keep for samples.
    """

    def __init__(
        self,
        name: str,
        n: int,
        moment: str = "none",
        block: int = 512,
        keep: int = 0,
        seed: int = 0,
    ) -> None:
        self.name, self.n, self.moment = name, n, moment
        self.block = block if moment == "block" else 0
        self.keep = keep
        self._rng = np.random.default_rng([seed, *name.encode()])
        self._sums: dict[tuple[int, str], _Sums] = {}
        self._squares = [
            np.zeros((rows, cols)) for _, rows, _, cols in layout.panels(n, moment, block)
        ]
        self._samples = Samples(
            np.empty((0, n), np.float16), np.empty(0, np.int32), np.empty(0, np.uint64)
        )

    def add(self, x: NDArray[np.float32], bins: NDArray[np.int32], branch: str) -> None:
        """Add activation vectors of one branch.

        x     float32 (vectors, n), finite
        bins  int32 (vectors,): the time bin of each
        Raises invalid_calibration for NaN and Inf.
        """
        for start in range(0, len(x), _ROWS):
            piece, places = x[start : start + _ROWS], bins[start : start + _ROWS]
            if not np.all(np.isfinite(piece)):
                raise invalid(
                    "an activation is NaN or Inf",
                    "Capture in a wider dtype, or leave this layer out.",
                    input=self.name[:200],
                )
            for number in np.unique(places):
                self._add(piece[places == number], int(number), branch)
            self._add_squares(piece)
            if self.keep:
                self._draw(piece, places)

    def _add(self, x: NDArray[np.float32], number: int, branch: str) -> None:
        sums = self._sums.get((number, branch))
        if sums is None:
            zeros, n = np.zeros, self.n
            sums = _Sums(
                0, zeros(n), zeros(n), zeros(n, np.float32), np.inf, -np.inf,
                zeros(histogram.BINS, np.int64),
            )  # fmt: skip
            self._sums[number, branch] = sums
        wide = x.astype(np.float64)
        sums.count += len(x)
        sums.sum += wide.sum(axis=0)
        sums.sum_sq += np.einsum("ij,ij->j", wide, wide)
        low, high = x.min(axis=0), x.max(axis=0)
        np.maximum(sums.abs_max, np.maximum(-low, high), out=sums.abs_max)
        sums.low = min(sums.low, float(low.min()))
        sums.high = max(sums.high, float(high.max()))
        sums.hist += histogram.count(x)

    def _add_squares(self, x: NDArray[np.float32]) -> None:
        places = layout.panels(self.n, self.moment, self.block)
        for number, (row, rows, col, cols) in enumerate(places):
            self._squares[number] += x[:, row : row + rows].T @ x[:, col : col + cols]

    def _draw(self, x: NDArray[np.float32], bins: NDArray[np.int32]) -> None:
        keys = self._rng.integers(0, 2**64, len(x), np.uint64)
        held = self._samples
        if len(held.keys) >= self.keep:
            better = keys < held.keys[-1]
            x, bins, keys = x[better], bins[better], keys[better]
        if len(keys):
            largest = np.float32(np.finfo(np.float16).max)
            self._samples = Samples(
                np.concatenate([held.data, np.clip(x, -largest, largest).astype(np.float16)]),
                np.concatenate([held.bins, bins.astype(np.int32)]),
                np.concatenate([held.keys, keys]),
            ).smallest(self.keep)

    @property
    def seen(self) -> int:
        """Activation vectors added so far."""
        return sum(sums.count for sums in self._sums.values())

    def entry(self) -> Input:
        """What the index says of it."""
        kept = len(self._samples.keys)
        return Input(self.name, self.n, len(self._sums), self.moment, self.block, kept)

    def stats(self) -> Stats:
        """The sums, ordered by bin and branch."""
        keys = sorted(self._sums)
        sums = [self._sums[key] for key in keys]
        return Stats(
            bins=np.array([number for number, _ in keys], np.int32),
            branches=tuple(branch for _, branch in keys),
            count=np.array([s.count for s in sums], np.int64),
            sum_sq=np.stack([s.sum_sq for s in sums]),
            sum=np.stack([s.sum for s in sums]),
            abs_max=np.stack([s.abs_max for s in sums]),
            low=np.array([s.low for s in sums], np.float32),
            high=np.array([s.high for s in sums], np.float32),
            hist=np.stack([s.hist for s in sums]),
        )

    def panels(self) -> Iterator[NDArray[np.float32]]:
        """The second moments, in the order of layout.panels; symmetric to the last bit."""
        if self.moment == "full":
            whole = _symmetric(np.concatenate(self._squares))
            for row, rows, _, _ in layout.panels(self.n, "full", 0):
                yield whole[row : row + rows]
            return
        for total in self._squares:
            yield _symmetric(total)

    def samples(self) -> Samples:
        """The vectors that were kept."""
        return self._samples


def _symmetric(square: NDArray[np.float64]) -> NDArray[np.float32]:
    """What lies below the diagonal, also above it: products are summed in another order there."""
    both: NDArray[np.float32] = (np.tril(square) + np.tril(square, -1).T).astype(np.float32)
    return both
