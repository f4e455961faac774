"""What the bits buy: SQNR and cosine of every method, against the most that so many bits can carry.

gaussian   independent standard normal weights: Shannon's bound, 6.02 dB a bit, holds for them
llm-like   the weights that speed is measured on; the bound for a Gaussian of the same energy is
           printed beside them, but outliers and channels make it a guide and not a limit
layers     every quantizable tensor of a trained sentence encoder, method by method

`python -m benchmarks.accuracy` measures this and what it costs real models (`end_metrics`), with the
options of `python -m benchmarks`.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.context import COLS, Context
from benchmarks.methods import METHODS, Setting, settings, stored_bytes
from benchmarks.results import Result
from benchmarks.synthetic import gaussian, llm_like

DB_PER_BIT = 20 * math.log10(2)


def run(context: Context) -> Result:
    """Sources, then layers."""
    result = context.result("accuracy")
    rows = 128 if context.quick else 1024
    sources: dict[str, tuple[npt.NDArray[np.generic], str]] = {
        "gaussian": (gaussian(rows, COLS, seed=2), "F32"),
        "llm-like": (llm_like(rows, COLS, seed=1), "BF16"),
    }
    for source, (x, dtype) in sources.items():
        for setting in settings(context.bits):
            _measure(result, source, setting, x, dtype, context.threads)
        print(f"  {source}", flush=True)
    try:
        _layers(context, result)
    except Exception as error:  # noqa: BLE001 - kept and printed
        result.fail("layers of a trained model", f"{error} (`make demo` installs the weights)")
    return result


def shannon_db(bits_per_weight: float) -> float:
    """The best SQNR that any code of this rate can have on independent Gaussian weights."""
    return DB_PER_BIT * bits_per_weight


def _measure(
    result: Result,
    source: str,
    setting: Setting,
    x: npt.NDArray[np.generic],
    dtype: str,
    threads: int,
) -> None:
    began = time.perf_counter()
    encoded = setting.run(x, dtype, threads)
    seconds = time.perf_counter() - began
    rate = 8 * stored_bytes(encoded) / x.size
    result.add(
        f"{source}: {setting.name}",
        {"source": source, **setting.labels},
        weights=x.size,
        bits_per_weight=rate,
        sqnr_db=encoded.errors.sqnr_db,
        cosine=encoded.errors.cosine,
        shannon_db=shannon_db(rate),
        seconds={"ours": [seconds]},
    )


def _layers(context: Context, result: Result) -> None:
    from scripts.demonstration.measure import PACKAGE, find_model

    tensors = matrices(find_model() / "model.safetensors")
    for method in METHODS:
        for bits in method.bits:
            if not context.wants(bits):
                continue
            setting = method.usual(bits, 64 if 64 in method.groups else None)
            layers = []
            for name, (x, dtype) in tensors.items():
                encoded = setting.run(x, dtype, context.threads)
                layers.append(
                    {
                        "tensor": name,
                        "weights": x.size,
                        "bits_per_weight": 8 * stored_bytes(encoded) / x.size,
                        "sqnr_db": encoded.errors.sqnr_db,
                        "cosine": encoded.errors.cosine,
                    }
                )
            labels = {"source": "layers", "package": PACKAGE, **setting.labels}
            result.add(f"layers: {setting.name}", labels, layers=layers)
    print(f"  {len(tensors)} layers", flush=True)


def matrices(file: Path) -> dict[str, tuple[npt.NDArray[np.generic], str]]:
    """The matrices of a safetensors file, as the kernels take them."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(size))
    found: dict[str, tuple[npt.NDArray[np.generic], str]] = {}
    for name, entry in header.items():
        if name == "__metadata__" or len(entry["shape"]) != 2:
            continue
        if entry["dtype"] not in ("F32", "F16", "BF16") or entry["shape"][1] % 64:
            continue
        start, stop = entry["data_offsets"]
        width = np.float32 if entry["dtype"] == "F32" else np.uint16
        data = np.fromfile(file, np.uint8, stop - start, offset=8 + size + start)
        found[name] = (data.view(width).reshape(entry["shape"]), entry["dtype"])
    if not found:
        raise ValueError(f"no matrices in {file.name}")
    return found


def main(arguments: list[str]) -> int:
    """Both benchmarks of accuracy, in a process that has chosen the kernels' cache."""
    options = [argument for argument in arguments if argument != "--all"]
    command = [sys.executable, "-m", "benchmarks", "accuracy", "end_metrics", *options]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
