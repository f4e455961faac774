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
from service.domain.limits import MIN_MEMORY_BYTES
from service.domain.profiles import (
    GATES,
    Bits,
    Codebook,
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
CODEBOOKS: tuple[str, ...] = get_args(Codebook)
ROTATIONS: tuple[str, ...] = get_args(Rotation)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A method with a granularity, and its codebook where it has one, and what goes with them.

    codebook     empty where codes stand for even steps
    group_sizes  may be asked for; empty where there are no groups
    scale_bits   widths that codes of scales may have; empty where scales are numbers
    rotations    may be asked for
    unbias       whether rows may be given back their length
    """

    method: str
    granularity: str
    codebook: str
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
        pair: dict[str, Any] = {"method": method, "granularity": granularity}
        if not accepted(**pair):
            continue
        tables = [name for name in CODEBOOKS if accepted(**pair, codebook=name)]
        found += [_scheme(pair | {"codebook": name}) for name in tables]
        found += [] if tables else [_scheme(pair)]
    return tuple(found)


def _scheme(fixed: dict[str, Any]) -> Scheme:
    def taken(field: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value for value in values if accepted(**fixed, **{field: value}))

    return Scheme(
        fixed["method"],
        fixed["granularity"],
        fixed.get("codebook", ""),
        taken("bits", BITS),
        taken("group_size", GROUP_SIZES),
        taken("symmetric", (False, True)),
        taken("scale_bits", SCALE_BITS),
        taken("rotation", ROTATIONS),
        accepted(**fixed, unbias=1.0),
    )


def limits() -> dict[str, int]:
    """How much of a thing one request or one tensor may have."""
    return {
        "max_rules": spec.MAX_RULES,
        "max_pattern_chars": spec.MAX_PATTERN_CHARS,
        "max_outputs": spec.MAX_OUTPUTS,
        "min_memory_bytes": MIN_MEMORY_BYTES,
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
