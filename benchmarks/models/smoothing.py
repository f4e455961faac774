"""SmoothQuant (Xiao et al. 2023): ranges moved from the inputs of linear layers into their weights.

Column j of W is multiplied and channel j of x divided by s_j = max|x_j|^alpha / max|W_j|^(1 - alpha), so that
the product stays. Layers that share an input share their scales, as folding them into the norm before needs.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models.activations import LAYERS

SHARING = re.compile(r"\.(to_[qkv]|[qkv]_proj|gate_proj|up_proj)$")
LEAST = 1e-5


def scales(
    state: dict[str, Tensor], channel_max: dict[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """The divisor (cols,) of each token layer's input."""
    groups: dict[str, list[str]] = {}
    for layer in channel_max:
        if LAYERS.search(layer):
            before = layer.rpartition(".")[0] if SHARING.search(layer) else layer
            groups.setdefault(before, []).append(layer)
    found: dict[str, Tensor] = {}
    for layers in groups.values():
        weights = torch.stack([state[f"{n}.weight"].abs().amax(0) for n in layers]).amax(0)
        inputs = torch.stack([channel_max[n] for n in layers]).amax(0)
        s = inputs.clamp_min(LEAST) ** alpha / weights.clamp_min(LEAST) ** (1 - alpha)
        found |= dict.fromkeys(layers, s.clamp_min(LEAST))
    return found


def moved(state: dict[str, Tensor], by: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, each smoothed matrix times its scales."""
    changed = {f"{n}.weight": state[f"{n}.weight"] * s for n, s in by.items()}
    return state | changed


def divide_inputs(model: nn.Module, by: dict[str, Tensor]) -> None:
    """Have the model divide the inputs of its smoothed layers from now on."""
    for name, module in model.named_modules():
        if name in by:
            module.register_forward_pre_hook(_divide(by[name]))


def _divide(scale: Tensor) -> Any:
    def divide(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0] / scale, *given[1:])

    return divide
