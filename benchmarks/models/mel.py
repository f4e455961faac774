"""Log-mel spectrograms of telephone speech, in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RATE, WINDOW, HOP = 8000, 256, 160
BINS, LOWEST = 24, 60.0
FLOOR = 1e-5
Floats = npt.NDArray[np.float32]


def log_mel(wave: Floats) -> Floats:
    """Natural logarithms of mel energies, (BINS, frames); frames of 32 ms, 20 ms apart."""
    count = 1 + (len(wave) - WINDOW) // HOP
    places = np.arange(count)[:, None] * HOP + np.arange(WINDOW)
    frames = wave[places].astype(np.float64) * np.hanning(WINDOW)
    energy = np.abs(np.fft.rfft(frames)) ** 2
    return np.log(energy @ filters().T + FLOOR).T.astype(np.float32)


def filters() -> npt.NDArray[np.float64]:
    """Triangles evenly spaced on the mel scale, (BINS, WINDOW // 2 + 1)."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    bottom = 2595 * np.log10(1 + LOWEST / 700)
    edges = 700 * (10 ** (np.linspace(bottom, top, BINS + 2) / 2595) - 1)
    places = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    low, middle, high = (edges[i : i + BINS, None] for i in range(3))
    return np.clip(
        np.minimum((places - low) / (middle - low), (high - places) / (high - middle)), 0, None
    )
