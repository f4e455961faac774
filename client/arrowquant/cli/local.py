"""The commands that read artifacts on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from arrowquant.cli import render
from arrowquant.errors import ArrowQuantError

Art = Annotated[Path, typer.Argument(metavar="ART", help="Folder of the artifact.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

SHOWN_PROBLEMS = 20


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the application."""
    for command in (inspect, verify, dequantize):
        app.command(rich_help_panel=panel)(command)


def inspect(
    art: Art,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is in an artifact: size, quality, by role, worst tensors."""
    import arrowquant
    from arrowquant.cli import inspection

    with arrowquant.open(art) as model:
        found = inspection.inspect(model)
    if as_json:
        render.as_json(found)
        return
    console = render.stdout()
    for table in inspection.tables(found, every_tensor=tensors):
        console.print(table)


def verify(
    art: Art,
    against: Annotated[
        Path | None,
        typer.Option(metavar="SRC", help="The source: a .safetensors file or a folder of them."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every digest, decode every tensor, compare with the source if given."""
    import arrowquant
    from arrowquant.artifact.verify import verify as run
    from arrowquant.cli import inspection

    with arrowquant.open(art) as model:
        total = sum(part.nbytes for part in model.parts)
        with _bar("checking", total) as advance:
            result = run(model, against, advance)
    if as_json:
        render.as_json(result.as_dict())
    else:
        inspection.verification(render.stdout(), result)
        for problem in result.problems[:SHOWN_PROBLEMS]:
            render.error(ArrowQuantError(problem.code, problem.detail, where=problem.where))
        if len(result.problems) > SHOWN_PROBLEMS:
            render.stderr().print(f"and {len(result.problems) - SHOWN_PROBLEMS} more problems")
    if not result.ok:
        raise typer.Exit(1)


def dequantize(
    art: Art,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder, or a file that ends in .safetensors.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an artifact back as safetensors: original names, shapes and dtypes."""
    import arrowquant
    from arrowquant.artifact.export import dequantize as run

    with arrowquant.open(art) as model:
        total = sum(tensor.nbytes for tensor in model.values())
        with _bar("writing", total) as advance:
            files = run(model, out, overwrite=overwrite, progress=advance)
    written: dict[str, Any] = {
        "files": [os.fspath(file) for file in files],
        "bytes": sum(file.stat().st_size for file in files),
    }
    if as_json:
        render.as_json(written)
        return
    for file in files:
        render.line(f"{render.size(file.stat().st_size):>10}  {render.clean(file)}")


@contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    from arrowquant.cli import follow

    with follow.bar(render.stderr()) as bar:
        task = bar.add_task(description, total=total)
        yield lambda size: bar.advance(task, size)
