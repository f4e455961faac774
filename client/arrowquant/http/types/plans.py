"""Types of plans.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias, TypedDict

from arrowquant.http.types.shared import (
    Activations,
    Calibration,
    Candidate,
    Limits,
    Notify,
    Output,
    Recipe,
    Retention,
    Role,
    Rule,
    Search,
    Smoothing,
    Source,
)

Part: TypeAlias = Literal["denoiser", "language_model", "encoder", "autoencoder", "unknown"]


class Allocated(TypedDict):
    """What a budget came to.

    choice of each tensor, by name, the number of its candidate; -1 is raw nbytes of the
    artifact as expected loss sum of sensitivity times relative squared error, over all
    tensors price loss that one more byte would have saved errors relative squared error of
    each candidate, by name; null where it was not measured or is no number
    """

    choice: dict[str, int]
    nbytes: int
    loss: float
    price: float
    errors: NotRequired[dict[str, list[float | None]]]


class Gate(TypedDict):
    """The least quality a quantized tensor must have."""

    enabled: bool
    min_sqnr_db: float
    min_cosine: float
    on_miss: NotRequired[Literal["climb", "fail"]]
    min_mean_cosine: NotRequired[float]
    max_rho: NotRequired[float | None]
    max_group_rho: NotRequired[float | None]


class Modality(TypedDict):
    """What the model is taken for: what it makes, which part of it the weights are, and what
    says so. A recipe's defaults follow from it.
    """

    modality: Literal["text", "code", "image", "audio"] | None
    part: Part
    evidence: list[str]


class PlanBody(TypedDict):
    """What a plan needs: the source and the recipe.

    The other fields of a job are accepted too and change nothing, so that one and the same
    body can be planned first and submitted then.
    """

    source: Source
    recipe: NotRequired[Recipe]
    name: NotRequired[str]
    labels: NotRequired[dict[str, str]]
    output: NotRequired[Output | None]
    limits: NotRequired[Limits]
    priority: NotRequired[Literal["low", "normal", "high"]]
    retention: NotRequired[Retention | None]
    notify: NotRequired[list[Notify] | Notify]


class Plan(TypedDict):
    """A plan: what a job with this body would do, from the headers of the source alone.

    With several outputs, `totals` and `counts` are of all of them, and the recipes are in
    `outputs`, which otherwise is empty.
    """

    totals: PlanTotals
    counts: dict[str, int]
    recipe: ResolvedRecipe | None
    modality: Modality
    budget: PlannedBudget | None
    source: list[SourceObject]
    tensors: list[PlannedTensor]
    warnings: list[Warned]
    outputs: list[PlannedOutput]


class PlanTotals(TypedDict):
    """Sizes in bytes. `artifact_bytes` counts everything that will be stored."""

    parameters: int
    source_bytes: int
    payload_bytes: int
    parts_bytes: int
    artifact_bytes: int
    bits_per_weight: float
    units: int


class PlannedBudget(TypedDict):
    """What a budget leaves room for. While `estimate` is true, widths and sizes are what
    Gaussian weights would get: a job measures the errors of all candidates, for which it
    reads `read_twice_bytes` of the source once more, and then decides. The sensitivities of
    `measured_sensitivities` tensors are those of the calibration file, the others are
    priors.
    """

    bytes: int
    estimate: bool
    candidates: list[Candidate]
    measured_tensors: int
    measured_sensitivities: NotRequired[int]
    read_twice_bytes: int


class PlannedOutput(TypedDict):
    """One of several outputs."""

    id: str
    totals: PlanTotals
    counts: dict[str, int]
    recipe: ResolvedRecipe
    budget: PlannedBudget | None


class PlannedTensor(TypedDict):
    """What becomes of one tensor and why. `tied_to` is only there for action `tie`; `output`
    is empty where the job has but one.
    """

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
    tied_to: NotRequired[str | None]


class ResolvedBudget(TypedDict):
    """A budget with its candidates filled in: what an allocation chooses from, by number."""

    bits_per_weight: float | None
    bytes: int | None
    candidates: list[Candidate]
    on_infeasible: Literal["fail", "least"]
    search: NotRequired[Search | None]
    sensitivities: NotRequired[Literal["auto", "priors"]]


class ResolvedRecipe(TypedDict):
    """A recipe with nothing left to guess. `group_size` 0 is one scale per row (or tensor).

    `unbias` may be None until a source is planned, see `for_model`; `modality` is only what
    the caller says of it.
    """

    profile: Literal["edge", "local", "cloud"]
    bits: Literal[2, 3, 4, 8]
    method: Literal["lsq", "minmax", "superblock", "trellis", "hqq", "codebook"]
    granularity: Literal["group", "row", "tensor"]
    group_size: int
    symmetric: bool
    scale_bits: NotRequired[int]
    codebook: NotRequired[Literal["lloyd_max", "nf4"] | None]
    rotation: NotRequired[Literal["none", "hadamard"]]
    unbias: float | None
    modality: NotRequired[Literal["text", "code", "image", "audio"] | None]
    rules: list[Rule]
    gate: Gate
    ladder: list[int]
    role_floors: dict[str, Literal[2, 3, 4, 8]]
    calibration: NotRequired[Calibration | None]
    activations: NotRequired[Activations | None]
    smoothing: NotRequired[Smoothing | None]
    budget: NotRequired[ResolvedBudget | None]
    allocation: NotRequired[Allocated | None]


class SourceObject(TypedDict):
    """An object of the source, pinned by its entity tag."""

    key: str
    size: int
    etag: str


class Warned(TypedDict):
    """Something to know before submitting. With several outputs, `output` is the one it is
    about.
    """

    code: str
    message: str
    output: NotRequired[str | None]
