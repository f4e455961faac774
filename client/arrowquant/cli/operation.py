"""`quota`, `usage`, `audit`, `workers` and `queues`: what there is to use, and what is going on."""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import typer

from arrowquant.cli import render, request, session
from arrowquant.cli.session import DEFAULT_URL, AsJson, Key, Url
from arrowquant.http.client import Client
from arrowquant.http.types import QuotaOverrides

_DEFAULT: Final = "default"


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the application."""
    for command in (quota, usage, audit, queues):
        app.command(rich_help_panel=panel)(command)
    group = session.group(app, "workers", "See and drain workers (scope operator).", panel)
    group.command("list")(list_workers)
    group.command("drain")(drain)


def quota(
    tenant: Annotated[str | None, typer.Option(help="Show or set the limits of this tenant (scope operator).")] = None,
    limit: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=NUMBER", help="running_jobs, queued_jobs, bytes_per_day or requests_per_minute; 'none' is no limit, 'default' the service's; repeatable.")] = None,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show your limits, and how much of them is taken."""
    if limit and tenant is None:
        raise request.usage("--set wants --tenant: whose limits?")
    with session.connect(url, key) as client:
        if tenant is not None:
            _tenant(client, tenant, dict(map(_limit, limit or [])), as_json)
            return
        found = client.get_quota()
    limits, used = found["limits"], found["used"]
    rows = [
        ("running jobs", used["running_jobs"], _most(limits["running_jobs"])),
        ("queued jobs", used["queued_jobs"], _most(limits["queued_jobs"])),
        ("source today", render.size(used["bytes_today"]), _most(limits["bytes_per_day"], size=True)),
        ("requests a minute", "", _most(limits["requests_per_minute"])),
    ]  # fmt: skip
    shown = session.table(rows, "what", "taken", "limit", right=["taken", "limit"], none="")
    session.answer(found, as_json, shown)


def _tenant(client: Client, tenant: str, wanted: dict[str, Any], as_json: bool) -> None:
    found = client.get_tenant_quota(tenant)
    if wanted:
        # The API takes all that differs from the defaults at once: what was not named stays.
        kept = {k: v for k, v in (found["overrides"] | wanted).items() if v != _DEFAULT}
        found = client.set_tenant_quota(tenant, cast(QuotaOverrides, kept))
    rows = (
        (name, "none" if most is None else f"{most:,}", "own" if name in found["overrides"] else "default")
        for name, most in cast(dict[str, int | None], found["limits"]).items()
    )  # fmt: skip
    shown = session.table(rows, "what", "limit", "whose", right=["limit"], none="")
    session.answer(found, as_json, shown)


def _limit(text: str) -> tuple[str, int | str | None]:
    name, _, number = text.partition("=")
    if name not in QuotaOverrides.__annotations__:
        raise request.usage(
            f"--set {text!r} names no limit", f"One of {', '.join(QuotaOverrides.__annotations__)}."
        )
    if number in ("none", _DEFAULT):
        return name, None if number == "none" else number
    if not (number.isascii() and number.isdigit()):
        raise request.usage(f"--set {text!r}: {number!r} is no whole number, 'none' or 'default'")
    return name, int(number)


def audit(
    action: Annotated[str | None, typer.Option(help="Only this operation, e.g. create_api_key.")] = None,
    resource: Annotated[str | None, typer.Option(help="Only this path, e.g. /v1/jobs/job_...")] = None,
    subject: Annotated[str | None, typer.Option(help="Only by this one: key:ID or oidc:...")] = None,
    after: Annotated[str | None, typer.Option(metavar="TIME", help="Only from this time on (RFC 3339).")] = None,
    before: Annotated[str | None, typer.Option(metavar="TIME", help="Only before this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show who changed what, newest first (scope admin)."""
    with session.connect(url, key) as client:
        found = list(
            client.iter_audit_events(
                action=action, resource=resource, subject=subject, after=after, before=before,
                limit=limit,
            )
        )  # fmt: skip
    rows = (
        (render.when(e["time"]), e["subject"], e["action"], e["resource"], e["code"] or e["status"])
        for e in found
    )
    names = ("time", "who", "did", "to", "answer")
    session.answer(
        found, as_json, session.table(rows, *names, fold=names[1:], none="nothing was changed")
    )


def usage(url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Show what your jobs have read and written, day by day."""
    with session.connect(url, key) as client:
        found = client.get_usage()["days"]
    rows = (
        (d["day"], d["jobs"], d["jobs_succeeded"], render.size(d["bytes_in"]), render.size(d["bytes_out"]))
        for d in found
    )  # fmt: skip
    names = ("day", "jobs", "succeeded", "read", "written")
    shown = session.table(rows, *names, right=names[1:], none="nothing yet")
    session.answer(found, as_json, shown)


def queues(url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Show how much work waits, and for how long (scope operator)."""
    with session.connect(url, key) as client:
        found = client.list_queues()["queues"]
    rows = (
        (q["priority"], q["jobs"], q["depth"], q["delayed"], q["leased"], _age(q["oldest_age_s"]))
        for q in found
    )
    names = ("priority", "jobs", "ready", "delayed", "at work", "oldest waits")
    session.answer(found, as_json, session.table(rows, *names, right=names[1:], none="no queues"))


def list_workers(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 200,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """List the workers, and what each is doing."""
    with session.connect(url, key) as client:
        found = list(client.iter_workers(limit=limit))
    rows = (
        (w["id"], w["state"], render.size(w["rss_bytes"]), _age(w["heartbeat_age_s"]), _unit(w["unit"]))
        for w in found
    )  # fmt: skip
    names = ("worker", "state", "memory", "heard of", "works on")
    shown = session.table(
        rows, *names, right=["memory", "heard of"], fold=["worker", "works on"], none="no workers"
    )
    session.answer(found, as_json, shown)


def drain(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of the worker.")],
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Let a worker finish what it holds and take nothing more."""
    with session.connect(url, key) as client:
        found = client.drain_worker(id_)
    session.answer(found, as_json, f"{render.clean(found['id'])}: {render.clean(found['state'])}")


def _most(limit: int | None, *, size: bool = False) -> str:
    if limit is None:
        return "none"
    return render.size(limit) if size else f"{limit:,}"


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else render.duration(seconds)


def _unit(unit: Any) -> str:
    return f"{unit['kind']} {unit['seq']} of {unit['job_id']}" if unit else "-"
