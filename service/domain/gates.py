"""The least quality of tensors and of artifacts: as asked for, and with the defaults filled in."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.domain.profiles import GATES, LADDER, Bits, OnMiss, Profile
from service.domain.wire import Wire


class Fallback(Wire):
    """The quality gates, and the ladder of widths tried when a tensor misses its own.

    A tensor whose SQNR or cosine is below the gate is quantized again at the next width of `ladder`
    (2, 4, 8 unless said) and, failing that, kept raw. `on_miss: fail` ends the job instead, with
    nothing published. An artifact whose quantized tensors have a mean cosine below
    `min_mean_cosine` (the profile's unless said) is not published either. Of a calibrated tensor
    `max_rho` bounds the relative squared error of the layer's output, `max_group_rho` the same in the
    time group where it is largest; neither is asked unless said. `enabled: false` records the errors
    without acting on them.
    """

    enabled: bool = True
    min_sqnr_db: Annotated[float, Field(ge=0, le=200)] | None = None
    min_cosine: Annotated[float, Field(ge=0, le=1)] | None = None
    min_mean_cosine: Annotated[float, Field(ge=0, le=1)] | None = None
    max_rho: Annotated[float, Field(gt=0, le=1)] | None = None
    max_group_rho: Annotated[float, Field(gt=0, le=1)] | None = None
    ladder: Annotated[tuple[Bits, ...], Field(min_length=1, max_length=4)] | None = None
    on_miss: OnMiss = "climb"

    @model_validator(mode="after")
    def _ladder_goes_up(self) -> Self:
        if self.ladder is not None and list(self.ladder) != sorted(set(self.ladder)):
            raise ValueError("the ladder goes up: write its widths in ascending order, each once")
        return self

    @model_validator(mode="after")
    def _only_a_gate_is_missed(self) -> Self:
        if self.on_miss == "fail" and not self.enabled:
            raise ValueError("on_miss 'fail' needs the gate: leave out 'enabled': false")
        return self


class Gate(BaseModel):
    """The least quality a quantized tensor must have."""

    model_config = ConfigDict(frozen=True)
    enabled: bool
    min_sqnr_db: float
    min_cosine: float
    # Left out where it is as it always was, so that the digests of such recipes stay.
    on_miss: OnMiss = Field(default="climb", exclude_if=lambda value: value == "climb")
    # Of the whole artifact. Gates of before it was asked have none.
    min_mean_cosine: float = Field(default=0.0, exclude_if=lambda value: value == 0)
    max_rho: float | None = Field(default=None, exclude_if=lambda value: value is None)
    max_group_rho: float | None = Field(default=None, exclude_if=lambda value: value is None)


def resolve_gate(asked: Fallback, profile: Profile, bits: Bits) -> Gate:
    """Fill in what was not said: the gate of the width, and the profile's of the whole."""
    default, mean = GATES[bits], asked.min_mean_cosine
    return Gate(
        enabled=asked.enabled,
        min_sqnr_db=default.sqnr_db if asked.min_sqnr_db is None else asked.min_sqnr_db,
        min_cosine=default.cosine if asked.min_cosine is None else asked.min_cosine,
        on_miss=asked.on_miss,
        min_mean_cosine=profile.min_mean_cosine if mean is None else mean,
        max_rho=asked.max_rho,
        max_group_rho=asked.max_group_rho,
    )


def next_bits(bits: int, ladder: tuple[int, ...] = LADDER) -> int | None:
    """The next width up the ladder, or None when only keeping the tensor raw is left."""
    return next((step for step in ladder if step > bits), None)
