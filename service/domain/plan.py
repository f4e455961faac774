"""The plan: what becomes of every tensor, how the work is cut, and how large the result will be.

A pure function of (catalog, resolved recipe). The command line, `POST /v1/plans` and the job itself
call it, so what is announced is what is done. Neither threads, memory nor the number of workers
enter: equal inputs are cut equally everywhere.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import re2

from service.domain import sizes
from service.domain.catalog import Catalog, SourceTensor
from service.domain.errors import ArrowQuantError
from service.domain.profiles import Action, Role
from service.domain.roles import role_of, rows_and_cols
from service.domain.spec import ResolvedRecipe, Rule

TILE_BYTES = 8 * 2**20
MAX_ROW_BYTES = 64 * 2**20
MIN_UNIT_BYTES = 16 * 2**20
MAX_UNIT_BYTES = 256 * 2**20
UNITS_PER_JOB = 16
MIN_QUANTIZED_ELEMENTS = 1024

QUANTIZED_DTYPES = frozenset({"F32", "F16", "BF16"})
_KEPT_ROLES = {
    Role.NORM: "normalisation parameters: few, and every activation passes through them",
    Role.BIAS: "a bias: few values, added at full precision",
    Role.POSITION_EMBEDDING: "a position embedding: small, added to every token",
}


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a tensor is stored. `bits` 0 means raw."""

    action: Action
    reason: str
    bits: int = 0
    group_size: int = 0
    symmetric: bool = False
    method: str = ""
    per_tensor: bool = False

    @property
    def codec(self) -> str:
        if self.action is Action.KEEP:
            return "raw"
        return "sym_s" if self.symmetric else "affine_u"


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
        return replace(self, treatment=replace(self.treatment, bits=bits))

    def tile_sizes(self, rows: int) -> sizes.TileSizes:
        """Stored bytes of a tile of this many rows."""
        how = self.treatment
        if how.action is Action.KEEP:
            return sizes.raw_tile(rows * self.row_bytes)
        return sizes.quantized_tile(
            rows,
            self.cols,
            bits=how.bits,
            group_size=how.group_size,
            symmetric=how.symmetric,
            per_tensor=how.per_tensor,
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [row_start, row_stop) of a tensor."""

    tensor: int
    row_start: int
    row_stop: int


@dataclass(frozen=True, slots=True)
class Tile:
    """The rows of a tensor that are in memory at once: one row of an Arrow part."""

    tensor: int
    tile_index: int
    row_start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What one worker takes at a time; it writes `part-{seq:05d}.arrow`."""

    seq: int
    pieces: tuple[Piece, ...]
    source_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole of a job, decided."""

    recipe: ResolvedRecipe
    catalog: Catalog
    tensors: tuple[TensorPlan, ...]
    units: tuple[Unit, ...]

    def tiles(self, unit: Unit) -> Iterator[Tile]:
        """The tiles of a unit, in the order they are stored."""
        for piece in unit.pieces:
            yield from tiles_of(self.tensors[piece.tensor], piece)

    def payload_bytes(self) -> int:
        """Codes, scales, minima and raw tensors, summed over all parts."""
        return sum(
            self.tensors[tile.tensor].tile_sizes(tile.rows).payload
            for unit in self.units
            for tile in self.tiles(unit)
        )


def make_plan(catalog: Catalog, recipe: ResolvedRecipe) -> Plan:
    """Decide every tensor and cut the work. Raises rule_matched_nothing."""
    matchers = [_Matcher(number, rule) for number, rule in enumerate(recipe.rules)]
    tensors = tuple(
        _plan_tensor(number, source, catalog, recipe, matchers)
        for number, source in enumerate(catalog.tensors)
    )
    for matcher in matchers:
        if not matcher.used:
            raise ArrowQuantError(
                "rule_matched_nothing",
                f"rule {matcher.number} ({matcher.rule.match!r}) matches no tensor",
                "Patterns match the whole name; begin with '*' to match a suffix.",
                {"pointer": f"/recipe/rules/{matcher.number}/match"},
            )
    tensors = _agree_on_ties(tensors)
    return Plan(recipe, catalog, tensors, tuple(cut_units(tensors)))


def _agree_on_ties(tensors: tuple[TensorPlan, ...]) -> tuple[TensorPlan, ...]:
    """Tensors that share their bytes are stored once: as the one that needs most care asks."""

    def care(tensor: TensorPlan) -> tuple[bool, int]:
        return tensor.treatment.action is Action.KEEP, tensor.treatment.bits

    strictest: dict[str, TensorPlan] = {}
    for tensor in tensors:
        first = tensor.tied_to or tensor.name
        if first not in strictest or care(tensor) > care(strictest[first]):
            strictest[first] = tensor

    def settle(tensor: TensorPlan) -> TensorPlan:
        model = strictest[tensor.tied_to or tensor.name]
        if model is tensor or model.treatment == tensor.treatment:
            return tensor
        reason = f"same bytes as {model.name}: {model.treatment.reason}"
        treatment = replace(model.treatment, reason=reason)
        return replace(tensor, rows=model.rows, cols=model.cols, treatment=treatment)

    return tuple(map(settle, tensors))


class _Matcher:
    """A rule, compiled once. Both kinds of patterns take linear time, so a hostile one costs
    nothing: regular expressions run in RE2, and fnmatch makes every star of a glob atomic.
    """

    def __init__(self, number: int, rule: Rule) -> None:
        self.number, self.rule, self.used = number, rule, False
        self._fullmatch = self._compile(rule.match)

    def _compile(self, pattern: str) -> Callable[[str], object]:
        if not pattern.startswith("re:"):
            return re.compile(fnmatch.translate(pattern)).fullmatch
        options = re2.Options()
        options.log_errors = False
        try:
            compiled = re2.compile(pattern[3:].encode(), options)
        except (re2.error, UnicodeEncodeError) as error:
            why = error.args[0]
            why = why.decode(errors="replace") if isinstance(why, bytes) else "not valid Unicode"
            raise ArrowQuantError(
                "invalid_spec",
                f"rule {self.number}: {pattern!r} is not a regular expression: {why}",
                "RE2 syntax: no look-around, no back-references.",
                {"pointer": f"/recipe/rules/{self.number}/match"},
            ) from None
        return lambda name: compiled.fullmatch(name.encode())

    def matches(self, name: str) -> bool:
        hit = self._fullmatch(name) is not None
        self.used |= hit
        return hit


def _first_rule(matchers: list[_Matcher], name: str) -> Rule | None:
    """The first rule that matches. Rules not seen to match anything yet are tried all the same,
    so that "matches nothing" means just that.
    """
    found = None
    for matcher in matchers:
        if (found is None or not matcher.used) and matcher.matches(name) and found is None:
            found = matcher.rule
    return found


def _plan_tensor(
    number: int,
    source: SourceTensor,
    catalog: Catalog,
    recipe: ResolvedRecipe,
    matchers: list[_Matcher],
) -> TensorPlan:
    role = role_of(source.name, source.shape)
    treatment = _treatment(source, role, recipe, _first_rule(matchers, source.name))
    if treatment.action is Action.KEEP:
        rows, cols = _raw_rows(source)
    else:
        rows, cols = rows_and_cols(source.shape)
    return TensorPlan(number, source, role, rows, cols, treatment, catalog.ties.get(source.name))


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
    override = rule or Rule(match="*")
    per_tensor = recipe.granularity == "tensor" and override.group_size is None
    symmetric = recipe.symmetric if override.symmetric is None else override.symmetric
    return Treatment(
        Action.QUANTIZE,
        why,
        bits,
        recipe.group_size if override.group_size is None else override.group_size,
        symmetric,
        override.method or recipe.method,
        per_tensor,
    )


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
    if role in _KEPT_ROLES:
        return _KEPT_ROLES[role]
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


def tiles_of(tensor: TensorPlan, piece: Piece) -> Iterator[Tile]:
    """Cut a piece into tiles of about TILE_BYTES; piece borders are tile borders."""
    step = rows_per_tile(tensor)
    if tensor.rows == 0:
        yield Tile(tensor.index, 0, 0, 0)
        return
    for start in range(piece.row_start, piece.row_stop, step):
        yield Tile(tensor.index, start // step, start, min(step, piece.row_stop - start))


def whole(tensor: TensorPlan) -> Piece:
    """All rows of a tensor."""
    return Piece(tensor.index, 0, tensor.rows)


def rows_per_tile(tensor: TensorPlan) -> int:
    """Rows of a full tile of this tensor."""
    return max(1, TILE_BYTES // tensor.row_bytes) if tensor.row_bytes else 1


def unit_bytes(total: int) -> int:
    """Source bytes of a unit: enough units to share, each large enough to stream."""
    return min(MAX_UNIT_BYTES, max(MIN_UNIT_BYTES, total // UNITS_PER_JOB))


def cut_units(tensors: tuple[TensorPlan, ...]) -> Iterator[Unit]:
    """Units in source order; a tensor larger than a unit is cut at tile borders."""
    stored = [tensor for tensor in tensors if tensor.tied_to is None]
    target = unit_bytes(sum(tensor.source.nbytes for tensor in stored))
    seq, size = 0, 0
    pieces: list[Piece] = []
    for tensor in stored:
        for piece in _pieces(tensor, target):
            nbytes = (piece.row_stop - piece.row_start) * tensor.row_bytes
            if pieces and size + nbytes > target:
                yield Unit(seq, tuple(pieces), size)
                seq, pieces, size = seq + 1, [], 0
            pieces.append(piece)
            size += nbytes
    if pieces:
        yield Unit(seq, tuple(pieces), size)


def _pieces(tensor: TensorPlan, target: int) -> Iterator[Piece]:
    if tensor.source.nbytes <= target:
        yield Piece(tensor.index, 0, tensor.rows)
        return
    step = rows_per_tile(tensor)
    rows = max(step, target // tensor.row_bytes // step * step)
    for start in range(0, tensor.rows, rows):
        yield Piece(tensor.index, start, min(start + rows, tensor.rows))
