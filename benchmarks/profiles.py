"""What the profiles make of the same models: `arrowquant quantize --profile`, as a process.

The models are the small real ones of benchmarks/models, whose weights are kept with this source.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.context import Context, scratch
from benchmarks.end_metrics import WEIGHTS
from benchmarks.pipeline import Process
from benchmarks.results import Result
from benchmarks.timing import interleave

MODELS = {
    "dit-digits": "dit-digits/transformer",
    "dream-glosses": "dream-glosses",
    "dit-speech": "dit-speech/transformer",
}
PROFILES = ("edge", "local", "cloud")


def run(context: Context) -> Result:
    """Every model with every profile; the profiles in turn."""
    result = context.result("profiles")
    with scratch("profiles") as folder:
        for model, source in MODELS.items():
            print(f"  {model}", flush=True)
            _model(context, result, folder, model, WEIGHTS / source)
    return result


def _model(context: Context, result: Result, folder: Path, model: str, source: Path) -> None:
    program = str(Path(sys.executable).with_name("arrowquant"))
    runs: dict[str, Process] = {}
    for profile in PROFILES:
        home = folder / model / profile
        home.mkdir(parents=True)
        command = [program, "quantize", str(source), str(home / "out"), "--replace", "--json"]
        environment = {
            "ARROWQUANT_DATA_DIR": str(home / "data"),
            "NUMBA_CACHE_DIR": str(folder / "numba"),
        }
        runs[profile] = Process(home, [*command, "--profile", profile], environment)
    done = interleave(runs, context.rounds)
    for profile, process in runs.items():
        name = f"{model} {profile}"
        if profile in done.errors:
            result.fail(name, done.errors[profile])
            continue
        said = json.loads((folder / model / profile / "output.log").read_text())
        result.add(
            name,
            {"model": model, "profile": profile},
            weights=said["totals"]["parameters"],
            bits_per_weight=said["totals"]["bits_per_weight"],
            totals=said["totals"],
            counts=said["counts"],
            quality=said["quality"],
            processes={"ours": process.runs[1:]},  # the first round compiles
            seconds={"ours": done.seconds[profile]},
        )
