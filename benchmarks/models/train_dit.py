"""Train a DiT on pictures: images, or log-mel spectrograms."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.models import diffusion, folder, sources, training
from benchmarks.models.datasets import Pictures
from benchmarks.models.dit import Config, DiT, initialize

LABEL_DROP = 0.1


@dataclass(frozen=True)
class Recipe:
    """How long and how fast."""

    steps: int = 4000
    batch: int = 64
    learning_rate: float = 2e-3
    warm_up: int = 100
    decay: float = 0.998
    seed: int = 0


def train(name: str, config: Config, pictures: Pictures, recipe: Recipe) -> None:
    """Train, and write the averaged weights as a folder like diffusers'."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    out = folder.MODELS / name
    log = training.Log(out / "training.jsonl")
    model = DiT(config)
    initialize(model)
    log.add(model=name, parameters=sum(p.numel() for p in model.parameters()), **asdict(recipe))
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, (0.9, 0.99), weight_decay=0.0, fused=True
    )
    average = training.Average(model, recipe.decay)
    x = torch.from_numpy(pictures.train)
    labels = torch.from_numpy(pictures.train_labels)
    held_out = torch.from_numpy(pictures.test[:400]), torch.from_numpy(pictures.test_labels[:400])
    losses: list[float] = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * training.rate(step, recipe.steps, recipe.warm_up)
        losses.append(_step(model, optimizer, x, labels, recipe.batch))
        average.update(model, step)
        if step % 250 == 249 or step == recipe.steps - 1:
            validation = evaluate(config, average.state, *held_out)
            log.add(step=step + 1, loss=sum(losses) / len(losses), held_out=validation)
            losses.clear()
            training.checkpoint(sources.FOLDER / f"{name}.pt", average.state)
    folder.write_pipeline(out, average.state, config.document())


def _step(
    model: DiT, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor, batch: int
) -> float:
    chosen = torch.randint(len(x), (batch,))
    t = ((torch.randperm(batch) + torch.rand(batch)) / batch * diffusion.STEPS).long()
    seen, wanted = diffusion.noised(x[chosen], torch.randn(batch, *x.shape[1:]), t)
    none = torch.rand(batch) < LABEL_DROP
    classes = model.config.num_embeds_ada_norm
    given = torch.where(none, torch.full_like(t, classes), labels[chosen])
    with torch.autocast("cpu", torch.bfloat16):
        said = model(seen, t, given)
    loss = functional.mse_loss(said.float(), wanted)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def evaluate(config: Config, state: dict[str, Tensor], x: Tensor, labels: Tensor) -> float:
    """Mean squared error of the velocity on held-out pictures, times evenly spread."""
    model = DiT(config)
    model.load_state_dict(state)
    generator = torch.Generator().manual_seed(1)
    t = torch.linspace(0, diffusion.STEPS - 1, len(x)).long()
    seen, wanted = diffusion.noised(x, torch.randn(x.shape, generator=generator), t)
    return functional.mse_loss(model(seen, t, labels), wanted).item()
