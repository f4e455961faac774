"""The methods of quantization: what each can do, as data. The validator and the plan read it here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from service.domain.profiles import Bits, Codebook, Granularity, Method

# A width that a method has no codes for is made so: plain groups with a scale and a minimum each.
STAND_IN: Final[Method] = "lsq"
STAND_IN_GROUP: Final = 64


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """One method.

    codec          how its codes are stored; `affine_u` is `sym_s` where they are symmetric
    bits           widths it has codes for
    granularities  what may share a scale
    group_sizes    groups it can make
    symmetric      whether codes without a minimum may be asked for
    unbias         whether rows can be given back their length
    importance     whether errors can count by the importance of their input channel
    groups         default group size by width, where the profile's is not for it
    scale_bits     widths of scale codes, where scales are codes themselves
    scale_widths   default of them by width
    codebooks      sets of levels to choose from, the default first, with the widths each has
    rotated        whether rows are rotated unless the recipe says otherwise
    """

    codec: str
    bits: tuple[Bits, ...]
    granularities: tuple[Granularity, ...]
    group_sizes: tuple[int, ...] = ()
    symmetric: bool = False
    unbias: bool = False
    importance: bool = False
    groups: Mapping[int, int] = field(default_factory=dict)
    scale_bits: tuple[int, ...] = ()
    scale_widths: Mapping[int, int] = field(default_factory=dict)
    codebooks: Mapping[Codebook, tuple[Bits, ...]] = field(default_factory=dict)
    rotated: bool = False


_PLAIN = (16, 32, 64, 128, 256)

METHODS: Final[dict[Method, MethodFacts]] = {
    "lsq": MethodFacts(
        "affine_u", (2, 3, 4, 8), ("group", "row"), _PLAIN,
        symmetric=True, unbias=True, importance=True,
    ),
    "minmax": MethodFacts(
        "affine_u", (2, 3, 4, 8), ("group", "row", "tensor"), _PLAIN, symmetric=True
    ),
    "superblock": MethodFacts(
        "superblock", (2, 3, 4), ("group",), (16, 32), unbias=True, importance=True,
        groups={2: 16, 3: 32, 4: 32}, scale_bits=(4, 6), scale_widths={2: 4, 3: 6, 4: 6},
    ),
    "trellis": MethodFacts(
        "trellis", (2, 3, 4), ("row",), unbias=True, importance=True, rotated=True
    ),
    "hqq": MethodFacts("affine_u", (2, 3, 4, 8), ("group", "row"), _PLAIN),
    "codebook": MethodFacts(
        "codebook", (2, 3, 4), ("group", "row"), _PLAIN, importance=True,
        codebooks={"lloyd_max": (2, 3, 4), "nf4": (4,)},
    ),
}  # fmt: skip

# What each width is made by where no method is asked for: the first that can do what else is asked. By end
# metrics, see docs/accuracy.md.
DEFAULTS: Final[Mapping[int, tuple[Method, ...]]] = {
    2: ("superblock", "lsq"), 3: ("superblock", "lsq"), 4: ("superblock", "lsq"), 8: ("lsq",),
}  # fmt: skip


def default(bits: int, **asked: Any) -> Method:
    """The method of a width where nobody asks for one; `asked` is as of `check`, which says what is
    wrong with the last one where none can do it."""
    for method in DEFAULTS[bits]:
        with contextlib.suppress(ValueError):
            check(method, bits=bits, **asked)
            return method
    return DEFAULTS[bits][-1]


def at_width(method: Method, bits: int | None) -> Method:
    """Which method makes this width, see STAND_IN; None: whatever width the method has."""
    return method if bits is None or bits in METHODS[method].bits else STAND_IN


def carried(
    method: Method, before: int, bits: int, group_size: int, scale_bits: int
) -> tuple[int, int]:
    """Size of groups and width of scale codes at another width of a method: what is the default of the
    width before becomes that of the new one, anything else stays."""
    facts = METHODS[method]
    if group_size == facts.groups.get(before):
        group_size = facts.groups.get(bits, group_size)
    if scale_bits == facts.scale_widths.get(before):
        scale_bits = facts.scale_widths.get(bits, scale_bits)
    return group_size, scale_bits


def check(
    method: Method,
    *,
    bits: int | None = None,
    granularity: Granularity | None = None,
    group_size: int | None = None,
    symmetric: bool = False,
    scale_bits: int | None = None,
    unbias: float = 0.0,
    codebook: Codebook | None = None,
) -> None:
    """Raise ValueError, which says the fix, for what a method cannot do. None: not asked for."""
    facts = METHODS[method]
    if bits is not None and bits not in facts.bits:
        raise ValueError(f"method {method!r} has codes of {_listed(facts.bits)} bits, not {bits}")
    if granularity is not None and granularity not in facts.granularities:
        raise ValueError(
            f"method {method!r} has granularity {_listed(facts.granularities)}, not {granularity!r}"
            + ("; one scale for a tensor is for 'minmax'" if granularity == "tensor" else "")
        )
    if group_size is not None:
        _check_groups(method, granularity, group_size)
    if symmetric and not facts.symmetric:
        raise ValueError(f"symmetric codes are for {_who('symmetric')}, not method {method!r}")
    if scale_bits is not None and not facts.scale_bits:
        raise ValueError(f"scale_bits is for {_who('scale_bits')}, not method {method!r}")
    if codebook is not None:
        _check_codebook(method, codebook, bits)
    if unbias and not facts.unbias:
        raise ValueError(f"unbias is for {_who('unbias')}, not method {method!r}")


def _check_codebook(method: Method, codebook: Codebook, bits: int | None) -> None:
    widths = METHODS[method].codebooks.get(codebook)
    if widths is None:
        raise ValueError(f"codebook is for {_who('codebooks')}, not method {method!r}")
    if bits is not None and bits not in widths:
        raise ValueError(f"codebook {codebook!r} has {_listed(widths)} bits, not {bits}")


def _check_groups(method: Method, granularity: Granularity | None, group_size: int) -> None:
    facts = METHODS[method]
    if granularity not in (None, "group") or not facts.group_sizes:
        told = repr(granularity) if granularity else f"that of method {method!r}"
        raise ValueError(f"group_size only goes with granularity 'group', not {told}; remove it")
    if group_size not in facts.group_sizes:
        raise ValueError(
            f"method {method!r} has groups of {_listed(facts.group_sizes)}, not {group_size}"
        )


def _listed(values: tuple[object, ...]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def _who(what: str) -> str:
    """The methods that have it."""
    return _listed(tuple(name for name, facts in METHODS.items() if getattr(facts, what)))
