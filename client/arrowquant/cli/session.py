"""What every command that talks to a server needs: its address, a key, and how to answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from arrowquant.cli import render
from arrowquant.http.client import DEFAULT_URL, Client

Url = Annotated[
    str,
    typer.Option(envvar="ARROWQUANT_URL", help="Address of the server.", show_default=True),
]
Key = Annotated[str, typer.Option(envvar="ARROWQUANT_API_KEY", help="API key.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

__all__ = ["DEFAULT_URL", "AsJson", "Key", "Url", "Yes", "answer", "connect", "group", "table"]


def connect(url: str, key: str) -> Client:
    """A client for one command."""
    # A person waits: say soon that nobody answers.
    return Client(url, key, retries=2)


def answer(value: Any, as_json: bool, shown: RenderableType) -> None:
    """Print an answer: as it came, or for people."""
    if as_json:
        render.as_json(value)
    else:
        render.stdout().print(shown)


def table(
    rows: Iterable[Sequence[Any]],
    *names: str,
    right: Iterable[str] = (),
    fold: Iterable[str] = (),
    none: str,
) -> RenderableType:
    """Rows under their names, or what to say when there are none."""
    made = render.columns(*names, right=right, fold=fold)
    for row in rows:
        made.add_row(*(cell if hasattr(cell, "plain") else render.clean(cell) for cell in row))
    return made if made.row_count else none


def group(app: typer.Typer, name: str, help_: str, panel: str) -> typer.Typer:
    """A group of commands: `arrowquant NAME ...`."""
    made = typer.Typer(
        name=name,
        help=help_,
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.add_typer(made, rich_help_panel=panel)
    return made
