"""How large an artifact may become, and the ways of storing a tensor that compete for the room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Protocol, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.domain.methods import METHODS, STAND_IN_GROUP, at_width
from service.domain.profiles import Bits, Granularity, GroupSize, Method, Profile, ScaleBits
from service.domain.wire import Wire

MAX_CANDIDATES: Final = 16
WIDTHS: Final[tuple[Bits, ...]] = (2, 3, 4, 8)
GROUP_SIZES: Final[tuple[GroupSize, ...]] = (32, 64, 128, 256)


class Candidate(Wire):
    """A way to store a tensor. What is left out is as the recipe has it."""

    bits: Bits
    method: Method | None = Field(default=None, exclude_if=lambda value: value is None)
    group_size: GroupSize | None = Field(default=None, exclude_if=lambda value: value is None)
    scale_bits: ScaleBits | None = Field(default=None, exclude_if=lambda value: value is None)


class Search(Wire):
    """Search for the size of groups too, tensor by tensor, by evolution from the best allocation.

    The objective is the one of the allocation, from measured errors, under the same budget. It is
    deterministic; `evaluations` bounds it.
    """

    group_sizes: Annotated[tuple[GroupSize, ...], Field(min_length=1, max_length=4)] = GROUP_SIZES
    evaluations: Annotated[int, Field(ge=1, le=100_000)] = 5000
    population: Annotated[int, Field(ge=4, le=256)] = 32
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0


class Budget(Wire):
    """The most that an artifact may have, everything counted: bits per weight, or bytes.

    candidates     the ways a tensor may be stored, and raw always; unless given every width of the
                   recipe's method, or of `lsq` and `superblock` where no method is asked for
    on_infeasible  where not even the smallest fits: `fail`, or make the smallest and say so (`least`)
    sensitivities  how much each tensor's error costs: `auto`, as the calibration file has it, where it does, or
                   `priors` from roles and places
    """

    bits_per_weight: Annotated[float, Field(gt=0, le=64)] | None = None
    bytes: Annotated[int, Field(ge=1)] | None = None
    candidates: Annotated[tuple[Candidate, ...], Field(max_length=MAX_CANDIDATES)] = ()
    on_infeasible: Literal["fail", "least"] = "fail"
    search: Search | None = None
    sensitivities: Literal["auto", "priors"] = "auto"

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.bits_per_weight is None) == (self.bytes is None):
            raise ValueError("a budget is bits_per_weight or bytes: give one of them")
        if self.search is not None and self.candidates:
            raise ValueError("a search makes its own candidates: leave out one of the two")
        return self

    def ways(self, asked: Sequence[Method]) -> tuple[Candidate, ...]:
        """The candidates as given, as the search makes them, or every width of these methods."""
        if self.search is not None:
            sizes = sorted(set(self.search.group_sizes))
            return tuple(Candidate(bits=b, group_size=size) for b in WIDTHS for size in sizes)
        if self.candidates:
            return self.candidates
        if len(asked) == 1:
            return tuple(Candidate(bits=bits) for bits in WIDTHS)
        return tuple(
            Candidate(bits=bits, method=method)
            for bits in WIDTHS
            for method in asked
            if bits in METHODS[method].bits
        )


def _bits_per_weight(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"bits_per_weight": value} if number else value


# A bare number is bits per weight.
AnyBudget = Annotated[
    Budget,
    BeforeValidator(
        _bits_per_weight, json_schema_input_type=Budget | Annotated[float, Field(gt=0, le=64)]
    ),
]


class ResolvedBudget(BaseModel):
    """A budget with its candidates filled in: what an allocation chooses from, by number."""

    model_config = ConfigDict(frozen=True)
    bits_per_weight: float | None
    bytes: int | None
    candidates: tuple[Candidate, ...]
    on_infeasible: Literal["fail", "least"]
    search: Search | None = None
    # Left out where it is as it always was, so that the digests of such recipes stay.
    sensitivities: Literal["auto", "priors"] = Field(
        default="auto", exclude_if=lambda value: value == "auto"
    )

    @property
    def narrowest(self) -> Bits:
        """Width of the narrowest candidate."""
        return min((candidate.bits for candidate in self.candidates), default=2)

    def limit(self, parameters: int) -> int:
        """Bytes of the whole artifact."""
        if self.bytes is not None:
            return self.bytes
        return int((self.bits_per_weight or 0.0) * parameters / 8)


class Allocated(BaseModel):
    """What a budget came to.

    choice  of each tensor, by name, the number of its candidate; -1 is raw
    nbytes  of the artifact as expected
    loss    sum of sensitivity times relative squared error, over all tensors
    price   loss that one more byte would have saved
    errors  relative squared error of each candidate, by name; null where it was not measured or is
            no number
    """

    model_config = ConfigDict(frozen=True)
    choice: dict[str, int]
    nbytes: int
    loss: float
    price: float
    errors: dict[str, tuple[float | None, ...]] = {}


class Coding(Protocol):
    """What of a recipe its candidates follow."""

    @property
    def bits(self) -> Bits | None: ...

    def way(self) -> Method: ...

    @property
    def granularity(self) -> Granularity | None: ...

    @property
    def group_size(self) -> GroupSize | None: ...

    @property
    def scale_bits(self) -> ScaleBits | None: ...

    @property
    def symmetric(self) -> bool: ...


def resolve_budget(
    asked: Budget | None, profile: Profile, method: Method | None, *, how: Coding
) -> ResolvedBudget | None:
    """As asked, or the profile's for who asks for no width: then as an aim, not a condition.

    method  as asked for; None: any
    """
    if asked is None:
        aim = profile.budget_bpw
        if aim is None or how.bits is not None or how.granularity == "tensor":
            return None
        asked = Budget(bits_per_weight=aim, on_infeasible="least")
    plain = how.granularity in (None, "group") and how.group_size is None
    several = method is None and plain and not how.symmetric
    ways = asked.ways(("lsq", "superblock") if several else (how.way(),))
    return ResolvedBudget(
        bits_per_weight=asked.bits_per_weight,
        bytes=asked.bytes,
        candidates=tuple(_filled(way, how) for way in ways),
        on_infeasible=asked.on_infeasible,
        search=asked.search,
        sensitivities=asked.sensitivities,
    )


def _filled(way: Candidate, recipe: Coding) -> Candidate:
    """A candidate with the groups and scales of its method at its width, where nobody said them."""
    method = at_width(way.method or recipe.way(), way.bits)
    facts, same = METHODS[method], method == recipe.way()
    asked = way.group_size or (recipe.group_size if same else None)
    scale_bits = way.scale_bits or (recipe.scale_bits if same else None)
    changes = {
        "method": method if way.method or not same else None,
        "group_size": asked or facts.groups.get(way.bits) or (None if same else STAND_IN_GROUP),
        "scale_bits": scale_bits or facts.scale_widths.get(way.bits),
    }
    return way.model_copy(update=changes)
