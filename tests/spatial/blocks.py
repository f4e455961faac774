"""One block of each family in plain NumPy, after the reference code that its map is of.

Each has the shapes of its tensors by their real names, and a forward of random inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.spatial.layers import (
    FF,
    HEADS,
    TEXT,
    TOKENS,
    Array,
    D,
    Tensors,
    Within,
    attend,
    gelu,
    layer_norm,
    linear,
    module,
    modules,
    rms_norm,
    silu,
    tokens,
    under,
)


@dataclass(frozen=True)
class Block:
    """`folds`: names of the groups that its map finds."""

    shapes: dict[str, tuple[int, ...]]
    forward: Callable[[Tensors, np.random.Generator], list[Array]]
    folds: tuple[str, ...]
    head_dim: int | None = None

    def tensors(self, dtype: Any, seed: int = 0) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        return {
            name: (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(dtype)
            for name, shape in self.shapes.items()
        }

    def run(self, tensors: Tensors) -> list[Array]:
        return self.forward(tensors, np.random.default_rng(99))


# DiT, diffusers: AdaLayerNormZero.

_DIT = "transformer_blocks.3"


def _dit(t: Tensors, rng: np.random.Generator) -> list[Array]:
    x, c, b = tokens(t, rng), tokens(t, rng, 1), Within(t, _DIT)
    shift, scale, gate, shift_ff, scale_ff, gate_ff = np.split(
        linear(b, "norm1.linear", silu(c)), 6, 1
    )
    h = layer_norm(x) * (1 + scale) + shift
    a = attend(*(linear(b, f"attn1.to_{n}", h) for n in "qkv"))
    x = x + gate * linear(b, "attn1.to_out.0", a)
    h = layer_norm(x) * (1 + scale_ff) + shift_ff
    x = x + gate_ff * linear(b, "ff.net.2", gelu(linear(b, "ff.net.0.proj", h)))
    shift, scale = np.split(linear(t, "proj_out_1", silu(c)), 2, 1)
    return [linear(t, "proj_out_2", layer_norm(x) * (1 + scale) + shift)]


DIT = Block(
    under(
        _DIT,
        module("norm1.linear", 6 * D, D)
        | modules("attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0", D, D)
        | module("ff.net.0.proj", FF, D)
        | module("ff.net.2", D, FF),
    )
    | module("proj_out_1", 2 * D, D)
    | module("proj_out_2", 9, D)
    | {"transformer_blocks.0.norm1.linear.weight": (6 * D, D)},  # it is a whole model's end
    _dit,
    (
        f"{_DIT}.norm1.linear[0,1]",
        f"{_DIT}.norm1.linear[3,4]",
        f"{_DIT}.attn1.to_v",
        "proj_out_1[0,1]",
    ),
)


# DiT as first published: fused q, k and v.


def _original(t: Tensors, rng: np.random.Generator) -> list[Array]:
    x, c, b = tokens(t, rng), tokens(t, rng, 1), Within(t, "blocks.0")
    shift, scale, gate, shift_ff, scale_ff, gate_ff = np.split(
        linear(b, "adaLN_modulation.1", silu(c)), 6, 1
    )
    qkv = linear(b, "attn.qkv", layer_norm(x) * (1 + scale) + shift)
    x = x + gate * linear(b, "attn.proj", attend(*np.split(qkv, 3, 1)))
    h = layer_norm(x) * (1 + scale_ff) + shift_ff
    return [x + gate_ff * linear(b, "mlp.fc2", gelu(linear(b, "mlp.fc1", h)))]


DIT_ORIGINAL = Block(
    under(
        "blocks.0",
        module("adaLN_modulation.1", 6 * D, D)
        | module("attn.qkv", 3 * D, D)
        | module("attn.proj", D, D)
        | module("mlp.fc1", FF, D)
        | module("mlp.fc2", D, FF),
    ),
    _original,
    (
        "blocks.0.adaLN_modulation.1[0,1]",
        "blocks.0.adaLN_modulation.1[3,4]",
        "blocks.0.attn.qkv",
    ),
)


# SD3 and FLUX: image and text attend together.

_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_OWN = ("attn.to_q", "attn.to_k", "attn.to_v")


def _joint(prefix: str, last: bool, dual: bool) -> Callable[..., list[Array]]:
    def forward(t: Tensors, rng: np.random.Generator) -> list[Array]:
        x, y, c = tokens(t, rng), tokens(t, rng, 3), tokens(t, rng, 1)
        b = Within(t, prefix)
        parts = np.split(linear(b, "norm1.linear", silu(c)), 9 if dual else 6, 1)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = parts[:6]
        h = layer_norm(x) * (1 + scale) + shift
        text = linear(b, "norm1_context.linear", silu(c))
        if last:
            scale_y, shift_y = np.split(text, 2, 1)
        else:
            shift_y, scale_y, gate_y, shift_yf, scale_yf, gate_yf = np.split(text, 6, 1)
        h_y = layer_norm(y) * (1 + scale_y) + shift_y
        both = [
            np.concatenate([linear(b, own, h), linear(b, added, h_y)])
            for own, added in zip(_OWN, _ADDED, strict=True)
        ]
        a = attend(*both)
        out = x + gate * linear(b, "attn.to_out.0", a[: len(x)])
        if dual:
            h2 = layer_norm(x) * (1 + parts[7]) + parts[6]
            a2 = attend(*(linear(b, f"attn2.to_{n}", h2) for n in "qkv"))
            out = out + parts[8] * linear(b, "attn2.to_out.0", a2)
        h = layer_norm(out) * (1 + scale_ff) + shift_ff
        out = out + gate_ff * linear(b, "ff.net.2", gelu(linear(b, "ff.net.0.proj", h)))
        if last:
            return [out]
        y = y + gate_y * linear(b, "attn.to_add_out", a[len(x) :])
        h = layer_norm(y) * (1 + scale_yf) + shift_yf
        inner = gelu(linear(b, "ff_context.net.0.proj", h))
        return [out, y + gate_yf * linear(b, "ff_context.net.2", inner)]

    return forward


def _joint_shapes(last: bool, dual: bool) -> dict[str, tuple[int, ...]]:
    shapes = (
        module("norm1.linear", (9 if dual else 6) * D, D)
        | module("norm1_context.linear", (2 if last else 6) * D, D)
        | modules(" ".join((*_OWN, *_ADDED, "attn.to_out.0")), D, D)
        | module("ff.net.0.proj", FF, D)
        | module("ff.net.2", D, FF)
    )
    if dual:
        shapes |= modules("attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0", D, D)
    if not last:
        shapes |= module("attn.to_add_out", D, D)
        shapes |= module("ff_context.net.0.proj", FF, D) | module("ff_context.net.2", D, FF)
    return shapes


def _joint_block(prefix: str, folds: str, *, last: bool = False, dual: bool = False) -> Block:
    return Block(
        under(prefix, _joint_shapes(last, dual)),
        _joint(prefix, last, dual),
        tuple(f"{prefix}.{name}" for name in folds.split()),
    )


_VALUES = "attn.to_v,attn.add_v_proj"
JOINT = _joint_block(
    "transformer_blocks.7",
    "norm1.linear[0,1] norm1.linear[3,4] norm1_context.linear[0,1] "
    f"norm1_context.linear[3,4] {_VALUES}",
)
SD3_LAST = _joint_block(
    "transformer_blocks.23",
    f"norm1.linear[0,1] norm1.linear[3,4] norm1_context.linear[1,0] {_VALUES}",
    last=True,
)
SD35_DUAL = _joint_block(
    "transformer_blocks.2",
    "norm1.linear[0,1] norm1.linear[3,4] norm1.linear[6,7] norm1_context.linear[0,1] "
    f"norm1_context.linear[3,4] {_VALUES} attn2.to_v",
    dual=True,
)

_SINGLE = "single_transformer_blocks.37"


def _single(t: Tensors, rng: np.random.Generator) -> list[Array]:
    x, c, b = tokens(t, rng), tokens(t, rng, 1), Within(t, _SINGLE)
    shift, scale, gate = np.split(linear(b, "norm.linear", silu(c)), 3, 1)
    h = layer_norm(x) * (1 + scale) + shift
    a = attend(*(linear(b, name, h) for name in _OWN))
    return [x + gate * linear(b, "proj_out", np.hstack([a, gelu(linear(b, "proj_mlp", h))]))]


SINGLE = Block(
    under(
        _SINGLE,
        module("norm.linear", 3 * D, D)
        | modules(" ".join(_OWN), D, D)
        | module("proj_mlp", FF, D)
        | module("proj_out", D, D + FF),
    ),
    _single,
    (f"{_SINGLE}.norm.linear[0,1]", f"{_SINGLE}.attn.to_v"),
)


def _joint_end(t: Tensors, rng: np.random.Generator) -> list[Array]:
    scale, shift = np.split(linear(t, "norm_out.linear", silu(tokens(t, rng, 1))), 2, 1)
    return [linear(t, "proj_out", layer_norm(tokens(t, rng)) * (1 + scale) + shift)]


JOINT_END = Block(
    module("norm_out.linear", 2 * D, D)
    | module("proj_out", 9, D)
    | {"transformer_blocks.0.norm1_context.linear.weight": (6 * D, D)},
    _joint_end,
    ("norm_out.linear[1,0]",),
)


# PixArt: one modulation for all blocks, a table of each on top.

_PIXART = "transformer_blocks.11"


def _pixart(t: Tensors, rng: np.random.Generator) -> list[Array]:
    x, y, c, b = tokens(t, rng), tokens(t, rng, 3), tokens(t, rng, 6), Within(t, _PIXART)
    shift, scale, gate, shift_ff, scale_ff, gate_ff = b["scale_shift_table"] + c
    h = layer_norm(x) * (1 + scale) + shift
    a = attend(*(linear(b, f"attn1.to_{n}", h) for n in "qkv"))
    x = x + gate * linear(b, "attn1.to_out.0", a)
    a = attend(linear(b, "attn2.to_q", x), linear(b, "attn2.to_k", y), linear(b, "attn2.to_v", y))
    x = x + linear(b, "attn2.to_out.0", a)
    h = layer_norm(x) * (1 + scale_ff) + shift_ff
    return [x + gate_ff * linear(b, "ff.net.2", gelu(linear(b, "ff.net.0.proj", h)))]


PIXART = Block(
    under(
        _PIXART,
        {"scale_shift_table": (6, D)}
        | modules("attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0", D, D)
        | modules("attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0", D, D)
        | module("ff.net.0.proj", FF, D)
        | module("ff.net.2", D, FF),
    ),
    _pixart,
    (f"{_PIXART}.attn1.to_v", f"{_PIXART}.attn2.to_v"),
)


# The transformer blocks of UNets: affine norms, text by cross-attention, GEGLU.

_SPATIAL = "down_blocks.1.attentions.0"
_UNET = f"{_SPATIAL}.transformer_blocks.0"


def _unet(t: Tensors, rng: np.random.Generator) -> list[Array]:
    x, y, b, s = tokens(t, rng), tokens(t, rng, 3, TEXT), Within(t, _UNET), Within(t, _SPATIAL)
    groups = layer_norm(x.reshape(TOKENS, 4, -1).swapaxes(0, 1).reshape(4, -1))
    normed = groups.reshape(4, TOKENS, -1).swapaxes(0, 1).reshape(TOKENS, D)
    x = linear(s, "proj_in", normed * s["norm.weight"] + s["norm.bias"])

    def norm(name: str) -> Array:
        return layer_norm(x) * b[f"{name}.weight"] + b[f"{name}.bias"]

    h = norm("norm1")
    a = attend(*(linear(b, f"attn1.to_{n}", h) for n in "qkv"))
    x = x + linear(b, "attn1.to_out.0", a)
    k, v = (linear(b, f"attn2.to_{n}", y) for n in "kv")
    x = x + linear(b, "attn2.to_out.0", attend(linear(b, "attn2.to_q", norm("norm2")), k, v))
    hidden, gate = np.split(linear(b, "ff.net.0.proj", norm("norm3")), 2, 1)
    return [x + linear(b, "ff.net.2", hidden * gelu(gate))]


UNET = Block(
    under(
        _UNET,
        {f"norm{n}.{what}": (D,) for n in (1, 2, 3) for what in ("weight", "bias")}
        | modules("attn1.to_q attn1.to_k attn1.to_v attn2.to_q", D, D, bias=False)
        | modules("attn2.to_k attn2.to_v", D, TEXT, bias=False)
        | modules("attn1.to_out.0 attn2.to_out.0", D, D)
        | module("ff.net.0.proj", 2 * FF, D)
        | module("ff.net.2", D, FF),
    )
    | {f"{_SPATIAL}.norm.weight": (D,), f"{_SPATIAL}.norm.bias": (D,)}
    | {f"{_SPATIAL}.proj_in.weight": (D, D, 1, 1), f"{_SPATIAL}.proj_in.bias": (D,)},
    _unet,
    (
        f"{_UNET}.norm1",
        f"{_UNET}.norm2",
        f"{_UNET}.norm3",
        f"{_UNET}.attn1.to_v",
        f"{_UNET}.attn2.to_v",
        f"{_UNET}.ff.net.0.proj",
        f"{_SPATIAL}.norm",
    ),
)


# LLaMA and Qwen-like models, of which Dream is one; grouped-query attention.

_HD, _KV = D // HEADS, 2


def _gated(names: dict[str, str], prefix: str) -> Callable[..., list[Array]]:
    def forward(t: Tensors, rng: np.random.Generator) -> list[Array]:
        x, b = tokens(t, rng), Within(t, prefix)
        h = rms_norm(x) * b[f"{names['norm']}.weight"]
        a = attend(*(linear(b, names[n], h) for n in "qkv"))
        x = x + linear(b, names["o"], a)
        h = rms_norm(x) * b[f"{names['norm2']}.weight"]
        inner = silu(linear(b, names["gate"], h)) * linear(b, names["up"], h)
        return [x + linear(b, names["down"], inner)]

    return forward


def _gated_block(prefix: str, names: dict[str, str], kv: int, bias: bool) -> Block:
    shapes = (
        {f"{names['norm']}.weight": (D,), f"{names['norm2']}.weight": (D,)}
        | module(names["q"], D, D, bias)
        | modules(f"{names['k']} {names['v']}", kv * _HD, D, bias)
        | module(names["o"], D, D, bias=False)
        | modules(f"{names['gate']} {names['up']}", FF, D, bias=False)
        | module(names["down"], D, FF, bias=False)
    )
    folds = tuple(f"{prefix}.{names[n]}" for n in ("norm", "norm2", "v", "up"))
    return Block(under(prefix, shapes), _gated(names, prefix), folds, _HD)


DREAM = _gated_block(
    "model.layers.27",
    {
        "norm": "input_layernorm",
        "norm2": "post_attention_layernorm",
        **{n: f"self_attn.{n}_proj" for n in "qkvo"},
        **{n: f"mlp.{n}_proj" for n in ("gate", "up", "down")},
    },
    _KV,
    bias=True,
)
LLADA = _gated_block(
    "model.transformer.blocks.31",
    {
        "norm": "attn_norm",
        "norm2": "ff_norm",
        **{n: f"{n}_proj" for n in "qkv"},
        "o": "attn_out",
        "gate": "ff_proj",
        "up": "up_proj",
        "down": "ff_out",
    },
    HEADS,
    bias=False,
)

BLOCKS = {
    "DiT": DIT,
    "DiT, fused": DIT_ORIGINAL,
    "SD3 and FLUX, joint": JOINT,
    "SD3, last": SD3_LAST,
    "SD3.5, dual": SD35_DUAL,
    "FLUX, single": SINGLE,
    "SD3 and FLUX, end": JOINT_END,
    "PixArt": PIXART,
    "UNet": UNET,
    "Dream": DREAM,
    "LLaDA": LLADA,
}
