"""Types of system.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Any, TypedDict

from arrowquant.http.types.shared import Role


class Check(TypedDict):
    """One part that the service needs. `error` is a code of the list in the documentation. Of
    parts that are asked, `latency_ms` is how long they took; of those that are watched,
    `age_s` is how long ago the last sign was: of `sweeper` since it last looked for
    forgotten work, of `leases` the longest since a worker that holds a unit was heard of.
    """

    name: str
    status: str
    error: str | None
    latency_ms: float | None
    age_s: float | None


class GateOut(TypedDict):
    """The least quality of one tensor at a width."""

    min_sqnr_db: float
    min_cosine: float


class Health(TypedDict):
    """The process runs."""

    status: str


class Profile(TypedDict):
    """The defaults of one profile."""

    bits: int
    group_size: int
    max_memory_bytes: int | None
    size_limit_bytes: int
    min_mean_cosine: float
    budget_bpw: float | None


class Ready(TypedDict):
    """`ready`, `degraded` (the broker is away: jobs are accepted and start a little later) or
    `unavailable` (the database is away: nothing can be answered).
    """

    status: str
    checks: list[Check]


class SchemeLimits(TypedDict):
    """Bounds of a request and of a tensor."""

    max_rules: int
    max_pattern_chars: int
    max_outputs: int
    min_memory_bytes: int
    min_quantized_elements: int
    max_row_bytes: int


class Scheme(TypedDict):
    """A method with a granularity, and a codebook where it has one: any combination of the
    values listed is accepted, no other.

    `group_sizes` is empty where there are no groups, `scale_bits` where scales are numbers;
    `unbias` says whether it may be above 0.
    """

    method: str
    granularity: str
    codebook: str
    bits: list[int]
    group_sizes: list[int]
    symmetric: list[bool]
    scale_bits: list[int]
    rotations: list[str]
    unbias: bool


class Schemes(TypedDict):
    """Exactly what this build can do, from the data that requests are checked with."""

    schemes: list[Scheme]
    limits: SchemeLimits
    kept_roles: dict[str, str]
    roles: list[Role]
    profiles: dict[str, Profile]
    bits: list[int]
    group_sizes: list[int]
    methods: list[str]
    granularities: list[str]
    on_miss: list[str]
    ladder: list[int]
    gates: dict[str, GateOut]
    role_floors: dict[str, int]
    source_dtypes: list[str]
    recipe_schema: dict[str, Any]


class Version(TypedDict):
    """The version of the service and of its API."""

    version: str
    api: str
