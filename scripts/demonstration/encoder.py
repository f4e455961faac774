"""The forward pass of a BERT sentence encoder in NumPy: no framework, any source of weights.

Token ids in, one vector of length 1 per sentence out: embeddings, a stack of self-attention layers,
the mean over the tokens of each sentence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Weights = Mapping[str, Floats]

BATCH = 40


class Tokenizer(Protocol):
    """Text to token ids, with the special tokens of the model and without padding."""

    def __call__(self, sentence: str) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class Shape:
    """What of the model's configuration the forward pass depends on."""

    layers: int
    heads: int
    eps: float

    @classmethod
    def read(cls, config: Path) -> Shape:
        """From the `config.json` of the model. Raises ValueError for another architecture."""
        fields = json.loads(config.read_text(encoding="utf-8"))
        known = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        for name, value in known.items():
            if fields[name] != value:
                raise ValueError(f"{config}: {name} is {fields[name]!r}, not {value!r}")
        return cls(
            fields["num_hidden_layers"], fields["num_attention_heads"], fields["layer_norm_eps"]
        )


def load_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`; the padding that it asks for is left out."""
    from tokenizers import Tokenizer as Loaded

    loaded = Loaded.from_file(str(file))
    loaded.no_padding()

    def ids(sentence: str) -> Sequence[int]:
        found: list[int] = loaded.encode(sentence).ids
        return found

    return ids


def embed(sentences: Sequence[Sequence[int]], weights: Weights, shape: Shape) -> Floats:
    """One unit vector per sentence, given as token ids; a row per sentence, in order."""
    width = weights["embeddings.LayerNorm.weight"].size
    found = np.empty((len(sentences), width), np.float32)
    # Sentences of like length go together: little padding.
    order = sorted(range(len(sentences)), key=lambda number: len(sentences[number]))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        ids, mask = pad([sentences[number] for number in batch])
        found[batch] = pool(encode(ids, mask, weights, shape), mask)
    return found


def pad(sentences: Sequence[Sequence[int]]) -> tuple[Ids, Floats]:
    """Ids (sentences, tokens) filled up with zeros, and a mask that is 1 where a token is."""
    longest = max(map(len, sentences))
    ids = np.zeros((len(sentences), longest), np.int64)
    mask = np.zeros(ids.shape, np.float32)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = sentence
        mask[row, : len(sentence)] = 1
    return ids, mask


def encode(ids: Ids, mask: Floats, weights: Weights, shape: Shape) -> Floats:
    """The last hidden state, (sentences, tokens, width)."""
    tables = (f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
    word, position, token_type = (weights[name] for name in tables)
    x = word[ids] + position[: ids.shape[1]] + token_type[0]
    x = normalize(x, weights, "embeddings.LayerNorm", shape.eps)
    for number in range(shape.layers):
        layer = f"encoder.layer.{number}"
        mixed = attend(x, mask, weights, f"{layer}.attention.self", shape.heads)
        mixed = linear(mixed, weights, f"{layer}.attention.output.dense")
        x = normalize(x + mixed, weights, f"{layer}.attention.output.LayerNorm", shape.eps)
        inner = gelu(linear(x, weights, f"{layer}.intermediate.dense"))
        inner = linear(inner, weights, f"{layer}.output.dense")
        x = normalize(x + inner, weights, f"{layer}.output.LayerNorm", shape.eps)
    return x


def attend(x: Floats, mask: Floats, weights: Weights, name: str, heads: int) -> Floats:
    """Self-attention; padding is looked at by nobody."""
    batch, tokens, width = x.shape
    query, key, value = (
        linear(x, weights, f"{name}.{part}").reshape(batch, tokens, heads, -1).swapaxes(1, 2)
        for part in ("query", "key", "value")
    )
    scores: Floats = (query @ key.swapaxes(2, 3)) * np.float32(1 / math.sqrt(width // heads))
    scores -= (1 - mask[:, None, None, :]) * np.float32(1e9)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed: Floats = (scores @ value).swapaxes(1, 2).reshape(batch, tokens, width)
    return mixed


def linear(x: Floats, weights: Weights, name: str) -> Floats:
    """x · Wᵀ + b."""
    weight = weights[f"{name}.weight"]
    # One product of two matrices: NumPy would make one per sentence out of three axes.
    flat = x.reshape(-1, x.shape[-1]) @ weight.T
    flat += weights[f"{name}.bias"]
    return flat.reshape(*x.shape[:-1], weight.shape[0])


def normalize(x: Floats, weights: Weights, name: str, eps: float) -> Floats:
    """Layer normalization over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + np.float32(eps))
    found: Floats = centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return found


def gelu(x: Floats) -> Floats:
    """x · Φ(x) with the error function itself, not the tanh form."""
    found: Floats = x * np.float32(0.5) * (1 + erf(x * np.float32(math.sqrt(0.5))))
    return found


def erf(x: Floats) -> Floats:
    """The error function to 5e-7 in float32 (Abramowitz and Stegun, 7.1.26)."""
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = np.zeros_like(t)
    for term in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(term)) * t
    found: Floats = np.copysign(1 - series * np.exp(-size * size), x)
    return found


def pool(hidden: Floats, mask: Floats) -> Floats:
    """The mean over the tokens of each sentence, brought to length 1."""
    total = (hidden * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    found: Floats = total / np.linalg.norm(total, axis=1, keepdims=True)
    return found
