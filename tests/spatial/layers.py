"""Layers in plain NumPy, on tensors by name, and the shapes of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = Mapping[str, Array]

D, FF, TEXT, HEADS, TOKENS = 16, 48, 12, 4, 5


def linear(t: Tensors, name: str, x: Array) -> Array:
    y = x @ t[f"{name}.weight"].reshape(len(t[f"{name}.weight"]), -1).T
    return y + t[f"{name}.bias"] if f"{name}.bias" in t else y


def layer_norm(x: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def rms_norm(x: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(q: Array, k: Array, v: Array, heads: int = HEADS) -> Array:
    """(tokens, channels) each; fewer heads of k and v are shared by neighbouring heads of q."""
    hd = q.shape[1] // heads
    out = []
    for head in range(heads):
        other = head * (k.shape[1] // hd) // heads
        mine, shared = slice(head * hd, (head + 1) * hd), slice(other * hd, (other + 1) * hd)
        logits = q[:, mine] @ k[:, shared].T / math.sqrt(hd)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        out.append(p / p.sum(-1, keepdims=True) @ v[:, shared])
    return np.concatenate(out, 1)


def tokens(t: Tensors, rng: np.random.Generator, n: int = TOKENS, d: int = D) -> Array:
    """Random inputs of the weights' dtype."""
    return rng.normal(size=(n, d)).astype(next(iter(t.values())).dtype)


def module(name: str, rows: int, cols: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, cols)} | ({f"{name}.bias": (rows,)} if bias else {})


def modules(names: str, rows: int, cols: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name in names.split():
        found |= module(name, rows, cols, bias)
    return found


def under(prefix: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


class Within(dict[str, Array]):
    def __init__(self, tensors: Tensors, prefix: str) -> None:
        super().__init__(
            {n[len(prefix) + 1 :]: v for n, v in tensors.items() if n.startswith(f"{prefix}.")}
        )
