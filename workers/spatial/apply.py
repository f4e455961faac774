"""A group's scales written into its tensors: factors for their rows and columns, and what is added."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.domain.folding import Columns, Group

Vector = NDArray[np.float64]


@dataclass(slots=True)
class Change:
    """What becomes of one tensor, seen as a matrix (rows, cols); a vector has one column.

    rows, columns  factors; None: all 1
    added          to each element of a vector, after the factors
    """

    rows: Vector | None = None
    columns: Vector | None = None
    added: Vector | None = None

    def apply(self, values: Vector, row: int = 0) -> Vector:
        """Rows `row` and on, float64 (rows, cols), changed."""
        stop = row + len(values)
        if self.rows is not None:
            values = values * self.rows[row:stop, None]
        if self.columns is not None:
            values = values * self.columns
        if self.added is not None:
            values = values + self.added[row:stop, None]
        return values


@dataclass(slots=True)
class Changes:
    """Of all tensors of a model, by name."""

    shapes: dict[str, tuple[int, int]]
    by_name: dict[str, Change] = field(default_factory=dict)

    def fold(self, group: Group, s: Vector) -> None:
        """Divide what makes a group's vector by s (channels,), and multiply what reads it."""
        for made in group.rows:
            change, size = self._of(made.tensor), self.shapes[made.tensor][0]
            part = slice(made.start, made.start + group.channels)
            change.rows = np.ones(size) if change.rows is None else change.rows
            change.rows[part] /= s
            if made.plus_one:
                # (1 + b) / s = 1 + (b / s + 1 / s - 1)
                change.added = np.zeros(size) if change.added is None else change.added
                change.added[part] += 1.0 / s - 1.0
        for read in group.columns:
            change = self._of(read.tensor)
            wide = spread(s, read)
            if change.columns is None:
                change.columns = np.ones(self.shapes[read.tensor][1])
            change.columns[read.start : read.start + len(wide)] *= wide

    def _of(self, name: str) -> Change:
        return self.by_name.setdefault(name, Change())


def spread(s: Vector, columns: Columns) -> Vector:
    """A factor for each column: heads that read the same values share theirs."""
    if columns.heads == 1:
        return s
    heads = s.reshape(-1, 1, columns.head_dim)
    return np.repeat(heads, columns.heads, axis=1).reshape(-1)


def gathered(values: Vector, columns: Columns, channels: int) -> Vector:
    """The largest of the columns that read each channel: the other way than `spread`.

    values  float64, of all columns of the tensor
    """
    mine = values[columns.start : columns.start + channels * columns.heads]
    if columns.heads == 1:
        return mine
    return np.asarray(mine.reshape(-1, columns.heads, columns.head_dim).max(axis=1).reshape(-1))
