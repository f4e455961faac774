"""The deployment profiles, the quality gates and the role floors: data, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Bits = Literal[2, 3, 4, 8]
GroupSize = Literal[16, 32, 64, 128, 256]
ScaleBits = Literal[4, 6]
Method = Literal["lsq", "minmax", "superblock", "trellis", "hqq", "codebook"]
Codebook = Literal["lloyd_max", "nf4"]
Rotation = Literal["none", "hadamard"]
OnMiss = Literal["climb", "fail"]
Granularity = Literal["group", "row", "tensor"]
ProfileName = Literal["edge", "local", "cloud"]

# The widths a tensor climbs when it misses its gate; past the last one it is kept raw.
LADDER: tuple[int, ...] = (2, 4, 8)


class Action(StrEnum):
    """What the plan does with a tensor."""

    QUANTIZE = "quantize"
    KEEP = "keep"


class Role(StrEnum):
    """What a tensor does in its model, told from its name and shape."""

    LINEAR = "linear"
    CONV = "conv"
    EMBEDDING = "embedding"
    POSITION_EMBEDDING = "position_embedding"
    TIME_EMBEDDER = "time_embedder"
    PATCH_EMBEDDER = "patch_embedder"
    ADALN = "adaln"
    FINAL_LAYER = "final_layer"
    VAE = "vae"
    NORM = "norm"
    BIAS = "bias"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Profile:
    """Defaults for one kind of deployment. Sizes in bytes.

    min_mean_cosine  of the quantized tensors of an artifact, at least
    budget_bpw       bits per weight to aim at where no width is asked for
    """

    bits: Bits
    group_size: GroupSize
    max_memory_bytes: int | None
    size_limit_bytes: int
    # At most so many groups of diffusion times for static activations.
    time_groups: int
    min_mean_cosine: float
    budget_bpw: float | None = None


PROFILES: dict[ProfileName, Profile] = {
    "edge": Profile(2, 64, 500 * 2**20, 35 * 10**6, 5, 0.65, 3.0),
    "local": Profile(4, 128, 2 * 2**30, 200 * 10**6, 10, 0.85),
    "cloud": Profile(8, 64, None, 2 * 10**9, 20, 0.95),
}


@dataclass(frozen=True, slots=True)
class GateDefault:
    """Least SQNR (dB) and cosine of one tensor's weights."""

    sqnr_db: float
    cosine: float


# What a least-squares affine code of each width reaches on well-behaved weights, less a margin:
# a tensor below it has outliers that this width cannot carry.
GATES: dict[int, GateDefault] = {
    2: GateDefault(9.3, 0.94),
    3: GateDefault(14.0, 0.98),
    4: GateDefault(20.0, 0.995),
    8: GateDefault(40.0, 0.9999),
}

# Roles that are small and spoil every step of a diffusion model when they are coarse.
ROLE_FLOORS: dict[Role, Bits] = {
    Role.EMBEDDING: 4,
    Role.TIME_EMBEDDER: 8,
    Role.PATCH_EMBEDDER: 8,
    Role.ADALN: 8,
    Role.FINAL_LAYER: 8,
}
