"""Capturing activations in torch: sums are those of the tensors that went through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

import arrowquant
import arrowquant.torch
from arrowquant.calibration.checking import describe
from arrowquant.calibration.merge import merge
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.errors import CalibrationError

pytestmark = pytest.mark.torch


class Attention(torch.nn.Module):
    """q, k and v of one tensor; a time that scales; a convolution before."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, width, 3, padding=1, stride=2)
        self.q = torch.nn.Linear(width, width)
        self.k = torch.nn.Linear(width, width)
        self.v = torch.nn.Linear(width, width)
        self.out = torch.nn.Linear(width, 8, bias=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) * (1 + t[:, None, None] / 100)
        a = functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.out(a)


def model(seed: int = 0) -> Attention:
    torch.manual_seed(seed)
    return Attention().eval()


def batch(seed: int, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 8, 8, generator=generator) + 0.3
    return x, torch.linspace(0, 99, count)


@torch.inference_mode()
def test_sums_are_those_of_what_went_through(tmp_path: Path) -> None:
    net = model()
    seen: dict[str, list[torch.Tensor]] = {"q": [], "out": []}
    for name, tensors in seen.items():
        getattr(net, name).register_forward_pre_hook(
            lambda _m, args, tensors=tensors: tensors.append(args[0].clone())
        )
    with arrowquant.torch.capture(
        net,
        moments="full",
        when=lambda x, t: t,
        edges=(0, 50, 100),
        domain="timestep",
        keep=20,
        name="tiny",
    ) as held:
        for seed in range(3):
            net(*batch(seed))
    index = held.save(tmp_path / "c.arrow")
    assert index.samples == 12
    assert {name: weight.input for name, weight in index.weights.items()} == {
        "stem.weight": "stem#in",
        "q.weight": "q#in",
        "k.weight": "q#in",
        "v.weight": "q#in",
        "out.weight": "out#in",
    }
    with CalibrationFile.open(tmp_path / "c.arrow") as file:
        for name, tensors in seen.items():
            x = torch.cat(tensors).double().numpy()
            stats = file.stats(f"{name}#in")
            assert stats.bins.tolist() == [0, 1]
            early = np.tile([True, True, False, False], 3)
            for row, chosen in enumerate((early, ~early)):
                part = x[chosen].reshape(-1, x.shape[-1])
                assert stats.count[row] == len(part)
                assert stats.sum is not None
                np.testing.assert_allclose(stats.sum_sq[row], (part**2).sum(axis=0), rtol=1e-6)
                np.testing.assert_allclose(stats.sum[row], part.sum(axis=0), rtol=1e-5, atol=1e-4)
            flat = x.reshape(-1, x.shape[-1])
            whole = np.concatenate([panel.data for panel in file.panels(f"{name}#in")])
            np.testing.assert_allclose(whole, flat.T @ flat, rtol=1e-3, atol=1e-2)
    assert describe(tmp_path / "c.arrow", None)["meta"]["dtype"] == "float32"
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    assert describe(tmp_path / "c.arrow", tmp_path / "model.safetensors")["mismatches"] == []
    assert not any(layer._forward_pre_hooks for layer in (net.stem, net.k))


