"""What every benchmark is told: the options of the command line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.results import FOLDER, Result
from benchmarks.synthetic import llm_like

COLS = 11008


@dataclass(frozen=True, slots=True)
class Context:
    """Options, and where results go."""

    output: Path = FOLDER
    quick: bool = False
    bits: tuple[int, ...] = ()
    cores: tuple[int, ...] = ()
    sizes: tuple[str, ...] = ("100M", "600M")
    rounds: int = 5
    s3: bool = True

    @property
    def threads(self) -> int:
        """As many as asked for at most, or as there are."""
        return max(self.cores or (len(os.sched_getaffinity(0)),))

    @property
    def rows(self) -> int:
        """Of the matrix: 90 MB of BF16, beyond the caches of most machines, or half of it."""
        return 2048 if self.quick else 4096

    def matrix(self) -> npt.NDArray[np.uint16]:
        """The llm-like BF16 matrix that speed is measured on."""
        return llm_like(self.rows, COLS, seed=1)

    def result(self, benchmark: str) -> Result:
        """An empty result that knows how it came about."""
        options: dict[str, Any] = {
            "quick": self.quick,
            "rounds": self.rounds,
            "threads": self.threads,
            "rows": self.rows,
            "cols": COLS,
            "bits": list(self.bits),
            "sizes": list(self.sizes),
        }
        return Result(benchmark, options)

    def wants(self, bits: int) -> bool:
        """Whether a width was asked for."""
        return not self.bits or bits in self.bits


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"arrowquant-{name}-") as folder:
        yield Path(folder)
