"""Replays as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from service.domain.job import JobRecord, JobState, Phase
from service.domain.places import Place, Source
from service.domain.wire import Wire
from service.web.schemas import JobErrorOut, Out


class ReplayRequest(Wire):
    """What to make again: a job's artifact, or any artifact with the source that it was made from.

    `output` is the id of one of the job's outputs, where it has several.
    """

    job_id: Annotated[str, StringConstraints(pattern=r"^job_[0-9a-z]{1,40}$")] | None = None
    output: Annotated[str, StringConstraints(max_length=32)] | None = None
    artifact: Place | None = None
    source: Source | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.job_id is not None and self.artifact is None and self.source is None:
            return self
        given = self.job_id is None and self.output is None
        if given and self.artifact is not None and self.source is not None:
            return self
        raise ValueError(
            "give either job_id (with output, if it has several), or artifact and source"
        )


class EngineChange(Out):
    """A library whose version was another when the artifact was made."""

    name: str
    then: str | None
    now: str | None


class TileDifference(Out):
    """A tile that came out otherwise: columns that differ, and how many bytes of its codes."""

    tile_index: int
    row_start: int
    differs: list[str]
    code_bytes: int


class TensorDifference(Out):
    """A tensor with its tiles that came out otherwise."""

    tensor: str
    tiles: list[TileDifference]


class PartDifference(Out):
    """A part and what is wrong with it: missing, not_in_manifest, not_made, made_otherwise, or
    stored_part_is_not_the_manifest_s."""

    part: str
    problem: str


class MetricDifference(Out):
    """A tensor of which the report says something else than was found."""

    tensor: str
    differs: list[str]


class ReplayResult(Out):
    """`identical`, or `differs` with where. At most 1000 tiles are told; `tiles_differing` counts
    all of them."""

    verdict: Annotated[str, Field(examples=["identical"])]
    engine: list[EngineChange]
    parts: list[PartDifference]
    tensors: list[TensorDifference]
    metrics: list[MetricDifference]
    tiles_differing: int


class ReplayOut(Out):
    """A replay. It is a job that keeps nothing: its `id` works for `/v1/jobs/{id}`, its events, its
    log and its cancel too. `result` is there once it SUCCEEDED."""

    id: str
    state: JobState
    phase: Phase | None
    percent: float
    artifact: dict[str, Any]
    source: dict[str, Any]
    result: ReplayResult | None
    error: JobErrorOut | None
    create_time: datetime
    end_time: datetime | None

    @classmethod
    def of(cls, job: JobRecord) -> Self:
        """A ledger record as the API shows it."""
        return cls(
            id=job.id,
            state=job.state,
            phase=job.phase,
            percent=100.0 if job.state is JobState.SUCCEEDED else job.progress.percent,
            artifact=job.request["output"],
            source=job.request["source"],
            result=None if job.summary is None else ReplayResult.model_validate(job.summary),
            error=None if job.error is None else JobErrorOut(**job.error),
            create_time=job.create_time,
            end_time=job.end_time,
        )


class ReplayPage(Out):
    """Replays, newest first."""

    replays: list[ReplayOut]
    next_page_token: str | None
