"""Types of plans.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias, TypedDict

from arrowquant.http.types.shared import (
    Activations,
    Calibration,
    Limits,
    Notify,
    Output,
    Recipe,
    Retention,
    Role,
    Rule,
    Source,
)

Part: TypeAlias = Literal["denoiser", "language_model", "encoder", "autoencoder", "unknown"]


class Gate(TypedDict):
    """The least quality a quantized tensor must have."""

    enabled: bool
    min_sqnr_db: float
    min_cosine: float
    on_miss: NotRequired[Literal["climb", "fail"]]


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


class PlannedOutput(TypedDict):
    """One of several outputs."""

    id: str
    totals: PlanTotals
    counts: dict[str, int]
    recipe: ResolvedRecipe


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


class ResolvedRecipe(TypedDict):
    """A recipe with nothing left to guess. `group_size` 0 is one scale per row (or tensor).

    `unbias` is None, and `modality` may be, until a source is planned: see `for_model`.
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
