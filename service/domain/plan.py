"""The plan: what becomes of every tensor, how the work is cut, and how large the result will be.

A pure function of (catalog, resolved recipe). The command line, `POST /v1/plans` and the job itself
call it, so what is announced is what is done. Neither threads, memory nor the number of workers
enter: equal inputs are cut equally everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from service.domain.catalog import Catalog
from service.domain.modality import Detection, decide
from service.domain.profiles import Action
from service.domain.rules import Matcher, first_rule, refuse_unused
from service.domain.spec import ResolvedRecipe
from service.domain.treatment import TensorPlan, plan_tensor, with_measured
from service.domain.units import Tile, Unit, cut_units, tiles_of


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

    @property
    def looks(self) -> Detection:
        """What the model is taken for, and why."""
        return decide(self.recipe.modality, self.catalog.looks)

    def measured_sensitivities(self) -> dict[str, float]:
        """How much tensors' errors cost, by name, as far as a budget goes by the calibration file."""
        recipe, index = self.recipe, self.catalog.calibration
        if recipe.budget is None or recipe.budget.sensitivities == "priors":
            return {}
        if recipe.calibration is None or index is None:
            return {}
        return {
            tensor.name: found.sensitivity
            for tensor in self.tensors
            if (found := index.weights.get(tensor.name)) and found.sensitivity is not None
        }

    def payload_bytes(self) -> int:
        """Codes, scales, minima and raw tensors, summed over all parts."""
        return sum(
            self.tensors[tile.tensor].tile_sizes(tile.rows).payload
            for unit in self.units
            for tile in self.tiles(unit)
        )


def make_plan(catalog: Catalog, recipe: ResolvedRecipe) -> Plan:
    """Decide every tensor and cut the work. Raises rule_matched_nothing."""
    looks = decide(recipe.modality, catalog.looks)
    recipe = recipe.for_model(looks.modality, looks.part)
    matchers = [Matcher(number, rule) for number, rule in enumerate(recipe.rules)]
    tensors = tuple(
        plan_tensor(
            number,
            source,
            catalog.ties.get(source.name),
            recipe,
            first_rule(matchers, source.name),
            looks.part,
        )
        for number, source in enumerate(catalog.tensors)
    )
    refuse_unused(matchers)
    tensors = _agree_on_ties(tensors)
    if recipe.calibration is not None:
        measured = catalog.calibration.weights if catalog.calibration else {}
        tensors = tuple(
            with_measured(tensor, recipe.calibration, measured, recipe.smoothing)
            for tensor in tensors
        )
    units = tuple(cut_units(tensor for tensor in tensors if tensor.tied_to is None))
    return Plan(recipe, catalog, tensors, units)


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
