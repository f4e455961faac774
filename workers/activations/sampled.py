"""What quantizers lose on activations that a calibration file kept, each value in its place.

A static quantizer can be judged on a histogram; one that looks at each token only on tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from arrowquant.artifact.activations import Activation
from arrowquant.calibration.reader import CalibrationFile
from service.domain.activations import Activations


class Fitted(Protocol):
    """A static quantizer and the time bins start .. stop - 1 it is for."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def scale(self) -> np.float32: ...
    @property
    def zero(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sampled:
    """Squared error over signal of the kept activations, the mean over inputs; vectors: how many there were."""

    static: float
    dynamic: float
    vectors: int


def sampled_errors(
    file: CalibrationFile,
    fitted: Mapping[str, Sequence[tuple[str, Sequence[Fitted]]]],
    how: Activations,
    pause: Callable[[], None],
) -> Sampled | None:
    """Both ways on what was kept of these inputs; None if nothing was. Samples do not tell branches
    apart: an input whose branches have quantizers of their own is judged by the first."""
    static, dynamic, vectors = [], [], 0
    for name, branches in fitted.items():
        if not branches:
            continue
        pause()
        kept = file.samples(name)
        if kept is None:
            continue
        x = kept.data.astype(np.float32)
        energy = float(np.square(x, dtype=np.float64).sum())
        if not energy > 0:
            continue
        groups = branches[0][1]
        static.append(sum(_lost(x, kept.bins, group, how) for group in groups) / energy)
        dynamic.append(_squared(x, _quantizer(how, None)) / energy)
        vectors += len(x)
    if not static:
        return None
    return Sampled(float(np.mean(static)), float(np.mean(dynamic)), vectors)


def _lost(
    x: NDArray[np.float32], bins: NDArray[np.int32], group: Fitted, how: Activations
) -> float:
    at = (bins >= group.start) & (bins < group.stop)
    return _squared(x[at], _quantizer(how, group)) if at.any() else 0.0


def _squared(x: NDArray[np.float32], quantizer: Activation) -> float:
    return float(np.square(x - quantizer.simulate(x), dtype=np.float64).sum())


def _quantizer(how: Activations, group: Fitted | None) -> Activation:
    """As the artifact's reader makes it."""
    return Activation(
        layer="",
        mode="dynamic_per_token" if group is None else "static",
        bits=how.bits,
        symmetric=how.symmetric,
        granularity="per_token" if group is None else "per_tensor",
        scale=None if group is None else float(group.scale),
        zero_point=None if group is None else group.zero,
        group=0,
        t_lo=0.0,
        t_hi=0.0,
        branch="",
        expected_error=None,
    )
