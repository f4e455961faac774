"""The calibration file of a folded model: what its layers would have seen, without running it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration.digests import of_source
from arrowquant.calibration.index import Index, Input, Weight
from arrowquant.calibration.layout import panels
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.calibration.statistics import Samples, Stats
from arrowquant.calibration.writer import CalibrationWriter
from workers.spatial.scales import Vector


@dataclass(frozen=True, slots=True)
class _Part:
    """An input as some of its weights read it: divided by `s`, or as it was."""

    old: str
    entry: Input
    s: Vector | None


def recalibrate(calibration: Path, folder: Path, columns: Mapping[str, Vector], path: Path) -> None:
    """Write the file. Sums, moments and kept vectors are divided channel by channel; histograms and ranges of all
    channels together cannot be, and are left out of inputs that were divided.

    folder   the folded model, for its digests
    columns  what columns of weights were multiplied by, by name; others as they were
    """
    with CalibrationFile.open(calibration) as file:
        bound = of_source(folder, file.index.weights)
        parts: list[_Part] = []
        weights: dict[str, Weight] = {}
        for entry in file.index.inputs:
            mine = [w for w in file.index.weights.values() if w.input == entry.id]
            for number, (part, names) in enumerate(_parts(file, entry, mine, columns)):
                named = entry.id if number == 0 else f"{entry.id}/{number}"
                parts.append(replace(part, entry=replace(part.entry, id=named)))
                weights |= {
                    n: replace(
                        file.index.weights[n], input=named, sha256=bound.get(n, _digests(file, n))
                    )
                    for n in names
                }
        index = _index(file.index, parts, weights)
        with CalibrationWriter(path, index) as writer:
            for part in parts:
                samples = file.samples(part.old) if part.entry.kept else None
                writer.write(
                    _stats(file.stats(part.old), part.s),
                    _moments(file, part),
                    None if samples is None else _samples(samples, part.s),
                )


def _digests(file: CalibrationFile, name: str) -> tuple[str, ...]:
    return file.index.weights[name].sha256


def _parts(
    file: CalibrationFile, entry: Input, weights: list[Weight], columns: Mapping[str, Vector]
) -> Iterator[tuple[_Part, list[str]]]:
    """An input once for all weights whose columns have the same factors."""
    alike: dict[bytes, list[str]] = {}
    for weight in weights:
        s = columns.get(weight.name)
        alike.setdefault(b"" if s is None else s.tobytes(), []).append(weight.name)
    for key, names in alike.items():
        if not key:
            yield _Part(entry.id, entry, None), names
            continue
        s = columns[names[0]]
        samples = file.samples(entry.id)
        # Halves end at 65504: what would leave them is not kept.
        fits = samples is not None and np.isfinite(_samples(samples, s).data).all()
        yield _Part(entry.id, entry if fits else replace(entry, kept=0), s), names


def _index(old: Index, parts: list[_Part], weights: dict[str, Weight]) -> Index:
    inputs = tuple(part.entry for part in parts)
    kept = any(entry.kept for entry in inputs)
    privacy = "samples" if kept else "aggregate"
    return replace(
        old, inputs=inputs, weights=weights, keep=old.keep if kept else 0, privacy=privacy
    )


def _stats(stats: Stats, s: Vector | None) -> Stats:
    if s is None:
        return stats
    return replace(
        stats,
        sum=None if stats.sum is None else stats.sum / s,
        sum_sq=stats.sum_sq / s**2,
        abs_max=None if stats.abs_max is None else (stats.abs_max / s).astype(np.float32),
        low=None,
        high=None,
        hist=None,
    )


def _moments(file: CalibrationFile, part: _Part) -> Iterator[NDArray[np.float32]]:
    places = panels(part.entry.n, part.entry.moment, part.entry.block)
    for (row, rows, col, cols), panel in zip(places, file.panels(part.old), strict=True):
        if part.s is None:
            yield panel.data
            continue
        both = part.s[row : row + rows, None] * part.s[col : col + cols]
        yield (panel.data / both).astype(np.float32)


def _samples(samples: Samples, s: Vector | None) -> Samples:
    if s is None:
        return samples
    with np.errstate(over="ignore"):
        return replace(samples, data=(samples.data / s).astype(np.float16))
