"""What quantization costs where it is felt: samples and likelihoods of three small, real diffusion models.

    python -m benchmarks.end_metrics [--quick] [--model NAME] [--rows REGEX] [--samples N] [--keep | --collect]

Each model is measured by `benchmarks.models.evaluate` in the environment that has torch, row by row;
the lines it has written are kept, so that with --keep a run goes on where the last one ended, or the
committed result, and rows that were added since are measured beside the old ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.context import Context
from benchmarks.models.rows import rows
from benchmarks.results import FOLDER, Result

ROOT = Path(__file__).parents[1]
TORCH = ROOT / ".venv-torch"
LINES = ROOT / ".venv-bench" / "models" / "rows"
WEIGHTS = Path(__file__).with_name("models") / "weights"
MODELS = ("dit-digits", "dream-glosses", "dit-speech")
QUICK_ROWS = r"^(W[42] (rtn|ours).* G64|W4 A4 .*per-token)$"
QUICK_SAMPLES = 40


def run(context: Context) -> Result:
    """Every model and row; with `quick` a few of each."""
    result = context.result("end_metrics")
    options = [QUICK_ROWS, str(QUICK_SAMPLES)] if context.quick else [".*", ""]
    for model in MODELS:
        _lines(model).unlink(missing_ok=True)
        _measure(result, model, *options)
    collect(result)
    return result


def collect(result: Result) -> None:
    """Everything measured so far, into a result."""
    for model in MODELS:
        _training(result, model)
        for line in _read(model):
            name = f"{model}: {line['name']}"
            if "error" in line:
                result.fail(name, line["error"])
                continue
            labels = {
                key: line.pop(key)
                for key in ("model", "family", "bits", "weights", "activations", "seed")
            }
            result.records.append({**line, "name": name, "labels": labels})


def restore(model: str, file: Path) -> None:
    """Take the rows of a result for measured where this machine has no lines of its own."""
    if _lines(model).exists() or not file.exists():
        return
    LINES.mkdir(parents=True, exist_ok=True)
    with _lines(model).open("w") as stream:
        for record in json.loads(file.read_text())["records"]:
            labels = record.pop("labels")
            if labels["model"] == model and "family" in labels:
                name = record["name"].partition(": ")[2]
                stream.write(json.dumps({**labels, **record, "name": name}) + "\n")


def _training(result: Result, model: str) -> None:
    log = WEIGHTS / model / "training.jsonl"
    if not log.exists():
        return
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    labels = {"model": model, "source": "training"}
    result.records.append({"name": f"{model}: training", "labels": labels} | lines[0] | lines[-1])


def _measure(result: Result, model: str, pattern: str, samples: str) -> None:
    LINES.mkdir(parents=True, exist_ok=True)
    try:
        command = [_python(), "-m", "benchmarks.models.evaluate", model]
        command += ["--out", str(_lines(model)), "--rows", pattern]
        command += ["--samples", samples] if samples else []
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        result.fail(model, str(error))
        return
    if done.returncode and not any("error" in line for line in _read(model)):
        result.fail(model, f"ended with status {done.returncode}")


def _python() -> str:
    """The interpreter that has torch; its environment is made on first use."""
    stamp = TORCH / ".stamp"
    if not stamp.exists():
        subprocess.run(["make", str(stamp.relative_to(ROOT))], cwd=ROOT, check=True)
    return str(TORCH / "bin" / "python")


def _lines(model: str) -> Path:
    return LINES / f"{model}.jsonl"


def _read(model: str) -> list[dict[str, Any]]:
    """The last line of each row, in the order of `rows`; those of rows that are no more are left out."""
    if not _lines(model).exists():
        return []
    found: dict[str, dict[str, Any]] = {}
    for text in _lines(model).read_text().splitlines():
        line = json.loads(text)
        found[line["name"]] = line
    order = {row.name: number for number, row in enumerate(rows())}
    kept = [line for line in found.values() if line["name"] in order or "error" in line]
    return sorted(kept, key=lambda line: order.get(line["name"], len(order)))


def main(arguments: list[str] | None = None) -> int:
    """Measure some, and write the result; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, few samples")
    parser.add_argument("--model", action="append", choices=MODELS, help="repeatable")
    parser.add_argument("--rows", default=".*", help="only rows whose names match")
    parser.add_argument("--samples", default="", help="of each model")
    parser.add_argument("--keep", action="store_true", help="keep what was measured before")
    parser.add_argument(
        "--collect", action="store_true", help="measure nothing: write what is kept"
    )
    parser.add_argument("--output-dir", type=Path, default=FOLDER)
    given = parser.parse_args(arguments)
    pattern = QUICK_ROWS if given.quick and given.rows == ".*" else given.rows
    samples = given.samples or (str(QUICK_SAMPLES) if given.quick else "")
    result = Result("end_metrics", {"quick": given.quick, "rows": pattern, "samples": samples})
    for model in [] if given.collect else given.model or MODELS:
        if given.keep:
            restore(model, given.output_dir / "end_metrics.json")
        else:
            _lines(model).unlink(missing_ok=True)
        _measure(result, model, pattern, samples)
    collect(result)
    print(result.write(given.output_dir))
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
