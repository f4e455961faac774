"""The application: its commands, and how every failure ends."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from arrowquant import __version__
from arrowquant.cli import (
    batch,
    calibration,
    connections,
    keys,
    local,
    operation,
    recipes,
    remote,
    render,
    replay,
    webhooks,
)
from arrowquant.errors import ApiError, ArrowQuantError, ArtifactError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

GROUP: Final = "arrowquant.commands"
SERVER_COMMANDS: Final = {
    "quantize": "Quantize a model in this process, without a server.",
    "plan": "Say what a job would do, from the headers alone.",
    "serve": "Run the whole service on this machine.",
    "fold": "Even out the channels of a model's layers, changing nothing that it does.",
}
_THIS_MACHINE: Final = "On this machine"


class Commands(TyperGroup):
    """Commands in the order they are written here; failures become messages and exit codes."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ArrowQuantError as error:
            render.error(error)
            raise typer.Exit(exit_code(error)) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            where = {"path": error.filename} if error.filename else {}
            render.error(ArrowQuantError("io_error", error.strerror or str(error), where=where))
            raise typer.Exit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            render.stderr().print("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None


def exit_code(error: ArrowQuantError) -> int:
    """2 when the caller has to change something, 1 when the work itself failed."""
    if isinstance(error, ApiError):
        return EXIT_USAGE if 400 <= error.status < 500 and error.status != 429 else EXIT_FAILED
    usage = isinstance(error, ArtifactError) or error.code in _USAGE
    return EXIT_USAGE if usage else EXIT_FAILED


_USAGE: Final = frozenset(
    {
        *("usage", "output_exists", "source_not_found", "invalid_safetensors_header"),
        *("invalid_index", "invalid_calibration", "calibration_mismatch", "unsupported_format"),
    }
)

app = typer.Typer(
    cls=Commands,
    name="arrowquant",
    help="Quantize large models with a server or on this machine, and use what comes out.",
    epilog="Exit codes: 0 done, 1 the job or the check failed, 2 something asked for is wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the versions of what is installed."""
    found = {"arrowquant": __version__, "python": platform.python_version()}
    for name in ("arrowquant-server", "pyarrow", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo("\n".join(f"{name} {number}" for name, number in found.items()))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"arrowquant {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version_wanted: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Quantize large models with a server or on this machine, and use what comes out."""


def _register_server_commands() -> None:
    """Add what the server distribution brings, and a pointer to it where it is missing."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()(app)
        except ImportError as error:
            # Half installed: the other commands must still work.
            _missing.append(f"{entry.value}: {error}")
    present = {
        command.name or getattr(command.callback, "__name__", "")
        for command in app.registered_commands
    }
    for name, summary in SERVER_COMMANDS.items():
        if name not in present:
            _add_pointer(name, summary)
    for command in app.registered_commands:
        own = command.name or getattr(command.callback, "__name__", "")
        if own in SERVER_COMMANDS:
            command.rich_help_panel = _THIS_MACHINE


_missing: list[str] = []


def _add_pointer(name: str, summary: str) -> None:
    def pointer() -> None:
        because = f" ({'; '.join(_missing)})" if _missing else ""
        raise ArrowQuantError(
            "usage",
            f"`{name}` needs the package arrowquant-server, which is not installed{because}",
            "It is the root folder of the repository: pip install that folder into this environment.",
        )

    app.command(
        name,
        help=f"{summary} [dim](needs arrowquant-server)[/dim]",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(pointer)


_register_server_commands()
remote.register(app, "With a server")
batch.register(app, "With a server")
replay.register(app, "With a server")
for resource in (recipes, keys, connections, webhooks, operation):
    resource.register(app, "About a server")
local.register(app, "With an artifact")
calibration.register(app, "Calibration")
app.command()(version)
