"""The models that quantization is judged on: their maths, their samplers, and the methods of others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.end_metrics import MODELS, WEIGHTS
from benchmarks.models import activations, diffusion, dit, dream, folder, masking, reference
from benchmarks.models.features import Classifier

pytestmark = pytest.mark.torch


def small_dit() -> dit.DiT:
    torch.manual_seed(3)
    config = dit.Config(sample_size=8, num_layers=2, attention_head_dim=16, num_embeds_ada_norm=3)
    model = dit.DiT(config)
    dit.initialize(model)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_committed_weights_are_small_sharded_and_complete(name: str) -> None:
    path = WEIGHTS / name
    inner = path if name.startswith("dream") else path / "transformer"
    shards = sorted(inner.glob("*-of-*.safetensors"))
    assert len(shards) == folder.SHARDS
    assert sum(shard.stat().st_size for shard in shards) <= 8 * 2**20
    index = json.loads(next(inner.glob("*.index.json")).read_text())
    state = folder.read_shards(inner)
    assert set(index["weight_map"]) == set(state)
    document = folder.read_json(inner / "config.json")
    kind, config = (dream.Dream, dream.Config) if inner == path else (dit.DiT, dit.Config)
    given = {k: v for k, v in document.items() if k in config.__dataclass_fields__}
    kind(config(**given)).load_state_dict(state)


def test_the_image_model_draws_what_it_is_asked_for() -> None:
    path = WEIGHTS / "dit-digits"
    document = folder.read_json(path / "transformer" / "config.json")
    names = dit.Config.__dataclass_fields__
    model = dit.DiT(dit.Config(**{k: v for k, v in document.items() if k in names})).eval()
    model.load_state_dict(folder.read_shards(path / "transformer"))
    judge = Classifier(16, 10)
    judge.load_state_dict(folder.load_file(folder.JUDGES / f"{path.name}.safetensors"))
    labels = torch.arange(50) % 10
    noise = torch.randn(50, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    drawn = diffusion.sample(model, noise, labels, 20, lambda _: None)
    with torch.no_grad():
        assert (judge(drawn)[1].argmax(1) == labels).float().mean() > 0.8


def test_sampling_visits_the_last_step_first_and_is_deterministic() -> None:
    assert diffusion.times(4) == [999, 749, 499, 249]
    model, noise, heard = small_dit(), torch.randn(2, 1, 8, 8), []
    one = diffusion.sample(model, noise, torch.tensor([0, 1]), 4, heard.append)
    assert heard == diffusion.times(4)
    assert torch.equal(one, diffusion.sample(model, noise, torch.tensor([0, 1]), 4, lambda _: None))


def test_the_velocity_leads_back_to_the_data() -> None:
    x, noise, t = (
        torch.randn(5, 1, 8, 8),
        torch.randn(5, 1, 8, 8),
        torch.tensor([0, 9, 99, 500, 998]),
    )
    seen, v = diffusion.noised(x, noise, t)
    level = diffusion.alphas()[t].float().view(-1, 1, 1, 1)
    assert torch.allclose(level.sqrt() * seen - (1 - level).sqrt() * v, x, atol=1e-5)


def test_the_text_model_sees_both_ways_and_knows_places() -> None:
    torch.manual_seed(4)
    model = dream.Dream(dream.Config(num_hidden_layers=1)).eval()
    dream.initialize(model)
    tokens = torch.randint(2, 512, (1, 16))
    with torch.no_grad():
        before = model(tokens)
        changed = tokens.clone()
        changed[0, 15] = (tokens[0, 15] + 1) % 512
        assert not torch.allclose(model(changed)[0, 0], before[0, 0])
        assert not torch.allclose(model(tokens.flip(1)).flip(1), before, atol=1e-3)


def test_masks_have_their_ratio_and_the_bound_its_pairs() -> None:
    tokens = torch.randint(2, 512, (6, 128))
    ratio = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
    seen = masking.masked(tokens, ratio, 1, torch.Generator().manual_seed(0))
    assert (seen == 1).sum(1).tolist() == [1, 13, 32, 64, 115, 128]

    def uniform(given: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*given.shape, 512)

    bound = masking.bound(uniform, tokens, 1, seed=3)
    assert torch.allclose(bound, torch.full((6, masking.BINS), float(np.log(512))))


@pytest.mark.parametrize("group", [0, 64])
@pytest.mark.parametrize("bits", [2, 4])
def test_methods_of_others(bits: int, group: int) -> None:
    torch.manual_seed(6)
    w = torch.randn(24, 192)
    plain = reference.rtn(w, bits, group)
    for start in range(0, 192, group or 192):
        part = plain[:, start : start + (group or 192)]
        assert all(len(row.unique()) <= 2**bits for row in part)
    assert (reference.hqq(w, bits, group) - w).abs().mean() < (plain - w).abs().mean()
    # With inputs that are alike and independent, GPTQ has nothing to make up for.
    assert torch.allclose(reference.gptq(w, bits, group, torch.eye(192)), plain, atol=1e-3)
    x = torch.randn(4096, 192) @ torch.randn(192, 192) / 14
    moments = x.T @ x
    better = reference.gptq(w, bits, group, moments)
    assert ((better - w) @ moments * (better - w)).sum() < (
        (plain - w) @ moments * (plain - w)
    ).sum()


def test_a_short_last_group_is_counted() -> None:
    assert reference.bits_per_weight(4, 128, 192) == 4 + 32 * 2 / 192
    assert reference.bits_per_weight(4, 0, 192) == 4 + 32 / 192


def unheard(_: int) -> None:
    """Nothing depends on the time."""


@pytest.mark.parametrize("mode", ["static", "per-token"])
def test_activations_are_quantized_where_tokens_are(mode: str) -> None:
    model, twin = small_dit(), small_dit()
    noise, labels = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    with activations.observing(model) as seen:
        exact = diffusion.sample(model, noise, labels, 5, unheard)
    layers = [n for n, m in model.named_modules() if activations.LAYERS.search(n)]
    assert len(layers) == 2 * 6
    assert set(seen.ranges) == set(layers)
    activations.by_rule(twin, seen.ranges, mode, 8)
    error = (diffusion.sample(twin, noise, labels, 5, unheard) - exact).norm() / exact.norm()
    assert 0 < error < 0.05
    coarse = small_dit()
    activations.by_rule(coarse, seen.ranges, mode, 3)
    rough = diffusion.sample(coarse, noise, labels, 5, unheard)
    assert (rough - exact).norm() / exact.norm() > error
