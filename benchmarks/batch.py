"""The load-it-all way: `python -m benchmarks.batch SOURCE TARGET METHOD BITS GROUP`

Reads a whole checkpoint into memory, quantizes all of it with our own kernels, then writes. As lean
as that way can be: no copies in float32, the same threads, nothing else held.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.accuracy import matrices
from benchmarks.context import Context
from benchmarks.methods import BY_NAME, arrays


def main() -> None:
    """Load, quantize, write."""
    source, target, method, bits, group = sys.argv[1:]
    setting = BY_NAME[method].usual(int(bits), int(group))
    threads = Context().threads
    tensors = matrices(Path(source))
    done = {name: setting.run(x, dtype, threads) for name, (x, dtype) in tensors.items()}
    with Path(target).open("wb") as file:
        for encoded in done.values():
            for array in arrays(encoded):
                file.write(np.ascontiguousarray(array).data)


if __name__ == "__main__":
    main()
