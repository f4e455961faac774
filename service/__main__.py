"""`python -m service`: the API server, and what an operator does to its database."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from service.domain.access import MAX_GRACE, TENANT_FORM, TENANT_SCOPES, Scope, in_order
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
secrets = typer.Typer(help="What users have handed over, encrypted.", no_args_is_help=True)
app.add_typer(secrets, name="secrets")


@app.callback(invoke_without_command=True)
def serve(context: typer.Context) -> None:
    """Run the API server until it is told to stop."""
    if context.invoked_subcommand is not None:
        return
    from service import logs
    from service.web.app import create_app
    from service.web.server import make_server

    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    make_server(create_app(settings), settings).run()


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
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="What it allows; may be repeated. All that is the tenant's if not given."
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="Until when: 90d, 12h, or an RFC 3339 time.", metavar="WHEN"),
    ] = None,
) -> None:
    """Make a key and print it. It is shown this once and only its hash is kept."""
    from service.wiring import wire

    if TENANT_FORM.fullmatch(tenant) is None:
        raise typer.BadParameter("letters, digits, . _ @ and - only", param_hint="--tenant")
    until = None if expires is None else _moment(expires, datetime.now(UTC))
    deps = wire(Settings.load())
    scopes = frozenset(scope) if scope else TENANT_SCOPES
    _, text = deps.keys.create(tenant, name, scopes, until)
    deps.close()
    typer.echo(text)


@keys.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
) -> None:
    """List the keys: id, tenant, name, when made, until when, last used, revoked, scopes."""
    from service.wiring import wire

    deps = wire(Settings.load())
    for key in deps.keys.list(tenant):
        times = (key.create_time, key.expire_time, key.last_use_time, key.revoke_time)
        shown = (time.isoformat() if time else "-" for time in times)
        typer.echo(
            "\t".join((key.id, key.tenant, key.name, *shown, ",".join(in_order(key.scopes))))
        )
    deps.close()


@keys.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(help="The id that `list` shows.", metavar="ID")],
    grace: Annotated[
        str, typer.Option(help="How long the old secret still works: 0s, 30m, 24h, 7d.")
    ] = "24h",
) -> None:
    """Give a key a new secret and print it. Its id, scopes and expiry stay."""
    from service.wiring import wire

    longer = _duration(grace)
    if longer is None or longer > MAX_GRACE:
        raise typer.BadParameter(f"a duration up to {MAX_GRACE.days}d", param_hint="--grace")
    deps = wire(Settings.load())
    rotated = deps.keys.rotate(key_id, longer)
    deps.close()
    if rotated is None:
        typer.echo(f"there is no live key {key_id}", err=True)
        raise typer.Exit(1)
    typer.echo(rotated[1])


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


def _duration(text: str) -> timedelta | None:
    form = re.fullmatch(r"(\d{1,6})([smhd])", text)
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    return timedelta(seconds=int(form[1]) * seconds[form[2]]) if form else None


def _moment(text: str, now: datetime) -> datetime:
    """A time to come, given as itself or as a duration from now."""
    if (longer := _duration(text)) is not None:
        return now + longer
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or moment <= now:
        raise typer.BadParameter(
            "a duration such as 90d, or a time to come such as 2030-01-01T00:00:00Z",
            param_hint="--expires",
        )
    return moment


@secrets.command("rotate")
def rotate_secrets() -> None:
    """Encrypt everything again under the first of ARROWQUANT_SECRET_KEYS. Safe to repeat, and while
    the service runs. Ends with 1 if there are secrets that none of the keys opens."""
    from service.wiring import wire

    settings = Settings.load()
    if not settings.secret_keys:
        raise InvalidSettings("ARROWQUANT_SECRET_KEYS: set the new key, a comma, and the old one")
    deps = wire(settings)
    found = deps.sealed.reseal()
    deps.close()
    typer.echo(f"{found.done} secrets encrypted again, {found.lost} that no key opens")
    if found.lost:
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
