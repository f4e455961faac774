"""Train a classifier that judges samples."""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch.nn import functional

from benchmarks.models import folder, training
from benchmarks.models.datasets import Pictures
from benchmarks.models.features import Classifier

EPOCHS = 8
BATCH = 64


def train_features(pictures: Pictures, name: str, classes: int, epochs: int = EPOCHS) -> None:
    """Train, and write its weights and log beside the other judges."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    log = training.Log(folder.JUDGES / f"{name}.jsonl")
    model = Classifier(pictures.train.shape[-1], classes)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-2)
    x, labels = torch.from_numpy(pictures.train), torch.from_numpy(pictures.train_labels)
    steps = epochs * len(x) // BATCH
    step = 0
    for epoch in range(epochs):
        for chosen in torch.randperm(len(x)).split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * training.rate(min(step, steps - 1), steps, 50)
            loss = functional.cross_entropy(model(x[chosen])[1], labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
        with torch.no_grad():
            said = model(torch.from_numpy(pictures.test))[1].argmax(1)
        accuracy = (said == torch.from_numpy(pictures.test_labels)).float().mean().item()
        log.add(epoch=epoch + 1, loss=loss.item(), test_accuracy=accuracy)
    save_file(model.state_dict(), folder.JUDGES / f"{name}.safetensors")
