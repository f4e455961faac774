"""What every step needs of a job: its places, its recipe, its plan."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from service.domain.activations import activations_name
from service.domain.catalog import ObjectInfo
from service.domain.job import Claim
from service.domain.modality import Detection
from service.domain.outputs import JobPlan, OutputSpec, from_json, plan_outputs, to_json
from service.domain.ports import ObjectStores
from service.domain.report import part_name, report_name
from service.domain.spec import JobRequest, canonical_json
from service.domain.units import Unit
from service.usecases.calibration import with_calibration
from service.usecases.inspect_source import inspect, reopen
from workers.calibration.measured import Measured
from workers.stages.metered import Metered
from workers.stages.scratch import Scratch

PLANS_KEPT = 4


@dataclass(frozen=True, slots=True)
class JobContext:
    """A claim, read: requests are validated again, since the ledger is only data."""

    claim: Claim
    request: JobRequest
    outputs: tuple[OutputSpec, ...]
    source: Metered
    output: Metered
    calibration: Metered | None = None

    @classmethod
    def of(cls, claim: Claim, stores: ObjectStores) -> JobContext:
        request = JobRequest.model_validate(claim.request)
        output = stores.open(claim.tenant, request.output.connection)
        outputs = from_json(claim.resolved)
        named = outputs[0].recipe.calibration  # that of the recipe: outputs have none of their own
        return cls(
            claim,
            request,
            outputs,
            Metered(stores.open(claim.tenant, request.source.connection)),
            Metered(Scratch(output) if "replay" in claim.resolved else output),
            None if named is None else Metered(stores.open(claim.tenant, named.connection)),
        )

    def moved(self) -> tuple[int, int]:
        """Bytes read and written so far."""
        calibration = self.calibration.bytes_read if self.calibration else 0
        read = self.source.bytes_read + self.output.bytes_read + calibration
        return read, self.output.bytes_written

    @property
    def replay(self) -> dict[str, Any] | None:
        """What was noted of the artifact that is made again, if this is a replay of one."""
        found: dict[str, Any] | None = self.claim.resolved.get("replay")
        return found

    def key(self, name: str, output: int = 0) -> str:
        """Where a file of an output's artifact goes."""
        return self.request.output.prefix + self.outputs[output].folder + name

    @property
    def replaces(self) -> bool:
        """Whether an artifact that is there is to give way to this one."""
        return self.request.output.if_exists == "replace"

    def first_part(self, output: int) -> int:
        """The number of an output's first part: not 0 where another artifact's names are taken."""
        numbers: list[int] = self.claim.resolved.get("first_parts") or []
        return numbers[output] if output < len(numbers) else 0

    def part_key(self, seq: int, output: int = 0) -> str:
        """Where the part of a unit goes."""
        return self.key(part_name(self.first_part(output) + seq), output)

    def report_name(self, output: int) -> str:
        """What the report is called."""
        return report_name(self.first_part(output))

    def activations_name(self, output: int) -> str:
        """What the table of activations is called."""
        return activations_name(self.first_part(output))

    def replaced_name(self, output: int) -> str:
        """Where the manifest that this one replaces is kept for a while."""
        return f"manifest-before-{self.first_part(output):05d}.json"

    @contextmanager
    def measured(self, plan: JobPlan, unit: Unit) -> Iterator[Measured | None]:
        """The calibration file, open while the unit is at work; None if it is not used there."""
        used = any(
            each.tensors[p.tensor].treatment.calibrated for each in plan.plans for p in unit.pieces
        )
        if not used:
            yield None
            return
        with self.calibrated(plan) as measured:
            yield measured

    @contextmanager
    def calibrated(self, plan: JobPlan) -> Iterator[Measured | None]:
        """The calibration file, open; None if the job has none."""
        index, named = plan.catalog.calibration, self.outputs[0].recipe.calibration
        if self.calibration is None or index is None or named is None:
            yield None
            return
        info = ObjectInfo(index.key, index.size, index.etag)
        with Measured(self.calibration, info, named) as measured:
            yield measured

    def fresh_plan(self) -> JobPlan:
        """Plan from the source as it is now."""
        catalog = inspect(self.source, self.request.source.prefix)
        named = self.outputs[0].recipe.calibration
        if self.calibration is not None and named is not None:
            info = self.calibration.stat(named.key)
            catalog = with_calibration(catalog, self.calibration, info)
        return plan_outputs(catalog, self.outputs)


def pinned(plan: JobPlan) -> dict[str, Any]:
    """What the ledger keeps of a planned source: enough to open the very same one again."""
    measured = plan.catalog.calibration
    named = (
        {} if measured is None else {"calibration": [measured.key, measured.size, measured.etag]}
    )
    return named | {
        "objects": [[info.key, info.size, info.etag] for info in plan.catalog.objects],
        "ties": plan.catalog.ties,
        "ignored": list(plan.catalog.ignored),
        "looks": plan.catalog.looks.as_dict(),
    }


class PlanCache:
    """Plans by job: headers are read again at most once for each job a process works on."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[str, bytes], JobPlan] = OrderedDict()

    def plan(self, context: JobContext) -> JobPlan:
        """The job's plan, from its pinned objects. Raises source_changed if they are others."""
        # A budget's widths come later than its plan.
        decided = canonical_json(to_json(context.outputs))
        key = context.claim.job_id, hashlib.sha256(decided).digest()
        if key not in self._plans:
            source = context.claim.resolved["source"]
            objects = [ObjectInfo(*entry) for entry in source["objects"]]
            looks = Detection.from_dict(source.get("looks", {}))
            ignored = source.get("ignored", ())
            catalog = reopen(context.source, objects, source["ties"], ignored, looks)
            if context.calibration is not None:
                info = ObjectInfo(*source["calibration"])
                catalog = with_calibration(catalog, context.calibration, info)
            self._plans[key] = plan_outputs(catalog, context.outputs)
            while len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]
