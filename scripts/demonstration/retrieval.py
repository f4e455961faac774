"""How far sentence embeddings moved, and whether they still find the same things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Topics = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sentences:
    """Texts, and for each the number of its topic: equal numbers mean the same in other words."""

    texts: tuple[str, ...]
    topics: Topics


@dataclass(frozen=True, slots=True)
class Kept:
    """What quantized weights kept of the original's embeddings of the same sentences.

    cosine_mean, cosine_min  of each vector with the original's
    same_neighbour           share of sentences whose nearest other sentence is still the same
    paraphrase               share of sentences whose nearest other sentence says the same
    """

    cosine_mean: float
    cosine_min: float
    same_neighbour: float
    paraphrase: float


def read_sentences(file: Path) -> Sentences:
    """A sentence per line; blank lines between topics; lines that begin with # are remarks."""
    texts: list[str] = []
    topics: list[int] = []
    topic, open_topic = -1, False
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            continue
        if not text:
            open_topic = False
            continue
        if not open_topic:
            topic, open_topic = topic + 1, True
        texts.append(text)
        topics.append(topic)
    return Sentences(tuple(texts), np.array(topics, np.int64))


def nearest(vectors: Vectors) -> NDArray[np.int64]:
    """For each unit vector the number of the nearest other one."""
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    found: NDArray[np.int64] = likeness.argmax(axis=1)
    return found


def paraphrase_accuracy(vectors: Vectors, topics: Topics) -> float:
    """Share of sentences whose nearest other sentence has their topic."""
    return float(np.mean(topics[nearest(vectors)] == topics))


def compare(original: Vectors, quantized: Vectors, topics: Topics) -> Kept:
    """Embeddings of the same sentences by two sets of weights, all of length 1."""
    cosines = np.sum(original.astype(np.float64) * quantized, axis=1)
    return Kept(
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        same_neighbour=float(np.mean(nearest(original) == nearest(quantized))),
        paraphrase=paraphrase_accuracy(quantized, topics),
    )
