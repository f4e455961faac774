"""The forward process of masked diffusion, and the bound on the likelihood that it gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

BINS = 8


def masked(tokens: Tensor, ratio: Tensor, mask: int, generator: torch.Generator | None) -> Tensor:
    """Tokens (n, length) with about the ratio (n,) of each row masked, at least one of each."""
    score = torch.rand(tokens.shape, generator=generator)
    count = (ratio * tokens.shape[1]).round().clamp(1, tokens.shape[1]).long()
    place = score.argsort(1).argsort(1)
    return torch.where(place < count[:, None], torch.full_like(tokens, mask), tokens)


@torch.no_grad()
def bound(logits: Callable[[Tensor], Tensor], tokens: Tensor, mask: int, seed: int) -> Tensor:
    """Mean cross-entropy in nats of the masked tokens, by row and by mask ratio: (n, BINS).

    The mean over the bins estimates the integral over the ratio, which bounds a token's NLL. The same
    seed masks the same places, so that two models are compared in pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(BINS):
        ratio = (number + torch.rand(len(tokens), generator=generator)) / BINS
        seen = masked(tokens, ratio, mask, generator)
        hidden = seen == mask
        loss = functional.cross_entropy(
            logits(seen).float().flatten(0, 1), tokens.flatten(), reduction="none"
        )
        loss = loss.view(tokens.shape) * hidden
        found.append(loss.sum(1) / hidden.sum(1))
    return torch.stack(found, 1)
