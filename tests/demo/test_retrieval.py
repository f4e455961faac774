"""The measures of the demonstration, on vectors whose answers are known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from scripts.demonstration import retrieval
from scripts.demonstration.measure import SENTENCES


def unit(*degrees: float) -> retrieval.Vectors:
    """Vectors of length 1 in the plane, by their angles."""
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_the_nearest_is_never_the_vector_itself() -> None:
    assert retrieval.nearest(unit(0, 10, 90, 95)).tolist() == [1, 0, 3, 2]


def test_paraphrases_are_found_by_topic() -> None:
    topics = np.array([0, 0, 1, 1])
    assert retrieval.paraphrase_accuracy(unit(0, 10, 90, 95), topics) == 1.0
    # 40 is nearer to 60 than to 0, and belongs to 0.
    assert retrieval.paraphrase_accuracy(unit(0, 40, 60, 70), topics) == 0.75


def test_equal_embeddings_lose_nothing() -> None:
    vectors = unit(0, 10, 90, 95)
    kept = retrieval.compare(vectors, vectors, np.array([0, 0, 1, 1]))
    assert (kept.same_neighbour, kept.paraphrase) == (1.0, 1.0)
    assert kept.cosine_min == pytest.approx(1.0, abs=1e-6)


def test_what_moved_is_measured() -> None:
    kept = retrieval.compare(unit(0, 10, 90, 95), unit(60, 10, 90, 95), np.array([0, 0, 1, 1]))
    assert kept.cosine_min == pytest.approx(0.5, abs=1e-6)
    assert kept.cosine_mean == pytest.approx(0.875, abs=1e-6)
    # The first vector is now nearest to the third, and the second to the first still.
    assert kept.same_neighbour == 0.75
    assert kept.paraphrase == 0.75


def test_blank_lines_part_topics(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("# a remark\n\none\ntwo\n\n\nthree\n# another\nfour\n")
    sentences = retrieval.read_sentences(file)
    assert sentences.texts == ("one", "two", "three", "four")
    assert sentences.topics.tolist() == [0, 0, 1, 1]


def test_the_shipped_sentences_are_forty_topics_in_three_wordings() -> None:
    sentences = retrieval.read_sentences(SENTENCES)
    assert set(Counter(sentences.topics.tolist()).values()) == {3}
    assert sentences.topics.max() == 39
    assert len(set(sentences.texts)) == 120
