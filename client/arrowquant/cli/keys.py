"""`arrowquant keys`: the API keys of a tenant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

import typer

from arrowquant.cli import render, session
from arrowquant.cli.request import moment
from arrowquant.cli.session import DEFAULT_URL, AsJson, Key, Url
from arrowquant.http.types import ApiKeyRequest, Scope

KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the key.")]


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the application."""
    keys = session.group(
        app, "keys", "Make, list, rotate and revoke API keys (scope admin).", panel
    )
    for name, command in (
        ("list", list_keys), ("create", create), ("show", show), ("rotate", rotate),
        ("revoke", revoke),
    ):  # fmt: skip
        keys.command(name)(command)


def list_keys(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """List the keys of your tenant, ended ones too."""
    with session.connect(url, key) as client:
        found = list(client.iter_api_keys(limit=limit))
    rows = (
        (k["id"], k["name"], _state(k), ", ".join(k["scopes"]), render.when(k["last_use_time"]))
        for k in found
    )
    names = ("key", "name", "state", "scopes", "last used")
    session.answer(
        found, as_json, session.table(rows, *names, fold=["name", "scopes"], none="no keys")
    )


def create(
    name: Annotated[str, typer.Argument(help="What it is for, e.g. 'nightly pipeline'.")],
    scope: Annotated[list[str], typer.Option(help="jobs:read, jobs:write, artifacts:read, admin or operator; repeatable.")],
    expires: Annotated[str | None, typer.Option(metavar="WHEN", help="90d, 12h, or a time such as 2027-01-31T00:00:00Z.")] = None,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make a key. Its secret is shown this once."""
    body: ApiKeyRequest = {"name": name, "scopes": cast(list[Scope], scope)}
    if expires:
        body["expire_time"] = moment(expires, "--expires")
    with session.connect(url, key) as client:
        _secret(client.create_api_key(body), as_json)


def show(id_: KeyId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Show what a key allows, and when it was last used."""
    with session.connect(url, key) as client:
        found = client.get_api_key(id_)
    session.answer(found, as_json, render.facts(_facts(found)))


def rotate(
    id_: KeyId,
    grace: Annotated[int, typer.Option(min=0, metavar="SECONDS", help="How long the old secret still works.")] = 86400,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Give a key a new secret; the old one works for a day more."""
    with session.connect(url, key) as client:
        _secret(client.rotate_api_key(id_, {"grace_s": grace}), as_json)


def revoke(id_: KeyId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """End a key now and for good."""
    with session.connect(url, key) as client:
        found = client.revoke_api_key(id_)
    session.answer(found, as_json, f"{render.clean(found['id'])} is revoked")


def _secret(made: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        render.as_json(made)
        return
    render.stdout().print(render.facts(_facts(made)))
    if made.get("secret"):
        render.line(f"export ARROWQUANT_API_KEY={render.clean(made['secret'])}")
        render.stderr().print("Keep it: it is shown this once.")
    else:
        render.stderr().print("Its secret was in the first answer, which got lost: rotate the key.")


def _facts(key: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows = [("key", key["id"]), ("name", key["name"]), ("state", _state(key))]
    rows += [("scopes", ", ".join(key["scopes"])), ("created", render.when(key["create_time"]))]
    times = (("ends", "expire_time"), ("last used", "last_use_time"), ("old secret", "grace_time"))
    return rows + [(name, render.when(key[field])) for name, field in times if key.get(field)]


def _state(key: Mapping[str, Any]) -> str:
    if key.get("revoke_time"):
        return "revoked"
    end = render.parse_time(key.get("expire_time"))
    return "expired" if end and end <= render.now() else "valid"
