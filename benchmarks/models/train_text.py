"""Train the text model: about ten minutes of one core.

python -m benchmarks.models.train_text [--steps N]
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.models import datasets, folder, masking, sources, training
from benchmarks.models.dream import Config, Dream, initialize

NAME = "dream-glosses"
BATCH, LENGTH = 16, 128
LEARNING_RATE, WARM_UP = 2e-3, 150
LIGHT, FULL = (0.05, 0.4), (0.03, 1.0)


def main() -> None:
    """Train, and write the averaged weights as a folder like transformers'."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    text = datasets.text()
    out = folder.MODELS / NAME
    log = training.Log(out / "training.jsonl")
    config = Config()
    model = Dream(config)
    initialize(model)
    parameters = sum(p.numel() for p in model.parameters())
    log.add(
        model=NAME,
        parameters=parameters,
        steps=steps,
        batch=BATCH,
        length=LENGTH,
        learning_rate=LEARNING_RATE,
        train_tokens=len(text.train),
        test_tokens=len(text.test),
        seed=0,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, (0.9, 0.98), weight_decay=0.05, fused=True
    )
    average = training.Average(model, 0.995)
    train = torch.from_numpy(text.train)
    test = sequences(torch.from_numpy(text.test))[:50]
    losses: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * training.rate(step, steps, WARM_UP)
        losses.append(_step(model, optimizer, train, LIGHT if 2 * step < steps else FULL))
        average.update(model, step)
        if step % 200 == 199 or step == steps - 1:
            bound = evaluate(config, average.state, test)
            log.add(
                step=step + 1,
                loss=sum(losses) / len(losses),
                held_out=bound.mean().item(),
                by_ratio=[round(b, 3) for b in bound.mean(0).tolist()],
            )
            losses.clear()
            training.checkpoint(sources.FOLDER / f"{NAME}.pt", average.state)
    folder.write_shards(out, average.state, "model")
    folder.write_json(out / "config.json", config.document())
    (out / "tokenizer.json").write_text(text.tokenizer + "\n")


def sequences(tokens: Tensor) -> Tensor:
    """Whole sequences (n, LENGTH), in order."""
    return tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)


def _step(
    model: Dream, optimizer: torch.optim.Optimizer, tokens: Tensor, ratios: tuple[float, float]
) -> float:
    starts = torch.randint(len(tokens) - LENGTH, (BATCH,))
    given = tokens[starts[:, None] + torch.arange(LENGTH)]
    spread = (torch.randperm(BATCH) + torch.rand(BATCH)) / BATCH
    ratio = ratios[0] + (ratios[1] - ratios[0]) * spread
    seen = masking.masked(given, ratio, model.config.mask_token_id, None)
    hidden = seen == model.config.mask_token_id
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(seen)
    loss = functional.cross_entropy(logits[hidden].float(), given[hidden])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def evaluate(config: Config, state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The bound of the averaged weights on held-out sequences, (n, BINS)."""
    model = Dream(config)
    model.load_state_dict(state)
    return masking.bound(model, tokens, config.mask_token_id, seed=1)


if __name__ == "__main__":
    main()
