"""Small classifiers that judge samples: classes, and 64 features for Fréchet and perceptual distances."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 64


class Classifier(nn.Module):
    """Three convolutions, then 64 features, then classes."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(1, 16, 3, padding=1),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.Conv2d(32, 48, 3, padding=1),
            ]
        )
        self.features = nn.Linear(48 * (side // 4) ** 2, FEATURES)
        self.classes = nn.Linear(FEATURES, classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        """The activations after each convolution, (n, channels, side, side)."""
        found = []
        for number, convolution in enumerate(self.convolutions):
            x = functional.relu(convolution(x))
            found.append(x)
            if number < 2:
                x = functional.max_pool2d(x, 2)
        return found

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, 64) and logits (n, classes)."""
        features = functional.relu(self.features(self.stages(x)[-1].flatten(1)))
        return features, self.classes(features)

    @torch.no_grad()
    def perceptual(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared distance of the unit-length features at every place, mean over places, summed over stages: (n,).

        The form of LPIPS (Zhang et al. 2018) with weights of one and this network below.
        """
        total = torch.zeros(len(a))
        for one, other in zip(self.stages(a), self.stages(b), strict=True):
            gap = functional.normalize(one, dim=1) - functional.normalize(other, dim=1)
            total += gap.square().sum(1).mean((1, 2))
        return total
