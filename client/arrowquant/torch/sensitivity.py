"""How much a model's output changes when a layer's does: finite differences, layer by layer.

A layer's weights W get noise d with elements in proportion to their mean size, once added and once taken away.
With f the model's output and y = W x the layer's,

    a = |f(W + d) - f(W - d)|^2 / |f(W + d) + f(W - d)|^2  /  (|d x|^2 / |W x|^2)

the relative squared change of the output for each relative squared error of the layer's own. Both signs take out
what is odd in higher orders, and the square itself is an unbiased estimate of the trace of J^T J for noise whose elements
are independent (Hutchinson's), J being the derivative of f by W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from arrowquant.calibration.index import Sensitivity


@dataclass(slots=True)
class _Sums:
    """Squares, float64: of what changed, and of what there was; of the model's output and the layer's."""

    moved: float = 0.0
    output: float = 0.0
    error: float = 0.0
    layer: float = 0.0


def measure(
    layers: Mapping[str, Any],
    run: Callable[[Any], Any],
    batches: Sequence[Any],
    *,
    size: float,
    draws: int,
    seed: int,
) -> dict[str, Sensitivity]:
    """The sensitivity of each layer's weight, by the layer's name; layers that are not called, or of which
    nothing comes through, have none.

    run      runs the model on a batch and gives its output: a tensor, or something whose first one counts. It has to
             do the same each time: give it its noise and times in the batch
    size     of the noise, relative to the mean size of the weights
    draws    of noise for each layer and batch
    """
    found = {}
    with torch.no_grad():
        for number, (name, layer) in enumerate(sorted(layers.items())):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            sums = _Sums()
            for batch in batches:
                for _ in range(draws):
                    _add(sums, layer, partial(run, batch), size, generator)
            if sums.output > 0 and sums.layer > 0 and sums.error > 0:
                value = sums.moved / sums.output / (sums.error / sums.layer)
                if 0 < value < float("inf"):
                    found[name] = Sensitivity(value, draws * len(batches))
    return found


def _add(
    sums: _Sums, layer: Any, run: Callable[[], Any], size: float, generator: torch.Generator
) -> None:
    weight = layer.weight
    before = weight.detach().clone()
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
    noise *= size * float(before.double().square().mean().sqrt())
    noise = noise.to(weight.device, weight.dtype)
    try:
        weight.copy_(before + noise)
        plus, here = _outputs(layer, run)
        weight.copy_(before - noise)
        minus, there = _outputs(layer, run)
    finally:
        weight.copy_(before)
    if not here or len(here) != len(there):
        return
    sums.moved += _squares(plus - minus)
    sums.output += _squares(plus + minus)
    # Of a layer that is called again only the first call has the same inputs under both signs.
    sums.error += _squares(here[0] - there[0])
    bias = layer.bias if getattr(layer, "bias", None) is not None else None
    whole = here[0] + there[0]
    sums.layer += _squares(whole if bias is None else whole - 2 * _shaped(layer, bias))


def _outputs(layer: Any, run: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """The model's output and the first that the layer gave."""
    given: list[Any] = []
    with _listening(layer, given):
        output = _tensor(run())
    return output.double(), given


@contextmanager
def _listening(layer: Any, given: list[Any]) -> Iterator[None]:
    def after(_: Any, __: Any, output: Any) -> None:
        if not given:
            given.append(output.detach().double())

    hook = layer.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()


def _shaped(layer: Any, bias: Any) -> Any:
    """A bias as it is added to the output."""
    bias = bias.detach().double()
    if isinstance(layer, torch.nn.Linear):
        return bias
    return bias.reshape(-1, *[1] * (layer.weight.ndim - 2))


def _tensor(output: Any) -> Any:
    """The first tensor of what a model gives."""
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise TypeError(f"run gave a {type(output).__name__}, not a tensor")
    return next(v for v in values if isinstance(v, torch.Tensor))


def _squares(x: Any) -> float:
    return float(x.square().sum())
