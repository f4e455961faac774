"""The sources as the models see them: arrays, split once for all, by fixed seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.models import mel, sources

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
TEST_IMAGES = 2000


@dataclass(frozen=True)
class Pictures:
    """Images (n, 1, side, side) in about -1..1, with a class each, for training and for measuring.

    asked   classes to ask samples of, as often as they are in the held-out data
    spread  of spectrograms: nepers of energy in a unit
    """

    train: Floats
    train_labels: Ints
    test: Floats
    test_labels: Ints
    asked: Ints
    spread: float | None = None


def images() -> Pictures:
    """Digits, padded to 32x32 and averaged two by two to 16x16."""
    raw, labels = sources.digits()
    padded = np.pad(raw.astype(np.float32), ((0, 0), (2, 2), (2, 2)))
    x = padded.reshape(-1, 16, 2, 16, 2).mean((2, 4))[:, None] / 127.5 - 1
    order = np.random.default_rng(0).permutation(len(x))
    x, labels = x[order], labels[order]
    cut = len(x) - TEST_IMAGES
    even = np.arange(TEST_IMAGES) % 10
    return Pictures(x[:cut], labels[:cut], x[cut:], labels[cut:], even)


@dataclass(frozen=True)
class Text:
    """Tokens of the training and the held-out glosses, and the tokenizer's document."""

    train: Ints
    test: Ints
    tokenizer: str


HELD_OUT_GLOSSES = 0.03
VOCABULARY = 512
END, MASK = "<|endoftext|>", "<|mask|>"


def text() -> Text:
    """WordNet's glosses in a seeded order, byte pairs from the training ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    lines = [line for line in sources.glosses() if line.isascii()]
    order = np.random.default_rng(0).permutation(len(lines))
    cut = round(len(lines) * (1 - HELD_OUT_GLOSSES))
    train, test = ([lines[i] for i in part] for part in (order[:cut], order[cut:]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END, MASK], show_progress=False
    )
    tokenizer.train_from_iterator(train, trainer)

    def tokens(glosses: list[str]) -> Ints:
        parts = [[*e.ids, 0] for e in tokenizer.encode_batch(glosses)]
        return np.concatenate([np.array(part, np.int64) for part in parts])

    return Text(tokens(train), tokens(test), tokenizer.to_str(pretty=False))


FRAMES, EVERY = 24, 4
HELD_OUT_PROMPTS = 0.15
SOUNDS = 16


def speech() -> Pictures:
    """Crops of 24 mel bins by 24 frames (half a second), whole prompts held out; classes are acoustic.

    The classes are k-means clusters of the crops' shapes, as the units of speech models are; they are
    fitted on the training prompts. What is nearly silent is left out.
    """
    names = sources.prompts()
    order = np.random.default_rng(0).permutation(len(names))
    spectra = [mel.log_mel(wave) for wave in names.values()]
    cut = round(len(order) * (1 - HELD_OUT_PROMPTS))
    train, test = (_crops([spectra[i] for i in part]) for part in (order[:cut], order[cut:]))
    mean, spread = float(train.mean()), 2 * float(train.std())
    train, test = (((x - mean) / spread).astype(np.float32) for x in (train, test))
    centres = _clusters(_shapes(train))
    given, held_out = (_nearest(_shapes(x), centres) for x in (train, test))
    asked = np.random.default_rng(0).permutation(held_out)
    return Pictures(train, given, test, held_out, asked, spread)


def _crops(spectra: list[Floats]) -> Floats:
    found = []
    for spectrum in spectra:
        for start in range(0, spectrum.shape[1] - FRAMES + 1, EVERY):
            crop = spectrum[:, start : start + FRAMES]
            if crop.mean() > np.log(mel.FLOOR) / 2:
                found.append(crop)
    return np.stack(found)[:, None]


def _shapes(x: Floats) -> npt.NDArray[np.float64]:
    """Means of patches of 4 by 4."""
    n = len(x)
    means = x.astype(np.float64).reshape(n, mel.BINS // 4, 4, FRAMES // 4, 4).mean((2, 4))
    flat: npt.NDArray[np.float64] = means.reshape(n, -1)
    return flat


def _nearest(x: npt.NDArray[np.float64], centres: npt.NDArray[np.float64]) -> Ints:
    distances = (centres**2).sum(1) - 2 * x @ centres.T
    return distances.argmin(1).astype(np.int64)


def _clusters(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Lloyd's k-means from a seeded k-means++ start."""
    random = np.random.default_rng(0)
    centres = x[random.integers(len(x))][None]
    while len(centres) < SOUNDS:
        gaps = ((x[:, None] - centres) ** 2).sum(2).min(1)
        centres = np.concatenate([centres, x[random.choice(len(x), p=gaps / gaps.sum())][None]])
    for _ in range(50):
        labels = _nearest(x, centres)
        centres = np.stack([x[labels == k].mean(0) for k in range(SOUNDS)])
    return centres
