"""A class-conditional diffusion transformer, with the tensor names and maths of diffusers' DiTTransformer2DModel.

Peebles and Xie, "Scalable Diffusion Models with Transformers": adaptive layer norms (adaLN-zero) whose
shifts, scales and gates come from the time and the class.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.models.attention import attend

FREQUENCIES = 256


@dataclass(frozen=True)
class Config:
    """Sizes, under diffusers' names."""

    sample_size: int = 16
    patch_size: int = 4
    in_channels: int = 1
    out_channels: int = 1
    num_layers: int = 4
    num_attention_heads: int = 4
    attention_head_dim: int = 48
    num_embeds_ada_norm: int = 10

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim

    def document(self) -> dict[str, Any]:
        """As transformer/config.json."""
        return {
            "_class_name": "DiTTransformer2DModel",
            "_diffusers_version": "0.35.0",
            **asdict(self),
            "activation_fn": "gelu-approximate",
            "attention_bias": True,
            "dropout": 0.0,
            "norm_elementwise_affine": False,
            "norm_eps": 1e-05,
            "norm_num_groups": 32,
            "norm_type": "ada_norm_zero",
            "upcast_attention": False,
        }


class TimestepEmbedding(nn.Module):
    """Two linears over the sines of a time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(FREQUENCIES, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        steps = torch.arange(half, dtype=torch.float32) / (half - 1)
        angles = t[:, None].float() * torch.exp(-math.log(10000) * steps)
        return self.linear_2(
            functional.silu(self.linear_1(torch.cat([angles.cos(), angles.sin()], 1)))
        )


class LabelEmbedding(nn.Module):
    """A vector for each class, and one for none."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class Conditioning(nn.Module):
    """Time and class, summed."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(width)
        self.class_embedder = LabelEmbedding(classes, width)

    def forward(self, t: Tensor, labels: Tensor) -> Tensor:
        return self.timestep_embedder(t) + self.class_embedder(labels)


class AdaLayerNormZero(nn.Module):
    """Layer norm, and the six modulations of a block."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.emb = Conditioning(classes, width)
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        parts = self.linear(functional.silu(self.emb(t, labels)))[:, None].chunk(6, 2)
        shift, scale, *rest = parts
        return normalized(x, 1e-6) * (1 + scale) + shift, *rest


class Attention(nn.Module):
    """Self-attention over the patches."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads = config.num_attention_heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = (
            linear(x).view(n, tokens, self.heads, -1).transpose(1, 2)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        out = attend(q, k, v)
        return self.to_out[0](out.transpose(1, 2).reshape(n, tokens, width))


class Projection(nn.Module):
    """Up, and the tanh form of GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Up by four, and down again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Projection(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class Block(nn.Module):
    """Attention and feed-forward, each gated."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm1 = AdaLayerNormZero(config.num_embeds_ada_norm, config.width)
        self.attn1 = Attention(config)
        self.ff = FeedForward(config.width)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        h, gate, shift, scale, gate_ff = self.norm1(x, t, labels)
        x = x + gate * self.attn1(h)
        return x + gate_ff * self.ff(normalized(x, 1e-5) * (1 + scale) + shift)


class PatchEmbed(nn.Module):
    """Patches to tokens, each with its place."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            config.in_channels, config.width, config.patch_size, config.patch_size
        )
        side = config.sample_size // config.patch_size
        self.register_buffer("pos_embed", places(side, config.width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2) + self.pos_embed


class DiT(nn.Module):
    """Images (n, channels, side, side), times (n,) and labels (n,) to a prediction of the images' shape."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.pos_embed = PatchEmbed(config)
        self.transformer_blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.proj_out_1 = nn.Linear(config.width, 2 * config.width)
        self.proj_out_2 = nn.Linear(config.width, config.patch_size**2 * config.out_channels)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        h = self.pos_embed(x)
        for block in self.transformer_blocks:
            h = block(h, t, labels)
        conditioning = self.transformer_blocks[0].norm1.emb(t, labels)
        shift, scale = self.proj_out_1(functional.silu(conditioning))[:, None].chunk(2, 2)
        h = self.proj_out_2(normalized(h, 1e-6) * (1 + scale) + shift)
        side, patch = self.config.sample_size // self.config.patch_size, self.config.patch_size
        h = h.view(-1, side, side, patch, patch, self.config.out_channels)
        full = side * patch
        return h.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.config.out_channels, full, full)


def normalized(x: Tensor, eps: float) -> Tensor:
    """Layer norm without weights of its own."""
    return functional.layer_norm(x, x.shape[-1:], eps=eps)


def places(side: int, width: int) -> Tensor:
    """Sines and cosines of the column, then of the row: (1, side * side, width)."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    # diffusers scales places as if the grid were as wide as its base size: by one, here.
    parts = []
    for place in (columns, rows):
        angles = place.reshape(-1, 1).double() * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, 1).float()[None]


def initialize(model: DiT) -> None:
    """adaLN-zero; labels loud enough to be heard early."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, TimestepEmbedding):
            nn.init.normal_(module.linear_1.weight, std=0.02)
            nn.init.normal_(module.linear_2.weight, std=0.02)
    nn.init.xavier_uniform_(model.pos_embed.proj.weight.view(model.config.width, -1))
    nn.init.zeros_(model.pos_embed.proj.bias)
    for block in model.transformer_blocks:
        nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight, std=0.5)
        nn.init.zeros_(block.norm1.linear.weight)
    nn.init.zeros_(model.proj_out_1.weight)
    nn.init.zeros_(model.proj_out_2.weight)
