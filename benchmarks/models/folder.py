"""Models as folders: sharded bf16 safetensors with their configurations, as the libraries lay them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.models import diffusion

MODELS = Path(__file__).with_name("weights")
JUDGES = MODELS / "judges"
SHARDS = 2


def write_pipeline(out: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """A pipeline with a transformer and a scheduler, as diffusers has it."""
    index = {
        "_class_name": "DiTPipeline",
        "_diffusers_version": "0.35.0",
        "transformer": ["diffusers", config["_class_name"]],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    write_json(out / "model_index.json", index)
    write_json(out / "scheduler" / "scheduler_config.json", diffusion.scheduler_document())
    write_json(out / "transformer" / "config.json", config)
    write_shards(out / "transformer", state, "diffusion_pytorch_model")


def write_shards(out: Path, state: dict[str, Tensor], stem: str) -> None:
    """The weights in bf16, in shards of about the same size, and their index."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.to(torch.bfloat16).contiguous() for name, value in state.items()}
    total = sum(value.nbytes for value in state.values())
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, value in state.items():
        if filled >= total * len(shards) / SHARDS:
            shards.append({})
        shards[-1][name] = value
        filled += value.nbytes
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
    write_json(out / f"{stem}.safetensors.index.json", index)


def read_shards(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the safetensors files of a folder, as float32."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return {name: value.float() for name, value in found.items()}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented, with a last newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A configuration."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content
