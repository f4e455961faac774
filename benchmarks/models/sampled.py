"""What a quantized image or audio model is measured by, beside its full-precision twin.

Same-seed: both models sample from the same noise with the same labels.

psnr_db       of each sample against the twin's, mean over samples
perceptual    distance in the classifier's feature maps (the form of LPIPS), mean over samples
log_mel_db    mean absolute difference of the spectrograms in dB (audio)
frechet       distance of the samples' 64 features to real, held-out ones
frechet_added its difference to the twin's, paired by noise
accuracy      share of samples that the classifier takes for the class they were asked to be
output_error  ||v' - v||^2 / ||v||^2 on held-out noised data: paired, the finest of them
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.models import diffusion, folder, frechet
from benchmarks.models.datasets import Pictures
from benchmarks.models.dit import Config, DiT
from benchmarks.models.features import Classifier

BATCH = 125
STEPS = 20
HELD_OUT = 400
DB_PER_NEPER = 10 / math.log(10)


def no_steps(_: int) -> None:
    """Nobody listens."""


@dataclass
class Samples:
    """What a model drew, and what the classifier says of it."""

    x: Tensor
    features: Tensor
    said: Tensor
    velocity: Tensor


class SampledTask:
    """A DiT, its data and its judge."""

    domain, edges = "timestep", tuple(range(0, diffusion.STEPS + 1, 50))

    def __init__(self, path: Path, pictures: Pictures, *, samples: int, seed: int = 0) -> None:
        self.path = path
        self.pictures = pictures
        document = folder.read_json(path / "transformer" / "config.json")
        names = Config.__dataclass_fields__
        self.config = Config(**{k: v for k, v in document.items() if k in names})
        self.state = folder.read_shards(path / "transformer")
        self.judge = Classifier(self.config.sample_size, self.config.num_embeds_ada_norm)
        self.judge.load_state_dict(load_file(folder.JUDGES / f"{path.name}.safetensors"))
        generator = torch.Generator().manual_seed(seed)
        side = self.config.sample_size
        self.noise = torch.randn(samples, 1, side, side, generator=generator)
        self.labels = torch.from_numpy(pictures.asked[:samples])
        self.held_out = self._noised(pictures.test[:HELD_OUT], pictures.test_labels[:HELD_OUT], 1)
        with torch.no_grad():
            self.real = self.judge(torch.from_numpy(pictures.test))[0]
        self.reference: Samples | None = None

    def time(self, t: int) -> float:
        """In the domain of calibration files."""
        return float(t)

    def model(self, state: dict[str, Tensor]) -> DiT:
        """The model with these weights, ready to run."""
        model = DiT(self.config)
        model.load_state_dict(state)
        return model.eval()

    @torch.no_grad()
    def calibrate(self, model: DiT, count: int, on_step: Callable[[int], None] = no_steps) -> None:
        """Run the model over what it will see: training pictures, noised, a time after another."""
        times = diffusion.times(STEPS)
        each = -(-count // len(times))
        generator = torch.Generator().manual_seed(2)
        for t in times:
            chosen = torch.randint(len(self.pictures.train), (each,), generator=generator)
            x = torch.from_numpy(self.pictures.train)[chosen]
            labels = torch.from_numpy(self.pictures.train_labels)[chosen]
            noise = torch.randn(x.shape, generator=generator)
            on_step(t)
            when = torch.full((each,), t)
            model(diffusion.noised(x, noise, when)[0], when, labels)

    def sensitivities(self, model: DiT, seen: Any) -> None:
        """Measure them on training pictures, some at every time: of the prediction, all times at once."""
        times = torch.tensor(diffusion.times(STEPS))
        generator = torch.Generator().manual_seed(4)
        batches = []
        for _ in range(4):
            chosen = torch.randint(len(self.pictures.train), (len(times),), generator=generator)
            x = torch.from_numpy(self.pictures.train)[chosen]
            noise = torch.randn(x.shape, generator=generator)
            labels = torch.from_numpy(self.pictures.train_labels)[chosen]
            batches.append((diffusion.noised(x, noise, times)[0], times, labels))
        seen.sensitivities(lambda batch: model(*batch), batches)

    def measure(self, model: DiT, on_step: Callable[[int], None] = no_steps) -> dict[str, Any]:
        """Everything above. The first model measured is the reference of those after it."""
        drawn = self._draw(model, on_step)
        if self.reference is None:
            self.reference = drawn
        right = (drawn.said == self.labels).float()
        n = len(right)
        measured: dict[str, Any] = {
            "samples": n,
            "accuracy": right.mean().item(),
            "accuracy_se": (right.std() / math.sqrt(n)).item(),
            "frechet": frechet.distance(drawn.features.numpy(), self.real.numpy()),
            "frechet_se": frechet.standard_error(drawn.features.numpy(), self.real.numpy(), None),
        }
        if drawn is not self.reference:
            measured |= self._against(drawn, self.reference)
        return measured

    def _against(self, drawn: Samples, twin: Samples) -> dict[str, Any]:
        gap = drawn.x - twin.x
        spread = self.pictures.spread
        squares = gap.square().mean((1, 2, 3)).clamp_min(1e-12)
        psnr = 10 * torch.log10(4 / squares)
        found = mean_and_error("psnr_db", psnr)
        found |= mean_and_error("perceptual", self.judge.perceptual(drawn.x, twin.x))
        if spread is not None:
            found |= mean_and_error("log_mel_db", gap.abs().mean((1, 2, 3)) * spread * DB_PER_NEPER)
        agree = (drawn.said == twin.said).float()
        found |= mean_and_error("same_class", agree)
        features, twins, real = (x.numpy() for x in (drawn.features, twin.features, self.real))
        before = frechet.distance(twins, real)
        found["frechet_added"] = frechet.distance(features, real) - before
        found["frechet_added_se"] = frechet.standard_error(features, real, twins)
        error = (drawn.velocity - twin.velocity).square().sum((1, 2, 3))
        energy = twin.velocity.square().sum((1, 2, 3))
        # A ratio of sums; its error by the linearized form.
        ratio = (error.sum() / energy.sum()).item()
        rest = (error - ratio * energy) / energy.mean()
        spread_of_ratio = (rest.std() / math.sqrt(len(rest))).item()
        return found | {"output_error": ratio, "output_error_se": spread_of_ratio}

    @torch.no_grad()
    def _draw(self, model: DiT, on_step: Callable[[int], None]) -> Samples:
        parts = [
            diffusion.sample(model, noise, labels, STEPS, on_step)
            for noise, labels in zip(self.noise.split(BATCH), self.labels.split(BATCH), strict=True)
        ]
        x = torch.cat(parts)
        features, logits = self.judge(x)
        return Samples(x, features, logits.argmax(1), self._velocity(model, on_step))

    def _velocity(self, model: DiT, on_step: Callable[[int], None]) -> Tensor:
        seen, t, labels = self.held_out
        found = torch.empty_like(seen)
        # A time after another, as sampling does: what quantizes by time hears which it is.
        for when in t.unique():
            chosen = t == when
            on_step(int(when))
            found[chosen] = model(seen[chosen], t[chosen], labels[chosen])
        return found

    def _noised(self, x: Any, labels: Any, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        pictures, known = torch.from_numpy(x), torch.from_numpy(labels)
        times = torch.tensor(diffusion.times(STEPS))
        t = times[torch.arange(len(pictures)) % STEPS]
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(pictures.shape, generator=generator)
        return diffusion.noised(pictures, noise, t)[0], t, known


def mean_and_error(name: str, values: Tensor) -> dict[str, float]:
    """A mean over samples and its standard error."""
    return {
        name: values.mean().item(),
        f"{name}_se": (values.std() / math.sqrt(len(values))).item(),
    }
