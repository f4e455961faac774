"""The JSON of a plan (`service.domain.forecast`) and of what can be asked for, as models."""

from __future__ import annotations

from typing import Any

from service.domain.budget import Candidate
from service.domain.modality import Modality, Part
from service.domain.profiles import Role
from service.domain.spec import ResolvedRecipe
from service.web.schemas import Out


class PlanTotals(Out):
    """Sizes in bytes. `artifact_bytes` counts everything that will be stored."""

    parameters: int
    source_bytes: int
    payload_bytes: int
    parts_bytes: int
    artifact_bytes: int
    bits_per_weight: float
    units: int


class SourceObject(Out):
    """An object of the source, pinned by its entity tag."""

    key: str
    size: int
    etag: str


class PlannedTensor(Out):
    """What becomes of one tensor and why. `tied_to` is only there for action `tie`; `output` is
    empty where the job has but one."""

    output: str
    name: str
    dtype: str
    shape: list[int]
    role: Role
    action: str
    codec: str
    bits: int
    group_size: int
    reason: str
    source_bytes: int
    stored_bytes: int
    tied_to: str | None = None


class ModalityOut(Out):
    """What the model is taken for: what it makes, which part of it the weights are, and what says
    so. A recipe's defaults follow from it."""

    modality: Modality | None
    part: Part
    evidence: list[str]


class PlannedBudget(Out):
    """What a budget leaves room for. While `estimate` is true, widths and sizes are what Gaussian
    weights would get: a job measures the errors of all candidates, for which it reads
    `read_twice_bytes` of the source once more, and then decides. The sensitivities of
    `measured_sensitivities` tensors are those of the calibration file, the others are priors."""

    bytes: int
    estimate: bool
    candidates: list[Candidate]
    measured_tensors: int
    measured_sensitivities: int = 0
    read_twice_bytes: int


class Warned(Out):
    """Something to know before submitting. With several outputs, `output` is the one it is about."""

    code: str
    message: str
    output: str | None = None


class PlannedOutput(Out):
    """One of several outputs."""

    id: str
    totals: PlanTotals
    counts: dict[str, int]
    recipe: ResolvedRecipe
    budget: PlannedBudget | None


class PlanOut(Out):
    """A plan: what a job with this body would do, from the headers of the source alone.

    With several outputs, `totals` and `counts` are of all of them, and the recipes are in
    `outputs`, which otherwise is empty.
    """

    totals: PlanTotals
    counts: dict[str, int]
    recipe: ResolvedRecipe | None
    modality: ModalityOut
    budget: PlannedBudget | None
    source: list[SourceObject]
    tensors: list[PlannedTensor]
    warnings: list[Warned]
    outputs: list[PlannedOutput]


class ProfileOut(Out):
    """The defaults of one profile."""

    bits: int
    group_size: int
    max_memory_bytes: int | None
    size_limit_bytes: int
    min_mean_cosine: float
    budget_bpw: float | None


class GateOut(Out):
    """The least quality of one tensor at a width."""

    min_sqnr_db: float
    min_cosine: float


class SchemeOut(Out):
    """A method with a granularity, and a codebook where it has one: any combination of the values listed is accepted, no other.

    `group_sizes` is empty where there are no groups, `scale_bits` where scales are numbers; `unbias`
    says whether it may be above 0.
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


class SchemeLimitsOut(Out):
    """Bounds of a request and of a tensor."""

    max_rules: int
    max_pattern_chars: int
    max_outputs: int
    min_memory_bytes: int
    min_quantized_elements: int
    max_row_bytes: int


class SchemesOut(Out):
    """Exactly what this build can do, from the data that requests are checked with."""

    schemes: list[SchemeOut]
    limits: SchemeLimitsOut
    kept_roles: dict[Role, str]
    roles: list[Role]
    profiles: dict[str, ProfileOut]
    bits: list[int]
    group_sizes: list[int]
    methods: list[str]
    granularities: list[str]
    on_miss: list[str]
    ladder: list[int]
    gates: dict[str, GateOut]
    role_floors: dict[Role, int]
    source_dtypes: list[str]
    recipe_schema: dict[str, Any]
