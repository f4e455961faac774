"""Train the image model and the classifier that judges it: about ten minutes of one core.

python -m benchmarks.models.train_image [--steps N]
"""

from __future__ import annotations

import argparse

from benchmarks.models import datasets
from benchmarks.models.dit import Config
from benchmarks.models.train_dit import Recipe, train
from benchmarks.models.train_features import train_features

NAME = "dit-digits"


def main() -> None:
    """Train both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    steps = parser.parse_args().steps
    pictures = datasets.images()
    train_features(pictures, NAME, classes=10)
    train(NAME, Config(), pictures, Recipe(steps=steps))


if __name__ == "__main__":
    main()
