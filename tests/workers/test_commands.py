"""What the local commands say when something asked for is wrong, and how they exit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from arrowquant.cli.app import app
from tests import weights
from tests.client import calibrations
from workers import kernel_cache


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROWQUANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "80")
    # This process has its kernels already.
    monkeypatch.setattr(kernel_cache, "choose", lambda _: tmp_path)
    monkeypatch.setattr(kernel_cache, "warm", lambda _: True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tensors = {"a.weight": weights.tensor(weights.gaussian((64, 64), 1))}
    return weights.write(tmp_path / "model" / "m.safetensors", tensors).parent


def run(*words: str | Path | float, code: int) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result


@pytest.mark.parametrize("command", ["plan", "quantize"])
def test_a_source_that_is_not_there(command: str) -> None:
    words = ["nowhere", "out"][: 1 if command == "plan" else 2]
    stderr = run(command, *words, code=2).stderr
    assert "error[source_not_found]: there is no such file or folder (path nowhere)" in stderr
    assert "hint: SRC is a folder" in stderr


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    stderr = run("plan", "weights.bin", code=1).stderr
    assert "error[unsupported_format]" in stderr
    assert "weights.bin" in stderr


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    stderr = run("plan", "empty", code=2).stderr
    assert "nothing at all" in stderr
    assert "(prefix" not in stderr


@pytest.mark.parametrize("address", ["s3://", "s3:///x", "s3://B!d/x", "s3://bucket/a/../b"])
def test_bad_addresses_are_explained_by_us(address: str) -> None:
    stderr = run("plan", address, code=2).stderr
    assert "error[location_not_allowed]" in stderr
    assert "pydantic" not in stderr


def test_an_output_that_is_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"x")
    for output in ("taken", model / "m.safetensors"):
        stderr = run("quantize", model, output, code=2).stderr
        assert "error[location_not_allowed]: DST is a file" in stderr


@pytest.mark.parametrize("output", ["/proc/nothing/out", "/dev/null/out", "m.safetensors"])
def test_an_output_that_cannot_be(model: Path, output: str) -> None:
    """Said at once, not after an hour of trying."""
    assert "error[location_not_allowed]" in run("quantize", model, output, code=2).stderr


def test_a_link_to_itself_is_no_shard(model: Path) -> None:
    (model / "loop.safetensors").symlink_to("loop.safetensors")
    run("plan", model, code=0)


def test_an_artifact_that_is_there(model: Path) -> None:
    run("quantize", model, "out", "--bits", "8", code=0)
    stderr = run("quantize", model, "out", "--bits", "4", code=2).stderr
    assert "error[output_exists]" in stderr
    assert stderr.count("output_exists") == 1  # and no line of the log beside it


def test_too_little_memory_is_said_in_the_words_of_the_option(model: Path) -> None:
    stderr = run("quantize", model, "out", "--max-memory", "10MiB", code=2).stderr
    assert "--max-memory 10MiB: at least 256MiB" in stderr


def test_waiting_is_explained(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away for a moment: the warning says what is tried again and when."""
    from service.adapters.objects import FolderStore
    from service.domain.errors import ArrowQuantError

    create, failures = FolderStore.create, iter([True])

    def away_once(store: FolderStore, key: str) -> object:
        if next(failures, False):
            raise ArrowQuantError("storage_unavailable", "the store is away")
        return create(store, key)

    monkeypatch.setattr(FolderStore, "create", away_once)
    stderr = run("quantize", model, "out", "--bits", "8", code=0).stderr
    assert "warning: the store is away; tried again in 1 s" in stderr


def test_weights_the_index_does_not_name(tmp_path: Path) -> None:
    shards = [{"a.weight": weights.tensor(weights.gaussian((64, 64), n))} for n in (1, 2)]
    folder = weights.write_sharded(tmp_path / "sharded", shards[:1])
    weights.write(folder / "other.safetensors", shards[1])
    announced = json.loads(run("plan", folder, "--json", code=0).stdout)
    [warning] = announced["warnings"]
    assert warning["code"] == "objects_ignored"
    assert "other.safetensors" in warning["message"]
    run("quantize", folder, "out", "--bits", "8", code=0)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["warnings"] == [warning]


def test_a_budget_in_bits_per_weight_or_bytes(model: Path) -> None:
    """In the words of the option; what cannot be met says the least there is."""
    told = json.loads(run("plan", model, "--budget", "60KB", "--json", code=0).stdout)
    assert told["budget"]["bytes"] == 60_000
    told = json.loads(run("plan", model, "--budget", "1.5 MiB", "--json", code=0).stdout)
    assert told["budget"]["bytes"] == 3 * 2**19
    told = json.loads(run("plan", model, "--budget", "60", "--json", code=0).stdout)
    assert told["budget"]["bytes"] == 60 * 64 * 64 // 8
    assert "an estimate" in run("plan", model, "--budget", "60", code=0).stdout
    assert "is no size" in run("plan", model, "--budget", "small", code=2).stderr
    stderr = run("quantize", model, "out", "--budget", "2.0", code=2).stderr
    assert "error[budget_infeasible]" in stderr
    assert "bits per weight" in stderr
    run("quantize", model, "out", "--budget", "60", code=0)


def test_gates_ladder_search_and_activations(model: Path) -> None:
    """What a recipe file says, and options before it."""
    Path("recipe.json").write_text(
        json.dumps({"fallback": {"min_cosine": 0.1, "max_rho": 0.5}, "activations": {"groups": 3}})
    )
    gate = ("--min-cosine", 0.9, "--min-mean-cosine", 0.8, "--max-group-rho", 0.25)
    others = ("--ladder", "2,3,8", "--search", "--activations", "static", "--budget", "60")
    x = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    w = weights.gaussian((64, 64), 1).tobytes()
    calibrations.write(Path("c.arrow"), {"a.weight": x}, weights={"a.weight": w})
    words = ("plan", model, "--calibration", "c.arrow", "--json")
    told = run(*words, "--recipe", "recipe.json", *gate, *others, code=0).stdout
    recipe = json.loads(told)["recipe"]
    bounds = {name: recipe["gate"][name] for name in ("min_cosine", "min_mean_cosine")}
    assert bounds == {"min_cosine": 0.9, "min_mean_cosine": 0.8}
    assert (recipe["gate"]["max_rho"], recipe["gate"]["max_group_rho"]) == (0.5, 0.25)
    assert recipe["ladder"] == [2, 3, 8]
    assert recipe["budget"]["search"]["evaluations"] == 5000
    assert recipe["activations"]["mode"] == "static"
    told = run(*words, "--activations", "6", "--max-rho", 0.1, code=0).stdout
    recipe = json.loads(told)["recipe"]
    assert (recipe["gate"]["max_rho"], recipe["activations"]["bits"]) == (0.1, 6)
    assert "--search needs a budget" in run("plan", model, "--search", code=2).stderr
    assert "is no list of widths" in run("plan", model, "--ladder", "two", code=2).stderr
    assert "activations.mode" in run("plan", model, "--activations", "odd", code=2).stderr


def test_the_modality_and_its_evidence(model: Path) -> None:
    (model / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    assert "modality image, denoiser: config.json" in run("plan", model, code=0).stdout
    said = run("plan", model, "--modality", "audio", code=0).stdout
    assert "modality audio, denoiser: the caller says audio" in said


def test_the_version() -> None:
    assert run("--version", code=0).stdout.startswith("arrowquant ")
