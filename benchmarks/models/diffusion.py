"""The forward process, the loss and the sampler of the image and audio models.

Cosine schedule (Nichol and Dhariwal 2021), v-prediction (Salimans and Ho 2022), DDIM (Song et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STEPS = 1000
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


def alphas() -> Tensor:
    """The share of signal energy left after each of the 1,000 steps, float64 (1000,)."""

    def level(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((i + 1) / STEPS) / level(i / STEPS), 0.999) for i in range(STEPS)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)


def scheduler_document() -> dict[str, Any]:
    """As scheduler/scheduler_config.json."""
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.35.0",
        "num_train_timesteps": STEPS,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
    }


def noised(x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """What the model sees at t, and the velocity it should say."""
    level = alphas()[t].float().view(-1, 1, 1, 1)
    signal, rest = level.sqrt(), (1 - level).sqrt()
    return signal * x + rest * noise, signal * noise - rest * x


def times(steps: int) -> list[int]:
    """The steps that DDIM visits, from noise to image."""
    return [round(STEPS - i * STEPS / steps) - 1 for i in range(steps)]


@torch.no_grad()
def sample(
    predict: Predict, noise: Tensor, labels: Tensor, steps: int, on_step: Callable[[int], None]
) -> Tensor:
    """DDIM from the given noise, deterministic. `on_step` hears each time before the model runs."""
    levels = alphas()
    x, visited = noise, times(steps)
    for t, following in zip(visited, [*visited[1:], -1], strict=True):
        on_step(t)
        v = predict(x, torch.full((len(x),), t), labels)
        level = float(levels[t])
        target = float(levels[following]) if following >= 0 else 1.0
        start = math.sqrt(level) * x - math.sqrt(1 - level) * v
        direction = math.sqrt(1 - level) * x + math.sqrt(level) * v
        x = math.sqrt(target) * start + math.sqrt(1 - target) * direction
    return x
