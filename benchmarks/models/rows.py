"""What is compared: for each row how the weights are quantized, by whom, and the activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

STRENGTHS = (0.0, 1.0)
# Groups and widths of their scales: what they add is (scale bits + minimum bits) / group + 1/8.
SUPERBLOCKS = {4: ((32, 4), (32, 6)), 3: ((32, 4),), 2: ((32, 4), (16, 4))}
# Those that are tried with calibration: first what takes no more bits than plain groups of 64.
SMALL = {4: ((32, 4),), 3: ((32, 4),), 2: ((32, 4), (16, 4))}
# What a recipe's `activations` says for each mode, beside bits.
TABLES: dict[str, dict[str, Any]] = {
    "static": {"mode": "static", "groups": 1, "clip": "minmax"},
    "static-mse": {"mode": "static", "groups": 1},
    "time": {"mode": "static", "clip": "minmax"},
    "time-mse": {"mode": "static"},
    "per-token": {"mode": "dynamic_per_token"},
    "as it comes": {},
}
AGGREGATES = ("mean", "max", "salience")  # the default first
BUDGETS = (2.75, 3.0, 3.25, 3.5, 4.0)
CHOICE = 3.25  # below, models this small have but one artifact that fits


@dataclass(frozen=True)
class Row:
    """A way to quantize a model.

    weights      None: as they are; {"by": "reference", "method", "bits", "group"}: another's method;
                 {"by": "ours", "recipe"}: a job of ours with every linear layer at one width, and with
                 a calibration file if "calibrated";
                 {"by": "product", "recipe"}: a job of ours as it comes, floors and gates included; with
                 "sensitivities" its budget goes by those that the capture measured
    activations  None; {"mode", "bits"}: by the rule of that name; with "table" (fields of a recipe's
                 `activations`) by the table of the job that makes the weights, or of one at 8 bits for weights as
                 they are. "smoothing": fields of the recipe's `smoothing`; "fold": the model is folded first and
                 captured again ({"bits", "activation_bits", "aggregate"})
    """

    name: str
    family: str
    weights: dict[str, Any] | None = None
    activations: dict[str, Any] | None = None

    @property
    def bits(self) -> int:
        """Width of the weights' codes; 16 when they are as they were, 0 where a budget decides."""
        if self.weights is None:
            return 16
        found: int = self.weights.get("bits") or self.weights["recipe"].get("bits", 0)
        return found

    @property
    def job(self) -> dict[str, Any] | None:
        """What makes the weights and the table: `weights` with what `activations` adds to its recipe."""
        acts = self.activations or {}
        given = self.weights
        if "table" not in acts:
            if given is None or given["by"] != "ours" or "calibrated" not in given:
                return given
            # Left to itself a calibrated job writes a table.
            return given | {"recipe": given["recipe"] | {"activations": {"mode": "none"}}}
        made = given or {"by": "ours", "recipe": {"bits": 8, "method": "lsq"}}
        recipe = made["recipe"] | {"activations": {"bits": acts["bits"], **acts["table"]}}
        if "smoothing" in acts:
            recipe["smoothing"] = acts["smoothing"]
        return made | {"recipe": recipe, "calibrated": True}


def rows() -> Iterator[Row]:
    """Every row, the unquantized model first."""
    yield Row("full precision", "full precision")
    for bits in (8, 4, 3, 2):
        yield from _weights_only(bits)
    yield from _tables()
    for weights, acts in ((8, 8), (4, 8), (4, 4), (2, 8)):
        yield from _both(weights, acts)
    yield from _products()


def _tables() -> Iterator[Row]:
    """Activations as our artifacts say, from 4 bits on up, smoothed and not."""
    bare, four = Row("W16", "16 bits"), _calibrated(_ours(4, 64, "lsq", 1.0))
    for row, acts in ((bare, 4), (four, 4), (four, 8)):
        for mode in TABLES:
            yield _tabled(row, acts, mode)
    for row in (four, bare):
        for mode in ("static", "static-mse", "time", "time-mse", "per-token"):
            yield _smoothed(row, 4, mode, AGGREGATES[0])
    for aggregate in AGGREGATES[1:]:
        for mode in ("time-mse", "per-token"):
            yield _smoothed(four, 4, mode, aggregate)


def _products() -> Iterator[Row]:
    """Jobs as they come: floors, gates and all; and by budget."""
    for bits in (4, 3, 2):
        yield Row(f"W{bits} product", "product", {"by": "product", "recipe": {"bits": bits}})
    for rate in BUDGETS:
        recipe = {"budget": {"bits_per_weight": rate, "on_infeasible": "least"}}
        budget = Row(f"budget of {rate:g} bits", "budget", {"by": "product", "recipe": recipe})
        yield budget
        yield _calibrated(budget)
        if rate >= CHOICE:
            yield _sensitive(_calibrated(budget))


