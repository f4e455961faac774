"""How ranges are moved from the inputs of layers into their weights, as a recipe and a command say it."""

from __future__ import annotations

from enum import StrEnum


class Aggregate(StrEnum):
    """One range for all times from those of the time bins.

    max       the largest
    mean      the mean, by what was captured in each
    salience  the mean, bins counting more whose large channels are not those of the weight
    """

    MAX = "max"
    MEAN = "mean"
    SALIENCE = "salience"
