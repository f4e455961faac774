"""`python -m service`: the API server, and what an operator does to its database."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from service.domain.errors import ArrowQuantError
from service.settings import InvalidSettings, Settings

app = typer.Typer(
    name="service",
    help="The ArrowQuant API server. Settings come from ARROWQUANT_* variables.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="API keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@app.callback(invoke_without_command=True)
def serve(context: typer.Context) -> None:
    """Run the API server until it is told to stop."""
    if context.invoked_subcommand is not None:
        return
    import uvicorn

    from service import logs
    from service.web.app import create_app

    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,  # ours is in place
        access_log=False,  # the middleware writes a better line
        server_header=False,
        # What a client behind a proxy says about itself is only believed of a proxy on this
        # machine, which is uvicorn's default too.
        forwarded_allow_ips="127.0.0.1",
        timeout_graceful_shutdown=10,  # streams are closed at once, downloads get a moment
    )


@app.command()
def openapi() -> None:
    """Print openapi.yaml."""
    from service.web.app import create_app
    from service.web.openapi import as_yaml

    # The document depends on no setting; the folder is named and never touched.
    sys.stdout.write(as_yaml(create_app(Settings(data_dir=Path("/nonexistent")))))


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema. The server does so too when it starts."""
    from service.adapters.sql.engine import migrate as bring_up

    bring_up(Settings.load().resolved_database_url)


@keys.command("create")
def create_key(
    tenant: Annotated[str, typer.Option(help="Whose jobs the key sees.")],
    name: Annotated[str, typer.Option(help="What the key is for.")],
) -> None:
    """Make a key and print it. It is shown this once and only its hash is kept."""
    from service.wiring import wire

    deps = wire(Settings.load())
    _, text = deps.keys.create(tenant, name)
    deps.close()
    typer.echo(text)


@keys.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
) -> None:
    """List the keys: id, tenant, name, when made, when revoked."""
    from service.wiring import wire

    deps = wire(Settings.load())
    for key in deps.keys.list(tenant):
        ended = key.revoke_time.isoformat() if key.revoke_time else "-"
        columns = (key.id, key.tenant, key.name, key.create_time.isoformat(), ended)
        typer.echo("\t".join(columns))
    deps.close()


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The id that `list` shows.", metavar="ID")],
) -> None:
    """End a key at once."""
    from service.wiring import wire

    deps = wire(Settings.load())
    known = deps.keys.revoke(key_id)
    deps.close()
    if not known:
        typer.echo(f"there is no key {key_id}", err=True)
        raise typer.Exit(1)


def main() -> None:
    """Run a command; wrong settings and named failures end in one line and a status."""
    try:
        app()
    except InvalidSettings as error:
        typer.echo(f"configuration: {error}", err=True)
        sys.exit(2)
    except ArrowQuantError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
