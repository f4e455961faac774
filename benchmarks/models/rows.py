"""What is compared: for each row how the weights are quantized, by whom, and the activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

STRENGTHS = {8: (0.0, 1.0), 4: (0.0, 1.0), 3: (0.0, 0.5, 1.0), 2: (0.0, 0.5, 1.0)}
# Groups and widths of their scales: what they add is (scale bits + minimum bits) / group + 1/8.
SUPERBLOCKS = {4: ((32, 6),), 3: ((16, 6), (32, 4)), 2: ((32, 4), (16, 4), (16, 6))}
MODES = ("static", "static-mse", "time", "time-mse", "per-token")


@dataclass(frozen=True)
class Row:
    """A way to quantize a model.

    weights      None: as they are; {"by": "reference", "method", "bits", "group"}: another's method;
                 {"by": "ours", "recipe"}: a job of ours with every linear layer at one width, and with
                 a calibration file if "calibrated";
                 {"by": "product", "recipe"}: a job of ours as it comes, floors and gates included
    activations  None, or {"mode", "bits"}; with "smooth" (alpha) ranges are moved into the weights first
    """

    name: str
    family: str
    weights: dict[str, Any] | None = None
    activations: dict[str, Any] | None = None

    @property
    def bits(self) -> int:
        """Width of the weights' codes; 16 when they are as they were."""
        if self.weights is None:
            return 16
        found: int = self.weights.get("bits") or self.weights["recipe"]["bits"]
        return found


def rows() -> Iterator[Row]:
    """Every row, the unquantized model first."""
    yield Row("full precision", "full precision")
    for bits in (8, 4, 3, 2):
        yield from _weights_only(bits)
    for bits in (8, 4):
        for mode in MODES:
            yield Row(f"W16 A{bits} {mode}", f"A {mode}", None, {"mode": mode, "bits": bits})
    for weights, acts in ((8, 8), (4, 8), (4, 4), (2, 8)):
        yield from _both(weights, acts)
    for bits in (4, 3, 2):
        yield Row(f"W{bits} product", "product", {"by": "product", "recipe": {"bits": bits}})


def _weights_only(bits: int) -> Iterator[Row]:
    yield _reference("rtn", bits, 0)
    yield _ours(bits, 64, "minmax", 0.0)
    for unbias in STRENGTHS[bits]:
        yield _ours(bits, 64, "lsq", unbias)
    if bits == 8:
        return
    for group, scale_bits in SUPERBLOCKS[bits]:
        for unbias in STRENGTHS[bits]:
            yield _superblock(bits, group, scale_bits, unbias)
        if bits < 4:
            for unbias in (0.0, 1.0):
                yield _calibrated(_superblock(bits, group, scale_bits, unbias))
    for unbias in (0.0, 1.0):
        yield _calibrated(_ours(bits, 64, "lsq", unbias))
        yield _ours(bits, 0, "trellis", unbias)
    yield _calibrated(_ours(bits, 0, "trellis", 1.0))
    yield _reference("rtn", bits, 64)
    for group in {4: (64, 128), 3: (64,), 2: (64, 32)}[bits]:
        yield _reference("hqq", bits, group)
        yield _reference("gptq", bits, group)
    for group in (128, 32):
        yield _ours(bits, group, "minmax", 0.0)
        yield _ours(bits, group, "lsq", 1.0)
    if bits == 2:
        yield _ours(bits, 32, "lsq", 0.0)
        yield _ours(bits, 32, "lsq", 0.5)


def _both(bits: int, acts: int) -> Iterator[Row]:
    """Weights and activations: a naive row scale, the Q-DiT-like pipeline, ours."""
    for mode in ("static", "per-token"):
        yield _with(_reference("rtn", bits, 0), acts, mode)
    # Q-DiT (Chen et al. 2024): groups, GPTQ's rounding, activations quantized as they come.
    yield _with(_reference("gptq", bits, 64), acts, "per-token", name="Q-DiT-like")
    for mode in MODES if bits == 4 else ("static", "per-token"):
        yield _with(_ours(bits, 64, "lsq", 1.0), acts, mode)
        if bits == 4:
            yield _with(_ours(bits, 64, "lsq", 1.0), acts, mode, smooth=0.5)
    if bits < 8:
        best = _calibrated(_superblock(bits, *SUPERBLOCKS[bits][0], 1.0))
        yield _with(best, acts, "per-token")
        yield _with(best, acts, "per-token", smooth=0.5)
        yield _with(_ours(bits, 0, "trellis", 1.0), acts, "per-token")


def _reference(method: str, bits: int, group: int) -> Row:
    weights = {"by": "reference", "method": method, "bits": bits, "group": group}
    return Row(f"W{bits} {method} {_shape(group)}", method, weights)


def _ours(bits: int, group: int, method: str, unbias: float, **more: Any) -> Row:
    recipe = {"bits": bits, "group_size": group or None, "method": method, **more}
    if method == "trellis":
        recipe["granularity"] = "row"
    if method != "minmax":
        recipe["unbias"] = unbias
    family = f"ours {method}" + (f" κ={unbias:g}" if method != "minmax" else "")
    return Row(f"W{bits} {family} {_shape(group)}", family, {"by": "ours", "recipe": recipe})


def _superblock(bits: int, group: int, scale_bits: int, unbias: float, **more: Any) -> Row:
    row = _ours(bits, group, "superblock", unbias, scale_bits=scale_bits, **more)
    return replace(row, name=f"{row.name} scales of {scale_bits} bits")


def _calibrated(row: Row) -> Row:
    weights = {**(row.weights or {}), "calibrated": True}
    return Row(f"{row.name} calibrated", f"{row.family} calibrated", weights)


def _with(row: Row, bits: int, mode: str, name: str | None = None, smooth: float = 0.0) -> Row:
    family = f"{name or row.family} + A {mode}"
    start, _, rest = row.name.partition(" ")
    full = f"{start} A{bits} {name + ' ' + _group(row) if name else rest} {mode}"
    acts: dict[str, Any] = {"mode": mode, "bits": bits}
    if smooth:
        full, family, acts = f"{full} smoothed", f"{family} smoothed", acts | {"smooth": smooth}
    return Row(full, family, row.weights, acts)


def _group(row: Row) -> str:
    return _shape((row.weights or {}).get("group", 0))


def _shape(group: int) -> str:
    return f"G{group}" if group else "row"
