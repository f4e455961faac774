"""Train the audio model and the classifier that judges it: about ten minutes of one core.

    python -m benchmarks.models.train_audio [--steps N]

What is trained on these recordings is a work under their licence, CC-BY-SA-3.0.
"""

from __future__ import annotations

import argparse

from benchmarks.models import datasets, mel
from benchmarks.models.dit import Config
from benchmarks.models.train_dit import Recipe, train
from benchmarks.models.train_features import train_features

NAME = "dit-speech"


def main() -> None:
    """Train both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2900)
    steps = parser.parse_args().steps
    crops = datasets.speech()
    train_features(crops, NAME, classes=datasets.SOUNDS)
    config = Config(sample_size=mel.BINS, num_embeds_ada_norm=datasets.SOUNDS)
    train(NAME, config, crops, Recipe(steps=steps, batch=48))


if __name__ == "__main__":
    main()
