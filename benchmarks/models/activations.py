"""Fake quantization of the inputs of linear layers while a model runs, as a deployment would do it.

static       one range for each layer, from calibration
static-mse   the same, shrunk to the range of least squared error
time         a range for each layer and group of consecutive steps
time-mse     the same, shrunk
per-token    from each token's own least and greatest value, nothing calibrated

Asymmetric, per tensor unless per token. Only layers that see tokens: attention and feed-forward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = re.compile(
    r"\.(to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|[qkvo]_proj|gate_proj|up_proj|down_proj)$"
)
GROUPS = 10
KEPT = 4096
SHRINKS = tuple(1 - 0.02 * i for i in range(45))


@dataclass
class Seen:
    """Of a layer's input at one time: the range and some values."""

    least: float = float("inf")
    greatest: float = float("-inf")
    values: list[Tensor] = field(default_factory=list)

    def take(self, x: Tensor) -> None:
        """Widen the range; keep evenly spaced values."""
        self.least = min(self.least, x.min().item())
        self.greatest = max(self.greatest, x.max().item())
        flat = x.reshape(-1)
        self.values.append(flat[:: max(1, len(flat) // KEPT)].clone())


class Observed:
    """What calibration saw, by layer and time."""

    def __init__(self) -> None:
        self.now = 0
        self.seen: dict[str, dict[int, Seen]] = {}
        self.moments: dict[str, Tensor] = {}
        self.channel_max: dict[str, Tensor] = {}

    def at(self, t: int) -> None:
        """From now on it is time t."""
        self.now = t

    def ranges(self, layer: str, times: list[int], bits: int, *, clip: bool) -> tuple[float, float]:
        """Least and greatest over some times; of least squared error with `clip`."""
        parts = [self.seen[layer][t] for t in times]
        least, greatest = min(p.least for p in parts), max(p.greatest for p in parts)
        least, greatest = min(least, 0.0), max(greatest, 0.0)
        if not clip:
            return least, greatest
        values = torch.cat([v for p in parts for v in p.values])
        errors = {
            shrink: (_rounded(values, least * shrink, greatest * shrink, bits) - values)
            .square()
            .mean()
            .item()
            for shrink in SHRINKS
        }
        best = min(errors, key=errors.__getitem__)
        return least * best, greatest * best


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
                most = flat.abs().amax(0)
                found.channel_max[name] = most.maximum(found.channel_max.get(name, most))
                found.seen.setdefault(name, {}).setdefault(found.now, Seen()).take(x)

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


class Quantizer:
    """Quantizes the inputs of a model's token layers. `at` tells it the time."""

    def __init__(self, model: nn.Module, observed: Observed, mode: str, bits: int) -> None:
        self.mode, self.bits, self.now = mode, bits, 0
        self.table: dict[str, dict[int, tuple[float, float]]] = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and LAYERS.search(name):
                if mode != "per-token":
                    self.table[name] = self._ranges(observed, name)
                module.register_forward_pre_hook(self._hook(name))

    def at(self, t: int) -> None:
        """From now on it is time t."""
        self.now = t

    def _ranges(self, observed: Observed, name: str) -> dict[int, tuple[float, float]]:
        times = sorted(observed.seen[name])
        clip = self.mode.endswith("-mse")
        count = min(GROUPS, len(times)) if self.mode.startswith("time") else 1
        found: dict[int, tuple[float, float]] = {}
        for number in range(count):
            group = times[number * len(times) // count : (number + 1) * len(times) // count]
            found |= dict.fromkeys(group, observed.ranges(name, group, self.bits, clip=clip))
        return found

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def quantize(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            x = given[0]
            if self.mode == "per-token":
                low = x.amin(-1, keepdim=True).clamp_max(0)
                high = x.amax(-1, keepdim=True).clamp_min(0)
                return (_rounded(x, low, high, self.bits), *given[1:])
            low_, high_ = self.table[name][self.now]
            return (_rounded(x, low_, high_, self.bits), *given[1:])

        return quantize


def _rounded(x: Tensor, low: Tensor | float, high: Tensor | float, bits: int) -> Tensor:
    """To the nearest of 2^bits evenly spaced values from low to high, zero among them."""
    low, high = torch.as_tensor(low), torch.as_tensor(high)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-8)
    zero = (-low / scale).round()
    codes = ((x / scale).round() + zero).clamp(0, 2**bits - 1)
    return (codes - zero) * scale
