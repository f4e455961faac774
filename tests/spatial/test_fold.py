"""`arrowquant fold`: safetensors in, safetensors out, the same function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from typer.testing import CliRunner

from arrowquant.calibration.checking import describe
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.cli.app import app
from service.domain.folding import find
from service.domain.safetensors import header_length, parse_header
from tests import weights
from tests.client import calibrations
from tests.spatial.blocks import BLOCKS, DIT, DREAM, PIXART, Block
from tests.spatial.layers import D
from workers import kernel_cache

REPOSITORY = Path(__file__).parents[2]
TRAINED = REPOSITORY / "benchmarks" / "models" / "weights"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROWQUANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(kernel_cache, "choose", lambda _: tmp_path)


def run(*words: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["fold", *map(str, words)])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result


class Model:
    """A block as a model in a folder, and a calibration file of all its layers."""

    def __init__(self, place: Path, block: Block, dtype: str = "BF16") -> None:
        self.block, self.place = block, place / "model"
        made = block.tensors(np.float32)
        kinds = {"BF16": weights.bfloat16, "F32": weights.tensor}
        kinds["F16"] = lambda w: weights.tensor(w.astype(np.float16))
        self.stored = {name: kinds[dtype](w) for name, w in made.items()}
        names = list(self.stored)
        parts = [dict.fromkeys(names[::2]), dict.fromkeys(names[1::2])]
        weights.write_sharded(self.place, [{n: self.stored[n] for n in part} for part in parts])
        config = {"num_attention_heads": D // (block.head_dim or D), "hidden_size": D}
        (self.place / "config.json").write_text(json.dumps(config))
        self.calibration = place / "c.arrow"
        layers = [n for n, s in block.shapes.items() if len(s) > 1 and "table" not in n]
        self.seen = {
            n: outliers(i, int(np.prod(block.shapes[n][1:]))) for i, n in enumerate(layers)
        }
        calibrations.write(
            self.calibration,
            self.seen,
            weights={n: self.stored[n][1].tobytes() for n in layers},
            moment="full",
            keep=50,
            times=np.linspace(0, 999, 200),
        )

    def output(self, stored: dict[str, Any]) -> list[NDArray[Any]]:
        wide = {n: weights.widened(t).astype(np.float64) for n, t in stored.items()}
        return self.block.run(wide)


def outliers(seed: int, n: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, n)) * np.exp(rng.normal(size=n))
    x[:, 0] = 0  # a dead channel
    return x.astype(np.float32)


def load(folder: Path) -> dict[str, Any]:
    """Every tensor of a folder, read by hand."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        data = file.read_bytes()
        length = header_length(data[:32], len(data), file.name)
        for head in parse_header(data[8 : 8 + length], len(data), file.name):
            kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[head.dtype]
            values = np.frombuffer(data[head.start : head.stop], kind).reshape(head.shape)
            found[head.name] = head.dtype, values
    return found


@pytest.mark.parametrize("name", [n for n in BLOCKS if n != "SD3 and FLUX, end"])
def test_a_folded_model_does_the_same(tmp_path: Path, name: str) -> None:
    """In bfloat16, by powers of two: nothing is rounded but the biases of adaLN's scales."""
    model = Model(tmp_path, BLOCKS[name])
    out = tmp_path / "folded"
    told = json.loads(
        run(model.place, out, "--calibration", model.calibration, "--alpha", 0.5, "--json").stdout
    )
    assert [g["group"] for g in told["groups"]] == [
        g.name for g in find(model.block.shapes, head_dim=model.block.head_dim).groups
    ]
    assert all(g["alpha"] == 0.5 for g in told["groups"])
    changed = load(out)
    assert {n: (d, v.shape) for n, (d, v) in changed.items()} == {
        n: (d, v.shape) for n, (d, v) in model.stored.items()
    }
    assert any(not np.array_equal(changed[n][1], model.stored[n][1]) for n in changed)
    before, after = model.output(model.stored), model.output(changed)
    modulated = any(g["kind"] == "modulated" for g in told["groups"])
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, atol=(5e-3 if modulated else 1e-12) * np.abs(a).max())


