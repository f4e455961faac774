"""What becomes of one tensor: the matrix it is handled as, its width, or why it stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from service.domain import sizes
from service.domain.calibration import Calibration, Measured
from service.domain.catalog import SourceTensor
from service.domain.methods import METHODS, STAND_IN, STAND_IN_GROUP, at_width, carried
from service.domain.modality import Part
from service.domain.profiles import PROFILES, Action, Codebook, Granularity, Method, Role
from service.domain.roles import role_of, rows_and_cols
from service.domain.smoothing import Smoothing
from service.domain.spec import ResolvedRecipe, Rule
from service.domain.units import MAX_ROW_BYTES, TILE_BYTES

MIN_QUANTIZED_ELEMENTS = 1024
# Of all rotations: layers that are fed by the same input can share one rotation of it.
ROTATION_SEED = 1

QUANTIZED_DTYPES = frozenset({"F32", "F16", "BF16"})
KEPT_ROLES = {
    Role.NORM: "normalisation parameters: few, and every activation passes through them",
    Role.BIAS: "a bias: few values, added at full precision",
    Role.VAE: "of an autoencoder: it runs once, and what it blurs no sampling step repairs",
    Role.POSITION_EMBEDDING: "a position embedding: small, added to every token",
}


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a tensor is stored. `bits` 0 means raw.

    group_size  weights of a row that share a scale; 0: all of them
    scale_bits  width of the codes of scales; 0: scales are numbers
    codebook    which levels codes stand for, where they are not even
    unbias      how much of a row's loss of length is given back
    rotation    what its rows were turned by
    col_scale, bias_correction, calibrated   whether its tiles hold factors of columns, corrections of
                the bias, and the error of the layer's output
    gptq_block  channels of the blocks of second moments by which GPTQ makes up for errors; 0: all at once
    smoothing   how the factors of columns are found, the same for all tiles
    """

    action: Action
    reason: str
    bits: int = 0
    group_size: int = 0
    symmetric: bool = False
    unbias: float = 0.0
    method: Method | None = None
    per_tensor: bool = False
    scale_bits: int = 0
    codebook: Codebook | None = None
    rotation: str = "none"
    col_scale: bool = False
    bias_correction: bool = False
    calibrated: bool = False
    gptq_block: int | None = None
    smoothing: Smoothing | None = None

    @property
    def codec(self) -> str:
        if self.method is None:
            return "raw"
        return "sym_s" if self.symmetric else METHODS[self.method].codec

    @property
    def weighed(self) -> bool:
        """Whether errors count by what was measured of the inputs, not only the output's is told."""
        return self.calibrated and self.method is not None and METHODS[self.method].importance

    def at_width(self, bits: int) -> Treatment:
        """The same at another width; where the method has no such codes, by the one that stands in."""
        if self.method is None:
            return replace(self, bits=bits)
        if bits in METHODS[self.method].bits:
            size, scales = carried(self.method, self.bits, bits, self.group_size, self.scale_bits)
            return replace(self, bits=bits, group_size=size, scale_bits=scales)
        return replace(
            self, bits=bits, method=STAND_IN, group_size=STAND_IN_GROUP, scale_bits=0,
            codebook=None,
            symmetric=False, per_tensor=False,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the source, the matrix it is handled as, and its treatment.

    rows, cols  the matrix (cols 0 where elements do not fall on bytes)
    tied_to     name of the tensor whose bytes it shares; nothing is stored for it then
    """

    index: int
    source: SourceTensor
    role: Role
    rows: int
    cols: int
    treatment: Treatment
    tied_to: str | None = None

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def row_bytes(self) -> int:
        """Source bytes of one row."""
        return self.source.nbytes // self.rows if self.rows else 0

    def at_level(self, bits: int | None) -> TensorPlan:
        """The same tensor escalated to `bits`, or kept raw for None."""
        if bits is None:
            kept = Treatment(Action.KEEP, "quality: no width of the ladder met the gate")
            return replace(self, treatment=kept)
        return replace(self, treatment=self.treatment.at_width(bits))

    @property
    def rotated(self) -> bool:
        """Whether its rows are rotated: blocks are powers of two that divide their length."""
        return self.treatment.rotation != "none" and self.cols % 2 == 0

    def tile_sizes(self, rows: int) -> sizes.TileSizes:
        """Stored bytes of a tile of this many rows."""
        how = self.treatment
        if how.action is Action.KEEP:
            return sizes.raw_tile(rows * self.row_bytes)
        stored = sizes.quantized_tile(how.codec, rows, self.cols, how)
        if not how.col_scale and not how.bias_correction:
            return stored
        return replace(
            stored,
            col_scale=sizes.SINGLE_BYTES * self.cols if how.col_scale else 0,
            bias_correction=sizes.SINGLE_BYTES * rows if how.bias_correction else 0,
        )


def plan_tensor(
    number: int,
    source: SourceTensor,
    tied_to: str | None,
    recipe: ResolvedRecipe,
    rule: Rule | None,
    part: Part = Part.UNKNOWN,
) -> TensorPlan:
    """Decide one tensor; `rule` is the one that matches it, if any; `part` what the weights are."""
    role = role_of(source.name, source.shape, part)
    treatment = _treatment(source, role, recipe, rule)
    if treatment.action is Action.KEEP:
        rows, cols = _raw_rows(source)
    else:
        rows, cols = rows_and_cols(source.shape)
    return TensorPlan(number, source, role, rows, cols, treatment, tied_to)


def with_measured(
    tensor: TensorPlan,
    calibration: Calibration,
    weights: Mapping[str, Measured],
    smoothing: Smoothing | None = None,
) -> TensorPlan:
    """The same tensor in a job with a calibration file: how it is used, and if not, why.

    weights  what was measured, by name
    """
    how = tensor.treatment
    if how.action is Action.KEEP:
        return tensor
    measured = weights.get(tensor.name)
    if measured is None:
        why = "not calibrated: the file has nothing of it"
    elif how.method is None or not METHODS[how.method].importance:
        why = f"measured by its output, not weighed: {how.method} counts all inputs the same"
        how = replace(how, calibrated=True)
    else:
        how = _calibrated(tensor, calibration, measured)
        return replace(tensor, treatment=_smoothed(tensor, how, smoothing))
    return replace(tensor, treatment=replace(how, reason=f"{how.reason}; {why}"))


def _smoothed(tensor: TensorPlan, how: Treatment, smoothing: Smoothing | None) -> Treatment:
    if smoothing is None:
        return how
    if tensor.rotated or how.per_tensor:
        why = "smoothing is for codes that are not rotated, with scales of groups or rows"
        return replace(how, reason=f"{how.reason}; {why}")
    return replace(how, smoothing=smoothing, col_scale=True)


def _calibrated(tensor: TensorPlan, calibration: Calibration, measured: Measured) -> Treatment:
    """What of the recipe's way goes with this tensor; what does not is said in the reason."""
    how, missing = replace(tensor.treatment, calibrated=True), []
    if "gptq" in calibration.method:
        block = measured.usable_block(calibration.block)
        if tensor.rotated or how.method not in ("lsq", "superblock"):
            missing.append("gptq is for lsq and superblock codes that are not rotated")
        elif block is None:
            missing.append("gptq needs second moments, of which the file has the diagonal only")
        else:
            how = replace(how, gptq_block=block)
    if "awq" in calibration.method:
        if tensor.rotated:
            missing.append("awq is for codes that are not rotated")
        else:
            how = replace(how, col_scale=True)
    if calibration.bias_correction:
        if tensor.rotated or not measured.means:
            missing.append("no means to correct the bias by")
        else:
            how = replace(how, bias_correction=True)
    return replace(how, reason="; ".join([how.reason, *missing]))


def _treatment(
    source: SourceTensor, role: Role, recipe: ResolvedRecipe, rule: Rule | None
) -> Treatment:
    reason = _must_keep(source, rule) or ("" if rule else _kept_by_default(source, role))
    if reason:
        return Treatment(Action.KEEP, reason)
    floor = recipe.role_floors.get(role, 2)
    bits, why = recipe.bits, "requested width"
    if rule is not None and rule.bits is not None:
        bits, why = rule.bits, f"rule {rule.match!r}"
    elif floor > bits:
        bits, why = floor, f"{role.value} is never below {floor} bits unless a rule says so"
    return _coded(why, bits, recipe, rule or Rule(match="*"))


def _coded(reason: str, bits: int, recipe: ResolvedRecipe, rule: Rule) -> Treatment:
    """The recipe's way of quantizing, or the rule's where it says otherwise."""
    asked = rule.method or recipe.method
    method = at_width(asked, bits)
    facts = METHODS[method]
    granularity, group_size = _groups(recipe, rule, method, bits, method != asked)
    symmetric = recipe.symmetric if rule.symmetric is None else rule.symmetric
    _, scale_bits = carried(method, recipe.bits, bits, 0, recipe.scale_bits)
    scale_bits = scale_bits if method == recipe.method else 0
    return Treatment(
        Action.QUANTIZE,
        reason,
        bits,
        group_size=group_size,
        symmetric=symmetric and facts.symmetric,
        unbias=(recipe.unbias or 0.0) if facts.unbias else 0.0,
        method=method,
        per_tensor=granularity == "tensor",
        scale_bits=rule.scale_bits or scale_bits or facts.scale_widths.get(bits, 0),
        codebook=recipe.codebook if method == recipe.method else next(iter(facts.codebooks), None),
        rotation=rule.rotation or recipe.rotation,
    )


def _groups(
    recipe: ResolvedRecipe, rule: Rule, method: Method, bits: int, stands_in: bool
) -> tuple[Granularity, int]:
    """What shares a scale, and the size of groups (0 where there are none)."""
    facts = METHODS[method]
    if rule.group_size is not None:
        return "group", rule.group_size
    if stands_in:
        return "group", STAND_IN_GROUP
    if recipe.granularity in facts.granularities and recipe.granularity != "group":
        return recipe.granularity, 0
    if "group" not in facts.granularities:
        return facts.granularities[0], 0
    if recipe.group_size in facts.group_sizes:
        return "group", carried(method, recipe.bits, bits, recipe.group_size, 0)[0]
    return "group", facts.groups.get(bits, PROFILES[recipe.profile].group_size)


def _must_keep(source: SourceTensor, rule: Rule | None) -> str:
    """Reasons no rule can lift, and the rule that says keep."""
    if rule is not None and rule.action == "keep":
        return f"rule {rule.match!r}"
    if source.dtype not in QUANTIZED_DTYPES:
        return f"dtype {source.dtype} is stored as it is"
    if source.elements == 0:
        return "it has no elements"
    if len(source.shape) < 2:
        return "one-dimensional"
    rows, _ = rows_and_cols(source.shape)
    if source.nbytes // rows > MAX_ROW_BYTES:
        return f"one row has {source.nbytes // rows} bytes, more than a tile may hold"
    return ""


def _kept_by_default(source: SourceTensor, role: Role) -> str:
    if role in KEPT_ROLES:
        return KEPT_ROLES[role]
    if source.elements < MIN_QUANTIZED_ELEMENTS:
        return f"{source.elements} elements: scales would cost as much as they save"
    return ""


def _raw_rows(source: SourceTensor) -> tuple[int, int]:
    """Rows and columns of a raw tensor: its first axis, or single elements, or single bytes."""
    if source.nbytes == 0:
        return 0, 0
    rows = source.shape[0] if source.shape else 1
    if source.nbytes % rows == 0 and source.nbytes // rows <= TILE_BYTES:
        return rows, source.elements // rows
    if source.nbytes % source.elements == 0:
        return source.elements, 1
    return source.nbytes, 0
