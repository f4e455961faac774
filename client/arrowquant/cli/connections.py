"""`arrowquant connections`: the places that jobs read from and write to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from arrowquant.cli import render, session
from arrowquant.cli.request import usage
from arrowquant.cli.session import DEFAULT_URL, AsJson, Key, Url
from arrowquant.http.types import ConnectionRequest, CredentialsRequest, TryRequest

Name = Annotated[str, typer.Argument(help="Name of the connection.")]


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the application."""
    about = "Buckets that jobs read from and write to. Changing them needs the scope admin."
    connections = session.group(app, "connections", about, panel)
    for name, command in (
        ("list", list_connections), ("show", show), ("add", add), ("test", try_out),
        ("remove", remove),
    ):  # fmt: skip
        connections.command(name)(command)


def list_connections(url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """List what SRC and DST of a job may name."""
    with session.connect(url, key) as client:
        found = client.list_connections()["connections"]
    rows = ((c["name"], c["kind"], c["managed_by"], _prefixes(c)) for c in found)
    names = ("name", "kind", "managed by", "prefixes")
    shown = session.table(rows, *names, fold=["prefixes"], none="no connections")
    session.answer(found, as_json, shown)


def show(name: Name, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Show a connection of your tenant. Its credentials are never shown."""
    with session.connect(url, key) as client:
        found = client.get_connection(name)
    session.answer(found, as_json, render.facts(_facts(found)))


def add(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, - and _.")],
    bucket: Annotated[str, typer.Option(help="The bucket.")],
    prefix: Annotated[list[str], typer.Option(help="What jobs may use of it; repeatable.")],
    endpoint: Annotated[str | None, typer.Option(help="https address of the store; AWS if not given.")] = None,
    region: Annotated[str | None, typer.Option(help="Region, e.g. eu-central-1.")] = None,
    env: Annotated[str | None, typer.Option(help="Credentials that the operator has granted under this name.")] = None,
    ambient: Annotated[bool, typer.Option("--ambient", help="Use the role of the service, if the operator allows it.")] = False,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Add a bucket with credentials from the environment.

    Unless --env or --ambient is given they are taken from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
    and AWS_SESSION_TOKEN. The service stores them encrypted and never shows them again."""
    body: ConnectionRequest = {
        "name": name, "bucket": bucket, "prefixes": prefix, "endpoint_url": endpoint,
        "region": region, "credentials": _credentials(env, ambient),
    }  # fmt: skip
    with session.connect(url, key) as client:
        made = client.create_connection(body)
    session.answer(made, as_json, render.facts(_facts(made)))
    if not as_json:
        render.line(f"Next: [bold]arrowquant connections test {render.clean(name)}[/]")


def try_out(
    name: Name,
    prefix: Annotated[str | None, typer.Option(help="Where; the first prefix if not given.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Also write an object and delete it.")] = False,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Try what a job would do there. Exit code 1 when something fails."""
    body: TryRequest = {"write": write}
    if prefix is not None:
        body["prefix"] = prefix
    with session.connect(url, key) as client:
        found = client.test_connection(name, body)
    rows = (
        (
            step["name"],
            Text("ok", "green") if step["ok"] else Text("failed", "red"),
            step["code"] or "",
        )
        for step in found["steps"]
    )
    session.answer(
        found, as_json, session.table(rows, "step", "", "code", none="nothing was tried")
    )
    if not found["ok"]:
        raise typer.Exit(1)


def remove(name: Name, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Remove a connection. What lies in the bucket stays."""
    with session.connect(url, key) as client:
        client.delete_connection(name)
    session.answer({"removed": name}, as_json, f"{render.clean(name)} is removed")


def _credentials(env: str | None, ambient: bool) -> CredentialsRequest:
    if env and ambient:
        raise usage("--env and --ambient exclude each other")
    if env:
        return {"env": env}
    if ambient:
        return {"ambient": True}
    try:
        made: CredentialsRequest = {
            "access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
            "secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        }
    except KeyError as missing:
        raise usage(
            f"there are no credentials: {missing.args[0]} is not set",
            "Set it, or give --env or --ambient. Secrets are not taken as options: others could "
            "read them in the list of processes.",
        ) from None
    if token := os.environ.get("AWS_SESSION_TOKEN"):
        made["session_token"] = token
    return made


def _prefixes(connection: Mapping[str, Any]) -> str:
    return ", ".join(prefix or "(all)" for prefix in connection.get("prefixes") or [])


def _facts(connection: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows = [("name", connection["name"]), ("bucket", connection["bucket"])]
    rows += [
        (label, connection[field])
        for label, field in (("endpoint", "endpoint_url"), ("region", "region"))
        if connection.get(field)
    ]
    kind = connection["credentials"]["kind"]
    rows += [("prefixes", _prefixes(connection)), ("credentials", kind)]
    return [*rows, ("changed", render.when(connection["update_time"]))]
