"""What a group's scales are chosen from: its weights, read once, and what calibration knows of their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration.digests import Checker
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.calibration.statistics import Stats
from service.domain.calibration import mismatch
from service.domain.errors import ArrowQuantError
from service.domain.folding import Columns, Group
from service.domain.smoothing import Aggregate
from workers.spatial import files, scales
from workers.spatial.apply import gathered, spread
from workers.spatial.estimate import Sample, Target
from workers.spatial.files import Stored
from workers.spatial.scales import Vector

SAMPLED_ROWS: Final = 128  #: of each weight, on which strengths are compared
# A weight may lie in two groups, by its rows and by its columns.
_MARGIN: Final = scales.WIDEST

Tensors = Mapping[str, Stored]


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer that reads a group's vector: which columns do, the largest of every column, some rows."""

    columns: Columns
    most: Vector
    sample: Sample

    def wide(self, s: Vector) -> Vector:
        """A factor for every column of the layer, 1 for those that read something else."""
        own, found = spread(s, self.columns), np.ones(self.most.size)
        found[self.columns.start : self.columns.start + own.size] = own
        return found


@dataclass(frozen=True, slots=True)
class Seen:
    """inputs, read, made   float64 (channels,): the largest of the vector itself, of the columns that read
                         it, of the rows that make it
    largest              the largest number that all of its tensors can hold
    """

    group: Group
    readers: tuple[Reader, ...]
    inputs: Vector
    read: Vector
    made: Vector
    largest: float

    def scales(self, alpha: float, *, exact: bool) -> Vector:
        """The scales of this strength, float64 (channels,)."""
        s = scales.smooth(self.inputs, self.read, alpha, exact=exact)
        return scales.representable(s, self.read, self.made, self.largest / _MARGIN)

    def error(self, s: Vector, target: Target) -> float:
        """Estimated squared error of the outputs over their square, the mean over layers."""
        errors = [r.sample.error(r.wide(s), target) for r in self.readers]
        return float(np.mean(errors))


def look(group: Group, tensors: Tensors, file: CalibrationFile, aggregate: Aggregate) -> Seen | str:
    """Read the weights of a group, or say why nothing can be said of it.

    Raises calibration_mismatch, invalid_calibration, non_finite_weights
    """
    stats = {}
    for columns in group.columns:
        weight = file.index.weights.get(columns.tensor)
        if weight is None:
            return f"the calibration has nothing of {columns.tensor}"
        stats[columns.tensor] = file.stats(weight.input)
        if stats[columns.tensor].abs_max is None:
            return f"the calibration has no largest magnitudes of {columns.tensor}'s input"
    readers, inputs = [], []
    for columns in group.columns:
        weight, known = file.index.weights[columns.tensor], stats[columns.tensor]
        most, rows = _scan(tensors[columns.tensor], weight.sha256, known)
        largest = scales.largest(known, aggregate, file.index.omega, most)
        sample = Sample(rows, known.mean_square(omega=file.index.omega), largest)
        readers.append(Reader(columns, most, sample))
        inputs.append(gathered(largest, columns, group.channels))
    names = [r.tensor for r in group.rows] + [c.tensor for c in group.columns]
    return Seen(
        group,
        tuple(readers),
        np.max(inputs, axis=0),
        np.max([gathered(r.most, r.columns, group.channels) for r in readers], axis=0),
        _made(group, tensors),
        min(files.LARGEST[tensors[name].dtype] for name in names),
    )


def _scan(
    tensor: Stored, digests: tuple[str, ...], stats: Stats
) -> tuple[Vector, NDArray[np.float32]]:
    """The largest of every column, and some rows, evenly spaced, while the bytes are held against digests."""
    where = {"tensor": tensor.head.name}
    if stats.n != tensor.cols:
        raise mismatch(f"{stats.n} channels were measured, it has {tensor.cols} columns", **where)
    checker = Checker(digests, tensor.head.stop - tensor.head.start, 0)
    if not digests:
        raise mismatch("the file does not say which bytes this weight had", **where)
    if not checker.fits():
        raise mismatch("the weight that was measured had another size", **where)
    most, rows = np.zeros(tensor.cols), []
    wanted = np.unique(np.linspace(0, tensor.rows - 1, SAMPLED_ROWS).astype(int))
    for row, data in tensor.pieces():
        if not checker.feed(memoryview(data)):
            raise mismatch("the weight that was measured had other bytes", **where)
        values = tensor.values(data)
        most = np.maximum(most, np.abs(values).max(axis=0))
        here = wanted[(wanted >= row) & (wanted < row + len(values))] - row
        rows.append(values[here].astype(np.float32))
    if not np.isfinite(most).all():
        raise ArrowQuantError(
            "non_finite_weights", "a weight is not finite", "Repair the checkpoint.", where
        )
    return most, np.concatenate(rows)


def _made(group: Group, tensors: Tensors) -> Vector:
    """The largest magnitude in each channel's rows."""
    found = np.zeros(group.channels)
    for made in group.rows:
        tensor = tensors[made.tensor]
        for row, data in tensor.pieces():
            values = np.abs(tensor.values(data)).max(axis=1) + float(made.plus_one)
            first = max(row, made.start)
            last = min(row + len(values), made.start + group.channels)
            if first < last:
                part = slice(first - made.start, last - made.start)
                found[part] = np.maximum(found[part], values[first - row : last - row])
    return found
