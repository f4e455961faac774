"""What a recipe may say of the inputs of layers, and the name of the table that tells how to quantize them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from service.domain.wire import Wire

ACTIVATIONS_NAME: Final = "activations.arrow"
MAX_GROUPS: Final = 64


def activations_name(first_part: int) -> str:
    """File name of the table that goes with parts numbered from there on."""
    return f"activations-{first_part:05d}.arrow" if first_part else ACTIVATIONS_NAME


class Activations(Wire):
    """How the inputs of quantized layers are to be quantized when the model runs, from a calibration
    file with histograms: scales and zero points for groups of diffusion times.

    mode        what readers get unless they ask otherwise: `static` scales by time, or each token its own
                (`dynamic_per_token`); `auto`: whichever loses less on the activations that the file keeps, and
                dynamic where it keeps none. The static table is there in any case.
                `none`: no table
    groups      of times, the same for all layers; left out: the fewest from which no more save `gain` of
                the error, at most as many as the profile has
    boundaries  `optimal` (dynamic programming over the file's time bins), or for comparison `uniform` or
                `quantile`
    per_layer   a layer has boundaries of its own where that saves a tenth of its error
    clip        `mse`: the range of least squared error; `minmax`: all that was seen
    per_branch  branches of guidance apart
    """

    bits: Annotated[int, Field(ge=2, le=16)] = 8
    symmetric: bool = False
    mode: Literal["auto", "static", "dynamic_per_token", "none"] = "auto"
    groups: Annotated[int, Field(ge=1, le=MAX_GROUPS)] | None = None
    boundaries: Literal["optimal", "uniform", "quantile"] = "optimal"
    per_layer: bool = False
    clip: Literal["mse", "minmax"] = "mse"
    per_branch: bool = False
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.05
