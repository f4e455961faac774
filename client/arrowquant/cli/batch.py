"""`arrowquant batch`: thousands of jobs from one file, all of them or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from arrowquant.cli import render, request, session
from arrowquant.cli.session import DEFAULT_URL, AsJson, Key, Url
from arrowquant.errors import ArrowQuantError
from arrowquant.http.client import Client

ENDED: Final = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})
_ID: Final = re.compile(r"batch_[0-9a-z]+")
_WAIT_S: Final = 15.0


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to the application."""
    app.command("batch", rich_help_panel=panel)(batch)


def batch(
    target: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines to submit, or the id of a batch to look at.")],
    name: Annotated[str, typer.Option(help="Name of the batch.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="key=value; repeatable.")] = None,
    window: Annotated[str | None, typer.Option(help="Jobs that wait longer expire: 90m, 24h, 7d.")] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Check every line, queue nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay until it has ended.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Queue again what did not succeed, and only that.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop what has not ended.")] = False,
    results: Annotated[Path | None, typer.Option(metavar="OUT", help="Write what succeeded, as JSON Lines.")] = None,
    errors: Annotated[Path | None, typer.Option(metavar="OUT", help="Write what did not, as JSON Lines.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Submit a file of jobs, a line each: {"custom_id": ..., "body": {what `submit` sends}}.

    Every line is checked first. If any is wrong, all wrong ones are listed by number and nothing is
    queued. Exit code 1 with --watch when not all succeeded, 2 when lines are wrong.
    """
    file = Path(target)
    known = not file.exists() and _ID.fullmatch(target) is not None
    if (retry_failed or cancel) and not known:
        raise request.usage("--retry-failed and --cancel take the id of a batch, not a file")
    with session.connect(url, key) as client:
        if known:
            found = _look(client, target, retry=retry_failed, cancel=cancel)
        else:
            labels = [f"{k}:{v}" for k, v in request.labels(label).items()]
            found = client.create_batch(
                _checked(file),
                name=name or None,
                label=labels or None,
                completion_window=window,
                validate_only=validate_only or None,
            )
        if watch and not validate_only:
            found = _watch(client, found, quiet=as_json)
        _write(client, found, results, errors)
    session.answer(found, as_json, _table(found))
    if not (known or watch or validate_only or as_json):
        render.line(f"Next: [bold]arrowquant batch {render.clean(found['id'])} --watch[/]")
    if watch and found["counts"]["succeeded"] < found["counts"]["total"]:
        raise typer.Exit(1)


def _checked(file: Path) -> Path:
    if not file.is_file():
        raise request.usage(
            f"there is no file {str(file)!r}", "A batch is a file of JSON Lines, or a batch's id."
        )
    return file


def _look(client: Client, batch_id: str, *, retry: bool, cancel: bool) -> Any:
    if cancel:
        return client.cancel_batch(batch_id)
    return client.retry_batch(batch_id) if retry else client.get_batch(batch_id)


def _watch(client: Client, found: Any, *, quiet: bool) -> Any:
    console = render.stderr()
    shown = ""
    while found["state"] not in ENDED:
        text = f"{found['state']}  {_counts(found)}"
        if text != shown and not quiet:
            console.print(text, highlight=False)
            shown = text
        found = client.get_batch(found["id"], wait=_WAIT_S)
    return found


def _write(client: Client, found: Any, results: Path | None, errors: Path | None) -> None:
    for path, read in ((results, client.get_batch_results), (errors, client.get_batch_errors)):
        if path is None:
            continue
        try:
            path.write_text(read(found["id"]), encoding="utf-8")
        except OSError as error:
            raise ArrowQuantError(
                "io_error", f"cannot write: {error.strerror}", where={"path": str(path)}
            ) from None


def _counts(found: Mapping[str, Any]) -> str:
    counts = found["counts"]
    told = [f"{number} {name}" for name, number in counts.items() if number and name != "total"]
    return ", ".join(told) + f" of {counts['total']}"


def _table(found: Mapping[str, Any]) -> Any:
    labels = ", ".join(f"{k}={v}" for k, v in found["labels"].items())
    rows = [
        ("batch", render.clean(found["id"])),
        ("name", render.clean(found["name"])),
        ("state", render.state(found["state"])),
        ("jobs", _counts(found)),
        ("labels", render.clean(labels)),
        ("created", render.when(found["create_time"])),
        ("expires", render.when(found["expire_time"])),
        ("ended", render.when(found["end_time"])),
    ]
    return render.facts([row for row in rows if row[1]])
