"""`quota`, `usage`, `workers` and `queues`: what there is to use, and what is going on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from arrowquant.cli import render, session
from arrowquant.cli.session import DEFAULT_URL, AsJson, Key, Url


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the application."""
    for command in (quota, usage, queues):
        app.command(rich_help_panel=panel)(command)
    group = session.group(app, "workers", "See and drain workers (scope operator).", panel)
    group.command("list")(list_workers)
    group.command("drain")(drain)


def quota(url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
    """Show your limits, and how much of them is taken."""
    with session.connect(url, key) as client:
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
