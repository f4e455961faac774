"""Fake quantization of the inputs of linear layers while a model runs, as a deployment would do it.

By rule, as other people's methods have it, in torch:

static       one range for each layer, from calibration
per-token    from each token's own least and greatest value, nothing calibrated

or by a `Table`: `activations.arrow` of one of our artifacts, asked for every layer at every time.

Only layers that see tokens are quantized: attention and feed-forward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from arrowquant.artifact.activations import Activations, Mode

LAYERS = re.compile(
    r"\.(to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|[qkvo]_proj|gate_proj|up_proj|down_proj)$"
)


class Observed:
    """What calibration saw of each layer: the range of token layers' inputs, second moments of all."""

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[float, float]] = {}
        self.moments: dict[str, Tensor] = {}


@contextmanager
def observing(model: nn.Module) -> Iterator[Observed]:
    """Ranges of the token layers' inputs, and the second moments of every linear's, while inside."""
    found = Observed()

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def take(_: nn.Module, given: tuple[Any, ...]) -> None:
            x = given[0].detach().float()
            flat = x.reshape(-1, x.shape[-1])
            moment = flat.T @ flat
            found.moments[name] = found.moments.get(name, 0) + moment
            if LAYERS.search(name):
                low, high = found.ranges.get(name, (0.0, 0.0))
                found.ranges[name] = min(low, x.min().item()), max(high, x.max().item())

        return take

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def by_rule(model: nn.Module, ranges: dict[str, tuple[float, float]], mode: str, bits: int) -> None:
    """From now on the model's token layers see quantized inputs; `ranges` for static ones."""

    def quantize(name: str, x: Tensor) -> Tensor:
        if mode == "per-token":
            low = x.amin(-1, keepdim=True).clamp_max(0)
            high = x.amax(-1, keepdim=True).clamp_min(0)
            return _rounded(x, low, high, bits)
        return _rounded(x, *ranges[name], bits)

    _attach(model, quantize)


class Table:
    """Quantizes the inputs of a model's token layers as an artifact says. `at` tells it the time.

    divisors  what inputs are divided by before, (channels,) by layer: `col_scale` of smoothed weights. They are
              multiplied again after, as the weights that run here are decoded: W diag(s) / s
    mode      of the table unless given
    """

    def __init__(
        self,
        model: nn.Module,
        table: Activations,
        divisors: dict[str, Tensor],
        mode: Mode | None = None,
    ) -> None:
        self.now = 0.0
        known = set(table.layers)  # a layer whose weight was kept raw is not among them

        def quantize(name: str, x: Tensor) -> Tensor:
            if f"{name}.weight" not in known:
                return x
            how = table.find(f"{name}.weight", self.now, mode=mode)
            by = divisors.get(name)
            seen = x if by is None else x / by
            done = torch.from_numpy(how.simulate(seen.numpy()))
            return done if by is None else done * by

        _attach(model, quantize)

    def at(self, t: float) -> None:
        """From now on it is time t, in the domain of the table."""
        self.now = t


def _attach(model: nn.Module, quantize: Callable[[str, Tensor], Tensor]) -> None:
    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        return lambda _, given: (quantize(name, given[0]), *given[1:])

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and LAYERS.search(name):
            module.register_forward_pre_hook(hook(name))


def _rounded(x: Tensor, low: Tensor | float, high: Tensor | float, bits: int) -> Tensor:
    """To the nearest of 2^bits evenly spaced values from low to high, zero among them."""
    low, high = torch.as_tensor(low), torch.as_tensor(high)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-8)
    zero = (-low / scale).round()
    codes = ((x / scale).round() + zero).clamp(0, 2**bits - 1)
    return (codes - zero) * scale
