"""What was measured of a whole tensor, and whether it may stay as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernels import ErrorSums
from service.domain.gates import Gate
from service.domain.job import CandidateError, PieceError

# Without a gate only what carries nothing is refused: a code whose error is about as large as the
# weights themselves, which is what weights beyond float16's range become.
_USELESS_SQNR_DB = 1.0

# What is told of a tensor, by name; the last three where it is calibrated.
METRICS = (
    "relmse", "sqnr_db", "cosine", "max_abs_error", "rho", "worst_group", "worst_group_rho",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WorstGroup:
    """The time group in which a layer's output suffers most: its number, and rho in it."""

    number: int
    rho: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Of all rows of a tensor.

    rho    squares of the layer's output error over those of the output; NaN where it is not known
    worst  None unless the calibration tells times apart
    """

    errors: ErrorSums
    rho: float
    worst: WorstGroup | None = None

    def metrics(self, *, calibrated: bool) -> dict[str, float | None]:
        """For the ledger and the report, to six digits; an exact tensor has no SQNR."""
        errors = self.errors
        found = {
            "relmse": _digits(errors.rel_mse),
            "sqnr_db": _digits(errors.sqnr_db),
            "cosine": _digits(errors.cosine),
            "max_abs_error": _digits(errors.max_abs_error),
        }
        if calibrated:
            found["rho"] = _digits(self.rho)
        if calibrated and self.worst is not None:
            found["worst_group"] = self.worst.number
            found["worst_group_rho"] = _digits(self.worst.rho)
        return found


def whole(pieces: Sequence[PieceError | CandidateError]) -> Quality:
    """Sums over a whole tensor, added in the order of its units: the same on every run."""
    total, output, lost = ErrorSums(), 0.0, 0.0
    groups: list[float] = []
    for p in pieces:
        total += ErrorSums(p.sum_w2, p.sum_e2, p.sum_wq, p.sum_q2, p.max_abs, p.count)
        output, lost = output + p.out_w2, lost + p.out_e2
        if p.group_sums:
            groups = [
                a + b
                for a, b in zip(groups or [0.0] * len(p.group_sums), p.group_sums, strict=True)
            ]
    return Quality(total, lost / output if output > 0 else math.nan, _worst(groups))


def _worst(sums: Sequence[float]) -> WorstGroup | None:
    """Of (error, energy) in each group; the first of equals. Groups without energy were not seen."""
    found = None
    for number, (error, energy) in enumerate(zip(sums[::2], sums[1::2], strict=True)):
        if energy > 0 and (found is None or error / energy > found.rho):
            found = WorstGroup(number, error / energy)
    return found


def good_enough(quality: Quality, gate: Gate, unbias: float) -> bool:
    """Whether a tensor may stay at this width.

    A row that was given back its length pays for it in squared error, on purpose: such a tensor is
    judged by what it would have at the length of least error, 1/(1 - cosine^2). Bounds on the
    output's error hold as they are, and only where that is known.
    """
    errors = quality.errors
    sqnr_db = errors.sqnr_db
    if math.isnan(sqnr_db) or sqnr_db < _USELESS_SQNR_DB:
        return False
    if not gate.enabled:
        return True
    if unbias and errors.cosine < 1.0:
        sqnr_db = max(sqnr_db, -10.0 * math.log10(1.0 - errors.cosine**2))
    worst = quality.worst.rho if quality.worst is not None else math.nan
    return (
        sqnr_db >= gate.min_sqnr_db
        and errors.cosine >= gate.min_cosine
        and not _above(quality.rho, gate.max_rho)
        and not _above(worst, gate.max_group_rho)
    )


def _above(value: float, bound: float | None) -> bool:
    return bound is not None and value > bound


def bounds(gate: Gate) -> dict[str, float]:
    """The bounds of a gate that were asked for, by name."""
    return {
        name: value
        for name, value in (
            ("min_sqnr_db", gate.min_sqnr_db),
            ("min_cosine", gate.min_cosine),
            ("max_rho", gate.max_rho),
            ("max_group_rho", gate.max_group_rho),
        )
        if value is not None
    }


def missed(gate: Gate, bits: int) -> str:
    """Why a tensor is wider than planned."""
    text = f"below {gate.min_sqnr_db:g} dB or cosine {gate.min_cosine:g}"
    if gate.max_rho is not None:
        text += f", or output error above {gate.max_rho:g}"
    if gate.max_group_rho is not None:
        text += f", or output error above {gate.max_group_rho:g} in its worst time group"
    return f"{text} at {bits} bits"


def shortfall(name: str, entry: dict[str, Any], gate: Gate) -> str:
    """What a tensor has, and what it should."""
    text = (
        f"{name} has {_or_none(entry['sqnr_db'])} dB and cosine {_or_none(entry['cosine'])} "
        f"at {entry['bits']} bits"
    )
    if "rho" in entry:
        text += f", output error {_or_none(entry['rho'])}"
    if "worst_group" in entry:
        text += f", {_or_none(entry['worst_group_rho'])} in time group {entry['worst_group']}"
    asked = f"{gate.min_sqnr_db:g} dB and {gate.min_cosine:g}"
    if gate.max_rho is not None:
        asked += f", output error {gate.max_rho:g}"
    if gate.max_group_rho is not None:
        asked += f", {gate.max_group_rho:g} in every time group"
    return f"{text}; the gate is {asked}"


def _or_none(value: float | None) -> str:
    return "no finite" if value is None else str(value)


def _digits(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
