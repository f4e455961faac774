"""How ranges are moved from the inputs of layers into their weights, as a recipe and a command say it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from service.domain.activations import Activations
from service.domain.calibration import Calibration
from service.domain.wire import Wire


class Aggregate(StrEnum):
    """One range for all times from those of the time bins.

    max       the largest
    mean      the mean, by what was captured in each
    salience  the mean, bins counting more whose large channels are not those of the weight
    """

    MAX = "max"
    MEAN = "mean"
    SALIENCE = "salience"


class Smoothing(Wire):
    """Columns of weights are multiplied by s_j = max|x_j|^alpha / max|W_:j|^(1 - alpha) before they are quantized; a
    runtime that quantizes inputs divides them by s, which is stored. Needs a calibration file.

    alpha            null: for each tensor the one of least estimated error, or none
    activation_bits  of the inputs, for the estimate; 0: they are not quantized. Left out: as `activations` says
    """

    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    aggregate: Aggregate = Aggregate.MEAN
    activation_bits: Annotated[int, Field(ge=0, le=16)] | None = None


def check(
    calibration: Calibration | None, activations: Activations | None, *, has_budget: bool
) -> None:
    """Raise ValueError where smoothing does not go with what else a recipe says."""
    if calibration is not None and calibration.method != "weights":
        raise ValueError("smoothing goes with calibration.method 'weights', not with others")
    if has_budget:
        raise ValueError("a budget measures tensors without smoothing: leave one of the two out")
    if activations is not None and activations.mode == "static":
        raise ValueError(
            "inputs that a runtime divides are quantized as they come: use activations.mode "
            "'dynamic_per_token', or fold the model first (arrowquant fold)"
        )


def as_they_come(activations: Activations) -> Activations:
    """Static ranges would be those of inputs that nobody divided."""
    return activations.model_copy(update={"mode": "dynamic_per_token"})


def resolve(smoothing: Smoothing | None, activations: Activations | None) -> Smoothing | None:
    """With the bits of the inputs; activations: None where they are not quantized."""
    if smoothing is None or smoothing.activation_bits is not None:
        return smoothing
    bits = activations.bits if activations else 0
    return smoothing.model_copy(update={"activation_bits": bits})
