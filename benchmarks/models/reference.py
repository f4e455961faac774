"""Other people's methods as their papers give them, in torch, for comparison: plain and independent of our kernels.

Each takes a weight matrix (rows, cols) in float32 and gives back what a decoder would, in float32, with the
bits a weight that it stores: codes, and a half each for scale and offset of every group.

rtn    round to nearest between the least and the greatest weight of a group
hqq    half-quadratic quantization (Badri and Shaji 2023): the offset by proximal steps on an l_p norm
gptq   Frantar et al. 2023: columns one after another, each error spread over those to come
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HALVES = 32
HQQ_STEPS, HQQ_P, HQQ_BETA, HQQ_KAPPA = 20, 0.7, 10.0, 1.01
DAMPING = 0.01


def bits_per_weight(bits: int, group: int, cols: int) -> float:
    """All counted; a group of 0 is a whole row, and the last group of a row may be short."""
    return bits + HALVES * math.ceil(cols / (group or cols)) / cols


def rtn(w: Tensor, bits: int, group: int) -> Tensor:
    """Asymmetric, scale and offset kept as halves."""
    return torch.cat([_rtn(x, bits) for x in _groups(w, group)], 1)


def _rtn(x: Tensor, bits: int) -> Tensor:
    scale, least = _range(x, bits)
    return ((x - least) / scale).round().clamp(0, 2**bits - 1) * scale + least


def hqq(w: Tensor, bits: int, group: int) -> Tensor:
    """Scale from the range; the zero point minimizes |W - W'|_p by half-quadratic splitting."""
    return torch.cat([_hqq(x, bits) for x in _groups(w, group)], 1)


def _hqq(x: Tensor, bits: int) -> Tensor:
    scale, least = _range(x, bits)
    inverse = 1 / scale
    zero = -least * inverse
    beta, best = HQQ_BETA, math.inf
    for _ in range(HQQ_STEPS):
        codes = (x * inverse + zero).round().clamp(0, 2**bits - 1)
        decoded = (codes - zero) / inverse
        gap = x - decoded
        error = gap.abs().mean().item()
        if error >= best:
            break
        best = error
        shrunk = gap.sign() * torch.relu(
            gap.abs() - gap.abs().clamp_min(1e-12) ** (HQQ_P - 1) / beta
        )
        zero = (codes - (x - shrunk) * inverse).mean(-1, keepdim=True)
        beta *= HQQ_KAPPA
    zero = zero.half().float()
    codes = (x * inverse + zero).round().clamp(0, 2**bits - 1)
    return (codes - zero) * scale


def gptq(w: Tensor, bits: int, group: int, moments: Tensor) -> Tensor:
    """With the second moments (cols, cols) of the inputs; scales of a group when its turn comes."""
    cols = w.shape[1]
    group = group or cols
    moments = moments.double().clone()
    dead = moments.diagonal() == 0
    moments.diagonal()[dead] = 1
    moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    left, out = w.clone(), torch.empty_like(w)
    left[:, dead] = 0
    for start in range(0, cols, group):
        stop = min(start + group, cols)
        scale, least = _range(left[:, start:stop], bits)
        for j in range(start, stop):
            column = left[:, j : j + 1]
            codes = ((column - least) / scale).round().clamp(0, 2**bits - 1)
            out[:, j : j + 1] = codes * scale + least
            error = (column - out[:, j : j + 1]) / factor[j, j]
            left[:, j + 1 :] -= error * factor[j, j + 1 :]
    return out


def _groups(w: Tensor, group: int) -> tuple[Tensor, ...]:
    """The columns (rows, group) that share a scale in every row."""
    return w.split(group or w.shape[1], 1)


def _range(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and offset of each row as halves; a constant row decodes to itself."""
    least, greatest = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    scale = ((greatest - least) / (2**bits - 1)).half().float()
    return torch.where(scale == 0, torch.ones_like(scale), scale), least.half().float()
