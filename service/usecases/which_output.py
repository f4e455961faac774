"""Which of a job's outputs a question is about."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain.errors import ArrowQuantError
from service.domain.job import JobRecord
from service.domain.outputs import output_ids


@dataclass(frozen=True, slots=True)
class Which:
    """An output of a job. `id` is '' where there is but one; `folder` is below the prefix."""

    number: int
    id: str

    @property
    def folder(self) -> str:
        return f"{self.id}/" if self.id else ""


def outputs_of(job: JobRecord, wanted: str | None) -> list[Which]:
    """All outputs, or the one of this id. Raises not_found."""
    found = [Which(number, name) for number, name in enumerate(output_ids(job.resolved))]
    if not wanted:
        return found
    named = [which for which in found if which.id == wanted]
    if not named:
        raise ArrowQuantError("not_found", "the job has no output of this id", _ids(found))
    return named


def one_output(job: JobRecord, wanted: str | None) -> Which:
    """The output that is meant. Raises not_found, and invalid_spec where it has to be said."""
    found = outputs_of(job, wanted)
    if len(found) > 1:
        raise ArrowQuantError("invalid_spec", "the job has several outputs: say which", _ids(found))
    return found[0]


def _ids(found: list[Which]) -> str:
    named = ", ".join(which.id for which in found if which.id)
    return f"Add ?output= with one of {named}." if named else "Leave ?output= out."
