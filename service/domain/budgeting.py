"""From a plan with a budget and measured errors to a plan in which every tensor has its width.

Everything an artifact holds counts: codes and scales, Arrow framing, report and manifest. What a
rule gives a width is stored so, and its bytes are taken off first; every other quantized tensor may
be stored in any way of the budget's candidates that its role's floor and its gate allow, or raw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from service.domain import framing
from service.domain.allocation import Allocation, Option, allocate, evolve, least, measure
from service.domain.budget import Allocated, Candidate
from service.domain.engine import versions
from service.domain.errors import ArrowQuantError
from service.domain.expected import expected_documents, ledger_rows
from service.domain.job import TensorState
from service.domain.plan import Plan, make_plan
from service.domain.profiles import Action
from service.domain.rules import Matcher, first_rule
from service.domain.sensitivity import sensitivities
from service.domain.spec import Rule, canonical_json
from service.domain.treatment import TensorPlan, Treatment, plan_tensor, with_measured
from service.domain.units import Tile

RAW: Final = -1
_RAW_REASON: Final = "budget: raw, nothing narrower meets the gate or the room is there"
# What documents may have more than expected: a name, digits, a warning.
_SLACK_BYTES: Final = 768
_SLACK_OF_TENSOR: Final = 24


@dataclass(frozen=True, slots=True)
class Measured:
    """The error of one candidate on one tensor, and whether it meets the gate.

    loss  relative squared error of the layer's output where that is known, else of its weights
    """

    loss: float
    good: bool


# Of a candidate by its width, where nothing is measured yet: Gaussian weights in groups of 64.
_TYPICAL: Final[Mapping[int, float]] = {2: 0.11, 3: 0.03, 4: 0.0075, 8: 3e-5}


@dataclass(frozen=True, slots=True)
class Choosable:
    """A tensor that competes: the ways to store it by the candidate's number, and its sensitivity."""

    tensor: TensorPlan
    ways: Mapping[int, TensorPlan]
    weight: float


def choosable(plan: Plan) -> list[Choosable]:
    """The tensors of a plan with a budget that may be stored in several ways, in its order."""
    recipe = plan.recipe
    if recipe.budget is None:
        return []
    plan = make_plan(plan.catalog, recipe)  # as it is before anything competes
    matchers = [Matcher(number, rule) for number, rule in enumerate(recipe.rules)]
    named = [(tensor.name, tensor.role) for tensor in plan.tensors]
    weights = sensitivities(named, plan.measured_sensitivities())
    floors = [recipe.role_floors.get(tensor.role, 2) for tensor in plan.tensors]
    weight, floor = dict[str, float](), dict[str, int]()
    pinned: set[str] = set()
    for tensor, a, least_bits in zip(plan.tensors, weights, floors, strict=True):
        first = tensor.tied_to or tensor.name  # bytes that are shared serve the most demanding
        weight[first] = max(weight.get(first, 0.0), a)
        floor[first] = max(floor.get(first, 0), least_bits)
        rule = first_rule(matchers, tensor.name)
        if rule is not None and rule.bits is not None:
            pinned.add(first)
    found = []
    for tensor in plan.tensors:
        free = tensor.tied_to is None and tensor.name not in pinned
        if free and tensor.treatment.action is Action.QUANTIZE:
            rule = first_rule(matchers, tensor.name)
            ways: dict[int, TensorPlan] = {}
            for number, candidate in enumerate(recipe.budget.candidates):
                way = _stored_as(plan, tensor, rule, candidate)
                known = (other.treatment for other in ways.values())
                if candidate.bits >= floor[tensor.name] and way.treatment not in known:
                    ways[number] = way
            ways[RAW] = replace(tensor, treatment=Treatment(Action.KEEP, _RAW_REASON))
            found.append(Choosable(tensor, ways, weight[tensor.name]))
    return found


def _stored_as(
    plan: Plan, tensor: TensorPlan, rule: Rule | None, candidate: Candidate
) -> TensorPlan:
    changes = candidate.model_dump(exclude_none=True)
    if rule is not None and rule.method is not None:  # then only its width is open
        changes = {"bits": candidate.bits}
    said = (rule or Rule(match="*")).model_copy(update=changes)
    way = plan_tensor(tensor.index, tensor.source, None, plan.recipe, said, plan.looks.part)
    reason = f"budget: {candidate.bits} bits"
    way = replace(way, role=tensor.role, treatment=replace(way.treatment, reason=reason))
    index = plan.catalog.calibration
    named = plan.recipe.calibration
    return with_measured(way, named, index.weights) if named and index else way


