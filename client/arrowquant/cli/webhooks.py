"""`arrowquant webhooks`: who is told when jobs end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

import typer

from arrowquant.cli import render, session
from arrowquant.cli.session import DEFAULT_URL, AsJson, Key, Url
from arrowquant.http.types import DeliveryState, EndpointBody

EndpointId = Annotated[str, typer.Argument(metavar="ID", help="Id of the endpoint.")]


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the application."""
    about = "Addresses that are told when jobs start and end (scope admin)."
    webhooks = session.group(app, "webhooks", about, panel)
    for name, command in (
        ("list", list_endpoints), ("add", add), ("show", show), ("test", ping),
        ("deliveries", deliveries), ("delivery", delivery), ("redeliver", redeliver),
        ("rotate", rotate), ("enable", enable), ("disable", disable), ("remove", remove),
    ):  # fmt: skip
        webhooks.command(name)(command)


def list_endpoints(url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """List the endpoints."""
    with session.connect(url, key) as client:
        found = client.list_webhook_endpoints()["webhook_endpoints"]
    rows = ((e["id"], _state(e), e["url"]) for e in found)
    shown = session.table(rows, "endpoint", "state", "url", fold=["url"], none="no endpoints")
    session.answer(found, as_json, shown)


def add(
    address: Annotated[str, typer.Argument(metavar="URL", help="https address of the receiver.")],
    event: Annotated[list[str] | None, typer.Option(help="job.succeeded, job.failed, ...; repeatable; all if not given.")] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Add an endpoint. Its secret, which signs the messages, is shown this once."""
    body: dict[str, Any] = {"url": address, "description": description}
    if event:
        body["events"] = event
    with session.connect(url, key) as client:
        _secret(client.create_webhook_endpoint(cast(EndpointBody, body)), as_json)


def show(id_: EndpointId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Show an endpoint."""
    with session.connect(url, key) as client:
        found = client.get_webhook_endpoint(id_)
    session.answer(found, as_json, render.facts(_facts(found)))


def ping(id_: EndpointId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Send a `ping` to an endpoint."""
    with session.connect(url, key) as client:
        sent = client.test_webhook_endpoint(id_)
    session.answer(sent, as_json, f"{render.clean(sent['id'])} is on its way")


def deliveries(
    id_: EndpointId,
    state: Annotated[str | None, typer.Option(help="PENDING, DELIVERED or FAILED.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """List the messages to an endpoint, newest first."""
    wanted = cast(DeliveryState, state.upper()) if state else None
    with session.connect(url, key) as client:
        found = list(client.iter_webhook_deliveries(id_, state=wanted, limit=limit))
    rows = (
        (d["id"], d["event"], d["state"], d["attempt_count"], render.when(d["create_time"]))
        for d in found
    )
    names = ("delivery", "event", "state", "attempts", "created")
    shown = session.table(rows, *names, right=["attempts"], none="no deliveries")
    session.answer(found, as_json, shown)


def delivery(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of the delivery.")],
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show every attempt of a delivery."""
    with session.connect(url, key) as client:
        found = client.get_webhook_delivery(id_)
    rows = (
        (a["number"], render.when(a["time"]), a["status"] or a["error"] or "", f"{a['duration_ms'] or 0} ms")
        for a in found["attempts"]
    )  # fmt: skip
    names = ("attempt", "time", "answer", "took")
    shown = session.table(rows, *names, right=["attempt", "took"], none="not attempted yet")
    session.answer(found, as_json, shown)


def redeliver(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of the delivery.")],
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Send a message again."""
    with session.connect(url, key) as client:
        sent = client.redeliver_webhook(id_)
    session.answer(sent, as_json, f"{render.clean(sent['id'])} is on its way")


def rotate(
    id_: EndpointId,
    grace: Annotated[
        int, typer.Option(min=0, metavar="SECONDS", help="How long the old secret signs too.")
    ] = 86400,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Give an endpoint a new secret. For a while messages are signed with both."""
    with session.connect(url, key) as client:
        _secret(client.rotate_webhook_secret(id_, {"overlap_s": grace}), as_json)


def enable(id_: EndpointId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Go on with what waits for an endpoint."""
    _switch(id_, True, url, key, as_json)


def disable(
    id_: EndpointId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False
) -> None:
    """Send nothing to an endpoint until it is enabled again."""
    _switch(id_, False, url, key, as_json)


def remove(id_: EndpointId, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Remove an endpoint and what waits for it."""
    with session.connect(url, key) as client:
        client.delete_webhook_endpoint(id_)
    session.answer({"removed": id_}, as_json, f"{render.clean(id_)} is removed")


def _switch(id_: str, enabled: bool, url: str, key: str, as_json: bool) -> None:
    with session.connect(url, key) as client:
        found = client.change_webhook_endpoint(id_, {"enabled": enabled})
    session.answer(found, as_json, render.facts(_facts(found)))


def _secret(made: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        render.as_json(made)
        return
    render.stdout().print(render.facts(_facts(made)))
    if made.get("secret"):
        render.line(f"secret {render.clean(made['secret'])}")
        render.stderr().print("Keep it: it is shown this once.")


def _facts(endpoint: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows = [("endpoint", endpoint["id"]), ("url", endpoint["url"]), ("state", _state(endpoint))]
    if endpoint.get("description"):
        rows.append(("for", endpoint["description"]))
    rows.append(("events", ", ".join(endpoint["events"]) or "all"))
    return [*rows, ("created", render.when(endpoint["create_time"]))]


def _state(endpoint: Mapping[str, Any]) -> str:
    if endpoint["enabled"]:
        return "enabled"
    reason = endpoint.get("disabled_reason")
    return f"disabled ({reason})" if reason else "disabled"
