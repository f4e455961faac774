"""The sources of a batch, looked at once each, several at a time, for a bounded time.

Reading headers for each of ten thousand lines would take longer than any client waits. Most batches
name few sources, or the first of them shows what is wrong with all; what there is no time for is
found by the worker that plans the job, as it is when a store is slow.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from service.domain.catalog import Catalog
from service.domain.errors import ArrowQuantError, Fault, FieldError
from service.domain.outputs import plan_outputs, resolve_outputs
from service.domain.ports import ObjectStores
from service.domain.spec import JobRequest, canonical_json
from service.usecases.bounded import Bounded
from service.usecases.inspect_source import inspect
from service.usecases.plan import calibrated, open_place, pointed

BUDGET_S: Final = 8.0
ONE_S: Final = 5.0
AT_ONCE: Final = 8
# Pairs of a source and a recipe that are remembered until the last line has come.
MOST_PAIRS: Final = 2000
_reading = Bounded(ONE_S, 32, "storage_unavailable", "reading the source's headers")


class SourceChecks:
    """What lines name as sources, and what is wrong with those."""

    def __init__(self, tenant: str, stores: ObjectStores, budget_s: float = BUDGET_S) -> None:
        self._tenant, self._stores, self._budget_s = tenant, stores, budget_s
        # What is known by then of how much lines read: bytes, and the numbers of the lines.
        self.sizes: list[tuple[int, list[int]]] = []
        # By place: by recipe, the first request with it and the numbers of all its lines.
        self._wanted: dict[tuple[str, str], dict[bytes, tuple[JobRequest, list[int]]]] = {}
        self._pairs = 0

    def note(self, number: int, request: JobRequest) -> None:
        """Remember what a line wants of its source."""
        recipes = self._wanted.setdefault((request.source.connection, request.source.prefix), {})
        recipe = canonical_json(request.recipe.model_dump(mode="json"))
        if recipe in recipes:
            recipes[recipe][1].append(number)
        elif self._pairs < MOST_PAIRS:
            self._pairs += 1
            recipes[recipe] = (request, [number])

    def run(self) -> list[FieldError]:
        """What is certainly wrong, for every line that it concerns."""
        deadline = time.monotonic() + self._budget_s
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sources") as pool:
            found = pool.map(lambda recipes: self._look(recipes, deadline), self._wanted.values())
            return [error for errors in found for error in errors]

    def _look(
        self, recipes: dict[bytes, tuple[JobRequest, list[int]]], deadline: float
    ) -> list[FieldError]:
        if not recipes or time.monotonic() > deadline:
            return []
        requests = list(recipes.values())
        try:
            catalog = self._read(requests[0][0])
        except ArrowQuantError as error:
            return [found for _, numbers in requests for found in _of_lines(numbers, error)]
        errors: list[FieldError] = []
        for request, numbers in requests:
            if time.monotonic() > deadline:
                break
            try:
                named = request.recipe.calibration
                fitted = calibrated(self._stores, self._tenant, named, catalog, _reading)
                plan = plan_outputs(fitted, resolve_outputs(request.recipe))
            except ArrowQuantError as error:
                errors += _of_lines(numbers, error)
            else:
                self.sizes.append((sum(unit.source_bytes for unit in plan.units), numbers))
        return errors

    def _read(self, request: JobRequest) -> Catalog:
        store = open_place(self._stores, self._tenant, request.source, "/source")
        try:
            return _reading.call(lambda: inspect(store, request.source.prefix, ties=False))
        except ArrowQuantError as error:
            raise pointed(error, "/source/prefix") from None


def _of_lines(numbers: list[int], error: ArrowQuantError) -> list[FieldError]:
    # A store that is slow or away says nothing about the lines: their workers try again.
    if error.fault is not Fault.USER:
        return []
    pointers = [f.pointer for f in error.errors] or [str(error.where.get("pointer", ""))]
    return [
        FieldError(f"/body{at}", error.detail, number, error.code)
        for number in numbers
        for at in pointers
    ]