# Ways of calibration in a job, by what a row's name says of them.
WAYS: dict[str, dict[str, Any]] = {
    "calibrated": {},
    "gptq": {"method": "gptq", "block": "full", "act_order": True},
    "awq gptq": {"method": "awq_gptq", "block": "full", "act_order": True},
}


def _weights_only(bits: int) -> Iterator[Row]:
    """Other people's methods, then ours step by step: range, least squares, gain, two levels of scales, inputs."""
    yield _reference("rtn", bits, 0)
    yield _ours(bits, 64, "minmax", 0.0)
    for unbias in STRENGTHS:
        yield _ours(bits, 64, "lsq", unbias)
    if bits == 8:
        return
    for group in (64, 32) if bits == 2 else (64,):
        yield _reference("hqq", bits, group)
        yield _reference("gptq", bits, group)
    for group, scale_bits in SUPERBLOCKS[bits]:
        for unbias in STRENGTHS:
            yield _superblock(bits, group, scale_bits, unbias)
    for unbias in STRENGTHS:
        yield _ours(bits, 0, "trellis", unbias)
    yield _calibrated(_ours(bits, 0, "trellis", 1.0))
    yield from _by_inputs(bits)


def _by_inputs(bits: int) -> Iterator[Row]:
    """With what the inputs of layers are: by their energy, then by all second moments, each without and with the
    gain of rows kept; at last after AWQ's factors."""
    for unbias in STRENGTHS:
        yield _calibrated(_ours(bits, 64, "lsq", unbias))
        for way in ("calibrated", "gptq"):
            for group, scale_bits in SMALL[bits]:
                yield _calibrated(_superblock(bits, group, scale_bits, unbias), way)
    yield _calibrated(_superblock(bits, *SMALL[bits][0], 1.0), "awq gptq")


def _both(bits: int, acts: int) -> Iterator[Row]:
    """Weights and activations: a naive row scale, the Q-DiT-like pipeline, ours."""
    for mode in ("static", "per-token"):
        yield _with(_reference("rtn", bits, 0), acts, mode)
    # Q-DiT (Chen et al. 2024): groups, GPTQ's rounding, activations quantized as they come.
    yield _with(_reference("gptq", bits, 64), acts, "per-token", name="Q-DiT-like")
    if bits == 8:
        yield _with(_ours(bits, 64, "lsq", 1.0), acts, "per-token")
    else:
        small = _superblock(bits, *SMALL[bits][0], 1.0)
        yield _tabled(_calibrated(small), acts, "per-token")
        yield _smoothed(_calibrated(small), acts, "per-token", AGGREGATES[0])
        yield _with(_calibrated(small, "gptq"), acts, "per-token")
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


def _calibrated(row: Row, way: str = "calibrated") -> Row:
    """The same with a calibration file, used in one of WAYS."""
    weights = {**(row.weights or {}), "calibrated": True}
    if WAYS[way]:
        weights["recipe"] = weights["recipe"] | {"calibration": WAYS[way]}
    return Row(f"{row.name} {way}", f"{row.family} {way}", weights)


def _sensitive(row: Row) -> Row:
    weights = {**(row.weights or {}), "sensitivities": True}
    return Row(f"{row.name}, sensitivities", f"{row.family}, sensitivities", weights)


def _with(row: Row, bits: int, mode: str, name: str | None = None) -> Row:
    start, _, rest = row.name.partition(" ")
    full = f"{start} A{bits} {name + ' ' + _group(row) if name else rest} {mode}"
    acts = {"mode": mode, "bits": bits}
    return Row(full, f"{name or row.family} + A {mode}", row.weights, acts)


def _tabled(row: Row, bits: int, mode: str) -> Row:
    """With activations as the job's table has them."""
    start, _, rest = row.name.partition(" ")
    acts = {"mode": mode, "bits": bits, "table": TABLES[mode]}
    name = " ".join(part for part in (start, f"A{bits}", rest, "table", mode) if part)
    return Row(name, f"{row.family} + table {mode}", row.weights, acts)


def _smoothed(row: Row, bits: int, mode: str, aggregate: str) -> Row:
    """Static ranges want a folded model; where each token has its own, the artifact keeps the factors."""
    plain = _tabled(row, bits, mode)
    if mode == "per-token":
        how: dict[str, Any] = {"smoothing": {"aggregate": aggregate}}
    else:
        weights = row.bits if row.bits < 16 else 0
        how = {"fold": {"bits": weights, "activation_bits": bits, "aggregate": aggregate}}
    word = next(iter(how)).replace("smoothing", "smoothed").replace("fold", "folded")
    acts = (plain.activations or {}) | how
    return Row(f"{plain.name} {word} by {aggregate}", f"{plain.family} {word}", row.weights, acts)


def _group(row: Row) -> str:
    return _shape((row.weights or {}).get("group", 0))


def _shape(group: int) -> str:
    return f"G{group}" if group else "row"
