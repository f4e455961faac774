"""The result as tables that fit a terminal of 80 columns."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts.demonstration.measure import Row


def result(
    console: Console, rows: Sequence[Row], source_bytes: int, paraphrase: float, *, compiled: bool
) -> None:
    """Both tables, and how the columns are to be read.

    paraphrase  how often the original finds one
    compiled    whether the first job compiled the kernels
    """
    console.print()
    console.print(_sizes(rows, source_bytes))
    console.print(
        "[dim]Tensors as planned, wider (the planned width missed the quality gate), raw.\n"
        "Bits per weight count every byte: scales, raw tensors, report, manifest."
    )
    if compiled:
        console.print("[dim]The first job also compiled the kernels; the next run finds them.")
    for row in rows:
        console.print(f"[dim]{_stored(row)}")
    console.print()
    console.print(_uses(rows, paraphrase))
    console.print(
        "[dim]cosine: of each embedding with the original's. same neighbour: the nearest\n"
        "other sentence is the one that the original finds. paraphrase found: it says the\n"
        "same in other words."
    )


def where_next(console: Console, folders: Sequence[Path], source: Path, result_file: Path) -> None:
    """Where everything is, and what to try on it."""
    last = escape(_short(folders[-1]))
    program = escape(_program())
    console.print("\nArtifacts:")
    for folder in folders:
        console.print(f"  {escape(_short(folder))}", highlight=False, soft_wrap=True)
    console.print(f"Numbers:\n  {escape(_short(result_file))}", highlight=False, soft_wrap=True)
    console.print("Next:")
    for command in (
        f"{program} inspect {last}",
        f"{program} verify {last} --against {escape(_short(source))}",
        f"{program} dequantize {last} {escape(_short(folders[-1].parent))}/decoded",
    ):
        console.print(f"  [bold]{command}[/]", highlight=False, soft_wrap=True)


def stay(console: Console, url: str, key: str) -> None:
    """How to use the service while it is left up."""
    console.print("\nThe service stays up until Ctrl-C. In another terminal:")
    command = f"export ARROWQUANT_URL={url} ARROWQUANT_API_KEY={key}"
    console.print(f"  [bold]{command}[/]", highlight=False, soft_wrap=True)
    console.print(f"  [bold]{escape(_program())} list[/]", highlight=False)


def _sizes(rows: Sequence[Row], source_bytes: int) -> Table:
    table = _table("Size and weights")
    for name in ("bits", "artifact", "smaller", "bits /\nweight", "as\nplanned", "wider", "raw"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("SQNR,\ndB", "cosine\nmean", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("F32", _size(source_bytes), "1.0 x", "32.00", *[""] * 6)
    for row in rows:
        table.add_row(
            str(row.bits),
            _size(row.artifact_bytes),
            f"{row.times_smaller:.1f} x",
            f"{row.bits_per_weight:.2f}",
            str(row.planned),
            str(row.wider),
            str(row.kept),
            f"{row.sqnr_db:.1f}",
            f"{row.cosine:.5f}",
            f"{row.seconds:.1f} s",
        )
    return table


def _uses(rows: Sequence[Row], paraphrase: float) -> Table:
    table = _table("Sentence embeddings")
    for name in ("bits", "cosine\nmean", "cosine\nmin", "same\nneighbour", "paraphrase\nfound"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("F32", "", "", "", _percent(paraphrase))
    for row in rows:
        kept = row.embeddings
        table.add_row(
            str(row.bits),
            f"{kept.cosine_mean:.5f}",
            f"{kept.cosine_min:.5f}",
            _percent(kept.same_neighbour),
            _percent(kept.paraphrase),
        )
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    table.box, table.pad_edge = None, False
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _stored(row: Row) -> str:
    """The widths that the tensors of a job are really stored in."""
    widths = [f"{count} in {bits} bits" for bits, count in row.stored.items() if bits]
    text = f"{row.bits} bits, groups of {row.group_size}: {', '.join(widths)}"
    return f"{text}, {row.stored.get(0, 0)} raw"


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"


def _program() -> str:
    """The command line's name, with its folder where that is not searched."""
    beside = Path(sys.executable).with_name("arrowquant")
    found = shutil.which(beside.name)
    return beside.name if found and Path(found) == beside else _short(beside)


def _short(path: Path) -> str:
    """As it would be typed here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
