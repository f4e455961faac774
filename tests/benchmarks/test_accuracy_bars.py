"""The bar against a pipeline like Q-DiT's: by the nearest of ours, with what its noise allows."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import accuracy_bars


def row(name: str, by: str, bits: int, rate: float, loss: float, distance: float) -> dict[str, Any]:
    weights = {"by": by, "method": "gptq" if by == "reference" else "", "bits": bits}
    return {
        "name": f"dit-speech: {name}", "bits_per_weight": rate,
        "labels": {"weights": weights, "activations": None, "bits": bits},
        "frechet_added": loss, "frechet_added_se": 10.0, "perceptual": distance, "perceptual_se": 0.001,
    }  # fmt: skip


def verdict(*ours: dict[str, Any], bits: int = 2) -> bool | None:
    theirs = row("W2 gptq G64", "reference", bits, 2.5, 5.0, 0.05)
    [line] = accuracy_bars.like_q_dit(accuracy_bars.Rows("dit-speech", [theirs, *ours]))
    return line.met


@pytest.mark.parametrize(
    ("loss", "distance", "bits", "met"),
    [
        (20.0, 0.04, 2, True),  # within the noise of the loss, and nearer
        (50.0, 0.04, 2, False),  # loses more than noise explains
        (0.0, 0.06, 2, False),  # lucky, and farther
        (5.0, 0.0495, 2, False),  # at 2 bits it has to be clear
        (5.0, 0.0495, 4, True),
    ],
)
def test_nearer_and_no_worse(loss: float, distance: float, bits: int, met: bool) -> None:
    assert verdict(row("W ours x", "ours", bits, 2.4, loss, distance), bits=bits) is met


def test_the_nearest_of_ours_stands_for_us_and_all_steps_are_told() -> None:
    records = [
        row("W2 gptq G64", "reference", 2, 2.5, 5.0, 0.05),
        row("W2 ours lsq", "ours", 2, 2.5, -30.0, 0.06),
        row("W2 ours superblock", "ours", 2, 2.4, 10.0, 0.04),
        row("W2 ours of more bits", "ours", 2, 2.6, 0.0, 0.01),
    ]
    [line] = accuracy_bars.like_q_dit(accuracy_bars.Rows("dit-speech", records))
    assert line.met is True
    assert line.measured.startswith("W2 ours superblock at 2.40 bits")
    assert "lsq 0.06; superblock 0.04" in line.measured
    assert "more bits" not in line.measured
    assert verdict() is None
