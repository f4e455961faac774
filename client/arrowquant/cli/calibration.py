"""`arrowquant calibration`: files of what a model's layers saw, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from arrowquant.cli import render, session
from arrowquant.cli.session import AsJson

File = Annotated[Path, typer.Argument(metavar="FILE", help="A calibration file.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")]


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the application."""
    calibration = session.group(
        app, "calibration", "Files of what the layers of a model saw while it ran.", panel
    )
    for name, command in (("info", info), ("merge", merge), ("import", import_)):
        calibration.command(name)(command)


def info(
    file: File,
    weights: Annotated[
        Path | None, typer.Option(metavar="SRC", help="Safetensors to compare the digests with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a calibration file holds, and check all of it."""
    from arrowquant.calibration.checking import describe

    found = describe(file, weights)
    if as_json:
        render.as_json(found)
    else:
        _show(found)
    if found["mismatches"]:
        raise typer.Exit(1)


def merge(
    out: Out,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Shards of one capture.")],
    as_json: AsJson = False,
) -> None:
    """Write the sum of calibration files: sums and counts add, ranges widen."""
    from arrowquant.calibration.merge import merge as run

    run(files, out)
    _written(out, as_json)


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="An imatrix (.gguf, .dat); activations (.safetensors, .parquet, .arrow).",
        ),
    ],
    out: Out,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="SRC", help="The safetensors that were measured: jobs ask for it."),
    ] = None,
    names: Annotated[
        Path | None, typer.Option(metavar="JSON", help="An object: name in FILE to name in SRC.")
    ] = None,
    moments: Annotated[str, typer.Option(help="Of activations: none, block or full.")] = "none",
    block: Annotated[int, typer.Option(min=8, help="Channels of a block.")] = 512,
    keep: Annotated[int, typer.Option(min=0, help="Activation vectors to keep.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a calibration file from what another tool measured."""
    from arrowquant.calibration.importing import Options, import_file, read_names
    from arrowquant.calibration.layout import MOMENTS
    from arrowquant.errors import CalibrationError

    if moments not in MOMENTS:
        raise CalibrationError("usage", f"moments is one of {', '.join(MOMENTS)}")
    options = Options(
        weights=weights,
        names=read_names(names) if names else {},
        moments=moments,
        block=block,
        keep=keep,
    )
    import_file(file, out, options)
    _written(out, as_json)


def _written(out: Path, as_json: bool) -> None:
    from arrowquant.calibration.checking import describe

    found = describe(out, None)
    if as_json:
        render.as_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    bound = f"{found['bound']} of {found['weights']} bound to digests"
    rows = [
        ("file", f"{found['file']}, {render.size(found['bytes'])}"),
        ("model", found["model"] or "-"),
        ("weights", f"{found['weights']} fed by {len(found['inputs'])} inputs, {bound}"),
        ("time", f"{found['bins']} bins of {found['domain']}" if found["bins"] > 1 else "one bin"),
        ("branches", ", ".join(name or "-" for name in found["branches"])),
        ("run", f"{found['samples']} model inputs, {found['vectors']} activation vectors"),
        ("holds", ", ".join(found["holds"])),
        ("sensitivity", f"measured of {found['sensitivities']} weights"),
        ("made by", found["tool"] or "-"),
    ]
    render.stdout().print(render.facts(rows))
    for problem in found["mismatches"]:
        render.line(f"[bold red]not these weights:[/] {render.clean(problem)}")
