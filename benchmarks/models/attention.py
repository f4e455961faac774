"""Attention as two matrix products: on a CPU and short sequences, faster to train than the fused kernel."""

from __future__ import annotations

import math

from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(width)) v over (batch, heads, tokens, width)."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    return scores.softmax(-1).to(v.dtype) @ v
