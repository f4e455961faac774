"""Our own side: the weights as a user gets them, through a whole local job and the artifact reader."""

from __future__ import annotations

import contextlib
import re
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import arrowquant
from arrowquant.artifact.activations import Activations
from arrowquant.artifact.fidelity import ErrorSums
from service import logs
from service.domain.job import JobState
from service.domain.limits import Limits
from service.domain.spec import Recipe
from service.settings import Settings
from workers import kernel_cache, local

FOLDER = Path(__file__).parents[2] / ".venv-bench"
# Every linear layer alike, so that methods are compared at one width: no floors, no gates.
LINEARS = (
    r"re:.*\.(to_[qkv]|to_out\.0|net\.0\.proj|net\.2|norm1\.linear|linear_[12])\.weight",
    r"re:proj_out_[12]\.weight",
    r"re:.*\.[a-z]+_proj\.weight",
    r"re:lm_head\.weight",
)


@dataclass(frozen=True)
class Quantized:
    """A model's decoded weights, and what their storage takes.

    bits_per_weight  of the linear layers' matrices, every byte of codes, scales and the like counted
    bits_in_all      of all parameters
    bits_on_disk     of the whole artifact, framing, report and manifest included, for each parameter; None where
                     there is no artifact
    cosine           mean over the linear layers, by weights
    table            the artifact's activations.arrow, where the recipe asks for one
    divisors         (channels,) by layer: what a runtime divides inputs by, where weights are smoothed
    """

    state: dict[str, Tensor]
    bits_per_weight: float
    bits_in_all: float
    cosine: float
    sqnr_db: float
    bits_on_disk: float | None = None
    table: Activations | None = None
    divisors: dict[str, Tensor] = field(default_factory=dict)


# The job runs in the process that has torch, the model and all calibration data in it.
LIMITS = Limits(threads=1, max_memory_bytes=16 * 2**30)


def everywhere(names: list[str], recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe that treats every linear layer alike and leaves the rest as it is."""
    bits = recipe["bits"]
    matching = [p for p in LINEARS if any(re.fullmatch(p.removeprefix("re:"), n) for n in names)]
    rules = [{"match": pattern, "bits": bits} for pattern in matching]
    keep = {"match": "*", "action": "keep"}
    return recipe | {"rules": [*rules, keep], "fallback": {"enabled": False}}


def quantize(
    source: Path, original: dict[str, Tensor], recipe: dict[str, Any], calibration: Path | None
) -> Quantized:
    """Run a job on a folder of shards; decode what it wrote. Raises what the job raises."""
    if calibration is not None:
        place = {"connection": "calibration", "key": calibration.name}
        recipe = recipe | {"calibration": recipe.get("calibration", {}) | place}
    with tempfile.TemporaryDirectory(prefix="arrowquant-models-") as folder:
        settings = Settings.load(data_dir=Path(folder) / "data")
        kernel_cache.warm(kernel_cache.choose(FOLDER / "numba"))
        logs.configure("error", settings.log_format)
        out = Path(folder) / "artifact"
        wanted = Recipe.model_validate(recipe)
        known = None if calibration is None else str(calibration)
        job = local.open_job(settings, str(source), str(out), wanted, LIMITS, known, replace=True)
        with contextlib.closing(job):
            last = list(job.run())[-1]
            if last.state is not JobState.SUCCEEDED:
                raise local.failure(last)
        return _read(out, original)


def _read(artifact: Path, original: dict[str, Tensor]) -> Quantized:
    with arrowquant.open(artifact) as model:
        stored = {name: model[name].stored_bytes for name in model}
        state = {
            name: torch.from_numpy(np.array(model[name].dequantize(dtype="float32")))
            for name in model
        }
        divisors = {
            name.removesuffix(".weight"): torch.from_numpy(factors)
            for name in model
            if (factors := model[name].col_scale()) is not None
        }
        table = model.activations if "activations" in model.manifest else None
    found = account(original, state, {name: 8.0 * size for name, size in stored.items()})
    size = sum(file.stat().st_size for file in artifact.rglob("*") if file.is_file())
    parameters = sum(value.numel() for value in state.values())
    return replace(found, bits_on_disk=8 * size / parameters, table=table, divisors=divisors)


def account(
    original: dict[str, Tensor], state: dict[str, Tensor], bits: dict[str, float]
) -> Quantized:
    """Rates and weight errors of the linear layers of a decoded model; `bits` each tensor takes."""
    matrices = [name for name in state if is_linear(name)]
    count = sum(state[name].numel() for name in matrices)
    everything = sum(value.numel() for value in state.values())
    parts = {
        name: ErrorSums.of(original[name].numpy().ravel(), state[name].numpy().ravel())
        for name in matrices
    }
    cosine = sum(parts[name].cosine * state[name].numel() for name in matrices) / count
    sqnr = [found for part in parts.values() if (found := part.sqnr_db) is not None]
    return Quantized(
        state=state,
        bits_per_weight=sum(bits[name] for name in matrices) / count,
        bits_in_all=sum(bits.values()) / everything,
        cosine=cosine,
        sqnr_db=sum(sqnr) / len(sqnr) if sqnr else float("inf"),
    )


def is_linear(name: str) -> bool:
    """Whether a tensor is a linear layer's matrix (not an embedding, a convolution or a norm)."""
    return any(re.fullmatch(pattern.removeprefix("re:"), name) for pattern in LINEARS)
