"""A small BERT encoder with random weights, and its forward pass one number at a time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

Vector = list[float]


def write_model(folder: Path, texts: Sequence[str], width: int, layers: int, heads: int) -> Path:
    """The files of a model that knows the words of the texts."""
    folder.mkdir(parents=True)
    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(texts).lower())))
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[CLS]", "[SEP]", *words])}
    save_file(weights(len(vocabulary), width, layers), folder / "model.safetensors")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def weights(vocabulary: int, width: int, layers: int) -> dict[str, NDArray[np.float32]]:
    """Random weights under the names of a trained one."""
    rng = np.random.default_rng(7)

    def normal(*shape: int, scale: float = 0.3) -> NDArray[np.float32]:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": normal(vocabulary, width),
        "embeddings.position_embeddings.weight": normal(64, width),
        "embeddings.token_type_embeddings.weight": normal(2, width),
    }

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + normal(width, scale=0.1)
        tensors[f"{name}.bias"] = normal(width, scale=0.1)

    def dense(name: str, outputs: int, inputs: int) -> None:
        tensors[f"{name}.weight"] = normal(outputs, inputs, scale=inputs**-0.5)
        tensors[f"{name}.bias"] = normal(outputs, scale=0.1)

    norm("embeddings.LayerNorm")
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            dense(f"{layer}.attention.self.{part}", width, width)
        dense(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output.LayerNorm")
        dense(f"{layer}.intermediate.dense", 4 * width, width)
        dense(f"{layer}.output.dense", width, 4 * width)
        norm(f"{layer}.output.LayerNorm")
    return tensors


def embed_plainly(
    ids: Sequence[int], tensors: dict[str, NDArray[np.float32]], layers: int, heads: int
) -> Vector:
    """One sentence, written as the formulae are: Python floats, loops, no batch and no mask."""
    word, position, kind = (
        tensors[f"embeddings.{table}_embeddings.weight"].tolist()
        for table in ("word", "position", "token_type")
    )
    rows = [
        [w + p + k for w, p, k in zip(word[token], position[place], kind[0], strict=True)]
        for place, token in enumerate(ids)
    ]
    rows = [_norm(row, tensors, "embeddings.LayerNorm") for row in rows]
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        mixed = _attend(rows, tensors, f"{layer}.attention.self", heads)
        mixed = [_dense(row, tensors, f"{layer}.attention.output.dense") for row in mixed]
        rows = _residual(rows, mixed, tensors, f"{layer}.attention.output.LayerNorm")
        inner = [_dense(row, tensors, f"{layer}.intermediate.dense") for row in rows]
        inner = [[x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in row] for row in inner]
        inner = [_dense(row, tensors, f"{layer}.output.dense") for row in inner]
        rows = _residual(rows, inner, tensors, f"{layer}.output.LayerNorm")
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    length = math.sqrt(sum(x * x for x in mean))
    return [x / length for x in mean]


def _attend(
    rows: list[Vector], tensors: dict[str, NDArray[np.float32]], name: str, heads: int
) -> list[Vector]:
    query, key, value = (
        [_dense(row, tensors, f"{name}.{part}") for row in rows]
        for part in ("query", "key", "value")
    )
    size = len(rows[0]) // heads
    found: list[Vector] = [[] for _ in rows]
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for row, asking in enumerate(query):
            raw = [_dot(asking[part], asked[part]) / math.sqrt(size) for asked in key]
            powers = [math.exp(score - max(raw)) for score in raw]
            shares = [power / sum(powers) for power in powers]
            columns = zip(*(v[part] for v in value), strict=True)
            found[row] += [_dot(shares, column) for column in columns]
    return found


def _residual(
    rows: list[Vector], added: list[Vector], tensors: dict[str, NDArray[np.float32]], name: str
) -> list[Vector]:
    pairs = zip(rows, added, strict=True)
    return [_norm([x + y for x, y in zip(*pair, strict=True)], tensors, name) for pair in pairs]


def _norm(row: Vector, tensors: dict[str, NDArray[np.float32]], name: str) -> Vector:
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + 1e-12)
    scale, shift = tensors[f"{name}.weight"].tolist(), tensors[f"{name}.bias"].tolist()
    return [(x - mean) / deviation * g + b for x, g, b in zip(row, scale, shift, strict=True)]


def _dense(row: Vector, tensors: dict[str, NDArray[np.float32]], name: str) -> Vector:
    matrix, bias = tensors[f"{name}.weight"].tolist(), tensors[f"{name}.bias"].tolist()
    return [_dot(row, line) + b for line, b in zip(matrix, bias, strict=True)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(left, right, strict=True))
