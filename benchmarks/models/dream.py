"""A masked-diffusion language model with the tensor names of Dream and Qwen2, and attention both ways.

LLaDA (Nie et al. 2025) and Dream (Ye et al. 2025): a transformer that fills in masked tokens. Rotary
places, RMS norms, SwiGLU, grouped key-value heads, biases on q, k and v; no time input, no shift of the logits.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.models.attention import attend

KERNEL_PAIRS = 4
KERNEL_SIZE = 4.0
OFFSETS = (-1, 1, -2, 2)


@dataclass(frozen=True)
class Config:
    """Sizes, under the names of transformers."""

    vocab_size: int = 512
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 128
    mask_token_id: int = 1
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    def document(self) -> dict[str, Any]:
        """As config.json."""
        return {
            "architectures": ["DreamModel"],
            "model_type": "Dream",
            **asdict(self),
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "eos_token_id": 0,
            "pad_token_id": 0,
        }


class RmsNorm(nn.Module):
    """Root mean square norm with a weight a channel."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Grouped-query self-attention over the whole sequence."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, shared = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, shared)
        self.v_proj = nn.Linear(width, shared)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = (
            linear(x).view(n, tokens, -1, self.config.head_dim).transpose(1, 2)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        times = self.config.num_attention_heads // self.config.num_key_value_heads
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        out = attend(q, k, v)
        return self.o_proj(out.transpose(1, 2).reshape(n, tokens, width))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Everything below the logits."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class Dream(nn.Module):
    """Tokens (n, length) to logits (n, length, vocabulary)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model.embed_tokens(tokens)
        angles = torch.arange(tokens.shape[1])[:, None] * frequencies(self.config)
        angles = torch.cat([angles, angles], 1).to(x.dtype)
        cos, sin = angles.cos(), angles.sin()
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.model.norm(x))


def frequencies(config: Config) -> Tensor:
    """Of the rotary pairs."""
    half = config.head_dim // 2
    return config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + half) by its place's angle."""
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


def initialize(model: Dream) -> None:
    """Weights of std 0.7/sqrt(in); heads that look at the neighbours from the first step."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.7 / math.sqrt(module.in_features))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.model.embed_tokens.weight, std=0.7)
    config = model.config
    half = config.head_dim // 2
    angles = frequencies(config)[:KERNEL_PAIRS]
    for layer in model.model.layers:
        q = layer.self_attn.q_proj.bias.data.view(config.num_attention_heads, config.head_dim)
        k = layer.self_attn.k_proj.bias.data.view(config.num_key_value_heads, config.head_dim)
        k[:, :KERNEL_PAIRS] = KERNEL_SIZE
        for head, offset in enumerate(OFFSETS):
            q[head, :KERNEL_PAIRS] = KERNEL_SIZE * (angles * offset).cos()
            q[head, half : half + KERNEL_PAIRS] = KERNEL_SIZE * (angles * offset).sin()