CONVOLUTIONS: list[tuple[Any, tuple[int, ...]]] = [
    (lambda: torch.nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 9)),
    (lambda: torch.nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), padding="valid"), (2, 4, 9, 9)),
    (lambda: torch.nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"), (2, 4, 6, 6)),
    (lambda: torch.nn.Conv2d(8, 6, 3, groups=2), (2, 8, 6, 6)),
    (lambda: torch.nn.Conv1d(5, 7, 4, stride=2, padding=3, padding_mode="circular"), (3, 5, 11)),
    (lambda: torch.nn.Conv1d(5, 7, 3), (5, 11)),
]  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), CONVOLUTIONS)
@torch.no_grad()
def test_patches_are_what_a_convolution_multiplies(make: Any, shape: tuple[int, ...]) -> None:
    """The rows times the weights are the convolution's own answer."""
    from arrowquant.torch.patches import vectors

    torch.manual_seed(1)
    layer = make()
    x = torch.randn(shape)
    wanted = layer(x) if len(shape) == len(layer.kernel_size) + 2 else layer(x[None])
    matrix = layer.weight.reshape(layer.groups, layer.out_channels // layer.groups, -1)
    for number, rows in vectors(layer, x):
        patches = torch.from_numpy(rows).reshape(layer.groups, -1, rows.shape[1])
        answer = (patches @ matrix.transpose(1, 2)).transpose(1, 2).reshape(layer.out_channels, -1)
        answer += layer.bias[:, None]
        torch.testing.assert_close(answer, wanted[number].flatten(1), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_branches_and_at(tmp_path: Path) -> None:
    net = model()
    x, _ = batch(1, 2)
    with arrowquant.torch.capture(net, edges=(0, 0.5, 1), domain="mask_ratio") as held:
        held.at(0.2, ["cond", "uncond"])
        net(torch.cat([x, x]), torch.zeros(4))
        held.at(torch.tensor(0.7), "cond")
        net(x, torch.zeros(2))
    held.save(tmp_path / "c.arrow")
    with CalibrationFile.open(tmp_path / "c.arrow") as file:
        assert file.index.branches == ("cond", "uncond")
        stats = file.stats("q#in")
        assert list(zip(stats.bins.tolist(), stats.branches, strict=True)) == [
            (0, "cond"), (0, "uncond"), (1, "cond"),
        ]  # fmt: skip
        assert stats.count.tolist() == [32, 32, 32]
        # Guidance doubles the batch: the first half is the one branch, the second the other.
        np.testing.assert_allclose(stats.sum_sq[0], stats.sum_sq[1], rtol=1e-6)


@torch.inference_mode()
def test_shards_of_a_capture_merge(tmp_path: Path) -> None:
    net = model()
    options: dict[str, Any] = {"moments": "block", "block": 16, "keep": 8}
    for seeds, name in (((0,), "a"), ((1, 2), "b"), ((0, 1, 2), "all")):
        with arrowquant.torch.capture(net, seed=len(name + str(seeds)), **options) as held:
            for seed in seeds:
                net(*batch(seed))
        held.save(tmp_path / f"{name}.arrow")
    merge([tmp_path / "b.arrow", tmp_path / "a.arrow"], tmp_path / "ab.arrow")
    with (
        CalibrationFile.open(tmp_path / "ab.arrow") as merged,
        CalibrationFile.open(tmp_path / "all.arrow") as whole,
    ):
        assert merged.index.weights == whole.index.weights
        assert merged.index.samples == whole.index.samples == 12
        for entry in whole.index.inputs:
            one, other = merged.stats(entry.id), whole.stats(entry.id)
            np.testing.assert_array_equal(one.hist, other.hist)
            np.testing.assert_allclose(one.sum_sq, other.sum_sq, rtol=1e-10)
    with pytest.raises(CalibrationError, match="one seed"):
        merge([tmp_path / "a.arrow", tmp_path / "a.arrow"], tmp_path / "aa.arrow")


@torch.inference_mode()
def test_half_precision_and_the_file_s_own_digests(tmp_path: Path) -> None:
    """A model run in another dtype than its file's is bound by naming the file."""
    net = model()
    state = {f"model.{k}": v.to(torch.bfloat16) for k, v in net.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    with arrowquant.torch.capture(
        net,
        weights=tmp_path / "model.safetensors",
        rename=lambda name: f"model.{name}",
        skip=["out"],
    ) as held:
        net(*batch(0))
    held.save(tmp_path / "c.arrow")
    assert held.skipped == {"out": "asked to leave it out"}
    found = describe(tmp_path / "c.arrow", tmp_path / "model.safetensors")
    assert (found["weights"], found["bound"], found["mismatches"]) == (4, 4, [])
    half = net.to(torch.bfloat16)
    with arrowquant.torch.capture(half, rename=lambda name: f"model.{name}") as held:
        half(*(v.to(torch.bfloat16) for v in batch(0)))
    held.save(tmp_path / "d.arrow")
    assert describe(tmp_path / "d.arrow", tmp_path / "model.safetensors")["mismatches"] == []
    assert describe(tmp_path / "d.arrow", None)["meta"]["dtype"] == "bfloat16"
    with arrowquant.torch.capture(net, weights=tmp_path / "model.safetensors") as held:
        net(*(v.to(torch.bfloat16) for v in batch(0)))
    with pytest.raises(CalibrationError, match="are not in the safetensors"):
        held.save(tmp_path / "e.arrow")


@torch.inference_mode()
def test_what_cannot_be_captured_is_said(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    net[1].weight.data.fill_(float("inf"))
    with (
        arrowquant.torch.capture(net, edges=(0, 1), domain="sigma"),
        pytest.raises(ValueError, match="need a time"),
    ):
        net(torch.ones(1, 4))
    net.append(torch.nn.Linear(4, 4))
    with (
        arrowquant.torch.capture(net),
        pytest.raises(CalibrationError, match="NaN or Inf") as failure,
    ):
        net(torch.ones(1, 4))
    assert failure.value.where == {"input": "2#in"}

    class Choosing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Linear(4, 4) for _ in range(3))
            self.up = torch.nn.ConvTranspose1d(1, 1, 2)

        def forward(self, x: torch.Tensor, same: bool) -> torch.Tensor:
            return self.a(x) + self.b(x if same else x + 1)

    choosing = Choosing()
    with arrowquant.torch.capture(choosing) as held:
        choosing(torch.ones(1, 4), True)
        with pytest.raises(CalibrationError, match="now different ones"):
            choosing(torch.ones(1, 4), False)
    assert held.skipped == {
        "up": "ConvTranspose1d is not captured",
        "c": "the model never called it",
    }
    with arrowquant.torch.capture(choosing, share=False) as held:
        choosing(torch.ones(1, 4), True)
        choosing(torch.ones(1, 4), False)
    index = held.save(tmp_path / "c.arrow")
    assert [entry.id for entry in index.inputs] == ["a#in", "b#in"]
    with pytest.raises(ValueError, match="a domain"):
        arrowquant.torch.capture(net, edges=(0, 1))
    with arrowquant.torch.capture(choosing, edges=(0, 1), domain="sigma") as held:
        held.at([0.1, 0.2, 0.3])
        with pytest.raises(ValueError, match="batch of 4"):
            choosing(torch.ones(4, 4), True)


class Chain(torch.nn.Module):
    """Two linear maps and nothing between; one that nobody calls."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = torch.nn.Linear(width, width)
        self.last = torch.nn.Linear(width, 6)
        self.unused = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sample": self.last(self.first(x))}


def test_sensitivities_are_what_noise_does_to_the_output(tmp_path: Path) -> None:
    """Of linear maps known in closed form: with noise D of independent elements and B the map after it,
    E|B D x|^2 / E|D x|^2 = |B|^2 / rows."""
    torch.manual_seed(3)
    net = Chain().eval()
    x = torch.randn(32, 16)
    with torch.no_grad():
        for layer in (net.first, net.last):
            layer.bias.zero_()
        hidden = net.first(x).double()
        output = net.last(hidden.float()).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with arrowquant.torch.capture(net) as seen:
        with torch.no_grad():
            net(x)
        found = seen.sensitivities(net, [x[:16], x[16:]], draws=60, size=0.01)
        again = seen.sensitivities(net, [x[:16], x[16:]], draws=60, size=0.01)
    assert again == found
    assert set(found) == {"first.weight", "last.weight"}
    assert found["last.weight"] == pytest.approx(1.0, rel=1e-5)
    b = net.last.weight.detach().double()
    expected = b.square().sum() / 16 * hidden.square().sum() / output.square().sum()
    assert found["first.weight"] == pytest.approx(float(expected), rel=0.1)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert seen.samples == 32  # what was run for it is not captured
    index = seen.save(tmp_path / "c.arrow")
    with CalibrationFile.open(tmp_path / "c.arrow") as file:
        assert file.index.weights == index.weights
        told = file.index.weights["first.weight"].sensitivity
        assert told is not None
        assert (told.value, told.runs) == (found["first.weight"], 120)
        assert file.stats("first#in").total() == 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sensitivities_of_attention_and_convolutions(dtype: torch.dtype) -> None:
    """Biases are no part of a layer's error; hooks are gone afterwards and weights as they were, even if a
    run fails."""
    net = model().to(dtype)
    x, t = batch(5)
    batches = [(x.to(dtype), t.to(dtype))]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with arrowquant.torch.capture(net) as seen:
        with torch.no_grad():
            net(*batches[0])
        found = seen.sensitivities(lambda one: net(*one), batches, draws=8)
        assert found["out.weight"] == pytest.approx(1.0, rel=0.02)
        # What scales attention's logits moves less than what passes through it.
        assert found["q.weight"] < found["v.weight"]
        assert all(0 < value < 1e3 for value in found.values())

        def failing(one: Any) -> Any:
            net(*one)
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            seen.sensitivities(failing, batches)
        with pytest.raises(TypeError, match="not a tensor"):
            seen.sensitivities(lambda one: 3.0, batches)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert not net.out._forward_hooks
    with (
        arrowquant.torch.capture(net) as nothing,
        pytest.raises(ValueError, match="capture first"),
    ):
        nothing.sensitivities(net, batches)