def test_in_float32_modulations_stay_to_its_precision(tmp_path: Path) -> None:
    model = Model(tmp_path, DIT, "F32")
    out = tmp_path / "folded"
    run(model.place, out, "--calibration", model.calibration, "--alpha", 0.5, "--any-factor")
    for a, b in zip(model.output(model.stored), model.output(load(out)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(a).max())


def test_what_is_chosen_is_estimated_not_to_be_worse(tmp_path: Path) -> None:
    model = Model(tmp_path, DREAM, "F16")
    told = json.loads(
        run(model.place, tmp_path / "out", "--calibration", model.calibration, "--json").stdout
    )
    assert told["groups"]
    for group in told["groups"]:
        assert group["error_after"] <= group["error_before"]
    assert any(group["error_after"] < group["error_before"] for group in told["groups"])
    # Where it was estimated best without, nothing is changed.
    least = run(model.place, tmp_path / "none", "--calibration", model.calibration,
                "--bits", 0, "--activation-bits", 0, "--json")  # fmt: skip
    assert all(group["alpha"] is None for group in json.loads(least.stdout)["groups"])
    for file in (tmp_path / "none").iterdir():
        assert file.read_bytes() == (model.place / file.name).read_bytes()
    before, after = model.output(model.stored), model.output(load(tmp_path / "out"))
    np.testing.assert_allclose(before[0], after[0], atol=1e-3)  # halves near zero are rounded


def test_the_calibration_of_the_folded_model(tmp_path: Path) -> None:
    """What its layers would have seen: their inputs over the factors, bound to the new weights."""
    model = Model(tmp_path, DREAM, "F32")
    out, new = tmp_path / "out", tmp_path / "new.arrow"
    run(
        model.place,
        out,
        "--calibration",
        model.calibration,
        "--alpha",
        0.5,
        "--calibration-out",
        new,
    )
    assert not describe(new, out)["mismatches"]
    assert describe(new, model.place)["mismatches"]
    with CalibrationFile.open(model.calibration) as before, CalibrationFile.open(new) as after:
        assert after.index.weights.keys() == before.index.weights.keys()
        changed = load(out)
        for name, weight in after.index.weights.items():
            x = model.seen[name].astype(np.float64)
            used = x.any(axis=0)
            old, w = (t[name][1].astype(np.float64) for t in (model.stored, changed))
            # Rows may be divided too: one factor for a whole column is left after the first row's.
            s = (w / old)[0] / (w / old)[0, 0]
            seen = after.stats(weight.input)
            ratio = np.sqrt((x**2).sum(0)[used] / seen.sum_sq.sum(0)[used]) / s[used]
            np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
            samples = after.samples(weight.input)
            assert samples is not None
            assert seen.abs_max is not None
            np.testing.assert_allclose(
                seen.abs_max.max(0)[used] * s[used] * ratio[0], np.abs(x).max(0)[used], rtol=1e-5
            )
            # As wide as the vectors that were kept, and full moments, are divided as well.
            kept = before.samples(before.index.weights[name].input)
            assert kept is not None
            np.testing.assert_allclose(
                samples.data[:, used] * s[used] * ratio[0], kept.data[:, used], rtol=2e-3, atol=1e-3
            )
            moments = [panel.data for panel in after.panels(weight.input)]
            scaled = x[:, used] / (s[used] * ratio[0])
            np.testing.assert_allclose(
                np.block(moments)[np.ix_(used, used)], scaled.T @ scaled, rtol=1e-3, atol=1e-2
            )
    run(out, tmp_path / "twice", "--calibration", new)


@pytest.mark.parametrize("aggregate", ["mean", "salience"])
def test_ranges_over_time(tmp_path: Path, aggregate: str) -> None:
    model = Model(tmp_path, DREAM)
    for how in ("max", aggregate):
        run(model.place, tmp_path / how, "--calibration", model.calibration, "--alpha", 0.5,
            "--any-factor", "--aggregate", how)  # fmt: skip
    largest, other = load(tmp_path / "max"), load(tmp_path / aggregate)
    assert any(not np.array_equal(largest[n][1], other[n][1]) for n in largest)


def test_what_is_left_says_why(tmp_path: Path) -> None:
    model = Model(tmp_path, PIXART)
    text = run(model.place, tmp_path / "out", "--calibration", model.calibration).stdout
    assert "PixArt" in text
    assert "left as they are" in text
    assert (tmp_path / "out" / "config.json").read_bytes() == (
        model.place / "config.json"
    ).read_bytes()
    again = run(model.place, tmp_path / "out", "--calibration", model.calibration, code=2)
    assert "output_exists" in again.output
    run(model.place, tmp_path / "out", "--calibration", model.calibration, "--replace")
    own = run(model.place, model.place, "--calibration", model.calibration, "--replace", code=2)
    assert "output_exists" in own.output


def test_other_weights_are_refused(tmp_path: Path) -> None:
    model = Model(tmp_path, DREAM)
    name = "model.layers.27.self_attn.o_proj.weight"
    other = dict(model.stored)
    values = other[name][1].copy()
    values[0, 0] ^= 1
    other[name] = ("BF16", values)
    weights.write(tmp_path / "other.safetensors", other)
    (tmp_path / "config.json").write_text((model.place / "config.json").read_text())
    result = run(tmp_path / "other.safetensors", tmp_path / "out.safetensors",
                 "--calibration", model.calibration, code=2)  # fmt: skip
    assert "calibration_mismatch" in result.output
    assert name in result.output
    assert not (tmp_path / "out.safetensors").exists()


def test_a_model_that_no_map_knows(tmp_path: Path) -> None:
    model = Model(tmp_path, DREAM)
    weights.write(
        tmp_path / "m.safetensors", {"a.weight": weights.tensor(weights.gaussian((8, 8), 1))}
    )
    result = run(
        tmp_path / "m.safetensors", tmp_path / "out", "--calibration", model.calibration, code=1
    )
    assert "unsupported_format" in result.output
    assert "nothing can be folded" in result.output


def test_an_odd_width_is_refused(tmp_path: Path) -> None:
    model = Model(tmp_path, DREAM)
    for option in ("--bits", "--group-size"):
        result = run(
            model.place, tmp_path / "o", "--calibration", model.calibration, option, 5, code=2
        )
        assert option in result.output


@pytest.mark.parametrize(
    ("folder", "groups", "family", "heads"),
    [
        ("dit-digits/transformer", 3 * 4 + 1, "DiT", None),
        ("dit-speech/transformer", 3 * 4 + 1, "DiT", None),
        ("dream-glosses", 4 * 4, "LLaMA/Qwen-like", 64),
    ],
)
def test_trained_models_are_known(folder: str, groups: int, family: str, heads: int | None) -> None:
    from workers.spatial import files

    config = files.configuration(TRAINED / folder)
    shapes = {n: t.shape for n, t in files.tensors(TRAINED / folder).items()}
    assert config.head_dim == heads
    found = find(shapes, head_dim=config.head_dim, model_class=config.model_class)
    assert found.families == (family,)
    assert len(found.groups) == groups
