"""The NumPy encoder against its plain twin."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from scripts.demonstration import encoder
from tests.demo import bert

TEXTS = ("The cat sat.", "A dog, that barked at the cat, ran away.", "the cat")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert") / "model"
    return bert.write_model(folder, TEXTS, width=12, layers=2, heads=3)


def test_it_equals_the_plain_twin(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    tokenizer = encoder.load_tokenizer(model / "tokenizer.json")
    ids = [tokenizer(text) for text in TEXTS]
    found = encoder.embed(ids, weights, encoder.Shape.read(model / "config.json"))
    plain = [bert.embed_plainly(sentence, weights, layers=2, heads=3) for sentence in ids]
    assert found.shape == (3, 12)
    np.testing.assert_allclose(found, plain, atol=2e-6)


def test_neither_padding_nor_company_changes_a_sentence(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    shape = encoder.Shape.read(model / "config.json")
    sentences = [[1, *range(3, 3 + length), 2] for length in range(1, 9)] * 12
    together = encoder.embed(sentences, weights, shape)
    alone = [encoder.embed([sentence], weights, shape)[0] for sentence in sentences]
    assert len(sentences) > 2 * encoder.BATCH
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_the_tokenizer_s_own_padding_is_left_out(model: Path) -> None:
    tokenizer = encoder.load_tokenizer(model / "tokenizer.json")
    assert len(tokenizer(TEXTS[2])) == len(["[CLS]", "the", "cat", "[SEP]"])


def test_the_error_function() -> None:
    x = np.linspace(-6, 6, 4001, dtype=np.float32)
    exact = [math.erf(value) for value in x.tolist()]
    np.testing.assert_allclose(encoder.erf(x), exact, atol=5e-7)


def test_another_architecture_is_refused(tmp_path: Path, model: Path) -> None:
    config = json.loads((model / "config.json").read_text()) | {"hidden_act": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="hidden_act is 'relu'"):
        encoder.Shape.read(tmp_path / "config.json")
