"""What this build can do, found by asking the validator itself.

A scheme is a way to store a tensor. For each method and granularity the lists hold every value that
a recipe may have there, and all their combinations are accepted; nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, get_args

from pydantic import ValidationError

from service.domain import spec, units
from service.domain.profiles import (
    GATES,
    Bits,
    Granularity,
    GroupSize,
    Method,
    OnMiss,
    Rotation,
    ScaleBits,
)
from service.domain.treatment import KEPT_ROLES, MIN_QUANTIZED_ELEMENTS

BITS: tuple[int, ...] = get_args(Bits)
GROUP_SIZES: tuple[int, ...] = get_args(GroupSize)
METHODS: tuple[str, ...] = get_args(Method)
ON_MISS: tuple[str, ...] = get_args(OnMiss)
GRANULARITIES: tuple[str, ...] = get_args(Granularity)
SCALE_BITS: tuple[int, ...] = get_args(ScaleBits)
ROTATIONS: tuple[str, ...] = get_args(Rotation)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A method with a granularity and what goes with it.

    group_sizes  may be asked for; empty where there are no groups
    scale_bits   widths that codes of scales may have; empty where scales are numbers
    rotations    may be asked for
    unbias       whether rows may be given back their length
    """

    method: str
    granularity: str
    bits: tuple[int, ...]
    group_sizes: tuple[int, ...]
    symmetric: tuple[bool, ...]
    scale_bits: tuple[int, ...]
    rotations: tuple[str, ...]
    unbias: bool


def accepted(**fields: Any) -> bool:
    """Whether a recipe may say so."""
    try:
        spec.Recipe.model_validate(fields)
    except ValidationError:
        return False
    return True


@cache
def schemes() -> tuple[Scheme, ...]:
    """Every method and granularity that go together."""
    found = []
    for method, granularity in product(METHODS, GRANULARITIES):
        both: dict[str, Any] = {"method": method, "granularity": granularity}
        if accepted(**both):
            found.append(
                Scheme(
                    method,
                    granularity,
                    tuple(bits for bits in BITS if accepted(**both, bits=bits)),
                    tuple(size for size in GROUP_SIZES if accepted(**both, group_size=size)),
                    tuple(flag for flag in (False, True) if accepted(**both, symmetric=flag)),
                    tuple(bits for bits in SCALE_BITS if accepted(**both, scale_bits=bits)),
                    tuple(kind for kind in ROTATIONS if accepted(**both, rotation=kind)),
                    accepted(**both, unbias=1.0),
                )
            )
    return tuple(found)


def limits() -> dict[str, int]:
    """How much of a thing one request or one tensor may have."""
    return {
        "max_rules": spec.MAX_RULES,
        "max_pattern_chars": spec.MAX_PATTERN_CHARS,
        "max_outputs": spec.MAX_OUTPUTS,
        "min_memory_bytes": spec.MIN_MEMORY_BYTES,
        "min_quantized_elements": MIN_QUANTIZED_ELEMENTS,
        "max_row_bytes": units.MAX_ROW_BYTES,
    }


def kept_roles() -> dict[str, str]:
    """Roles that are stored raw unless a rule says otherwise, and why."""
    return {role.value: why for role, why in KEPT_ROLES.items()}


def gates() -> dict[str, dict[str, float]]:
    """The least quality of a tensor by the width of the recipe."""
    return {
        str(bits): {"min_sqnr_db": gate.sqnr_db, "min_cosine": gate.cosine}
        for bits, gate in GATES.items()
    }
