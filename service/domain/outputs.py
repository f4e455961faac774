"""Several artifacts from one read of the source: their recipes, and one cut of the work for all.

A job without `outputs` has one, whose id is empty and whose files lie at the output's prefix itself.
Each output is planned exactly as a job of its own would be, so its parts have the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.domain.budget import Allocated
from service.domain.budgeting import budgeted
from service.domain.catalog import Catalog
from service.domain.errors import ArrowQuantError
from service.domain.plan import Plan, make_plan
from service.domain.spec import Recipe, ResolvedRecipe, resolve
from service.domain.units import Tile, Unit


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One artifact of a job: its id ('' if there is but one) and what is to be made.

    own_rules  whether its rules stand in the request's output and not in the recipe
    """

    id: str
    recipe: ResolvedRecipe
    own_rules: bool = field(default=False, compare=False)

    @property
    def folder(self) -> str:
        """Where its files lie below the output's prefix."""
        return f"{self.id}/" if self.id else ""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """The plans of all outputs of a job. They share the catalog and the cut."""

    outputs: tuple[OutputSpec, ...]
    plans: tuple[Plan, ...]

    @property
    def catalog(self) -> Catalog:
        return self.plans[0].catalog

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.plans[0].units

    def tiles(self, unit: Unit) -> Iterator[Tile]:
        """The tiles of a unit, in the order they are read and stored."""
        return self.plans[0].tiles(unit)

    @property
    def undecided(self) -> bool:
        """Whether an output's errors are to be measured before it can be made."""
        return any(output.recipe.undecided for output in self.outputs)

    def __iter__(self) -> Iterator[tuple[OutputSpec, Plan]]:
        return iter(zip(self.outputs, self.plans, strict=True))


def resolve_outputs(recipe: Recipe) -> tuple[OutputSpec, ...]:
    """Every output with its defaults filled in, in the order of the request."""
    if recipe.ref is not None and recipe.ref_sha256 is None:
        raise ArrowQuantError(
            "invalid_spec",
            f"the recipe {recipe.ref!r} is known by name to a server only",
            "Ask a server for it, or write its fields out.",
            {"pointer": "/recipe/ref"},
        )
    own = [bool(output.rules) for output in recipe.outputs] or [False]
    return tuple(
        OutputSpec(name, resolve(alone), rules)
        for (name, alone), rules in zip(recipe.each().items(), own, strict=True)
    )


def named(recipe: Recipe) -> dict[str, Any]:
    """What the ledger keeps of the named recipe that a job was made with."""
    if recipe.ref is None:
        return {}
    return {"ref": {"name": recipe.ref, "sha256": recipe.ref_sha256}}


def to_json(outputs: tuple[OutputSpec, ...]) -> dict[str, Any]:
    """The form kept in the ledger: `recipe`, or `outputs` with the id and the recipe of each; and
    beside them, since they come later, `allocations`."""
    found: dict[str, Any]
    if [output.id for output in outputs] == [""]:
        found = {"recipe": outputs[0].recipe.asked()}
    else:
        found = {"outputs": [{"id": o.id, "recipe": o.recipe.asked()} for o in outputs]}
    return found | allocations([output.recipe.allocation for output in outputs])


def allocations(made: Sequence[Allocated | None]) -> dict[str, Any]:
    """The form in which the ledger keeps what the budgets of all outputs came to; empty while there
    is nothing to keep."""
    if not any(made):
        return {}
    return {"allocations": [a.model_dump(mode="json") if a else None for a in made]}


def from_json(resolved: dict[str, Any]) -> tuple[OutputSpec, ...]:
    """What `to_json` made, among whatever else is in there."""
    entries = resolved.get("outputs") or [{"id": "", "recipe": resolved["recipe"]}]
    made = resolved.get("allocations") or [None] * len(entries)
    return tuple(
        OutputSpec(
            entry["id"], ResolvedRecipe.model_validate(entry["recipe"] | {"allocation": allocation})
        )
        for entry, allocation in zip(entries, made, strict=True)
    )


def output_ids(resolved: dict[str, Any]) -> list[str]:
    """The ids alone, by number."""
    return [str(entry["id"]) for entry in resolved.get("outputs") or [{"id": ""}]]


def plan_outputs(catalog: Catalog, outputs: tuple[OutputSpec, ...]) -> JobPlan:
    """Plan every output. Raises rule_matched_nothing, and invalid_spec where one output keeps a
    tensor that another cuts into other rows: one read cannot serve both."""
    plans = []
    for number, output in enumerate(outputs):
        try:
            plans.append(budgeted(make_plan(catalog, output.recipe)))
        except ArrowQuantError as error:
            raise _of_output(error, number, output) from None
    for output, plan in zip(outputs[1:], plans[1:], strict=True):
        _same_cut(outputs[0], plans[0], output, plan)
    filled = tuple(
        replace(output, recipe=plan.recipe) for output, plan in zip(outputs, plans, strict=True)
    )
    return JobPlan(filled, tuple(plans))


def _of_output(error: ArrowQuantError, number: int, output: OutputSpec) -> ArrowQuantError:
    """The same error, told of the output that has it; a rule may be its own or the recipe's."""
    if not output.id:
        return error
    where = error.where | {"output": output.id}
    if output.own_rules and "pointer" in where:
        where["pointer"] = where["pointer"].replace("/recipe/", f"/recipe/outputs/{number}/", 1)
    return ArrowQuantError(error.code, error.detail, error.hint, where, error.errors)


def _same_cut(one: OutputSpec, plan: Plan, other: OutputSpec, its: Plan) -> None:
    for mine, theirs in zip(plan.tensors, its.tensors, strict=True):
        if mine.rows != theirs.rows:
            raise ArrowQuantError(
                "invalid_spec",
                f"{one.id} and {other.id} store it in {mine.rows} and {theirs.rows} rows, "
                "since one of them keeps it raw: they cannot be made from one read",
                "Treat it alike in all outputs, or submit two jobs.",
                {"tensor": mine.name, "pointer": "/recipe/outputs"},
            )
