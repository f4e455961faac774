"""One artifact after another at the same place: may this job go on where that one stopped, and which
names do its parts take?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from service.domain.errors import ArrowQuantError
from service.domain.job import PartRow
from service.domain.outputs import JobPlan, output_ids

_PART: Final = re.compile(r"part-([0-9]{5,9})\.arrow", re.ASCII)
_TOLD: Final = 12  # differences named in an error


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """All that the bytes of an artifact's parts depend on."""

    objects: Mapping[str, Any]
    recipe: Mapping[str, Any]
    engine: Mapping[str, str]

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Raises KeyError or TypeError for what is no manifest."""
        objects = {o["key"]: [o["size"], o["etag"]] for o in manifest["source"]["objects"]}
        return cls(objects, _asked(manifest["recipe"]["resolved"]), dict(manifest["engine"]))

    @classmethod
    def of_resolved(cls, resolved: Mapping[str, Any], output: int) -> Self:
        """Of a planned job."""
        objects = {key: [size, etag] for key, size, etag in resolved["source"]["objects"]}
        several = resolved.get("outputs")
        recipe = several[output]["recipe"] if several else resolved["recipe"]
        return cls(objects, _asked(recipe), resolved["engine"])

    @classmethod
    def of_plan(cls, plan: JobPlan, output: int, engine: Mapping[str, str]) -> Self:
        """Of what would be made now."""
        objects = {info.key: [info.size, info.etag] for info in plan.catalog.objects}
        return cls(objects, plan.outputs[output].recipe.asked(), engine)

    def differences(self, now: Fingerprint) -> list[str]:
        """What differs, each with both values; nothing for the same."""
        pairs = (
            ("source", self.objects, now.objects),
            ("recipe", self.recipe, now.recipe),
            ("engine", self.engine, now.engine),
        )
        return [
            f"{what} {name}: {_short(then.get(name))}, now {_short(new.get(name))}"
            for what, then, new in pairs
            for name in sorted(then.keys() | new.keys())
            if then.get(name) != new.get(name)
        ]


@dataclass(frozen=True, slots=True)
class Adoption:
    """What a job takes over from one that did not end well: its measurements, and these parts."""

    job_id: str
    parts: Sequence[PartRow]


def mismatch(differences: Sequence[str], where: dict[str, Any]) -> ArrowQuantError:
    """The error of a job that was to resume something else."""
    more = f" and {len(differences) - _TOLD} more" if len(differences) > _TOLD else ""
    return ArrowQuantError(
        "output_mismatch",
        f"what is there cannot be resumed: {'; '.join(differences[:_TOLD])}{more}",
        "Submit the job with the same source, recipe and version, choose another prefix, or set "
        "output.if_exists to 'replace'.",
        where,
    )


def other_outputs(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Whether two jobs make different sets of artifacts."""
    before, after = output_ids(dict(then)), output_ids(dict(now))
    return [] if before == after else [f"outputs: {before}, now {after}"]


def part_numbers(names: Iterable[str]) -> set[int]:
    """The numbers of those names that are names of parts."""
    return {int(form[1]) for name in names if (form := _PART.fullmatch(name))}


def first_part(taken: set[int], units: int, before: int | None) -> int:
    """The number of the first part of a new artifact, so that none has a name that is taken.

    before  the number that an earlier try of the job had: kept, if it still can be
    """
    if before is not None and taken.isdisjoint(range(before, before + units)):
        return before
    if taken.isdisjoint(range(units)):
        return 0
    return max(taken) + 1


def _asked(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without what follows from it and the source."""
    return {name: value for name, value in recipe.items() if name != "allocation"}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 100 else text[:97] + "..."