def budgeted(plan: Plan) -> Plan:
    """A plan as its recipe's allocation has it; without one as it would be with typical errors: an
    estimate. Without a budget as it is. Raises budget_infeasible."""
    recipe = plan.recipe
    if recipe.budget is None:
        return plan
    if recipe.allocation is not None:
        return _applied(plan, choosable(plan), recipe.allocation.choice)
    free = choosable(plan)
    typical = {
        (each.tensor.index, number): Measured(_typical(way), good=True)
        for each in free
        for number, way in each.ways.items()
        if number != RAW
    }
    return _solved(plan, free, typical)[0]


def allocated(plan: Plan, measured: Mapping[tuple[int, int], Measured]) -> Allocated:
    """The allocation of a plan, from the errors of (tensor, candidate): a pure function of both.

    Raises budget_infeasible.
    """
    plan = make_plan(plan.catalog, plan.recipe)
    free = choosable(plan)
    _, found = _solved(plan, free, measured)
    errors = {
        each.tensor.name: tuple(
            _digits(measured, each.tensor.index, number)
            for number in range(len(plan.recipe.budget.candidates if plan.recipe.budget else ()))
        )
        for each in free
    }
    return found.model_copy(update={"errors": errors})


def _typical(way: TensorPlan) -> float:
    group = way.treatment.group_size or way.cols
    return _TYPICAL[way.treatment.bits] * float((max(16, min(group, 1024)) / 64) ** 0.25)


def _digits(measured: Mapping[tuple[int, int], Measured], tensor: int, number: int) -> float | None:
    found = measured.get((tensor, number))
    return None if found is None or found.loss == float("inf") else float(f"{found.loss:.4g}")


def _solved(
    plan: Plan, free: Sequence[Choosable], measured: Mapping[tuple[int, int], Measured]
) -> tuple[Plan, Allocated]:
    """Allocate until documents and parts together fit."""
    limit = byte_limit(plan)
    tiles = _tiles(plan)
    numbers, items = _items(free, tiles, measured)
    taken = {each.tensor.index for each in free}
    fixed = framing.FILE_BYTES * len(plan.units) + sum(
        _part_bytes(tensor, tiles.get(tensor.index, Counter()))
        for tensor in plan.tensors
        if tensor.tied_to is None and tensor.index not in taken
    )
    made = _with(plan, free, numbers, least(items))
    documents, needed = 0, document_bytes(made)
    while needed > documents:  # they grow with what is chosen, a little and not for ever
        documents = needed
        found = _choose(plan, items, limit - fixed - documents) or _smallest(
            plan, items, limit, fixed + documents
        )
        made = _with(plan, free, numbers, found.choice)
        needed = document_bytes(made)
    choice = {
        each.tensor.name: some[n] for each, some, n in zip(free, numbers, found.choice, strict=True)
    }
    total = found.nbytes + fixed + documents
    return made, Allocated(choice=choice, nbytes=total, loss=found.loss, price=found.price)


def byte_limit(plan: Plan) -> int:
    """Bytes that the whole artifact may have."""
    if plan.recipe.budget is None:
        raise ValueError("the recipe has no budget")
    return plan.recipe.budget.limit(sum(tensor.source.elements for tensor in plan.tensors))


def document_bytes(plan: Plan) -> int:
    """Report and manifest of a plan, with some room for what is not known of them yet."""
    rows = ledger_rows(plan)
    count = len(plan.recipe.budget.candidates) if plan.recipe.budget else 0
    names = [row.name for row in rows if row.state is TensorState.PENDING]
    table = Allocated(
        choice=dict.fromkeys(names, RAW), nbytes=0, loss=0.0, price=0.0,
        errors=dict.fromkeys(names, (1.234e-05,) * count),
    )  # fmt: skip
    told = replace(plan, recipe=plan.recipe.model_copy(update={"allocation": table}))
    documents = expected_documents(told, rows, {}, versions(), [])
    asked = canonical_json(plan.recipe.asked())
    slack = _SLACK_BYTES + _SLACK_OF_TENSOR * len(rows) + 2 * len(asked)
    return len(documents.report) + len(documents.manifest) + slack


