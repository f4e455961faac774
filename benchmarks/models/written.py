"""What a quantized text model is measured by, beside its full-precision twin. Both see the same masks.

nll         the bound on a token's negative log-likelihood, nats: mean over the mask ratios
nll_added   its difference to the twin's, paired by sequence
kl          mean divergence of the twin's predictions from the model's, nats a masked token
flips       share of masked tokens whose most likely token is another
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.models import folder, masking
from benchmarks.models.datasets import Text
from benchmarks.models.dream import Config, Dream
from benchmarks.models.sampled import mean_and_error, no_steps
from benchmarks.models.train_text import sequences


class WrittenTask:
    """A masked language model and held-out text."""

    domain, edges = "mask_ratio", tuple(i / masking.BINS for i in range(masking.BINS + 1))

    def __init__(self, path: Path, text: Text, *, samples: int, seed: int = 0) -> None:
        self.path = path
        document = folder.read_json(path / "config.json")
        names = Config.__dataclass_fields__
        self.config = Config(**{k: v for k, v in document.items() if k in names})
        self.state = folder.read_shards(path)
        self.test = sequences(torch.from_numpy(text.test))[:samples]
        self.train = sequences(torch.from_numpy(text.train))
        self.seed = seed
        self.reference: tuple[Tensor, list[Tensor]] | None = None

    def time(self, number: int) -> float:
        """In the domain of calibration files: the middle of a bin."""
        return (number + 0.5) / masking.BINS

    def model(self, state: dict[str, Tensor]) -> Dream:
        """The model with these weights, ready to run."""
        model = Dream(self.config)
        model.load_state_dict(state)
        return model.eval()

    @torch.no_grad()
    def calibrate(
        self, model: Dream, count: int, on_step: Callable[[int], None] = no_steps
    ) -> None:
        """Run the model over training text, a mask ratio after another."""
        generator = torch.Generator().manual_seed(2)
        for number, part in enumerate(self.train[: count // 2].chunk(masking.BINS)):
            ratio = (number + torch.rand(len(part), generator=generator)) / masking.BINS
            on_step(number)
            model(masking.masked(part, ratio, self.config.mask_token_id, generator))

    def sensitivities(self, model: Dream, seen: Any) -> None:
        """Measure them on training text at all mask ratios: of the log-probabilities of masked tokens."""
        generator = torch.Generator().manual_seed(4)
        mask, batches = self.config.mask_token_id, []
        for part in self.train[:32].split(8):
            ratio = (torch.arange(len(part)) + 0.5) / len(part)
            batches.append(masking.masked(part, ratio, mask, generator))
        seen.sensitivities(
            lambda tokens: functional.log_softmax(model(tokens)[tokens == mask], 1), batches
        )

    @torch.no_grad()
    def measure(self, model: Dream, on_step: Callable[[int], None] = no_steps) -> dict[str, Any]:
        """Everything above. The first model measured is the reference of those after it."""
        mask = self.config.mask_token_id
        said: list[Tensor] = []

        def logits(tokens: Tensor) -> Tensor:
            on_step(len(said))
            found = model(tokens)
            said.append(functional.log_softmax(found[tokens == mask], 1))
            return found

        bound = masking.bound(logits, self.test, mask, self.seed)
        nll = bound.mean(1)
        measured: dict[str, Any] = {"samples": len(nll), **mean_and_error("nll", nll)}
        measured["nll_by_ratio"] = bound.mean(0).tolist()
        if self.reference is None:
            self.reference = nll, said
            return measured
        twin_nll, twin = self.reference
        measured |= mean_and_error("nll_added", nll - twin_nll)
        measured |= mean_and_error(
            "kl", torch.cat([_kl(a, b) for a, b in zip(twin, said, strict=True)])
        )
        flips = [(a.argmax(1) != b.argmax(1)).float() for a, b in zip(twin, said, strict=True)]
        return measured | mean_and_error("flips", torch.cat(flips))


def _kl(twin: Tensor, said: Tensor) -> Tensor:
    return (twin.exp() * (twin - said)).sum(1)
