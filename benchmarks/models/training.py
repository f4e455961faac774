"""What training has in common: learning rates, averaged weights, checkpoints, a log that survives."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Log:
    """Lines of JSON, each written out as it comes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.began = time.monotonic()
        path.write_text("")

    def add(self, **entries: Any) -> None:
        """Keep and print a line."""
        seconds = {
            "cpu_s": round(time.process_time(), 1),
            "wall_s": round(time.monotonic() - self.began, 1),
        }
        line = json.dumps({k: _short(v) for k, v in {**entries, **seconds}.items()})
        with self.path.open("a") as stream:
            stream.write(line + "\n")
        print(line, flush=True)


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


class Average:
    """An exponential moving average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After a step; early on it forgets faster."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            self.state[name].lerp_(value, 1 - decay)


def rate(step: int, steps: int, warm_up: int) -> float:
    """The share of the learning rate at a step: a warm-up, then half a cosine."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write it whole or not at all."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)
