"""What is listed is accepted, and nothing else: over all combinations there are."""

from __future__ import annotations

from itertools import product

from service.domain.profiles import Role
from service.domain.schemes import (
    BITS,
    CODEBOOKS,
    GRANULARITIES,
    GROUP_SIZES,
    METHODS,
    ROTATIONS,
    SCALE_BITS,
    accepted,
    kept_roles,
    limits,
    schemes,
)


def test_a_combination_is_listed_if_and_only_if_it_is_accepted() -> None:
    names = ("method", "granularity", "codebook", "bits", "group_size", "symmetric", "scale_bits", "unbias")  # fmt: skip
    both, halves = (False, True), (0.0, 1.0)
    listed = {
        (s.method, s.granularity, s.codebook or None, *rest)
        for s in schemes()
        for rest in product(
            s.bits,
            (None, *s.group_sizes),
            s.symmetric,
            (None, *s.scale_bits),
            halves if s.unbias else (0.0,),
        )
    }
    sizes, tables = (None, *GROUP_SIZES), (None, *CODEBOOKS)
    every = set(
        product(METHODS, GRANULARITIES, tables, BITS, sizes, both, (None, *SCALE_BITS), halves)
    )
    taken = {some for some in every if accepted(**dict(zip(names, some, strict=True)))}
    # A codebook may be left out: it is the first one then.
    taken -= {some for some in taken if some[0] == "codebook" and some[2] is None}
    assert listed == taken
    assert len(every) > len(taken) > 100
    assert {s.rotations for s in schemes()} == {ROTATIONS}
    # Values beyond the lists are refused whatever they are combined with.
    for scheme in schemes():
        both = {"method": scheme.method, "granularity": scheme.granularity}
        assert not any(accepted(**both, bits=bits) for bits in range(20) if bits not in BITS)
        assert not any(
            accepted(**both, group_size=n) for n in range(1, 600) if n not in GROUP_SIZES
        )


def test_limits_are_the_ones_that_hold() -> None:
    most = limits()
    rules = [{"match": "*", "bits": 4}] * (most["max_rules"] + 1)
    assert accepted(rules=rules[1:])
    assert not accepted(rules=rules)
    assert accepted(rules=[{"match": "x" * most["max_pattern_chars"]}])
    assert not accepted(rules=[{"match": "x" * (most["max_pattern_chars"] + 1)}])
    outputs = [{"id": f"o{n}"} for n in range(most["max_outputs"] + 1)]
    assert accepted(outputs=outputs[1:])
    assert not accepted(outputs=outputs)
    assert set(kept_roles()) < {role.value for role in Role}
