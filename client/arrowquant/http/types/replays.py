"""Types of replays.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from arrowquant.http.types.shared import JobError, JobState, Phase, Source


class EngineChange(TypedDict):
    """A library whose version was another when the artifact was made."""

    name: str
    then: str | None
    now: str | None


class MetricDifference(TypedDict):
    """A tensor of which the report says something else than was found."""

    tensor: str
    differs: list[str]


class PartDifference(TypedDict):
    """A part and what is wrong with it: missing, not_in_manifest, not_made, made_otherwise, or
    stored_part_is_not_the_manifest_s.
    """

    part: str
    problem: str


class Place(TypedDict):
    """A prefix inside a named connection. Never a URL and never a key."""

    connection: str
    prefix: NotRequired[str]


class Replay(TypedDict):
    """A replay. It is a job that keeps nothing: its `id` works for `/v1/jobs/{id}`, its
    events, its log and its cancel too. `result` is there once it SUCCEEDED.
    """

    id: str
    state: JobState
    phase: Phase | None
    percent: float
    artifact: dict[str, Any]
    source: dict[str, Any]
    result: ReplayResult | None
    error: JobError | None
    create_time: str
    end_time: str | None


class ReplayPage(TypedDict):
    """Replays, newest first."""

    replays: list[Replay]
    next_page_token: str | None


class ReplayRequest(TypedDict):
    """What to make again: a job's artifact, or any artifact with the source that it was made
    from.

    `output` is the id of one of the job's outputs, where it has several.
    """

    job_id: NotRequired[str | None]
    output: NotRequired[str | None]
    artifact: NotRequired[Place | None]
    source: NotRequired[Source | None]


class ReplayResult(TypedDict):
    """`identical`, or `differs` with where. At most 1000 tiles are told; `tiles_differing`
    counts all of them.
    """

    verdict: str
    engine: list[EngineChange]
    parts: list[PartDifference]
    tensors: list[TensorDifference]
    metrics: list[MetricDifference]
    tiles_differing: int


class TensorDifference(TypedDict):
    """A tensor with its tiles that came out otherwise."""

    tensor: str
    tiles: list[TileDifference]


class TileDifference(TypedDict):
    """A tile that came out otherwise: columns that differ, and how many bytes of its codes."""

    tile_index: int
    row_start: int
    differs: list[str]
    code_bytes: int