def _items(
    free: Sequence[Choosable],
    tiles: Mapping[int, Counter[int]],
    measured: Mapping[tuple[int, int], Measured],
) -> tuple[list[list[int]], list[list[Option]]]:
    """Of each tensor the numbers of the candidates that it may take, and these as options."""
    numbers, items = [], []
    for each in free:
        index = each.tensor.index
        options = {
            number: Option(
                _part_bytes(way, tiles[index]),
                0.0 if number == RAW else each.weight * measured[index, number].loss,
            )
            for number, way in each.ways.items()
            if number == RAW or _may_take(measured.get((index, number)))
        }
        numbers.append(list(options))
        items.append(list(options.values()))
    return numbers, items


def _may_take(found: Measured | None) -> bool:
    return found is not None and found.good and found.loss < float("inf")


def _choose(plan: Plan, items: list[list[Option]], room: int) -> Allocation | None:
    found = allocate(items, room)
    search = plan.recipe.budget.search if plan.recipe.budget else None
    if found is None or search is None:
        return found
    return evolve(
        items,
        room,
        found,
        evaluations=search.evaluations,
        population=search.population,
        seed=search.seed,
    )


def _smallest(plan: Plan, items: list[list[Option]], limit: int, others: int) -> Allocation:
    """The smallest there is, where the budget is but an aim. Raises budget_infeasible otherwise."""
    choice = least(items)
    nbytes, loss = measure(items, choice)
    if plan.recipe.budget is not None and plan.recipe.budget.on_infeasible == "least":
        return Allocation(choice, nbytes, loss, 0.0)
    parameters = max(1, sum(tensor.source.elements for tensor in plan.tensors))
    needed = nbytes + others
    raise ArrowQuantError(
        "budget_infeasible",
        f"the smallest artifact that the recipe allows has {needed} bytes, "
        f"{8 * needed / parameters:.3f} bits per weight; the budget is {limit} bytes, "
        f"{8 * limit / parameters:.3f} bits per weight",
        "Raise the budget, lower the gate (fallback.min_sqnr_db, min_cosine) or put it off "
        "(fallback.enabled), use larger groups, or give tensors a width with a rule, which goes "
        "below the floor of their role.",
        {
            "pointer": "/recipe/budget",
            "least_bytes": needed,
            "least_bits_per_weight": round(8 * needed / parameters, 4),
            "budget_bytes": limit,
            "not_weights_bytes": others,
        },
    )


def _tiles(plan: Plan) -> dict[int, Counter[int]]:
    """Of each tensor how many tiles it has of how many rows."""
    found: dict[int, Counter[int]] = {}
    for unit in plan.units:
        for tile in plan.tiles(unit):
            found.setdefault(tile.tensor, Counter())[tile.rows] += 1
    return found


def _part_bytes(tensor: TensorPlan, tiles: Counter[int]) -> int:
    """What a tensor takes of the parts."""
    return sum(
        count * framing.batch_bytes(tensor, Tile(tensor.index, 0, 0, rows))
        for rows, count in tiles.items()
    )


def _with(
    plan: Plan, free: Sequence[Choosable], numbers: list[list[int]], choice: Sequence[int]
) -> Plan:
    named = {each.tensor.name: some[n] for each, some, n in zip(free, numbers, choice, strict=True)}
    return _applied(plan, free, named)


def _applied(plan: Plan, free: Sequence[Choosable], choice: Mapping[str, int]) -> Plan:
    """The plan with each tensor stored as chosen; whoever shares its bytes shares that too."""
    stored = {
        each.tensor.name: each.ways[number]
        for each in free
        if (number := choice.get(each.tensor.name)) is not None and number in each.ways
    }

    def settle(tensor: TensorPlan) -> TensorPlan:
        way = stored.get(tensor.tied_to or tensor.name)
        return tensor if way is None else replace(tensor, treatment=way.treatment)

    return replace(plan, tensors=tuple(map(settle, plan.tensors)))


def told(plan: Plan) -> dict[str, Any] | None:
    """What a plan says of its budget: how many bytes there are, and whether widths are an estimate."""
    recipe = plan.recipe
    if recipe.budget is None:
        return None
    allocation = recipe.allocation
    return {
        "bytes": byte_limit(plan),
        "estimate": allocation is None,
        "candidates": [
            c.model_dump(mode="json", exclude_none=True) for c in recipe.budget.candidates
        ],
        "measured_tensors": len(choosable(plan)),
        "measured_sensitivities": len(plan.measured_sensitivities()),
        "read_twice_bytes": sum(each.tensor.source.nbytes for each in choosable(plan)),
    }
