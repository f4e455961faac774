"""Types of several resources.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

Aggregate: TypeAlias = Literal["max", "mean", "salience"]


JobState: TypeAlias = Literal[
    "QUEUED", "RUNNING", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"
]


Phase: TypeAlias = Literal[
    "PLANNING", "ANALYZING", "ALLOCATING", "QUANTIZING", "VERIFYING", "PUBLISHING"
]


Role: TypeAlias = Literal[
    "linear",
    "conv",
    "embedding",
    "position_embedding",
    "time_embedder",
    "patch_embedder",
    "adaln",
    "final_layer",
    "vae",
    "norm",
    "bias",
    "other",
]


UnitKind: TypeAlias = Literal["plan", "analyze", "allocate", "quantize", "publish", "cleanup"]


class Activations(TypedDict):
    """How the inputs of quantized layers are to be quantized when the model runs, from a
    calibration file with histograms: scales and zero points for groups of diffusion times.

    mode what readers get unless they ask otherwise: `static` scales by time, or each token
    its own (`dynamic_per_token`); `auto`: whichever loses less on the activations that the
    file keeps, and dynamic where it keeps none. The static table is there in any case.
    `none`: no table groups of times, the same for all layers; left out: the fewest from
    which no more save `gain` of the error, at most as many as the profile has boundaries
    `optimal` (dynamic programming over the file's time bins), or for comparison `uniform`
    or `quantile` per_layer a layer has boundaries of its own where that saves a tenth of
    its error clip `mse`: the range of least squared error; `minmax`: all that was seen
    per_branch branches of guidance apart
    """

    bits: NotRequired[int]
    symmetric: NotRequired[bool]
    mode: NotRequired[Literal["auto", "static", "dynamic_per_token", "none"]]
    groups: NotRequired[int | None]
    boundaries: NotRequired[Literal["optimal", "uniform", "quantile"]]
    per_layer: NotRequired[bool]
    clip: NotRequired[Literal["mse", "minmax"]]
    per_branch: NotRequired[bool]
    gain: NotRequired[float]


class Budget(TypedDict):
    """The most that an artifact may have, everything counted: bits per weight, or bytes.

    candidates the ways a tensor may be stored, and raw always; unless given every width of
    the recipe's method, or of `lsq` and `superblock` where no method is asked for
    on_infeasible where not even the smallest fits: `fail`, or make the smallest and say so
    (`least`) sensitivities how much each tensor's error costs: `auto`, as the calibration
    file has it, where it does, or `priors` from roles and places
    """

    bits_per_weight: NotRequired[float | None]
    bytes: NotRequired[int | None]
    candidates: NotRequired[list[Candidate]]
    on_infeasible: NotRequired[Literal["fail", "least"]]
    search: NotRequired[Search | None]
    sensitivities: NotRequired[Literal["auto", "priors"]]


class Calibration(TypedDict):
    """A calibration file of these very weights: an object in a named connection.

    method `weights`: errors count by E[x^2] of their channel. `awq`: channels that matter
    are also made larger before rounding, and smaller after. `gptq`: what rounding one
    weight does to the output is made up for by those after it, by second moments in blocks
    of `block` channels or `full` act_order gptq: channels that matter first damp gptq:
    share of the mean of the diagonal that is added to it shrinkage gptq: how much of the
    moments beside the diagonal is left out; null: 0.2 where a block was seen in fewer than
    four times as many vectors as it has channels, else nothing bias_correction store what
    the layer's mean output lost, to be added to its bias weighting how time bins count: as
    often as they were `captured`, or each the same (`uniform`); the file's omega, if it has
    one, goes on top
    """

    connection: str
    key: str
    method: NotRequired[Literal["weights", "awq", "gptq", "awq_gptq"]]
    block: NotRequired[Literal[512, 1024, "full"]]
    act_order: NotRequired[bool]
    damp: NotRequired[float]
    shrinkage: NotRequired[float | None]
    bias_correction: NotRequired[bool]
    weighting: NotRequired[Literal["captured", "uniform"]]


class Candidate(TypedDict):
    """A way to store a tensor. What is left out is as the recipe has it."""

    bits: Literal[2, 3, 4, 8]
    method: NotRequired[Literal["lsq", "minmax", "superblock", "trellis", "hqq", "codebook"] | None]
    group_size: NotRequired[Literal[16, 32, 64, 128, 256] | None]
    scale_bits: NotRequired[Literal[4, 6] | None]


class Fallback(TypedDict):
    """The quality gates, and the ladder of widths tried when a tensor misses its own.

    A tensor whose SQNR or cosine is below the gate is quantized again at the next width of
    `ladder` (2, 4, 8 unless said) and, failing that, kept raw. `on_miss: fail` ends the job
    instead, with nothing published. An artifact whose quantized tensors have a mean cosine
    below `min_mean_cosine` (the profile's unless said) is not published either. Of a
    calibrated tensor `max_rho` bounds the relative squared error of the layer's output,
    `max_group_rho` the same in the time group where it is largest; neither is asked unless
    said. `enabled: false` records the errors without acting on them.
    """

    enabled: NotRequired[bool]
    min_sqnr_db: NotRequired[float | None]
    min_cosine: NotRequired[float | None]
    min_mean_cosine: NotRequired[float | None]
    max_rho: NotRequired[float | None]
    max_group_rho: NotRequired[float | None]
    ladder: NotRequired[list[Literal[2, 3, 4, 8]] | None]
    on_miss: NotRequired[Literal["climb", "fail"]]


class JobError(TypedDict):
    """Why a job failed: a stable code, whose fault it is, and what to do."""

    code: str
    message: str
    hint: str
    fault: str
    retryable: bool
    phase: Phase | None
    tensor: str | None
    object: str | None
    attempt: int | None
    trace_id: str | None
    where: dict[str, Any]


class Limits(TypedDict):
    """Bounds on the work itself; they never change a byte of the result."""

    threads: NotRequired[int | None]
    max_memory_bytes: NotRequired[int | None]
    max_runtime_s: NotRequired[int | None]
    max_pending_s: NotRequired[int | None]


class Notify(TypedDict):
    """Tell this webhook endpoint of the job. `events` replaces the endpoint's own filter."""

    webhook_endpoint: str
    events: NotRequired[
        list[Literal["job.started", "job.succeeded", "job.failed", "job.cancelled", "job.expired"]]
    ]


class Output(TypedDict):
    """Where the artifact goes, and what to do when one is there already."""

    connection: str
    prefix: NotRequired[str]
    if_exists: NotRequired[Literal["fail", "replace", "resume"]]


class OutputRecipe(TypedDict):
    """One of several artifacts that are made from one read of the source.

    What is left out is as the recipe says; null is as if the recipe did not say it. `id`
    names the folder below the output's prefix: `int4` and the like unless given.
    """

    id: NotRequired[str | None]
    profile: NotRequired[Literal["edge", "local", "cloud"] | None]
    bits: NotRequired[Literal[2, 3, 4, 8] | None]
    method: NotRequired[Literal["lsq", "minmax", "superblock", "trellis", "hqq", "codebook"] | None]
    granularity: NotRequired[Literal["group", "row", "tensor"] | None]
    group_size: NotRequired[Literal[16, 32, 64, 128, 256] | None]
    symmetric: NotRequired[bool | None]
    scale_bits: NotRequired[Literal[4, 6] | None]
    codebook: NotRequired[Literal["lloyd_max", "nf4"] | None]
    rotation: NotRequired[Literal["none", "hadamard"] | None]
    unbias: NotRequired[float | None]
    modality: NotRequired[Literal["text", "code", "image", "audio"] | None]
    budget: NotRequired[Budget | float | None]
    rules: NotRequired[list[Rule] | None]
    fallback: NotRequired[Fallback | None]


class Recipe(TypedDict):
    """How to quantize. What is left out comes from the profile, or from the recipe that `ref`
    names (`name@3`, or `name` for its newest version): fields beside `ref` go before its
    own.
    """

    ref: NotRequired[str | None]
    ref_sha256: NotRequired[str | None]
    profile: NotRequired[Literal["edge", "local", "cloud"]]
    bits: NotRequired[Literal[2, 3, 4, 8] | None]
    method: NotRequired[Literal["lsq", "minmax", "superblock", "trellis", "hqq", "codebook"] | None]
    granularity: NotRequired[Literal["group", "row", "tensor"] | None]
    group_size: NotRequired[Literal[16, 32, 64, 128, 256] | None]
    symmetric: NotRequired[bool]
    scale_bits: NotRequired[Literal[4, 6] | None]
    codebook: NotRequired[Literal["lloyd_max", "nf4"] | None]
    rotation: NotRequired[Literal["none", "hadamard"] | None]
    unbias: NotRequired[float | None]
    modality: NotRequired[Literal["text", "code", "image", "audio"] | None]
    budget: NotRequired[Budget | float | None]
    rules: NotRequired[list[Rule]]
    fallback: NotRequired[Fallback]
    calibration: NotRequired[Calibration | None]
    activations: NotRequired[Activations | None]
    smoothing: NotRequired[Smoothing | None]
    outputs: NotRequired[list[OutputRecipe]]


class Retention(TypedDict):
    """How long a job is kept after its end, and whether its artifact goes with it."""

    days: int
    artifacts: NotRequired[Literal["keep", "delete"]]


class Rule(TypedDict):
    """What to do with the tensors whose full name matches; the first matching rule wins.

    `match` is a glob (`blocks.*.attn.*`), or a regular expression after `re:` that must
    match the whole name. Either `action: keep`, or the quantization fields to override.
    """

    match: str
    action: NotRequired[Literal["keep", "quantize"]]
    bits: NotRequired[Literal[2, 3, 4, 8] | None]
    group_size: NotRequired[Literal[16, 32, 64, 128, 256] | None]
    method: NotRequired[Literal["lsq", "minmax", "superblock", "trellis", "hqq", "codebook"] | None]
    symmetric: NotRequired[bool | None]
    scale_bits: NotRequired[Literal[4, 6] | None]
    rotation: NotRequired[Literal["none", "hadamard"] | None]


class Search(TypedDict):
    """Search for the size of groups too, tensor by tensor, by evolution from the best
    allocation.

    The objective is the one of the allocation, from measured errors, under the same budget.
    It is deterministic; `evaluations` bounds it.
    """

    group_sizes: NotRequired[list[Literal[16, 32, 64, 128, 256]]]
    evaluations: NotRequired[int]
    population: NotRequired[int]
    seed: NotRequired[int]


class Smoothing(TypedDict):
    """Columns of weights are multiplied by s_j = max|x_j|^alpha / max|W_:j|^(1 - alpha) before
    they are quantized; a runtime that quantizes inputs divides them by s, which is stored.
    Needs a calibration file.

    alpha null: for each tensor the one of least estimated error, or none activation_bits of
    the inputs, for the estimate; 0: they are not quantized. Left out: as `activations` says
    """

    alpha: NotRequired[float | None]
    aggregate: NotRequired[Aggregate]
    activation_bits: NotRequired[int | None]


class Source(TypedDict):
    """Where the weights are: a folder of safetensors, or one `.safetensors` object."""

    connection: str
    prefix: NotRequired[str]
