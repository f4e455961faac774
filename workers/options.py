"""The options of `arrowquant quantize` and `plan`, with what they say in --help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Src = Annotated[str, typer.Argument(metavar="SRC", help="Folder, .safetensors file or s3://…")]
Dst = Annotated[str, typer.Argument(metavar="DST", help="Folder or s3://… for the artifact")]
Bits = Annotated[int | None, typer.Option(help="2, 3, 4 or 8; the profile's width if not given")]
Profile = Annotated[str | None, typer.Option(help="edge, local or cloud: a set of defaults")]
Method = Annotated[
    str | None,
    typer.Option(
        help="superblock (default up to 4 bits), lsq (at 8), trellis, minmax, hqq or codebook"
    ),
]
Group = Annotated[int | None, typer.Option("--group-size", help="16, 32, 64, 128 or 256")]
Granularity = Annotated[str | None, typer.Option(help="group, row or tensor")]
Symmetric = Annotated[bool, typer.Option("--symmetric", help="Codes around zero, no minimum")]
ScaleBits = Annotated[
    int | None, typer.Option("--scale-bits", help="superblock: 4 or 6 bits for each scale")
]
Codebook = Annotated[str | None, typer.Option(help="codebook: lloyd_max or nf4")]
Rotation = Annotated[
    str | None, typer.Option(help="hadamard: spread outliers over their rows; or none")
]
Unbias = Annotated[
    float | None,
    typer.Option(help="0 to 1: give rows back the length that least squares takes (diffusion: 1)"),
]
Modality = Annotated[
    str | None,
    typer.Option(help="text, code, image or audio; found out from the source if not given"),
]
CalibrationFile = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="PATH",
        help="What the layers of these weights saw; weighs errors by it",
    ),
]
SmoothingText = Annotated[
    str | None,
    typer.Option(
        "--smoothing",
        metavar="ALPHA|best",
        help="Move ranges of inputs into the weights, 0 to 1; needs --calibration",
    ),
]
BudgetText = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="BPW|SIZE",
        help="The most the artifact may have, everything counted: 3.0 (bits per weight) or 35MB",
    ),
]
Rules = Annotated[
    list[str] | None,
    typer.Option("--rule", help="GLOB=keep or GLOB=BITS; first match wins; repeatable"),
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="Recipe as JSON or TOML")]
NoFallback = Annotated[
    bool, typer.Option("--no-fallback", help="Record errors without acting on them")
]
FailBelow = Annotated[
    bool,
    typer.Option("--fail-below", help="Fail if a tensor misses its gate, instead of widening it"),
]
MinSqnr = Annotated[float | None, typer.Option("--min-sqnr", help="Gate per tensor, in dB")]
MinCosine = Annotated[float | None, typer.Option("--min-cosine", help="Gate per tensor, 0 to 1")]
MinMeanCosine = Annotated[
    float | None,
    typer.Option(
        "--min-mean-cosine", help="Gate of the whole artifact: nothing is published below"
    ),
]
MaxRho = Annotated[
    float | None,
    typer.Option("--max-rho", help="Gate per calibrated tensor: relative error of its output"),
]
MaxGroupRho = Annotated[
    float | None,
    typer.Option("--max-group-rho", help="The same in the time group where it is largest"),
]
Ladder = Annotated[
    str | None,
    typer.Option(
        "--ladder", metavar="BITS,…", help="Widths of tensors that miss their gate, say 2,3,4,8"
    ),
]
Search = Annotated[
    bool, typer.Option("--search", help="With --budget: choose sizes of groups too, by evolution")
]
ActivationsText = Annotated[
    str | None,
    typer.Option(
        "--activations",
        metavar="BITS|MODE",
        help="How inputs are quantized: a width, auto, static, dynamic_per_token or none",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables")]
Threads = Annotated[int | None, typer.Option(help="Threads of the kernels; default: all")]
Memory = Annotated[str | None, typer.Option("--max-memory", help="For instance 500MiB or 2GB")]
