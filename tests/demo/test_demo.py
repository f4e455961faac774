"""The demonstration as a person runs it, on a model that takes no time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import arrowquant
from scripts.demonstration.measure import SENTENCES
from scripts.demonstration.retrieval import read_sentences
from tests.demo import bert

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert") / "model"
    texts = read_sentences(SENTENCES).texts
    return bert.write_model(folder, texts, width=64, layers=2, heads=4)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """The folder of a run. Nothing that works in it is left when the test is over."""
    folder = tmp_path / "demo"
    yield folder
    assert _at_work_in(folder) == []


def test_a_model_goes_through_the_service_and_comes_back(model: Path, data: Path) -> None:
    done = _run(model, data)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((data / "result.json").read_text())
    assert [row["bits"] for row in result["widths"]] == [8, 4, 2]
    for row in result["widths"]:
        folder = data / "artifacts" / f"minilm-{row['bits']}bit"
        size = sum(file.stat().st_size for file in folder.iterdir())
        assert row["artifact_bytes"] == size
        assert row["times_smaller"] == pytest.approx(result["model"]["source_bytes"] / size)
        assert row["planned"] + row["wider"] + row["kept"] == row["tensors"]
        assert sum(row["stored"].values()) == row["tensors"]
        assert arrowquant.verify(folder, model / "model.safetensors").ok
        assert f"{100 * row['embeddings']['same_neighbour']:.1f} %" in done.stdout
    cosines = [row["embeddings"]["cosine_mean"] for row in result["widths"]]
    assert cosines == sorted(cosines, reverse=True)
    assert result["sentences"] == 120
    assert not (data / "store").exists()
    assert max(map(len, _tables(done.stdout))) <= 80


def test_interrupted_it_stops_everything_and_can_run_again(model: Path, data: Path) -> None:
    with subprocess.Popen(_command(model, data), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("Service:"):
                break
        # At once: on this small model the rest is over in seconds.
        demo.send_signal(signal.SIGINT)
        assert (data / "store").exists()
        assert demo.wait(PATIENCE_S) == 130
    assert _at_work_in(data) == []
    assert not (data / "store").exists()
    assert _run(model, data).returncode == 0


def test_it_fails_loudly(model: Path, tmp_path: Path, data: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    for file in model.iterdir():
        cut = 5000 if file.suffix == ".safetensors" else None
        (broken / file.name).write_bytes(file.read_bytes()[:cut])
    done = _run(broken, data)
    assert done.returncode == 1
    assert "failed: invalid_safetensors_header" in done.stderr
    assert "server.log:" in done.stderr
    assert not (data / "result.json").exists()


def _command(model: Path, data: Path) -> list[str]:
    script = str(ROOT / "scripts" / "demo.py")
    return [sys.executable, script, "--model", str(model), "--data", str(data)]


def _run(model: Path, data: Path) -> subprocess.CompletedProcess[str]:
    command = _command(model, data)
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def _at_work_in(folder: Path) -> list[str]:
    """Processes that name the folder in their command or run in it; those that are ending may."""
    found: list[str] = []
    for _ in range(50):
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
            if any(str(folder) in word for word in words) and "demo.py" not in " ".join(words):
                found.append(" ".join(words))
        if not found:
            break
        time.sleep(0.02)
    return found


def _tables(output: str) -> list[str]:
    start, end = output.index("Size and weights"), output.index("Artifacts:")
    return output[start:end].splitlines()
